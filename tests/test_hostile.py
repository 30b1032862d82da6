"""Files from strangers: each is refused by its line, and does nothing."""

import functools
import os
import re
import shutil
from pathlib import Path

import hostile
import kaldiio
import numpy as np
import pytest
import torch
import yaml
from recipes import assert_refused, driver_calls, make_recipe, module_calls, run_onnx

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import (
    asr_inference,
    export,
    optimize,
    quantize,
    reference,
    report,
    verify,
)
from espnet_onnx_plugin.bundle import (
    MANIFEST,
    describe_file,
    read_bundle,
    read_manifest,
    store,
)
from espnet_onnx_plugin.bundle.external_data import refuse_other_files
from espnet_onnx_plugin.bundle.yaml_file import load_yaml, read_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import checkpoint_file, checkpoints, model_zoo
from espnet_onnx_plugin.export.checkpoint_file import (
    read_checkpoint,
    trusting,
    weights_only,
)
from espnet_onnx_plugin.report.listening import write_page
from espnet_onnx_plugin.report.results import System
from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter
from espnet_onnx_plugin.runtime.io.writer import job_writer

pytestmark = pytest.mark.fast


@pytest.fixture
def canary(tmp_path):
    """A path that no file may make; it lies beside everything that a test writes."""
    path = tmp_path / "canary"
    yield path
    assert not path.exists(), "code of a file has run"


def refusal(call, *args, **kwargs):
    """The one line of an error."""
    with pytest.raises(PluginError) as e:
        call(*args, **kwargs)
    line = str(e.value)
    assert "\n" not in line and len(line) < 600
    return line


def command(capsys, main, *args):
    """The last line that a command ends with."""
    with pytest.raises(SystemExit) as e:
        main([str(arg) for arg in args])
    assert e.value.code == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert re.match(r"[a-z_0-9]+: error: ", line)
    return line


# Checkpoints

PICKLES = tuple(hostile.make_pickles(Path("canary")))


@pytest.fixture
def checkpoint(request, tmp_path, canary):
    """A file of the corpus, and the name of what it holds."""
    content, held = hostile.make_pickles(canary)[request.param]
    path = tmp_path / "model.pth"
    path.write_bytes(content)
    return path, held


@pytest.mark.parametrize("checkpoint", PICKLES, indirect=True)
def test_a_checkpoint_is_refused_by_what_it_holds(checkpoint):
    path, held = checkpoint
    line = refusal(read_checkpoint, path)
    assert line.startswith(f"{path} holds more than weights (")
    assert held in line and "--trust_checkpoint true" in line


@pytest.mark.parametrize("checkpoint", PICKLES, indirect=True)
def test_so_it_is_where_others_load(checkpoint):
    path, held = checkpoint
    for file in (path, str(path)):
        for options in ({}, dict(weights_only=False), dict(pickle_module=None)):
            with weights_only():
                assert held in refusal(torch.load, file, "cpu", **options)
    with weights_only(), path.open("rb") as file:
        with pytest.raises(Exception) as e:
            torch.load(file, weights_only=False)
        assert "Traceback" not in str(e.value)


@pytest.mark.parametrize(
    "checkpoint", ["system", "system_legacy", "nested"], indirect=True
)
def test_espnets_loaders_take_weights_alone(checkpoint, tmp_path, tiny, monkeypatch):
    from espnet2.tasks.asr import ASRTask
    from espnet2.torch_utils.load_pretrained_model import load_pretrained_model

    path, held = checkpoint
    monkeypatch.setenv("ESPNET_ALLOW_UNSAFE_TORCH_LOAD", "1")
    config = str(tiny["asr"]["config"])
    with weights_only():
        build = functools.partial(ASRTask.build_model_from_file, config, str(path))
        assert held in refusal(build, "cpu")
        assert held in refusal(load_pretrained_model, str(path), torch.nn.ReLU(), True)


