"""Anything at all in the place of a file: refused in one line, or taken."""

import contextlib
import io
import os
import subprocess
import tempfile
import zipfile
from pathlib import Path

import hostile
import kaldiio
import numpy as np
import onnx
import pytest
import soundfile
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from espnet_onnx_plugin.bin import export, optimize, quantize
from espnet_onnx_plugin.bundle import (
    MANIFEST,
    Manifest,
    Speech,
    Tensor,
    Text,
    describe,
    describe_file,
    read_bundle,
    write_manifest,
)
from espnet_onnx_plugin.bundle.external_data import refuse_other_files
from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.bundle.yaml_file import load_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archive import unpack
from espnet_onnx_plugin.runtime.io.audio import READERS, Audio
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.io.writer import check_file_names

ROOT = Path(__file__).parents[1]

#: The same examples in every run, and so few that all take seconds.
bounded = settings(derandomize=True, database=None, deadline=None, max_examples=60)


@contextlib.contextmanager
def place():
    """A directory for files, beside which nothing may be written."""
    with tempfile.TemporaryDirectory() as work:
        inside = Path(work) / "inside"
        inside.mkdir()
        yield inside
        assert os.listdir(work) == ["inside"]


def tried(call, *args, **kwargs):
    """The result of a call, None where it refuses in one line."""
    try:
        return call(*args, **kwargs)
    except PluginError as e:
        assert "\n" not in str(e), str(e)
        return None


#: What YAML can hold, and what it cannot.
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=9)
    | st.sampled_from(["..", "/etc/passwd", 10**400, -1, "1e999", "x\0y", "../x"])
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)

FILES = dict(encoder="encoder.onnx", weights="encoder.weights", tokens="tokens.txt")


def make_bundle(path):
    """A bundle of which files and graph are as they should be."""
    content = hostile.make_graphs(FILES["weights"])["initializer"]
    (path / FILES["encoder"]).write_bytes(content)
    (path / FILES["weights"]).write_bytes(bytes(8))
    (path / FILES["tokens"]).write_text("<blank>\na\n")
    speech = {"speech": Tensor("float32", ("utterances", "samples"))}
    out = {"encoder_out": Tensor("float32", ("utterances", "frames", 8))}
    graph = describe(path / FILES["encoder"], speech, out, {})
    text = Text("char", describe_file(path / FILES["tokens"]))
    search = LabelSynchronous(sos=1, eos=1, blank=0)
    write_manifest(
        path,
        Manifest(
            task="asr",
            graphs={"encoder": graph},
            speech=Speech("waveform", 16000, 0, 400),
            text=text,
            search=search,
        ),
    )


def places_in(content, path=()):
    """Paths to everything that a manifest holds."""
    yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places_in(value, (*path, key))


@bounded
@given(st.data())
def test_manifests(data):
    with place() as path:
        make_bundle(path)
        content = yaml.safe_load((path / MANIFEST).read_text())
        for _ in range(data.draw(st.integers(1, 2))):
            *above, last = data.draw(
                st.sampled_from([one for one in places_in(content) if one])
            )
            inner = content
            for key in above:
                inner = inner[key]
            if data.draw(st.integers(0, 4)) == 0:
                del inner[last]
            else:
                inner[last] = data.draw(VALUES)
        with contextlib.suppress(yaml.YAMLError):  # what even PyYAML does not write
            (path / MANIFEST).write_text(
                yaml.dump(content, Dumper=_NoAliases, allow_unicode=True),
                encoding="utf-8",
                errors="surrogatepass",
            )
        bundle = tried(read_bundle, path)
        if bundle is not None:
            assert {file.name for file in bundle.manifest.files} <= set(FILES.values())


class _NoAliases(yaml.SafeDumper):
    def ignore_aliases(self, data):
        return True


@bounded
@given(
    st.binary(max_size=60)
    | st.text("[]{}:,-?!&*'\"|>%@# \n\tab01<=", max_size=40).map(str.encode),
    st.booleans(),
)
def test_texts_in_yaml(content, plain):
    tried(load_yaml, content, "x", plain=plain)


