"""Tables and pages of enhanced speech."""

import csv
import json
import math
from pathlib import Path

import numpy as np
import pytest
import soundfile

from espnet_onnx_plugin.bin import report
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report import enhanced
from espnet_onnx_plugin.report.enhanced import compare_enhanced, snr
from espnet_onnx_plugin.report.figures import to_csv
from espnet_onnx_plugin.report.results import System
from espnet_onnx_plugin.report.tables import to_markdown
from espnet_onnx_plugin.report.timing import TIMING

KEYS = ("a", "b")
RESULT = "| Sum | 2 10 | {correct} {errors} 0 0 {errors} 1 |\n"


def write_scp(path, waves, channels=1):
    """Waveforms by utterance, in files beside their list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for key, wave in waves.items():
        file = path.parent / f"{path.stem}_{key}.wav"
        samples = np.stack([wave] * channels, axis=1) if channels > 1 else wave
        soundfile.write(file, samples, 8000, "PCM_16")
        lines.append(f"{key} {file}\n")
    path.write_text("".join(lines))


def write_scores(directory, **scores):
    (directory / "scoring").mkdir(parents=True, exist_ok=True)
    for name, text in scores.items():
        (directory / f"scoring/result_{name}.txt").write_text(f"{text}\n")


@pytest.fixture
def root(tmp_path):
    """Two speakers in mixtures of two channels; int8 differs from PyTorch."""
    random = np.random.default_rng(0)
    clean = {key: np.round(8192 * random.uniform(-1, 1, 3000)) for key in KEYS}
    for system, added in (("torch", 0), ("fp32", 0), ("int8", 8)):
        directory = tmp_path / f"exp/{system}_test"
        for n in (1, 2):
            waves = {
                key: (wave / n + added * (-1) ** np.arange(3000) * (1 + (key == "b")))
                / 2**15
                for key, wave in clean.items()
            }
            write_scp(directory / f"spk{n}.scp", waves)
        write_scores(directory, si_snr=9.5 - added / 100, stoi=90.25, sir="inf", new=1)
    mixtures = {key: wave * 1.5 / 2**15 for key, wave in clean.items()}
    data = tmp_path / "data/test"
    write_scp(data / "wav.scp", mixtures, channels=2)
    for n in (1, 2):
        write_scp(data / f"spk{n}.scp", {k: w / n / 2**15 for k, w in clean.items()})
    write_scores(data, si_snr="2.50", stoi="70.00")
    for system, seconds in (("torch", 1.0), ("fp32", 0.2)):
        path = tmp_path / f"exp/{system}_test" / TIMING
        path.parent.mkdir(parents=True)
        rows = [
            dict(key=k, audio_seconds=2.0, total_seconds=seconds, peak_memory_mb=9)
            for k in KEYS
        ]
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for system, errors in (("torch", 1), ("int8", 3)):
        for n in (1, 2):
            path = tmp_path / f"asr_{system}/test/spk_{n}/score_wer/result.txt"
            path.parent.mkdir(parents=True)
            path.write_text(RESULT.format(correct=10 - errors, errors=errors))
    return tmp_path


def systems(root, names=("torch", "fp32", "int8")):
    return [System(name, root / "exp" / f"{name}_{{test_set}}") for name in names]


def compare_all(root, reference=True, **asr_dirs):
    torch, *others = systems(root)
    torch, others = (torch, others) if reference else (None, [torch, *others])
    [made] = compare_enhanced(["test"], others, torch, root / "data", asr_dirs)
    return made


def test_snr():
    wave = np.array([300, -400], dtype=np.int16)
    assert snr(wave, wave) == math.inf
    assert snr(wave, np.array([300, -405], dtype=np.int16)) == pytest.approx(40)
    # Not invariant to the scale.
    assert snr(wave, (wave * 1.1).astype(np.int16)) == pytest.approx(20, abs=0.1)
    assert snr(np.zeros(2, np.int16), wave) == -math.inf


def test_scores_and_agreement(root):
    mixture, torch, fp32, int8 = compare_all(root).results()
    assert mixture.system == "mixture"
    assert mixture.scores == {"si_snr": 2.5, "stoi": 70.0}
    assert torch.scores["sir"] == math.inf
    assert torch.agreement is None
    assert fp32.agreement.median == fp32.agreement.worst == math.inf
    # A uniform signal up to 2**13, halved for the second speaker; 16 bits of noise.
    worst = 20 * math.log10(8192 / math.sqrt(3) / 2 / 16)
    assert int8.agreement.worst == pytest.approx(worst, abs=0.3)
    assert int8.agreement.median == pytest.approx(worst + 6, abs=0.3)
    assert fp32.speed_up == pytest.approx(5.0) and int8.speed_up is None
    assert fp32.utterances == 2


def test_tables(root):
    results = compare_all(root).results()
    lines = to_markdown("T", {}, results, {"test": "page"}).splitlines()
    header = next(line for line in lines if line.startswith("| system"))
    assert [cell.strip() for cell in header.strip("|").split("|")] == [
        *("system", "SI-SNR dB", "SIR dB", "STOI %", "NEW", "utterances"),
        *("SNR to torch dB, median", "SNR to torch dB, worst"),
        *("RTF", "speed-up", "peak memory MiB"),
    ]
    rows = {line.split(" | ")[0][2:]: line for line in lines if line.startswith("| ")}
    assert rows["mixture"].startswith("| mixture | 2.50 | — | 70.00 | — | 2 | — |")
    assert rows["fp32"] == (
        "| fp32 | 9.50 | inf | 90.25 | 1.00 | 2 | inf | inf | 0.100 | 5.00x | 9 |"
    )
    notes = "\n".join(line for line in lines if line.startswith("- "))
    assert (
        "STOI in percent" in notes
        and "Several" not in notes
        and "SNR to torch: energy" in notes
    )
    mixture, torch, fp32, int8 = csv.DictReader(to_csv(results).splitlines())
    assert (int8["si_snr"], torch["sir"], mixture["sir"]) == ("9.42", "inf", "")
    assert (torch["snr_worst"], fp32["snr_worst"]) == ("", "inf")


def test_what_an_asr_model_recognizes(root):
    dirs = {"torch": root / "asr_torch", "int8": root / "asr_int8"}
    _, torch, fp32, int8 = compare_all(root, **dirs).results()
    assert torch.errors["WER"].words == 20 and torch.errors["WER"].rate == 10
    assert fp32.errors == {} and int8.differences == {"WER": 20}


def test_without_a_reference_nothing_is_agreed_with(root):
    rows = compare_all(root, reference=False).results()
    assert [row.system for row in rows] == ["mixture", "torch", "fp32", "int8"]
    assert all(row.agreement is None for row in rows)


@pytest.fixture
def short_pages(monkeypatch):
    monkeypatch.setattr(enhanced, "UTTERANCES", 1)


def test_page(root, short_pages):
    made = compare_all(root)
    page = root / "onnx" / made.write_page(root / "onnx")
    text = page.read_text()
    heads = ["a, speaker 1", "a, speaker 2"]
    assert [part.split("</h2>")[0] for part in text.split("<h2>")[1:]] == heads
    captions = ["mixture", "clean speech", "torch", "fp32<br>SNR to torch inf dB"]
    for caption in captions:
        assert text.count(f"<figcaption>{caption}</figcaption>") == 2
    assert text.count("SNR to torch 4") + text.count("SNR to torch 5") == 2
    assert len(list(page.parent.glob("*.wav"))) == len(heads) * 5
    # Where the data lack sound files of some there are the systems alone.
    (root / "data/test/wav.scp").write_text("a x.ark:1\n")
    (root / "data/test/spk1.scp").unlink()
    made.write_page(root / "onnx")
    assert page.read_text().count("<audio") == len(heads) * 3


@pytest.mark.parametrize(
    "lost, match",
    [
        ("spk2.scp", "lacks 2 .a of speaker 2"),
        ("spk1.scp", "spk1.scp is missing: enhance"),
        ("spk1_a.wav", "cannot read audio file"),
        ("scoring/result_stoi.txt", "not a score: 'none'"),
    ],
)
def test_what_is_missing_is_named(root, lost, match):
    path = root / "exp/int8_test" / lost
    if path.suffix == ".txt":
        path.write_text("none\n")
    else:
        path.unlink()
    with pytest.raises(PluginError, match=match):
        compare_all(root).results()


def test_an_utterance_without_a_result_is_counted(root, short_pages):
    directory = root / "exp/int8_test"
    for n in (1, 2):
        path = directory / f"spk{n}.scp"
        path.write_text(path.read_text().splitlines()[1] + "\n")
    with pytest.raises(PluginError, match="lacks 2 .a of speaker 1"):
        compare_all(root)
    mark = dict(facts={}, utterances=2, failed={"a": "is cut off"}, files={})
    (directory / "onnx_decode.json").write_text(json.dumps(mark))
    made = compare_all(root)
    mixture, torch, _, int8 = results = made.results()
    assert (torch.utterances, torch.failed) == (2, 0)
    assert (int8.utterances, int8.failed) == (1, 1) and mixture.utterances == 2
    assert "as --onnx\\_max\\_failures allows: test, int8: 1. " in to_markdown(
        "Title", {}, results, {}
    )
    # All systems are to be heard, with what all have.
    page = (root / made.write_page(root)).read_text()
    assert "int8" in page and "b, speaker 1" in page and "a, speaker 1" not in page


def test_waveforms_of_other_lengths_are_refused(root):
    path = root / "exp/int8_test/spk1_a.wav"
    soundfile.write(path, np.zeros(10), 8000)
    with pytest.raises(PluginError, match="has 10 samples at 8000 Hz, .* 3000"):
        compare_all(root)


def test_command_line(root, short_pages, monkeypatch, capsys):
    monkeypatch.chdir(root)
    args = ["--reference", "PyTorch", "exp/torch_{test_set}"]
    for name in ("fp32", "int8"):
        args += ["--system", name, f"exp/{name}_{{test_set}}"]
    args += ["--test_sets", "test", "--output_dir", "onnx"]
    mixtures = ["--mixture_dir", "data", "--asr_dir", "int8", "asr_int8"]
    report.main([*args, *mixtures])
    text = Path("onnx/RESULTS.md").read_text()
    assert "[Listen to it](listening/test/index.html)" in text
    assert Path("onnx/si_snr_by_rtf.png").is_file() and "30.00" in text
    assert r"\begin{tabular}" in Path("onnx/RESULTS.tex").read_text()
    for more, message in (
        (["--asr_dir", "int8", "asr_int8"], "--asr_dir is for enhanced speech"),
        ([*mixtures, "--data_dir", "data"], "exclude each other"),
    ):
        with pytest.raises(SystemExit):
            report.main([*args, *more])
        assert message in capsys.readouterr().err