class Loading:
    """A task of ESPnet whose models are built of files that others load."""

    def __init__(self, file):
        self._file = file

    def build_model_from_file(self, *_):
        """Load what, say, a configuration of AV-HuBERT names."""
        return torch.load(self._file, weights_only=False)

    def build_vocoder_from_file(self, *_):
        """Load as parallel_wavegan does."""
        return torch.load(self._file, weights_only=False)


@pytest.mark.parametrize("checkpoint", ["nested"], indirect=True)
def test_what_a_model_is_built_of_is_loaded_alike(checkpoint, tmp_path):
    from types import SimpleNamespace

    from espnet_onnx_plugin.export.tasks.synthesis import SynthesisExporter

    path, held = checkpoint
    task = Loading(str(path))
    (tmp_path / "config.yaml").write_text("a: 1\n")
    line = refusal(checkpoints.build, task, tmp_path / "config.yaml", path)
    assert line.startswith(f"{path} holds more than weights ({held})")
    voice = SimpleNamespace(require_vocoder=True)
    exporter = SimpleNamespace(griffin_lim=True, model=None, voice=voice)
    files = SimpleNamespace(vocoder_config=None, vocoder_file=None)
    line = refusal(SynthesisExporter._build_vocoder, exporter, task, files)
    assert line.startswith(f"{path} holds more than weights ({held})")


def test_what_is_trusted_is_loaded_with_all_it_holds(tmp_path):
    made = tmp_path / "made"
    file = tmp_path / "model.pth"
    torch.save(dict(x=hostile.Reduced(os.mkdir, str(made))), file)
    with trusting(True):
        read_checkpoint(file)
    assert made.is_dir()
    made.rmdir()
    with trusting(True), weights_only():
        torch.load(file, weights_only=True)  # as ESPnet 202611 asks
        with file.open("rb") as opened:
            made.rmdir()
            torch.load(opened)
    assert made.is_dir()
    made.rmdir()
    with trusting(True), trusting(False):
        refusal(read_checkpoint, file)
    with trusting(True):
        pass
    refusal(read_checkpoint, file)  # not trusted any more
    assert torch.load is checkpoint_file._torch_load and not made.exists()


def test_what_trainers_keep_beside_weights_is_harmless(tmp_path):
    import argparse
    import collections
    import datetime

    content = dict(
        model=collections.OrderedDict(w=torch.zeros(2)),
        args=argparse.Namespace(path=Path("exp"), names=["a"], nested=dict(a=1)),
        times=[datetime.timedelta(seconds=3), *map(np.float64, (1, 2))],
        others=[np.float32(1), np.int64(2), np.bool_(True), np.uint8(3), {1, 2}],
        arrays=[np.arange(3), np.zeros((2, 2), np.float16), np.array(["a"])[:0].size],
    )
    for zipped in (True, False):
        torch.save(content, tmp_path / "x.pth", _use_new_zipfile_serialization=zipped)
        loaded = read_checkpoint(tmp_path / "x.pth")
        assert loaded["args"] == content["args"]
        assert loaded["times"] == content["times"]
        assert (loaded["arrays"][0] == content["arrays"][0]).all()


@pytest.mark.parametrize("checkpoint", ["nested"], indirect=True)
def test_the_commands_refuse_it_in_one_line(checkpoint, tiny, tmp_path, capsys):
    path, held = checkpoint
    model = ("--train_config", tiny["asr"]["config"], "--model_file", path)
    output = ("--output_dir", tmp_path / "out")
    assert held in command(capsys, export.main, *model, *output)
    lm = ("--lm_train_config", tiny["lm"]["config"], "--lm_file", path)
    asr = (*model[:3], tiny["asr"]["file"])
    assert held in command(capsys, export.main, *asr, *lm, *output)
    assert held in command(capsys, verify.main, "--model_dir", tiny["bundle"], *model)
    scp = f"{tiny['data']}/wav.scp,speech,sound"
    line = command(
        capsys,
        reference.main,
        *("--asr_train_config", tiny["asr"]["config"], "--asr_model_file", path),
        *("--data_path_and_name_and_type", scp, *output),
    )
    assert held in line and "--trust_checkpoint true" in line
    assert not (tmp_path / "out").is_dir() or not any((tmp_path / "out").iterdir())


