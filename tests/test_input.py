"""Audio, lists and texts as users bring them: as in ESPnet, or named in one line."""

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
from argparse import Namespace
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, waves
from test_asr import decode, read, refused

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.decodes import compare
from espnet_onnx_plugin.report.figures import to_csv
from espnet_onnx_plugin.report.results import System
from espnet_onnx_plugin.report.tables import to_markdown
from espnet_onnx_plugin.report.timing import read_timings, summarize
from espnet_onnx_plugin.runtime import s2t
from espnet_onnx_plugin.runtime.io import memory
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.lists import read_keys, read_scp
from espnet_onnx_plugin.runtime.io.speech import prepare
from espnet_onnx_plugin.runtime.io.writer import ResultWriter, job_writer
from espnet_onnx_plugin.runtime.recognition import engine
from espnet_onnx_plugin.runtime.text.converter import read_tokens
from espnet_onnx_plugin.tasks import TASKS

ROOT = Path(__file__).parents[1]

#: What Unicode, but no reader of Kaldi's files, takes for the end of a line.
NO_NEWLINES = "\u2028\u2029\u0085\f\v\x1c"


def scp(directory, arrays, rate=RATE, subtype="FLOAT"):
    """Write arrays as files and the wav.scp that lists them."""
    lines = []
    for key, array in arrays.items():
        soundfile.write(directory / f"{key}.wav", array, rate, subtype)
        lines.append(f"{key} {directory}/{key}.wav\n")
    (directory / "wav.scp").write_text("".join(lines))
    return directory / "wav.scp"


# Lines


@pytest.mark.parametrize(
    "content, expected",
    [
        ("utt1\t/a b.wav\nutt2 \t /b.wav\n", {"utt1": "/a b.wav", "utt2": "/b.wav"}),
        ("utt1 a\nutt2 b", {"utt1": "a", "utt2": "b"}),
        ("\ufeffutt1 a\nutt2\n", {"utt1": "a", "utt2": ""}),
        ("utt1 a\r\n\r\nutt2 b\r\n", {"utt1": "a", "utt2": "b"}),
        (f"utt1 a{NO_NEWLINES}b\n", {"utt1": f"a{NO_NEWLINES}b"}),
        ("utt1\u3000\u3042\u3000\u3044\n", {"utt1": "\u3042\u3000\u3044"}),
    ],
    ids=["tab", "no last newline", "BOM", "CRLF", "separators", "wide blank"],
)
def test_lines_are_keys_and_values(tmp_path, content, expected):
    path = tmp_path / "text"
    path.write_bytes(content.encode("utf-8"))
    assert read_scp(path) == expected
    assert read_keys(path) == list(expected)


def test_lines_are_those_of_espnet(tmp_path):
    from espnet2.fileio.read_text import read_2columns_text

    path = tmp_path / "text"
    lines = ["a\tb  c \n", "d  e\tf\n", "g\n", f" h i{NO_NEWLINES}j \n", "k\u3000l\n"]
    path.write_bytes("".join(lines).encode("utf-8"))
    assert read_scp(path) == read_2columns_text(path)


def test_a_decode_takes_tabs_and_byte_order_marks(tiny, tmp_path):
    expected = read(decode(tiny, tmp_path, "--beam_size", 1) / "1best_recog" / "text")
    content = (tiny["data"] / "wav.scp").read_text().replace(" ", "\t").rstrip()
    (tmp_path / "wav.scp").write_text("\ufeff" + content, encoding="utf-8")
    (tmp_path / "keys").write_text("\ufeffutt2\tx\nutt0", encoding="utf-8")
    args = ("--beam_size", 1, "--key_file", tmp_path / "keys")
    out = decode(tiny, tmp_path, *args, data=tmp_path / "wav.scp")
    text = read(out / "1best_recog" / "text")
    assert text == {key: expected[key] for key in ("utt2", "utt0")}


def test_tokens_are_lines_up_to_the_newline(tmp_path):
    tokens = ["<blank>", "\u2028", "\r", "", "x"]
    path = tmp_path / "tokens.txt"
    path.write_bytes("\n".join(tokens).encode("utf-8"))
    assert read_tokens(path) == tokens
    path.write_bytes("\n".join([*tokens, ""]).encode("utf-8"))
    assert read_tokens(path) == tokens


