"""Tables and pages of synthesized speech."""

import csv
import json
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from espnet_onnx_plugin.bin import report
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate import asr_scoring
from espnet_onnx_plugin.evaluate.asr_scoring import (
    AsrScorer,
    count_characters,
    normalize,
)
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.evaluate.speech_quality import Measures
from espnet_onnx_plugin.report import listening, speech
from espnet_onnx_plugin.report.figures import to_csv
from espnet_onnx_plugin.report.results import System
from espnet_onnx_plugin.report.tables import to_markdown
from espnet_onnx_plugin.report.timing import TIMING
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError

TEXTS = {"a": "One, two.", "b": "THREE", "c": "four"}


def write_waves(directory, level, rate=16000):
    """Noise, louder in each utterance."""
    directory.mkdir(parents=True)
    noise = np.random.default_rng(level).uniform(-1, 1, 2000)
    for number, key in enumerate(TEXTS, 1):
        path = directory / f"{key}.wav"
        soundfile.write(path, number * level / 1000 * noise, rate, "PCM_16")


def louder(pairs):
    """Stands for the distances of pairs of files."""
    found = []
    for files in pairs:
        peaks = [np.abs(soundfile.read(file)[0]).max() for file in files]
        rmse = None if "/a.wav" in str(files[0]) else 2
        found.append(Measures(1000 * (peaks[1] - peaks[0]), rmse))
    return found


@pytest.fixture
def root(tmp_path, monkeypatch):
    """PyTorch, two variants, of which one speaks louder, and louder recordings."""
    for system, level in (("torch", 100), ("fp32", 100), ("int8", 110)):
        write_waves(tmp_path / system / "test/wav", level)
    write_waves(tmp_path / "recorded", 130)
    data = tmp_path / "data/test"
    data.mkdir(parents=True)
    (data / "text").write_text("".join(f"{k} {t}\n" for k, t in TEXTS.items()))
    (data / "wav.scp").write_text(
        "".join(f"{k} {tmp_path}/recorded/{k}.wav\n" for k in TEXTS)
    )
    for system, rows in {
        # Speech of other lengths: times are compared by real-time factors.
        "torch": [(1.0, 0.5, 0.5), (3.0, 1.5, 1.5), (2.0, 1.0, 9.0)],
        "fp32": [(2.0, 0.2, 0.1), (6.0, 0.6, 0.2), (4.0, 0.4, 0.3)],
    }.items():
        path = tmp_path / system / "test" / TIMING
        path.parent.mkdir(parents=True)
        names = ("audio_seconds", "total_seconds", "first_audio_seconds")
        with open(path, "w") as f:
            for key, row in zip(TEXTS, rows, strict=True):
                timing = dict(zip(names, row, strict=True), key=key, peak_memory_mb=9)
                print(json.dumps(timing), file=f)
    threads = ThreadPoolExecutor
    monkeypatch.setattr(speech, "ProcessPoolExecutor", lambda n, **_: threads(n))
    monkeypatch.setattr(speech, "measure_files", louder)
    return tmp_path


def compare_all(root, reference=True, num_utts=2, transcribe=None):
    systems = [System(name, root / name) for name in ("torch", "fp32", "int8")]
    reference = systems.pop(0) if reference else None
    [spoken] = speech.compare_speech(
        ["test"], systems, reference, root / "data", num_utts, transcribe
    )
    return spoken


def test_measures(root):
    spoken = compare_all(root)
    assert list(spoken.texts) == ["a", "b"] and spoken.utterances == 3
    torch, fp32, int8 = spoken.results()
    assert torch.distances.keys() == {"recordings"}
    assert list(fp32.distances) == list(int8.distances) == ["torch", "recordings"]
    assert fp32.distances["torch"] == Measures(0.0, 2.0)
    # The mean over a and b, which is twice as loud.
    assert int8.distances["torch"].mcd == pytest.approx(15, abs=0.2)
    assert int8.distances["recordings"].mcd == pytest.approx(-30, abs=0.2)
    assert fp32.distances["recordings"] == torch.distances["recordings"]
    assert fp32.speed_up == pytest.approx(5.0)
    assert fp32.timing.first_audio_seconds == 0.2
    assert torch.timing.first_audio_seconds == 1.5 and int8.timing is None