def test_the_option_is_everywhere_where_checkpoints_are_loaded(tiny, tmp_path, capsys):
    made = tmp_path / "made"
    weights = torch.load(tiny["asr"]["file"])
    content = dict(model=weights, x=hostile.Reduced(os.mkdir, str(made)))
    torch.save(content, tmp_path / "model.pth")
    model = ("--train_config", tiny["asr"]["config"])
    model += ("--model_file", tmp_path / "model.pth")
    options = [*model, "--output_dir", tmp_path / "out"]
    config = tmp_path / "export.yaml"
    config.write_text("trust_checkpoint: true\n")
    export.main([*map(str, options), "--config", str(config)])
    assert made.is_dir()
    made.rmdir()
    checked = ("--model_dir", tmp_path / "out", *model, "--trust_checkpoint", "true")
    verify.main([*map(str, checked)])
    assert made.is_dir()


@pytest.mark.parametrize("name", ["call", "new", "name"])
def test_settings_that_others_read_make_no_objects(name, tmp_path, canary):
    """parallel_wavegan's, in ESPnet's own inference too."""
    from espnet2.tasks.tts import TTSTask

    text, _ = hostile.make_yamls(canary)[name]
    with weights_only(), pytest.raises(yaml.YAMLError):
        yaml.load(text, Loader=yaml.Loader)
    pytest.importorskip("parallel_wavegan")
    (tmp_path / ".pkl").write_bytes(b"")  # a name that is all suffix
    (tmp_path / "config.yml").write_text(text)
    with weights_only(), pytest.raises(yaml.YAMLError):
        TTSTask.build_vocoder_from_file(
            str(tmp_path / "config.yml"), str(tmp_path / ".pkl")
        )


# Packed models


def test_configurations_of_a_hub_are_written_in_its_directory_alone(
    tmp_path, canary, monkeypatch
):
    downloader = pytest.importorskip("espnet_model_zoo.downloader")
    hub = tmp_path / "hub"
    hub.mkdir()
    (tmp_path / "config.yaml").write_text("a: 1\n")
    monkeypatch.setattr(downloader, "snapshot_download", lambda *_, **__: str(hub))
    zoo = downloader.ModelDownloader
    monkeypatch.setattr(zoo, "__init__", lambda self: None)
    monkeypatch.setattr(zoo, "get_url", lambda *_, **__: "huggingface.co")
    for name in ("cachedir", "_explicit_cachedir"):
        monkeypatch.setattr(zoo, name, None, raising=False)
    files = dict(files=dict(asr_model_file="model.pth"))
    for name in ("../config.yaml", str(tmp_path / "config.yaml"), "a/../../x.yaml"):
        listed = dict(yaml_files=dict(asr_train_config=name), **files)
        (hub / "meta.yaml").write_text(yaml.safe_dump(listed))
        assert "leads out of" in refusal(model_zoo._download, "tag")
    assert {p.name for p in tmp_path.iterdir()} == {"hub", "config.yaml"}


# YAML

YAMLS = tuple(hostile.make_yamls(Path("canary")))


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("name", YAMLS)
def test_yaml_is_data_of_a_bounded_size(name, plain, canary):
    text, what = hostile.make_yamls(canary)[name]
    for content in (text, text.encode()):
        line = refusal(load_yaml, content, "x", plain=plain)
        assert line.startswith("x is no YAML of settings: ")
        assert plain or what in line, line


@pytest.mark.parametrize("name", hostile.UNPLAIN)
def test_yaml_of_bundles_is_as_it_was_written(name):
    text, what = hostile.UNPLAIN[name]
    assert what in refusal(load_yaml, text, "x", plain=True)
    if name != "key":  # which is no key in Python
        load_yaml(text, "x")


