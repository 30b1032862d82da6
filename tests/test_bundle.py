"""Bundles on disk."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from espnet_onnx_plugin.bundle import (
    FORMAT_VERSION,
    MANIFEST,
    Manifest,
    Speech,
    State,
    Tensor,
    Text,
    describe,
    describe_file,
    new_bundle,
    read_bundle,
    read_manifest,
    write_manifest,
)
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.bundle.search import (
    Durations,
    Frames,
    Generate,
    LabelSynchronous,
    MaskCTC,
    Prompted,
    PromptedCTC,
)
from espnet_onnx_plugin.errors import PluginError

DATA = Path(__file__).parent / "data"


def write(directory, content=b"graph"):
    with new_bundle(directory) as work:
        (work / "tokens.txt").write_text("<blank>\nä\n", encoding="utf-8")
        (work / "encoder.onnx").write_bytes(content)
        (work / "encoder.weights").write_bytes(b"weights")
        graph = describe(
            work / "encoder.onnx",
            {"speech": Tensor("float32", ("utterances", "samples"))},
            {"encoder_out": Tensor("float32", ("utterances", "frames", 8))},
            {"h": State("float32", ("rows", 2))},
        )
        write_manifest(
            work,
            Manifest(
                task="asr",
                graphs={"encoder": graph},
                speech=Speech("waveform", 16000, 0, 400),
                text=Text("char", describe_file(work / "tokens.txt")),
                search=LabelSynchronous(sos=1, eos=1, blank=0),
                source={"torch": "x"},
                checks={"parity": {"encoder": 1e-6}},
            ),
        )
    return directory


def leftovers(directory):
    return [p.name for p in directory.parent.iterdir() if p != directory]


def test_what_was_written_is_read_again(tmp_path):
    bundle = read_bundle(write(tmp_path / "b"))
    assert bundle.manifest.graphs["encoder"].states["h"].axes == ("rows", 2)
    assert bundle.manifest.checks == {"parity": {"encoder": 1e-6}}
    assert bundle.manifest.speech.seconds(8000) == 0.5
    assert leftovers(tmp_path / "b") == []
    assert "/" not in (tmp_path / "b" / MANIFEST).read_text().replace("://", "")


def test_a_copy_elsewhere_is_the_same_bundle(tmp_path):
    write(tmp_path / "b")
    shutil.move(tmp_path / "b", tmp_path / "elsewhere")
    assert read_bundle(tmp_path / "elsewhere").manifest.task == "asr"


def test_a_failure_leaves_the_older_bundle_and_nothing_else(tmp_path):
    write(tmp_path / "b", b"old")
    with pytest.raises(RuntimeError):
        with new_bundle(tmp_path / "b") as work:
            (work / "encoder.onnx").write_bytes(b"half")
            raise RuntimeError
    bundle = read_bundle(tmp_path / "b")
    assert bundle.file("encoder.onnx").read_bytes() == b"old"
    assert leftovers(tmp_path / "b") == []


def test_a_newer_bundle_takes_the_place_of_the_older(tmp_path):
    write(tmp_path / "b", b"old")
    write(tmp_path / "b", b"new")
    assert (tmp_path / "b" / "encoder.onnx").read_bytes() == b"new"
    assert leftovers(tmp_path / "b") == []


def test_a_directory_with_other_things_is_not_overwritten(tmp_path):
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "thesis.tex").write_text("x")
    with pytest.raises(PluginError, match="exists and is not a bundle"):
        write(tmp_path / "home")
    assert (tmp_path / "home" / "thesis.tex").read_text() == "x"


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda b: (b / MANIFEST).unlink(), "is not a bundle"),
        (lambda b: (b / MANIFEST).write_text("format_version: [1"), "is damaged"),
        (lambda b: (b / MANIFEST).write_text("format_version: 4\n"), "is damaged"),
        (lambda b: (b / MANIFEST).write_text("- 1\n"), "is damaged"),
        (lambda b: (b / MANIFEST).write_text("format_version: 99\n"), "has format 99"),
        (lambda b: (b / "encoder.onnx").unlink(), r"encoder.onnx is missing"),
        (lambda b: (b / "encoder.onnx").write_bytes(b"gra"), "truncated or changed"),
        (lambda b: (b / "encoder.onnx").write_bytes(b"grabh"), "truncated or changed"),
        (lambda b: (b / "encoder.weights").unlink(), r"encoder.weights is missing"),
        (lambda b: (b / "encoder.weights").write_bytes(b"w"), "truncated or changed"),
        (lambda b: (b / "tokens.txt").unlink(), r"tokens.txt is missing"),
    ],
)
def test_damage_is_named(tmp_path, damage, message):
    write(tmp_path / "b")
    damage(tmp_path / "b")
    with pytest.raises(PluginError, match=message) as e:
        read_bundle(tmp_path / "b")
    assert "\n" not in str(e.value)


class Counter:
    """A rewrite that counts its calls."""

    def __init__(self):
        self.calls = 0

    def __call__(self, role, old, new):
        self.calls += 1
        new.write_bytes(old.read_bytes() + b"!")
        return True


def test_derive_carries_everything_over_and_is_idle_when_current(tmp_path):
    parent = read_bundle(write(tmp_path / "a"))
    rewrite = Counter()
    arguments = dict(made_by={"step": "x"}, rewrite=rewrite, check=lambda b: {"x": 1})
    bundle = derive(parent, tmp_path / "b", **arguments)
    assert bundle.file("encoder.onnx").read_bytes() == b"graph!"
    assert bundle.file("tokens.txt").read_text(encoding="utf-8") == "<blank>\nä\n"
    assert bundle.manifest.checks == {"parity": {"encoder": 1e-6}, "x": 1}
    assert bundle.manifest.source["torch"] == "x"
    derive(parent, tmp_path / "b", **arguments)
    assert rewrite.calls == 1
    derive(parent, tmp_path / "b", **{**arguments, "made_by": {"step": "y"}})
    assert rewrite.calls == 2


def test_derive_refused_by_its_check_leaves_the_older_bundle(tmp_path):
    parent = read_bundle(write(tmp_path / "a"))
    derive(parent, tmp_path / "b", {"step": 1}, Counter(), lambda b: {})

    def refuse(bundle):
        raise PluginError("worse than allowed")

    with pytest.raises(PluginError, match="worse than allowed"):
        derive(parent, tmp_path / "b", {"step": 2}, Counter(), refuse)
    assert read_bundle(tmp_path / "b").manifest.source["made_by"] == {"step": 1}
    with pytest.raises(PluginError, match="give another directory"):
        derive(parent, tmp_path / "a", {}, Counter(), lambda b: {})


def test_precision_is_written_and_carried_over(tmp_path):
    parent = read_bundle(write(tmp_path / "a"))
    assert parent.manifest.precision == "fp32"
    seen = []

    def check(bundle):
        seen.append(bundle.manifest.precision)  # while the bundle is made, too
        return {}

    half = derive(parent, tmp_path / "b", {"step": 1}, Counter(), check, "fp16")
    same = derive(half, tmp_path / "c", {"step": 2}, Counter(), check)
    assert seen == ["fp16", "fp16"]
    assert read_bundle(half.path).manifest.precision == "fp16"
    assert same.manifest.precision == "fp16"


OWSM = dict(sos=48, eos=49, blank=0, sop=50, na=2, fs=8000, speech_length=1.2)
OLDER = {
    "mask_ctc": MaskCTC(blank=0, mask=30),
    "s2t": Prompted(
        **OWSM, notime=9, first_time=10, last_time=22, speech_resolution=0.1
    ),
    "s2t_ctc": PromptedCTC(**OWSM, frames_per_second=31.25),
    "st": LabelSynchronous(
        sos=29,
        eos=29,
        blank=0,
        recognition=LabelSynchronous(sos=29, eos=29, blank=0),
    ),
    "durations": Durations(
        model="FastSpeech2",
        rounding="round",
        options=("speed_control_alpha",),
        drawn=786383,
        unused_draws=dict(frontend=0, encoder=1, decoder=2),
    ),
    "frames": Frames(
        teacher_forcing=("speech",),
        reduction_factor=1,
        dropout=0.5,
        options=(
            *("threshold", "minlenratio", "maxlenratio", "use_att_constraint"),
            *("backward_window", "forward_window"),
        ),
        drawn=391869,
        unused_draws=dict(frontend=0, encoder=0, decoder=0, postnet=0),
    ),
}


def older(directory, name):
    """A bundle with a stored manifest of format 4, but for its graphs."""
    directory.mkdir()
    shutil.copyfile(DATA / "format_4" / f"{name}.yaml", directory / MANIFEST)
    for tokens in ("tokens.txt", "src_tokens.txt"):
        (directory / tokens).write_text("a\n")
    return directory


@pytest.mark.parametrize("name", OLDER)
def test_bundles_of_format_4_are_read(tmp_path, name):
    path = older(tmp_path / "b", name)
    manifest = read_manifest(path)
    assert manifest.search == OLDER[name]
    assert manifest.text.token_list == describe_file(path / "tokens.txt")
    assert (manifest.src_text is None) == (name != "st")
    assert manifest.precision == "fp32"
    write_manifest(path, manifest)  # in the present format
    assert f"format_version: {FORMAT_VERSION}" in (path / MANIFEST).read_text()
    assert read_manifest(path) == manifest


def test_what_format_4_has_elsewhere_is_found(tmp_path):
    path = older(tmp_path / "b", "mask_ctc")
    content = yaml.safe_load((path / MANIFEST).read_text())
    (path / "words.json").write_text("{}")
    words = dict(content["text"], tokenizer="words.json")
    reading = dict(first=101, last=102, max_tokens=128)
    search = dict(sos=4, eos=5, blank=0, single=[], transcript=reading)
    search["generate"] = dict(start=2, eos=[2], early_stopping=True, num_beams=4)
    content.update(search=search, transcript=words, ngram="words.json")
    content["checks"]["quantize"] = {"precision": "weight4"}
    del content["precision"]  # which older ones have among the figures alone
    (path / MANIFEST).write_text(json.dumps(content))  # yaml.safe_dump sets anchors
    manifest = read_manifest(path)
    assert manifest.precision == "weight4"
    assert manifest.ngram == describe_file(path / "words.json")
    assert manifest.transcript.tokenizer == manifest.ngram
    assert (manifest.transcript.first, manifest.transcript.max_tokens) == (101, 128)
    generate = Generate(start=2, eos=(2,), early_stopping=True, num_beams=4)
    assert manifest.search == LabelSynchronous(sos=4, eos=5, blank=0, generate=generate)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(precision="int3"), "precision 'int3' is none of fp32, int8"),
        (dict(search=dict(kind="guess")), "kind 'guess', which is none of label_sync"),
        (dict(search=dict(kind="mask_ctc", blank=0)), "search: mask is missing"),
        (dict(search=dict(kind="mask_ctc", blank=0, mask=1.5)), "not a whole number"),
        (dict(colour="red"), "unknown key 'colour'"),
        (dict(text=None), "there is neither text, enhancement nor diarization"),
    ],
)
def test_a_manifest_that_is_not_as_it_should_be_is_damaged(tmp_path, change, message):
    path = write(tmp_path / "b")
    content = yaml.safe_load((path / MANIFEST).read_text())
    (path / MANIFEST).write_text(yaml.safe_dump({**content, **change}))
    with pytest.raises(PluginError, match=f"{message}.*is damaged"):
        read_bundle(path)


@pytest.mark.parametrize(
    "name",
    ["../encoder.onnx", "/etc/hostname", "..", "", "a/b", "a\\b", "./encoder.onnx"],
)
@pytest.mark.parametrize("entry", ["graph", "weights", "tokens"])
def test_files_are_those_of_the_bundle(tmp_path, entry, name):
    write(tmp_path / "bundle")
    path = tmp_path / "bundle" / MANIFEST
    content = yaml.safe_load(path.read_text(encoding="utf-8"))
    graph = content["graphs"]["encoder"]
    files = dict(
        graph=graph["file"],
        weights=graph["weights"],
        tokens=content["text"]["token_list"],
    )
    files[entry]["name"] = name
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    for read in (read_manifest, read_bundle):
        with pytest.raises(PluginError, match="names .* no file of a bundle") as e:
            read(tmp_path / "bundle")
        assert repr(name) in str(e.value)


def test_links_stay_in_the_bundle_or_in_a_hubs_cache(tmp_path):
    write(tmp_path / "bundle")
    elsewhere = tmp_path / "elsewhere"
    (tmp_path / "bundle/encoder.onnx").rename(elsewhere)
    (tmp_path / "bundle/encoder.onnx").symlink_to(elsewhere)
    with pytest.raises(PluginError, match="encoder.onnx is a link that leads out of"):
        read_bundle(tmp_path / "bundle")
    (tmp_path / "bundle/encoder.onnx").unlink()
    elsewhere.rename(tmp_path / "bundle/graph")
    (tmp_path / "bundle/encoder.onnx").symlink_to("graph")
    read_bundle(tmp_path / "bundle")

    cache = tmp_path / "models--x"
    (cache / "blobs").mkdir(parents=True)
    (cache / "snapshots/1").mkdir(parents=True)
    write(cache / "snapshots/1/fp32")
    for file in (cache / "snapshots/1/fp32").iterdir():
        file.rename(cache / "blobs" / file.name)
        file.symlink_to(f"../../../blobs/{file.name}")
    read_bundle(cache / "snapshots/1/fp32")


def test_manifests_are_immutable(tmp_path):
    bundle = read_bundle(write(tmp_path / "b"))
    with pytest.raises(dataclasses.FrozenInstanceError):
        bundle.manifest.task = "tts"