def test_tables(root):
    results = compare_all(root).results()
    lines = to_markdown("T", {}, results, {"test": "a page/index.html"}).splitlines()
    header = next(line for line in lines if line.startswith("| system"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("system", "MCD to torch dB", "log-F0 RMSE to torch"),
        *("MCD to recordings dB", "log-F0 RMSE to recordings", "utterances"),
        *("RTF", "first audio s", "speed-up", "peak memory MiB"),
    ]
    [fp32] = [line for line in lines if line.startswith("| fp32")]
    assert fp32.startswith("| fp32 | 0.00 | 2.000 | -4")
    assert fp32.endswith(" | 3 | 0.100 | 0.200 | 5.00x | 9 |")
    assert "[Listen to it](a%20page/index.html)" in lines
    notes = "\n".join(line for line in lines if line.startswith("- "))
    assert "test 2." in notes and "noise" in notes and "CER" not in notes
    torch, fp32, int8 = csv.DictReader(to_csv(results).splitlines())
    assert torch["mcd_to_torch"] == "" and fp32["mcd_to_torch"] == "0.0000"
    assert fp32["log_f0_rmse_to_recordings"] == torch["log_f0_rmse_to_recordings"]
    assert (fp32["first_audio_seconds"], int8["first_audio_seconds"]) == ("0.2000", "")


def test_without_reference_there_are_recordings(root):
    for row in compare_all(root, reference=False).results():
        assert list(row.distances) == ["recordings"] and row.speed_up is None


def test_what_cannot_be_measured_is_left_out(root, caplog):
    (root / "recorded/a.wav").unlink()
    assert list(compare_all(root).results()[1].distances) == ["torch"]
    assert "no sound files in" in caplog.text
    write_waves(root / "recorded_24", 130, rate=24000)
    scp = root / "data/test/wav.scp"
    scp.write_text(scp.read_text().replace("recorded", "recorded_24"))
    assert list(compare_all(root).results()[1].distances) == ["torch"]
    assert "recordings: these are at 24000 Hz, not 16000" in caplog.text
    for path in root.glob("*/test/wav/*.wav"):
        soundfile.write(path, np.zeros(9), 8000)
    results = compare_all(root).results()
    assert not any(r.distances for r in results)
    assert "no MCD and log-F0 of test" in caplog.text
    assert "MCD" not in to_markdown("T", {}, results)


def scored_songs(root):
    """Scores as the scoring stage of svs.sh leaves them, better in int8."""
    (root / "data/test/score.scp").write_text("")
    for system, accuracy in dict(torch=0.57, fp32=0.57, int8=31.0).items():
        for what, average in dict(semitone_acc=accuracy, vuv_error=13.73).items():
            directory = root / system / "test/scoring/sing_metrics" / what
            directory.mkdir(parents=True)
            file = directory / f"{what}_avg_result.txt"
            file.write_text(f"#utterances: 3\nAverage: {average:.2f}%")


def test_scores_of_songs(root):
    scored_songs(root)
    results = compare_all(root).results()
    table = to_markdown("T", {}, results)
    assert "| system | semitone accuracy % | V/UV error % | MCD to" in table
    assert "| fp32 | 0.57 | 13.73 |" in table and "| int8 | 31.00 | 13.73 |" in table
    assert "Semitone accuracy" in table and "clean speech" not in table
    torch, _, int8 = csv.DictReader(to_csv(results).splitlines())
    assert (torch["semitone_acc"], int8["semitone_acc"]) == ("0.57", "31.0")
    assert "snr_median" not in torch
    [file] = root.glob("int8/test/scoring/*/vuv_error/*")
    file.write_text("#utterances: 3\n")
    with pytest.raises(PluginError, match=f"{file} has no average: score again"):
        compare_all(root).results()


def test_pages_of_songs_show_f0(root, monkeypatch):
    contours = []
    monkeypatch.setattr(
        listening, "plot_spectrogram", lambda *args: contours.append(args[-1])
    )
    pytest.importorskip("matplotlib")
    time = np.arange(16000) / 16000
    for path in root.glob("**/*.wav"):
        tone = sum(np.sin(2 * np.pi * 220 * n * time) / n for n in range(1, 9))
        soundfile.write(path, 0.2 * tone, 16000)
    compare_all(root).write_page(root)
    assert all(contour is None for contour in contours)
    contours.clear()
    scored_songs(root)
    compare_all(root).write_page(root)
    assert len(contours) == 2 * 4  # recordings too
    for contour in contours:
        assert len(contour) == pytest.approx(16000 / 256, abs=2)
        assert np.median(contour[contour > 0]) == pytest.approx(220, rel=0.01)


@pytest.mark.parametrize(
    "lost, match",
    [
        ("fp32/test/wav/a.wav", r"fp32/test: other utterances .* lacks 1 \(a\)"),
        ("int8/test/wav/*", "no waveform in .*int8/test/wav"),
        ("data/test/text", "cannot read .*data/test/text"),
    ],
)
def test_what_is_missing_is_named(root, lost, match):
    for path in root.glob(lost):
        path.unlink()
    with pytest.raises(PluginError, match=match):
        compare_all(root)


def test_an_utterance_without_a_result_is_counted(root):
    lost = root / "fp32/test/wav/a.wav"
    lost.unlink()
    mark = dict(facts={}, utterances=2, failed={"a": "is cut off"}, files={})
    (lost.parents[1] / "onnx_decode.json").write_text(json.dumps(mark))
    made = compare_all(root)
    assert "a" not in made.texts
    failed = {row.system: row.failed for row in made.results()}
    assert failed.pop("fp32") == 1 and set(failed.values()) == {0}


def test_a_text_without_a_line_is_named(root):
    (root / "data/test/text").write_text("a ONE\nb TWO\n")
    with pytest.raises(PluginError, match="has no line for utterance 'c'"):
        compare_all(root)


def transcribe(path):
    text = {"a": "ONE TWO", "b": "three"}[path.stem]
    return text if "int8" not in str(path) else text.replace("ONE ", "ON E ")


def test_characters_that_are_recognized(root):
    spoken = compare_all(root, transcribe=transcribe)
    torch, fp32, int8 = results = spoken.results()
    assert torch.errors["CER"] == ErrorCounts(2, 12, 12)
    assert int8.errors["CER"] == ErrorCounts(2, 12, 12, 0, 0, 1, 1)
    assert int8.differences == pytest.approx({"CER": 100 / 12})
    assert fp32.differences == {"CER": 0.0} and torch.differences == {}
    text = to_markdown("T", {}, results)
    assert "| CER % | Δ CER |" in text and "lower case" in text and "jiwer" in text


@pytest.mark.parametrize(
    "text, expected",
    [("It's  A-B, «c»!", "its ab c"), ("ÄÖ 1.5\tx", "äö 15 x"), ("...", "")],
)
def test_normalized(text, expected):
    assert normalize(text) == expected


def test_nothing_to_be_recognized():
    assert count_characters({"a": "?"}, {"a": "x"}) is None


class Recognizer:
    """Stands for an ASR bundle at 16 kHz that tells how long a waveform is."""

    def recognize(self, samples):
        assert samples.dtype == np.float32 and np.abs(samples).max() > 0.05
        if len(samples) < 1000:
            raise TooShortUttError("too short", len(samples), 1000)
        return f"{len(samples)}"

    def files(self, results):
        return {"1best_recog/text": results}


def manifest(task="asr", speakers=None, kind="waveform"):
    audio = SimpleNamespace(kind=kind, sampling_rate=16000)
    return SimpleNamespace(task=task, speakers=speakers, speech=audio)


def test_asr_scorer(tmp_path, monkeypatch):
    bundle = SimpleNamespace(manifest=manifest())
    monkeypatch.setattr(asr_scoring, "read_bundle", lambda path: bundle)
    monkeypatch.setattr(asr_scoring, "open_on", lambda device, bundle: Recognizer())
    scorer = AsrScorer(tmp_path, Device())
    for rate, samples, text in ((16000, 2000, "2000"), (24000, 3000, "2000")):
        path = tmp_path / f"{rate}.wav"
        soundfile.write(path, 0.1 * np.sin(np.arange(samples) / 9), rate)
        assert scorer.transcribe_file(path) == text
    soundfile.write(path, 0.1 * np.sin(np.arange(600) / 9), 16000)
    assert scorer.transcribe_file(path) == ""


@pytest.mark.parametrize(
    "changes, match",
    [
        ({"task": "st"}, "of task asr, asr_transducer or s2t, for one"),
        ({"speakers": 2}, "for one speaker"),
        ({"kind": "features"}, "reads features"),
    ],
)
def test_a_model_that_cannot_score_speech(tmp_path, monkeypatch, changes, match):
    bundle = SimpleNamespace(manifest=manifest(**changes))
    monkeypatch.setattr(asr_scoring, "read_bundle", lambda path: bundle)
    with pytest.raises(PluginError, match=match):
        AsrScorer(tmp_path, Device())


def test_command_line(root, monkeypatch, capsys):
    """With processes of its own, and the model that scores the speech."""
    monkeypatch.undo()
    scorer = SimpleNamespace(transcribe_file=transcribe)
    monkeypatch.setattr(asr_scoring, "AsrScorer", lambda path, device: scorer)
    out = root / "onnx"
    report.main(
        ["--reference", "PyTorch", str(root / "torch"), "--num_utts", "1"]
        + ["--system", "int8", str(root / "int8"), "--test_sets", "test"]
        + ["--data_dir", str(root / "data"), "--asr_model_dir", "exp/asr"]
        + ["--output_dir", str(out)]
    )
    text = (out / "RESULTS.md").read_text()
    assert "- ASR model: exp/asr" in text
    assert "[Listen to it](listening/test/index.html)" in text
    page = (out / "listening/test/index.html").read_text()
    assert "One, two." in page and "four" not in page
    assert [page.count(name) for name in ("<audio", "MCD ")] == [3, 1]
    assert "listening/test/index.html" in capsys.readouterr().out
    [row, _] = csv.DictReader((out / "RESULTS.csv").read_text().splitlines())
    assert row["cer"] == "0.0000"
    assert sorted(path.name for path in out.glob("*.png")) == [
        *("cer_by_rtf.png", "mcd_to_recordings_by_rtf.png")
    ]


def test_asr_scoring_needs_texts(root, capsys):
    with pytest.raises(SystemExit):
        report.main(
            ["--system", "fp32", str(root / "fp32"), "--test_sets", "test"]
            + ["--asr_model_dir", "exp/asr", "--output_dir", str(root / "onnx")]
        )
    assert "--asr_model_dir needs the texts: --data_dir" in capsys.readouterr().err