def test_yaml_of_a_size(tmp_path, monkeypatch):
    path = tmp_path / "x.yaml"
    path.write_text("a: " + "b" * 100)
    assert read_yaml(path, largest=103) == {"a": "b" * 100}
    assert "is larger than" in refusal(read_yaml, path, largest=102)
    assert "cannot read" in refusal(read_yaml, tmp_path / "none")
    # What a list of the most values is, and what anchors make of fewer.
    assert len(load_yaml("[" + "0," * 1000 + "]", "x")) == 1000
    assert load_yaml("{a: &a [1, 2], b: [*a, *a]}", "x")["b"] == [[1, 2]] * 2


def test_a_command_refuses_such_a_configuration(tmp_path, capsys, canary):
    for name in ("call", "doubled", "less_deep"):
        (tmp_path / "x.yaml").write_text(hostile.make_yamls(canary)[name][0])
        with pytest.raises(SystemExit) as e:
            options = ["--output_dir", "x", "--config", str(tmp_path / "x.yaml")]
            export.main(options)
        err = capsys.readouterr().err
        assert e.value.code == 2 and err.count("\n") == 1, err
        assert "no YAML of settings" in err


# Bundles


@pytest.fixture
def bundle(tiny, tmp_path):
    """A bundle with every file that a manifest can name, to be spoilt."""
    path = tmp_path / "bundle"
    shutil.copytree(tiny["bundle"], path)
    content = yaml.safe_load((path / MANIFEST).read_text())
    names = ("bpe", "tokenizer", "src_tokens", "ngram", "src_ngram", "words")
    for name in names:
        (path / name).write_text(f"content of {name}")
    file = {name: vars(describe_file(path / name)) for name in names}
    content["text"].update(bpemodel=file["bpe"], tokenizer=file["tokenizer"])
    src = dict(token_type="char", token_list=file["src_tokens"])
    words = dict(token_type="char", token_list=file["words"], first=1, last=2)
    content.update(
        ngram=file["ngram"],
        src_ngram=file["src_ngram"],
        src_text=src,
        transcript=dict(words, max_tokens=9),
    )
    (path / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))
    read_bundle(path)
    return path


def rewritten(path, change):
    """Change what a manifest holds."""
    content = yaml.safe_load((path / MANIFEST).read_text())
    change(content)
    (path / MANIFEST).write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.mark.parametrize("form", hostile.BAD_NAMES)
def test_every_path_of_a_manifest(bundle, tmp_path, form):
    outside = tmp_path / "outside"
    (bundle / "sub").mkdir()
    good = (bundle / MANIFEST).read_text()
    entries = list(hostile.files_in(yaml.safe_load(good)))
    assert len(entries) > 14
    for number, entry in enumerate(entries):
        name = entry["name"]
        shutil.copytree(bundle, outside, dirs_exist_ok=True)
        shutil.copyfile(bundle / name, bundle / "sub" / name)
        bad = hostile.BAD_NAMES[form](name, outside)
        if form == "link":
            (bundle / name).unlink()
            (bundle / name).symlink_to(outside / name)
        else:

            content = yaml.safe_load(good)
            list(hostile.files_in(content))[number]["name"] = bad
            (bundle / MANIFEST).write_text(yaml.safe_dump(content))
        line = refusal(read_bundle, bundle)
        if form == "link":
            assert f"{name} is a link that leads out of the bundle" in line
            (bundle / name).unlink()
            shutil.copyfile(outside / name, bundle / name)
        else:
            assert f"names {bad!r}, which is no file of a bundle" in line
        (bundle / MANIFEST).write_text(good)
    read_bundle(bundle)


def test_a_manifest_is_the_bundles_own(bundle, tmp_path):
    (bundle / MANIFEST).rename(tmp_path / "elsewhere")
    (bundle / MANIFEST).symlink_to(tmp_path / "elsewhere")
    assert "leads out of" in refusal(read_bundle, bundle)


