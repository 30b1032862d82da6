"""The page to listen to synthesized speech."""

import re
from html import unescape
from urllib.parse import urlparse

import numpy as np
import pytest
import soundfile

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.speech_quality import Measures
from espnet_onnx_plugin.report.listening import write_page

RATE = 16000
TEXTS = {"a": "ONE <TWO> & THREE", 'b/"1"': "FOUR", "c": "FIVE"}
SYSTEMS = ("PyTorch", "fp32 <&>", "int8")


@pytest.fixture
def systems(tmp_path):
    """By system and utterance a file, each of other samples."""
    files = {}
    for i, system in enumerate(SYSTEMS):
        for j, key in enumerate(TEXTS):
            path = tmp_path / f"{i}{j}.wav"
            wave = 0.3 * np.sin(np.arange(4000 + 500 * i) * (i + 1) * (j + 1) / 40)
            soundfile.write(path, wave, RATE)
            files.setdefault(system, {})[key] = path
    return files


def figures(page):
    """Contents of the page: the caption and files of each utterance, by system."""
    shown = {}
    for part in page.read_text(encoding="utf-8").split("<h2>")[1:]:
        key, rest = part.split("</h2>", 1)
        text = re.search(r"<p>(.*)</p>", rest)[1]
        columns = (
            re.findall(pattern, rest)
            for pattern in (
                "<figcaption>(.*)</figcaption>",
                '<audio [^>]*src="(.*?)"',
                '<img [^>]*src="(.*?)"',
            )
        )
        found = list(zip(*columns, strict=True))
        shown[unescape(key)] = unescape(text), found
    return shown


def test_page(tmp_path, systems):
    measures = {
        "int8": {"a": Measures(1.234, 0.0567), 'b/"1"': Measures(2.0, None)},
        "fp32 <&>": {"a": Measures(0.0, 0.0)},
    }
    directory = tmp_path / "results/listening"
    directory.parent.mkdir()
    page = write_page(directory, "T & <U>", TEXTS, systems, measures, utterances=2)
    assert "<title>T &amp; &lt;U&gt;</title>" in page.read_text()

    # It is complete wherever it is copied to.
    copy = tmp_path / "copy"
    directory.parent.rename(copy)
    page = copy / page.relative_to(directory.parent)
    shown = figures(page)
    assert {key: text for key, (text, _) in shown.items()} == dict(
        list(TEXTS.items())[:2]
    )
    used = {page}
    for key, (_, found) in shown.items():
        captions = [unescape(caption).split("<br>") for caption, *_ in found]
        assert [name for name, *_ in captions] == list(SYSTEMS)
        for (name, *_), (_, audio, image) in zip(captions, found):
            for link in (audio, image):
                assert not urlparse(link).scheme and not link.startswith(("/", ".."))
            files = page.parent / audio, page.parent / image
            assert files[0].read_bytes() == systems[name][key].read_bytes()
            assert files[1].read_bytes().startswith(b"\x89PNG")
            used.update(files)
        assert captions[2][1:] == [
            {"a": "MCD 1.23 dB, log-F0 RMSE 0.057"}.get(
                key, "MCD 2.00 dB, log-F0 RMSE —"
            )
        ]
        assert len(captions[0]) == 1  # the reference has no measure
    assert len(used) == 1 + 2 * 2 * len(SYSTEMS)
    assert set(page.parent.iterdir()) == used
    assert list(copy.iterdir()) == [page.parent]


def test_a_page_is_replaced_whole_or_not_at_all(tmp_path, systems):
    directory = tmp_path / "listening"
    page = write_page(directory, "T", {"a": "ONE"}, {"PyTorch": systems["PyTorch"]})
    before = {path: path.read_bytes() for path in directory.iterdir()}
    for broken, match in (
        ({}, "int8 has no waveform of utterance 'a'"),
        ({"a": tmp_path / "none.wav"}, "cannot read audio file .*none.wav"),
    ):
        with pytest.raises(PluginError, match=match):
            write_page(
                directory, "T", TEXTS, {"PyTorch": systems["PyTorch"], "int8": broken}
            )
    assert {path: path.read_bytes() for path in directory.iterdir()} == before
    assert not list(tmp_path.glob(".listening*"))
    write_page(directory, "T", {"c": "FIVE"}, {"int8": systems["int8"]})
    assert list(figures(page)) == ["c"]