def write_decode(directory, token_int, **timing):
    """Decode of a variant, as a row of the tables."""
    test = directory / "asr" / "test"
    path = test / "onnx_timing" / "output" / "timing.jsonl"
    path.parent.mkdir(parents=True)
    (test / "token_int").write_bytes(token_int.encode("utf-8"))
    row = dict(key="utt1", audio_seconds=1, total_seconds=1, peak_memory_mb=1)
    row = json.dumps({**row, **timing}, ensure_ascii=False)
    path.write_bytes(row.encode("utf-8"))
    [row] = compare(["test"], [System("fp32", directory / "asr")], None)
    return row


def test_the_tables_read_lines_likewise(tmp_path):
    row = write_decode(tmp_path, "\ufeffutt1\t3 4\nutt2 5", key="utt\u2028")
    assert row.utterances == 2 and row.timing.utterances == 1


@pytest.mark.parametrize("name", ["wav.scp", "keys"])
def test_an_empty_list_is_named(capsys, tiny, tmp_path, name):
    (tmp_path / name).write_text("\n")
    where = dict(data=tmp_path / name) if name == "wav.scp" else {}
    args = ("--key_file", tmp_path / name) if name == "keys" else ()
    line = refused(capsys, tiny, tmp_path, *args, **where)
    assert f"{name} names no utterance" in line


def test_an_utterance_that_is_there_twice_is_named(capsys, tiny, tmp_path):
    (tmp_path / "wav.scp").write_text("utt1 a.wav\nutt2 b.wav\nutt1 c.wav\n")
    line = refused(capsys, tiny, tmp_path, data=tmp_path / "wav.scp")
    assert "wav.scp:3 names utterance 'utt1' twice" in line


def test_keys_that_are_not_there_are_named_before_anything_is_decoded(
    capsys, tiny, tmp_path, monkeypatch
):
    (tmp_path / "keys").write_text("utt0\nutt77\nutt78\n")
    calls = []
    monkeypatch.setitem(READERS, "sound", calls.append)
    line = refused(capsys, tiny, tmp_path, "--key_file", tmp_path / "keys")
    assert "utterance 'utt77' and 1 more are not in" in line and calls == []


def test_a_line_break_in_a_result_is_a_space(tmp_path):
    scp = tmp_path / "wav.scp"
    scp.write_text("utt1 a\n")
    job = Job(tmp_path / "out", ["utt1"], {}, InputDigests([(scp, "text")]))
    with job_writer(ResultWriter, job) as writer:
        files = {"1best_recog/text": "a\r\nb", "1best_recog/ctm": ["1 \n", "2"]}
        writer.results(files)
        writer.record("utt1", {})
    best = tmp_path / "out" / "1best_recog"
    assert (best / "text").read_text() == "utt1 a b\n"
    assert (best / "ctm").read_text() == "utt1 1  \nutt1 2\n"