def test_names_of_the_older_format_are_looked_at_before_they_are_read(
    tmp_path, monkeypatch
):
    path, data = tmp_path / "b", Path(__file__).parent / "data/format_4/mask_ctc.yaml"
    path.mkdir()
    (tmp_path / "secret").write_text("x")
    shutil.copyfile(data, path / MANIFEST)
    monkeypatch.setattr(Path, "read_bytes", None)  # of which there is no need
    for name in (str(tmp_path / "secret"), "../secret"):
        rewritten(path, functools.partial(_with_tokens, name=name))
        assert "is no file of a bundle" in refusal(read_manifest, path)


def _with_tokens(content, name):
    content["text"]["token_list"] = name


@pytest.mark.parametrize("name", [*YAMLS, *hostile.UNPLAIN])
def test_a_manifest_is_yaml_as_this_package_writes_it(name, bundle, canary):
    text, _ = {**hostile.make_yamls(canary), **hostile.UNPLAIN}[name]
    (bundle / MANIFEST).write_text(text)
    assert "is damaged, export the bundle again" in refusal(read_bundle, bundle)


def test_a_manifest_of_a_size(bundle, monkeypatch):
    monkeypatch.setattr(store, "LARGEST_MANIFEST", 1000)
    assert "manifest.yaml is larger than" in refusal(read_manifest, bundle)


GRAPHS = tuple(hostile.make_graphs("x"))


@pytest.mark.parametrize("place", GRAPHS)
@pytest.mark.parametrize("location", ["../canary", "/etc/hostname", "encoder.onnx"])
def test_a_graph_reads_its_weights_and_no_other_file(place, location, bundle):
    content = hostile.make_graphs(location)[place]
    spoil(bundle, content)
    line = refusal(read_bundle, bundle)
    assert f"lm.onnx reads {location!r}, which is not its file of weights" in line


@pytest.mark.parametrize("place", GRAPHS)
def test_a_graph_reads_its_weights_wherever_they_are_named(place, bundle):
    spoil(bundle, hostile.make_graphs("lm.weights")[place])
    read_bundle(bundle)

    def change(content):
        content["graphs"]["lm"]["weights"] = None

    rewritten(bundle, change)
    assert "in the manifest (none)" in refusal(read_bundle, bundle)


def test_a_name_of_a_file_that_is_hidden_in_a_graph(tmp_path):
    """Protobuf takes the last where a field is there twice, wherever that is."""
    path = tmp_path / "lm.onnx"

    def graph(entry):
        tensor = sized(0x6A, entry)
        return sized(0x3A, sized(0x2A, b"\x70\x01" + tensor))

    def told(content):
        path.write_bytes(content)
        return refusal(refuse_other_files, path, "lm.weights")

    key, good = sized(0x0A, b"location"), sized(0x12, b"lm.weights")
    bad, other = sized(0x12, b"../canary"), sized(0x0A, b"x")
    path.write_bytes(graph(key + good))
    refuse_other_files(path, "lm.weights")
    path.write_bytes(graph(other + bad))  # no location, and none is read
    refuse_other_files(path, "lm.weights")
    for entry in (
        *(key + bad, bad + key, key + good + bad, key + bad + good, key),
        *(other + bad + key, other + key + bad, key + bad + other),
        # A tag and a length may be written longer than they need to be.
        b"\x8a\x00\x88\x00location\x92\x00\x89\x00../canary",
        b"\x18\x01" + key + b"\x25abcd" + bad,
    ):
        assert "which is not its file" in told(graph(entry)), entry
    assert "which is not its file" in told(graph(key + good) + graph(key + bad))
    assert "compiled engine" in told(graph(b"") + sized(0x22, b"EPContext"))
    for broken in (b"\x0b", b"\x00", b"\xff" * 12, b"\x0a\xff\xff\xff\xff\x07"):
        assert "is no ONNX graph" in told(graph(key + good) + broken), broken


def sized(tag, content):
    """A field of a protobuf message."""
    size = len(content)
    return bytes([tag, size & 127 | 128, size >> 7 & 127 | 128, size >> 14]) + content


