"""The page to listen to synthesized speech."""

import re
from html import unescape
from urllib.parse import urlparse

import numpy as np
import pytest
import soundfile

from espnet_onnx_plugin.errors import PluginError
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
    said = {"int8": {"a": "MCD < 1 dB", 'b/"1"': "MCD —"}, "fp32 <&>": {"a": "same"}}
    directory = tmp_path / "results/listening"
    directory.parent.mkdir()
    page = write_page(directory, "T & <U>", TEXTS, systems, said, utterances=2)
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
        assert captions[2][1:] == [said["int8"][key]]
        assert len(captions[0]) == 1  # nothing is said of the reference
    assert len(used) == 1 + 2 * 2 * len(SYSTEMS)
    assert set(page.parent.iterdir()) == used
    assert list(copy.iterdir()) == [page.parent]


def test_sounds_without_text_and_with_several_channels(tmp_path, systems):
    wave = np.stack([np.sin(np.arange(4000) / 9), np.zeros(4000)], axis=1)
    soundfile.write(tmp_path / "two.wav", wave, RATE)
    both = {**systems, "mixture": {"a": tmp_path / "two.wav"}}
    page = write_page(tmp_path / "listening", "T", {"a": ""}, both)
    assert "<p>" not in page.read_text() and page.read_text().count("<audio") == 4


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


def test_what_a_killed_run_has_left_goes(tmp_path, systems):
    directory = tmp_path / "results/listening"
    (directory.parent / ".listening.new-abc/listening").mkdir(parents=True)
    write_page(directory, "T", TEXTS, systems)
    assert [path.name for path in directory.parent.iterdir()] == ["listening"]