# Values


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_named_with_its_second(capsys, tiny, tmp_path, value):
    wave = waves()["utt0"].astype(np.float32)
    wave[RATE // 4 :] = value
    data = scp(tmp_path, {"good": waves()["utt1"], "bad": wave})
    left = ["out.incomplete"]
    line = refused(capsys, tiny, tmp_path, "--beam_size", 1, data=data, left=left)
    assert (
        f"1 of 2 utterances could not be decoded: 'bad' (the input is {value}" in line
    )
    assert "at 0.250 s" in line
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    with pytest.raises(PluginError, match="at 0.250 s"):
        speech2text(wave)
    with pytest.raises(PluginError, match="at 0.250 s"):  # none in float32
        speech2text(np.where(np.isfinite(wave), wave.astype(np.float64), 1e300))


FEATURES = Speech("features", 100, 3, 7)


@pytest.mark.parametrize(
    "expected, shape, message",
    [
        (Speech("waveform", RATE, 0, 400), (1, RATE), "(samples, channels)"),
        (Speech("waveform", RATE, 0, 400), (2, RATE), "(samples, channels)"),
        (Speech("waveform", RATE, 0, 400), (1, RATE, 2), "(samples, channels)"),
        (Speech("waveform", RATE, 0, 400), (), "(samples, channels)"),
        (FEATURES, (3, 50), "(frames, 3)"),
        (FEATURES, (50,), "(frames, 3)"),
    ],
)
def test_another_shape_is_named_with_the_one_expected(expected, shape, message):
    with pytest.raises(PluginError) as e:
        prepare(np.zeros(shape), expected)
    assert message in str(e.value) and str(shape) in str(e.value)


def test_channels_come_second(tiny):
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    wave = waves()["utt0"]
    both = np.stack((wave, np.zeros_like(wave)), axis=1)
    assert speech2text(both)[0][2] == speech2text(wave)[0][2]
    with pytest.raises(PluginError, match="this one is .2, 4000."):
        speech2text(both.T)
    with pytest.raises(engine.TooShortUttError):
        speech2text(np.zeros((1, 2)))


@pytest.mark.parametrize("dtype", [np.int16, np.int32, bool, complex, object])
def test_types_other_than_float_are_refused(tiny, dtype):
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    wave = (waves()["utt0"] * 2**15).astype(dtype)
    with pytest.raises(PluginError, match=f"this input is of {np.dtype(dtype)}"):
        speech2text(wave)


def test_integers_of_an_archive_are_taken_as_in_espnet(tiny, tmp_path):
    import kaldiio
    from espnet2.train.dataset import kaldi_loader

    path = tmp_path / "ark.scp"
    wave = (waves()["utt0"] * 2**15).astype(np.int16)
    with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/a.ark,{path}") as writer:
        writer("utt0", (RATE, wave))
    theirs = kaldi_loader(str(path), float_dtype="float32")["utt0"]
    out = decode(tiny, tmp_path, "--beam_size", 1, data=path, kind="kaldi_ark")
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    [(_, _, token_int, hypothesis)] = speech2text(theirs)
    best = out / "1best_recog"
    assert read(best / "token_int")["utt0"] == " ".join(map(str, token_int))
    assert float(read(best / "score")["utt0"]) == hypothesis.score


def test_several_channels_are_told_once(tiny, tmp_path, caplog):
    wave = waves()["utt0"]
    both = np.stack((np.zeros_like(wave), wave), axis=1)
    data = scp(tmp_path, {"a": both, "b": wave, "c": wave[:, None], "d": both})
    decode(tiny, tmp_path, "--beam_size", 1, data=data)
    told = [r.getMessage() for r in caplog.records if "channel" in r.getMessage()]
    assert told == [
        "2 of 4 utterances have more than one channel, of which the first is decoded, "
        "as in ESPnet"
    ]


# Files


def streamed(content, size):
    """A WAV file as a program writes it into a pipe, without its sizes."""
    return (
        content[:4]
        + struct.pack("<I", size)
        + content[8:40]
        + struct.pack("<I", size)
        + content[44:]
    )


def encoded(wave, **kwargs):
    file = io.BytesIO()
    soundfile.write(file, wave, RATE, **kwargs)
    return file.getvalue()


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_came_through_a_pipe_is_whole(tmp_path, size):
    content = encoded(waves()["utt0"], format="WAV")
    (tmp_path / "a.wav").write_bytes(streamed(content, size))
    (tmp_path / "b.wav").write_bytes(content)
    theirs, _ = soundfile.read(tmp_path / "a.wav")
    audio = READERS["sound"](str(tmp_path / "a.wav"))
    assert np.array_equal(audio.array, theirs)
    if size:
        whole = READERS["sound"](str(tmp_path / "b.wav"))
        assert np.array_equal(audio.array, whole.array)


@pytest.mark.parametrize("form", ["WAV", "WAVEX"])
def test_a_truncated_wav_is_named_with_both_lengths(capsys, tiny, tmp_path, form):
    content = encoded(np.zeros(RATE), format=form)
    assert len(content) > 2 * RATE
    header = len(content) - 2 * RATE
    (tmp_path / "a.wav").write_bytes(content[: header + 2 * RATE // 10])
    (tmp_path / "wav.scp").write_text(f"utt9 {tmp_path}/a.wav\n")
    line = refused(capsys, tiny, tmp_path, data=tmp_path / "wav.scp")
    assert "utt9" in line and "a.wav is cut off" in line
    assert "header says 1.000 s, 0.100 s are there" in line


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_24", "FLOAT", "IMA_ADPCM", "ULAW"])
def test_whole_wavs_of_every_kind_are_read(tmp_path, subtype):
    wave = waves()["utt0"][:3001]
    soundfile.write(tmp_path / "a.wav", wave, RATE, subtype)
    theirs, _ = soundfile.read(tmp_path / "a.wav")
    assert np.array_equal(READERS["sound"](str(tmp_path / "a.wav")).array, theirs)


def flac_of(samples, wave):
    """A FLAC file whose header claims a number of samples (36 bits at byte 21)."""
    content = bytearray(encoded(wave, format="FLAC"))
    assert content[:4] == b"fLaC"
    content[21] = content[21] & 0xF0 | samples >> 32
    content[22:26] = struct.pack(">I", samples & 0xFFFFFFFF)
    return bytes(content)


@pytest.mark.parametrize("samples", [RATE * 3, 2**36 - 1])
def test_a_flac_that_claims_too_much_is_named(capsys, tiny, tmp_path, samples):
    (tmp_path / "a.flac").write_bytes(flac_of(samples, np.zeros(RATE)))
    (tmp_path / "wav.scp").write_text(f"utt9 {tmp_path}/a.flac\n")
    line = refused(capsys, tiny, tmp_path, data=tmp_path / "wav.scp")
    assert "utt9" in line and "a.flac" in line
    assert f"says {samples / RATE:.3f} s, 1.000 s are there" in line


def test_a_flac_that_does_not_know_its_length_is_named(tmp_path):
    (tmp_path / "a.flac").write_bytes(flac_of(0, np.zeros(RATE)))
    with pytest.raises(PluginError, match="its header does not say how long it is"):
        READERS["sound"](str(tmp_path / "a.flac"))


@pytest.mark.parametrize("form", ["FLAC", "OGG", "MP3", "AIFF"])
def test_other_files_are_read_as_by_soundfile(tmp_path, form):
    path = tmp_path / f"a.{form.lower()}"
    soundfile.write(path, 0.1 * waves()["utt3"], RATE, format=form)
    theirs, _ = soundfile.read(path)
    ours = READERS["sound"](str(path)).array
    assert len(ours) == len(theirs)
    # mpg123's last digit depends on where its buffers lie.
    assert np.abs(ours - theirs).max() <= (1e-6 if form == "MP3" else 0)


# Graphs that fail


@contextlib.contextmanager
def unfit(lengths):
    """Let the graphs be given another type for utterances of some lengths."""
    genuine = espnet_onnx_plugin.Speech2Text.prepare

    def prepare(self, speech):
        prepared = genuine(self, speech)
        return prepared.astype(np.float64) if len(speech) in lengths else prepared

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(espnet_onnx_plugin.Speech2Text, "prepare", prepare)
        yield


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_failing_graph_harms_no_other_utterance(
    capfd, tiny, tmp_path, caplog, batch_size
):
    args = ("--beam_size", 2, "--batch_size", batch_size)
    expected = read(decode(tiny, tmp_path, *args) / "1best_recog" / "token_int")
    del expected["utt1"]
    capfd.readouterr()
    with unfit({len(waves()["utt1"])}), pytest.raises(SystemExit) as e:
        decode(tiny, tmp_path, *args, "--force", True)
    assert e.value.code == 1
    error = capfd.readouterr().err
    [line] = [line for line in error.splitlines() if "asr_inference: error:" in line]
    assert "1 of 4 utterances could not be decoded: 'utt1' (frontend.onnx" in line
    assert "out.incomplete" in line and "double" in line and "\x1b" not in error
    assert "utterance 'utt1' is not decoded: frontend.onnx failed" in caplog.text
    assert not (tmp_path / "out").exists()
    found = read(tmp_path / "out.incomplete" / "1best_recog" / "token_int")
    assert found == expected
    decode(tiny, tmp_path, *args)
    assert [p.name for p in tmp_path.iterdir() if "out" in p.name] == ["out"]


def test_where_every_utterance_fails_nothing_is_left(capsys, tiny, tmp_path):
    with unfit({len(wave) for wave in waves(7).values()}):
        data = scp(tmp_path, waves(7))
        line = refused(capsys, tiny, tmp_path, "--beam_size", 2, data=data)
    assert "7 of 7 utterances" in line and "and 2 more, which the log names" in line
    assert "'utt4'" in line and "'utt5'" not in line


def test_a_failing_graph_is_one_line_in_python(tiny, capfd):
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=1)
    wave = waves()["utt0"]
    with unfit({len(wave)}), pytest.raises(PluginError) as e:
        speech2text(wave)
    assert str(e.value).startswith("frontend.onnx failed: ")
    assert "\n" not in str(e.value) and "\x1b" not in str(e.value)
    assert capfd.readouterr().err == ""  # onnxruntime logs nothing besides
    assert speech2text(wave)[0][2]


# Processes and systems


@pytest.mark.parametrize(
    "door",
    [
        pytest.param(door, id=door.command)
        for task in TASKS.values()
        for door in task.doors
    ],
)
def test_what_opens_a_bundle_is_pickled_as_its_arguments(door, monkeypatch):
    cls = door.load()
    bundle = Bundle(Path("bundle"), Namespace(search=None))

    def opened(self, *args, **kwargs):
        self.given = args, kwargs
        self.bundle = bundle
        self.session = lambda: "cannot be pickled"

    monkeypatch.setattr(cls, "__init__", opened)
    # The class of OWSM is chosen by the bundle.
    monkeypatch.setattr(s2t, "read_manifest", lambda path: Namespace(search=None))
    one = cls("bundle", "cpu", threads=2, nbest=3)
    other = pickle.loads(pickle.dumps(one))
    assert type(other) is cls
    # The bundle is not read again.
    assert other.given == ((bundle, "cpu"), dict(threads=2, nbest=3))


def test_a_pool_of_processes_decodes(tiny):
    speech2text = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=2, nbest=2)
    wave = waves()["utt0"]
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        [there] = pool.map(speech2text, [wave])
    assert [r[:3] for r in there] == [r[:3] for r in speech2text(wave)]


WITHOUT_CACHE = """
import numpy as np
from numba.core import caching
# Neither the package nor the home of the user can be written to.
classes = caching.CacheImpl._locator_classes
caching.CacheImpl._locator_classes = [c for c in classes if "Provided" in c.__name__]
from espnet_onnx_plugin.runtime.synthesis.griffin_lim import GriffinLim
settings = dict(n_fft=64, n_shift=16, win_length=64, window="hann", n_iter=2)
print(len(GriffinLim(settings)(np.zeros((30, 33)), 0)))
"""


def test_griffin_lim_needs_no_place_to_write_to():
    args = [sys.executable, "-c", WITHOUT_CACHE]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(args, capture_output=True, text=True, env=env)
    assert result.stdout.strip() == str(29 * 16), result.stderr


WITHOUT_MEMORY = """
import builtins, sys
sys.modules["resource"] = None  # "cannot be imported", as on Windows
genuine = builtins.open
def without_proc(file, *args, **kwargs):
    if str(file).startswith("/proc"):
        raise FileNotFoundError(file)
    return genuine(file, *args, **kwargs)
builtins.open = without_proc
from espnet_onnx_plugin.bin.asr_inference import main
main(sys.argv[1:])
"""


def command(tiny, out):
    data = f"{tiny['data']}/wav.scp,speech,sound"
    args = ["--model_dir", tiny["bundle"], "--output_dir", out, "--beam_size", 1]
    args += ["--data_path_and_name_and_type", data]
    return list(map(str, args))


def test_where_the_system_does_not_tell_the_memory_there_is_none(tiny, tmp_path):
    args = [sys.executable, "-c", WITHOUT_MEMORY, *command(tiny, tmp_path / "out")]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(args, capture_output=True, text=True, env=env)
    assert result.returncode == 0, result.stderr
    timings = read_timings(tmp_path / "out" / "timing.jsonl")
    assert {t.peak_memory_mb for t in timings.values()} == {None}
    assert summarize(timings).peak_memory_mb is None
    assert memory.peak_memory_mb() > 1


def test_tables_do_without_the_memory(tmp_path):
    row = write_decode(tmp_path, "utt1 3\n", peak_memory_mb=None)
    table = to_markdown("", {}, [row])
    assert "| RTF |" in table and "memory MiB" not in table
    assert "memory MiB" in to_markdown("", {}, [write_decode(tmp_path / "b", "utt1 3")])
    assert "peak_memory_mb" in to_csv([row])