@pytest.mark.parametrize("step", [1, 7])
def test_a_graph_that_is_cut_short_or_no_graph(step, bundle):
    path, good = bundle / "lm.onnx", hostile.make_graphs("lm.weights")["deep_subgraph"]
    for end in range(0, len(good), step):
        path.write_bytes(good[:end])
        try:
            refuse_other_files(path, "lm.weights")
        except PluginError as e:
            assert "is no ONNX graph" in str(e) or "which is not its" in str(e)
    nested = sized(0x6A, sized(0x0A, b"location"))
    for _ in range(200):  # a graph in an attribute of a node of a graph ...
        nested = sized(0x0A, sized(0x2A, sized(0x32, nested)))
    path.write_bytes(sized(0x3A, nested))
    assert "is no ONNX graph" in refusal(refuse_other_files, path, "lm.weights")


def spoil(bundle, content):
    """Write another graph, with an entry in the manifest that fits."""
    (bundle / "lm.onnx").write_bytes(content)

    def change(manifest):
        manifest["graphs"]["lm"]["file"] = vars(describe_file(bundle / "lm.onnx"))
        weights = bundle / "lm.weights"
        weights.write_bytes(bytes(8))
        manifest["graphs"]["lm"]["weights"] = vars(describe_file(weights))

    rewritten(bundle, change)


@pytest.mark.parametrize("value", [10**400, -(10**400), float("inf"), float("nan")])
def test_numbers_of_a_manifest_are_finite(value, bundle):
    def change(content):
        content["speech"]["volume_normalize"] = value

    rewritten(bundle, change)
    assert "volume_normalize is not a number" in refusal(read_manifest, bundle)


@pytest.mark.parametrize(
    "search, role",
    [
        (dict(kind="label_synchronous", sos=1, eos=1, blank=0), "encoder"),
        (dict(kind="mask_ctc", blank=0, mask=1), "mask_decoder_memory"),
        (dict(kind="transducer", blank=0, sos=1), "joint"),
        (dict(kind="durations", rounding="round"), "decoder"),
        (dict(kind="frames", reduction_factor=1, dropout=0.5), "postnet"),
        (dict(kind="framewise"), "encoder"),
    ],
)
def test_graphs_that_a_search_needs(search, role, bundle):
    def change(content):
        [graph] = [g for r, g in content["graphs"].items() if r == "lm"]
        every = ("encoder", "decoder", "joint", "joint_memory", "postnet")
        every += ("mask_decoder", "mask_decoder_memory")
        content.update(search=search, graphs={r: graph for r in every if r != role})

    rewritten(bundle, change)
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(yaml.dump(yaml.safe_load(text), Dumper=NoAliases))
    line = refusal(read_bundle, bundle)
    assert f"{search['kind']} needs the graph '{role}', which is not there" in line


@pytest.mark.parametrize("kind", ["inputs", "outputs", "states"])
def test_tensors_of_a_graph_are_those_of_the_manifest(kind, bundle):
    def change(content):
        tensors = content["graphs"]["decoder"][kind]
        tensors["other"] = tensors.pop(list(tensors)[0])
        content["text"].update(bpemodel=None, tokenizer=None)
        content.update(transcript=None, src_text=None)

    rewritten(bundle, change)
    text = (bundle / MANIFEST).read_text()
    (bundle / MANIFEST).write_text(yaml.dump(yaml.safe_load(text), Dumper=NoAliases))
    line = refusal(espnet_onnx_plugin.Speech2Text, bundle, ngram_weight=0)
    assert "decoder.onnx has other inputs and outputs than its manifest says" in line


class NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


def test_every_command_reads_bundles_alike(bundle, tiny, tmp_path, capsys):
    spoil(bundle, hostile.make_graphs("../canary")["constant"])
    out = ("--output_dir", tmp_path / "out")
    model = ("--model_dir", bundle)
    scp = f"{tiny['data']}/wav.scp,speech,sound"
    speech = ("--data_path_and_name_and_type", scp)
    systems = ("--system", "x", tmp_path, "--test_sets", "y", "--data_dir", tmp_path)
    for main, args in (
        (asr_inference.main, (*model, *speech, *out)),
        (optimize.main, (*model, *out)),
        (quantize.main, (*model, *out)),
        (verify.main, model),
        (report.main, (*systems, "--asr_model_dir", bundle, *out)),
    ):
        assert "reads '../canary'" in command(capsys, main, *args)
    assert not (tmp_path / "out").exists()
    # Of a system's bundle the report reads what it says of itself.
    (bundle / MANIFEST).write_text("a: &a 1")
    system = System("x", tmp_path, (bundle,))
    assert "has the anchor 'a'" in refusal(lambda: system.quantization)