def packed(names, compression):
    """A model that is packed, with members of these names besides."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr("meta.yaml", hostile.meta(dict(asr_model_file="model.pth")))
        archive.writestr("config.yaml", "a: 1\n")
        archive.writestr("model.pth", b"weights")
        for name in names:
            with contextlib.suppress(UnicodeEncodeError):
                archive.writestr(name, b"evil")
    return file.getvalue()


NAMES = st.lists(
    st.text("a./\\:~\0\n ü", max_size=8)
    | st.sampled_from(["../x", "/tmp/x", "a//../b"]),
    max_size=3,
)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@bounded
@given(NAMES, st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=4))
def test_archives(names, changes):
    content = bytearray(packed(names, zipfile.ZIP_STORED))
    for at, value in changes:
        content[at % len(content)] = value
    with place() as path:
        (path / "model.zip").write_bytes(content)
        files = tried(unpack, path / "model.zip", path / "to")
        for file in (files or {}).values():
            assert (path / "to") in Path(file).resolve().parents
        assert {p.name for p in path.iterdir()} <= {"model.zip", "to"}


@bounded
@given(
    st.sampled_from(sorted(hostile.make_graphs("x"))),
    st.sampled_from(["x", "y", "../x", ""]),
    st.lists(st.tuples(st.integers(0), st.integers(0, 255)), max_size=3),
)
def test_graphs(place_of_name, location, changes):
    """Whatever protobuf reads of a graph, a name of another file is refused."""
    content = bytearray(hostile.make_graphs(location)[place_of_name])
    for at, value in changes:
        content[at % len(content)] = value
    with place() as path:
        (path / "g.onnx").write_bytes(content)
        try:
            refuse_other_files(path / "g.onnx", "x")
        except PluginError:
            return
    try:
        model = onnx.load_model_from_string(bytes(content))
    except Exception:  # protobuf's own
        return
    assert set(_locations(model)) <= {"x"}


def _locations(message):
    for field, value in message.ListFields():
        values = [value] if hasattr(value, "ListFields") else value
        for one in values if field.message_type is not None else []:
            if field.message_type.name == "StringStringEntryProto":
                if field.name == "external_data" and one.key == "location":
                    yield one.value
            else:
                yield from _locations(one)


def _audio_files():
    wav, flac, ark, feats, npy = (io.BytesIO() for _ in range(5))
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, 400)
    soundfile.write(wav, noise, 8000, format="WAV")
    soundfile.write(flac, noise, 8000, format="FLAC")
    kaldiio.save_ark(ark, {"u": (8000, (noise * 9999).astype(np.int16))})
    kaldiio.save_ark(feats, {"u": np.ones((3, 4), np.float32)})
    np.save(npy, np.ones((3, 4)))
    return {
        ("sound", "x.wav"): wav,
        ("sound", "x.flac"): flac,
        ("kaldi_ark", "x.ark:2"): ark,
        ("kaldi_ark", "feats.ark:2"): feats,
        ("npy", "x.npy"): npy,
    }


AUDIO = {key: file.getvalue() for key, file in _audio_files().items()}


@bounded
@given(
    st.sampled_from(sorted(AUDIO)),
    st.lists(
        st.tuples(st.integers(0, 63), st.sampled_from([0, 1, 127, 128, 255])),
        max_size=4,
    ),
    st.integers(0, 900),
)
def test_headers_of_audio(which, changes, size):
    kind, name = which
    content = bytearray(AUDIO[which])
    for at, value in changes:
        content[at] = value
    with place() as path:
        file = path / name.partition(":")[0]
        file.write_bytes(content[: max(size, 1)] if size < 300 else content)
        read = tried(READERS[kind], str(path / name))
        assert read is None or isinstance(read, Audio)


@bounded
@given(
    st.binary(max_size=80)
    | st.lists(st.text("ab \t\r\x0b\u2028=|:[]", max_size=9), max_size=5).map(
        lambda lines: "\n".join(lines).encode()
    )
)
def test_lines_of_scp_files(content):
    with place() as path:
        (path / "wav.scp").write_bytes(content)
        entries = tried(read_scp, path / "wav.scp") or {}
        assert all(key and not set(key) & set(" \t\n") for key in entries)


@bounded
@given(st.text(max_size=12) | st.sampled_from([*hostile.IDS.values(), "ok"]))
def test_ids(key):
    try:
        check_file_names([key], "decoded")
    except PluginError:
        return
    except UnicodeEncodeError:  # no file that is read as UTF-8 has such an id
        key.encode("utf-8", "strict")
        raise
    with place() as path:
        for suffix in ("wav", "flac", "npy", "png"):
            (path / f"{key}.{suffix}").touch()
        assert len(list(path.iterdir())) == 4


#: Options by the command that has them, without what it needs besides.
COMMANDS = {
    "export": export.get_parser,
    "quantize": quantize.get_parser,
    "optimize": optimize.get_parser,
}


@pytest.mark.parametrize("name", COMMANDS)
@bounded
@given(st.data())
def test_values_of_options(name, data):
    """On a command line and in a file: taken, or refused with 2 in one line."""
    parser = COMMANDS[name]()
    options = sorted(
        a.dest for a in parser._actions if a.dest not in ("help", "config")
    )
    given_options = data.draw(
        st.dictionaries(st.sampled_from(options), VALUES, min_size=1, max_size=3)
    )
    words = [
        f"--{key}={value}"
        for key, value in data.draw(
            st.dictionaries(st.sampled_from(options), SCALARS, max_size=2)
        ).items()
    ]
    with place() as path:
        text = yaml.dump(given_options, Dumper=_NoAliases)
        (path / "x.yaml").write_text(text, encoding="utf-8", errors="surrogatepass")
        told = io.StringIO()
        with contextlib.redirect_stderr(told):
            try:
                parser.parse_args([*words, "--config", str(path / "x.yaml")])
            except SystemExit as e:
                assert e.code == 2
                assert ": error: " in told.getvalue()


#: As run.pl, slurm.pl and queue.pl put the words of a job into a script.
JOIN = r"""
my $cmd = "";
foreach my $x (@ARGV) {
    if ($x =~ m/^\S+$/) { $cmd .= $x . " "; }
    elsif ($x =~ m:\":) { $cmd .= "'$x' "; }
    else { $cmd .= "\"$x\" "; }
}
$cmd =~ s/JOB/1/g;
print $cmd;
"""

CHECK = r"""
onnx_die() { exit 3; }
. <(sed -n '/^onnx_check_words()/,/^# onnx_wants_stage/p' "$1")
onnx_dir=$2 data_feats=$3 inference_args=$4
onnx_check_words
"""

SPECIAL = st.text("ab/ $`\\\"'{},;&|<>()*?[]~#!\n-=:.%JOBü", min_size=1, max_size=10)


@settings(bounded, max_examples=150)
@given(SPECIAL | st.text(max_size=6), st.sampled_from(["onnx_dir", "data_feats"]))
def test_words_of_jobs(word, option):
    """A value that is taken reaches the job as it is, and runs nothing."""
    word = word.replace("\0", "").encode("utf-8", "ignore").decode()
    values = dict(onnx_dir="d", data_feats="f") | {option: f"x{word}"}
    script = ROOT / "egs2_stage/onnx_options.sh"
    args = [str(script), values["onnx_dir"], values["data_feats"], "--a b"]
    checked = subprocess.run(["bash", "-euc", CHECK, "bash", *args])
    if checked.returncode:
        assert checked.returncode == 3
        return
    words = [values["onnx_dir"], f"{values['data_feats']}/wav.scp,speech,sound"]
    joined = subprocess.run(
        ["perl", "-e", JOIN, "printf", "%s\\0", *words], capture_output=True, check=True
    ).stdout
    # The script of a job is a shell's, and the first two words are ours.
    with place() as path:
        made = subprocess.run(
            ["bash", "-c", joined.replace(b"%s\\0", b"'%s\\0'", 1)],
            capture_output=True,
            cwd=path,
        )
        assert os.listdir(path) == []
    assert made.stdout.decode().split("\0")[:-1] == words