def test_digests_are_checked_once(tiny, monkeypatch):
    """Another process that receives the model does not read every file again."""
    import pickle

    from espnet_onnx_plugin.runtime.asr import Speech2Text

    model = Speech2Text(tiny["bundle"], beam_size=2)
    named = Speech2Text(model_dir=tiny["bundle"], beam_size=2)
    monkeypatch.setattr(store, "sha256", None)
    assert pickle.loads(pickle.dumps(model)).bundle == model.bundle
    assert pickle.loads(pickle.dumps(named)).bundle == model.bundle


# Ids


class Inputs:
    """Digests of utterances that are all alike."""

    def of(self, key):
        return "made up"


@pytest.mark.parametrize("name", hostile.IDS)
@pytest.mark.parametrize("kind", [SpeechWriter, WaveWriter])
def test_ids_that_no_file_is_named_after(name, kind, tmp_path):
    job = Job(tmp_path / "out", ["good", hostile.IDS[name]], {}, Inputs())
    with pytest.raises(PluginError, match="cannot be the name of a file") as e:
        with job_writer(kind, job):
            raise AssertionError("something was decoded")
    assert "\n" not in str(e.value) and len(str(e.value)) < 250
    assert all(path.name.startswith(".out") for path in tmp_path.iterdir())


def test_ids_of_which_shells_and_plots_make_something(tmp_path):
    ids = ["$(id)", "$\\foo$", "ä" * 122, "<&>'\"", "a-b", "a;b", "~"]
    made = dict(prob=np.zeros(3), att_w=np.zeros((3, 2)), wav=np.zeros(80))
    job = Job(tmp_path / "speech", ids, {}, Inputs())
    with job_writer(SpeechWriter, job) as writer:
        for key in ids:
            writer.utterance(key, made, 8000)
            writer.record(key, {})
    for name in ("wav", "probs", "att_ws"):
        files = {path.stem for path in (tmp_path / "speech" / name).iterdir()}
        assert files == set(ids)


def test_a_page_shows_ids_and_texts_as_text(tmp_path):
    import soundfile

    suffix = '."onload="alert(1)'
    wav = tmp_path / f"a{suffix}"
    soundfile.write(wav, np.zeros(4000), 16000, format="WAV")
    for text in hostile.SHOWN:
        page = write_page(
            tmp_path / "page",
            title=text,
            texts={text: text},
            systems={text: {text: wav}},
            captions={text: {text: text}},
        ).read_text()
        body = page.partition("</style>")[2]
        tags = set(re.findall(r"<[^>]*>", body))
        names = {re.match(r"</?(\w+)", tag)[1] for tag in tags}
        assert names <= set(
            "head body h1 h2 p div figure figcaption audio img br".split()
        ) | {"html"}
        attributes = {a for tag in tags for a in re.findall(r'([\w-]+)="[^"]*"', tag)}
        assert attributes <= {"class", "controls", "preload", "src", "alt", "loading"}
        assert not any(" on" in re.sub(r'"[^"]*"', "", tag) for tag in tags)


# Audio


def test_an_archive_of_pickles_is_not_loaded(tmp_path, canary):
    import pickle

    content = pickle.dumps(hostile.Reduced(os.mkdir, str(canary)))
    ark = tmp_path / "x.ark"
    ark.write_bytes(b"utt PKL" + content)
    assert "is a pickle" in refusal(READERS["kaldi_ark"], f"{ark}:4")
    assert "is a pickle" in refusal(READERS["kaldi_ark"], f"{ark}:4[0:2]")
    ark.write_bytes(b"PKL" + content)
    assert "is a pickle" in refusal(READERS["kaldi_ark"], str(ark))
    kaldiio.save_ark(str(ark), {"utt": np.ones((2, 3), np.float32)})
    assert READERS["kaldi_ark"](f"{ark}:4").array.shape == (2, 3)
    # A pipe is the recipe owner's own.
    assert READERS["kaldi_ark"](f"tail -c +5 {ark} |").array.shape == (2, 3)


@pytest.mark.parametrize("content", ["objects", "archive", "empty", "header"])
def test_a_numpy_file_is_an_array_of_numbers(content, tmp_path, canary):
    path = tmp_path / "x.npy"
    if content == "objects":
        np.save(path, np.array([hostile.Reduced(os.mkdir, str(canary))], object))
    elif content == "archive":
        with path.open("wb") as file:
            np.savez(file, a=np.zeros(1))
    elif content == "empty":
        path.touch()
    else:
        path.write_bytes(b"\x93NUMPY\x01\x00\x76\x00" + b"(" * 118)
    assert "as a numpy file" in refusal(READERS["npy"], str(path))


# Recipes


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_recipe("asr")
    return tmp_path


#: Options with the name of a directory or file, and whether logs lie there.
PATHS = {
    "onnx_dir": True,
    "onnx_export_config": False,
    "onnx_optimize_config": False,
    "onnx_quantize_config": False,
    "asr_exp": True,
    "lm_exp": True,
    "inference_tag": True,
    "test_sets": True,
    "valid_set": True,
    "data_feats": False,
    "inference_config": False,
    "inference_asr_model": False,
    "python": False,
}
BAD_WORDS = ("x$(touch canary)", "x`touch canary`", "x;touch", "x&", "x|y", "x>canary")
BAD_WORDS += ("x'", 'x"', "x*", "x?", "[x]", "{x,y}", "~", "x#", "x\\y", "x\ny", "JOB")


@pytest.mark.parametrize("option", PATHS)
def test_what_job_scripts_do_not_pass_on_is_refused(option, recipe, canary):
    words = BAD_WORDS if option == "onnx_dir" else BAD_WORDS[:3]
    for word in words + (("a b",) if PATHS[option] and option != "test_sets" else ()):
        value = f"exp/{word}"
        if option.endswith("_config"):  # those are files
            Path("exp/x;touch").touch()
            value = "exp/x;touch"
        result = run_onnx(f"--{option}", value)
        assert_refused(result, f"--{option}", "do", "not pass on")
        assert all("RAN" not in line for call in driver_calls() for line in call)
        assert module_calls() == []


@pytest.mark.parametrize(
    "args, what",
    [
        ("--beam_size 3; touch canary", "';'"),
        ("--beam_size $(touch canary)", "'$'"),
        ("--lang_sym <eng>", "'<'"),
        ("--a 'x' --b \"y\"", "both kinds"),
        ("--a 'x y'", "'''"),
        ("--a {x,y}", "'{'"),
        ("--a x\n--b", "\\n"),
        ("--a JOB", "JOB"),
    ],
)
def test_what_job_scripts_do_not_pass_on_in_options(args, what, recipe, canary):
    result = run_onnx("--inference_args", args)
    assert_refused(result, "--inference_args", what)
    assert all("RAN" not in line for call in driver_calls() for line in call)


def test_the_option_to_trust_goes_to_what_loads_checkpoints(recipe):
    args = ("--stage", "14", "--onnx_variants", "fp32")
    assert run_onnx(*args).returncode == 0
    trusting = run_onnx(*args, "--onnx_trust_checkpoint", "true", "--onnx_dir", "new")
    assert trusting.returncode == 0, trusting.stderr
    given = [call.get("trust_checkpoint") for call in module_calls("export")]
    assert given == [None, ["true"]]
    assert_refused(run_onnx("--onnx_trust_checkpoint", "yes"), "true or false")
    assert "--onnx_trust_checkpoint " in run_onnx("--help").stderr
