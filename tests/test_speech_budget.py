"""The budget of synthesis can be missed: by distance and by character errors."""

import math

import numpy as np
import pytest
from conftest import RATE, save_tts

from espnet_onnx_plugin.bin import quantize
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.evaluate import synthesis
from espnet_onnx_plugin.evaluate.asr_scoring import AsrScorer, normalize
from espnet_onnx_plugin.evaluate.budgets import SpeechBudget
from espnet_onnx_plugin.evaluate.error_rate import count_errors
from espnet_onnx_plugin.evaluate.synthesis import SynthesisEvaluator
from espnet_onnx_plugin.evaluate.synthesized import LOST, SpeechQuality, measure_or_lost
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.quantize.forms import Lowering
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.synthesis.inputs import Texts
from espnet_onnx_plugin.runtime.tts import Text2Speech

TEXTS = {"one": "abc " * 40 + "abc", "two": "a lot of tokens " * 12 + "a"}


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    files = save_tts(
        "joint_text2wav", "fastspeech2_hifigan", tmp_path_factory.mktemp("tts")
    )
    checkpoints = Checkpoints(files["config"], files["file"])
    return export_bundle("tts", checkpoints, files["file"].parent / "onnx")


@pytest.fixture(scope="module")
def texts(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "text"
    path.write_text("".join(f"{key} {text}\n" for key, text in TEXTS.items()))
    return path


@pytest.fixture(autouse=True)
def int8_is_faster(monkeypatch):
    """At these sizes chance would tell."""
    monkeypatch.setattr(lowering, "is_faster", lambda *args: True)


LENIENT = ["--max_mcd", "1e9", "--max_log_f0_rmse", "1e9"]


def run(voice, texts, output, *options, kind="text"):
    data = (
        [] if texts is None else [f"--data_path_and_name_and_type={texts},text,{kind}"]
    )
    files = ["--model_dir", str(voice.path), "--output_dir", str(output)]
    quantize.main([*files, *data, *LENIENT, *map(str, options)])
    return read_bundle(output).manifest.checks["quantize"]


def refused(capsys, *arguments, **options):
    with pytest.raises(SystemExit) as e:
        run(*arguments, **options)
    assert e.value.code == 1
    return capsys.readouterr().err


def test_an_asr_model_scores_the_speech(voice, texts, tiny, tmp_path):
    figures = run(
        voice,
        texts,
        tmp_path / "int8",
        *("--asr_model_dir", tiny["bundle"], "--max_cer_increase", 1e9),
    )
    scorer = AsrScorer(tiny["bundle"], Device())
    for name, bundle in (("cer_fp32", voice), ("cer", read_bundle(tmp_path / "int8"))):
        model = Text2Speech(bundle, always_fix_seed=True)
        transcribed = [
            normalize(scorer.transcribe(model(text)["wav"], model.fs))
            for text in TEXTS.values()
        ]
        counts = count_errors(map(normalize, TEXTS.values()), transcribed)
        assert figures[name] == pytest.approx(counts.rate, abs=1e-4)


class Recognizer:
    """Recognizes the speech of the exported model, and nothing else."""

    speech = {}

    def __init__(self, model_dir, device):
        pass

    def transcribe(self, wave, rate):
        return self.speech.get(wave.tobytes(), "")


@pytest.fixture
def recognizer(voice, monkeypatch):
    model = Text2Speech(voice, always_fix_seed=True)
    made = {model(text)["wav"].tobytes(): text.upper() for text in TEXTS.values()}
    monkeypatch.setattr(Recognizer, "speech", made)
    monkeypatch.setattr(synthesis, "AsrScorer", Recognizer)
    return ["--asr_model_dir", "recognizer"]


def test_speech_in_fp16_is_near_that_in_fp32(voice, texts, tmp_path):
    budget = ["--max_mcd", 1, "--max_log_f0_rmse", 0.1]
    figures = run(voice, texts, tmp_path / "q", "--precision", "fp16", *budget)
    assert figures["emulated"] and figures["kept"] == {}
    assert 0 < figures["mcd"] < 1


def test_characters_that_are_not_recognized_cost_layers(
    voice, texts, tmp_path, recognizer
):
    figures = run(
        voice, texts, tmp_path / "any", *recognizer, "--max_cer_increase", 100
    )
    assert (figures["cer_fp32"], figures["cer"]) == (0, 100) and not figures["kept"]
    figures = run(
        voice, texts, tmp_path / "strict", *recognizer, "--max_cer_increase", 0.5
    )
    assert (figures["cer_fp32"], figures["cer"]) == (0, 0) and figures["kept"]["fp32"]


def test_speech_that_is_not_recognized_is_not_written(
    voice, texts, tmp_path, recognizer, monkeypatch, capsys
):
    write = Lowering.write

    def always_low(self, forms, target):
        write(self, {layer.name: f[0] for layer, f in self.ladders.items()}, target)

    monkeypatch.setattr(Lowering, "write", always_low)
    line = refused(capsys, voice, texts, tmp_path / "int8", *recognizer)
    assert "the budget does not hold even with every layer in fp32" in line
    assert not list(tmp_path.iterdir())


def test_asr_scoring_needs_texts_in_letters(voice, texts, tiny, tmp_path, capsys):
    scoring = ("--asr_model_dir", tiny["bundle"])
    line = refused(capsys, voice, None, tmp_path / "int8", *scoring)
    assert "--asr_model_dir needs texts" in line
    ids = tmp_path / "ids"
    ids.write_text("one " + "3 4 5 " * 50 + "\n")
    line = refused(capsys, voice, ids, tmp_path / "int8", *scoring, kind="text_int")
    assert "needs texts that it can hear" in line
    assert not (tmp_path / "int8").exists()


@pytest.mark.parametrize(
    "figures, holds",
    [
        (dict(), True),
        (dict(mcd=1.0, log_f0_rmse=0.1, cer_fp32=3.0, cer=3.5), True),
        (dict(mcd=1.01), False),
        (dict(log_f0_rmse=0.11), False),
        (dict(cer_fp32=3.0, cer=3.51), False),
        (dict(mcd=math.nan), False),
        (dict(log_f0_rmse=math.nan), False),
        (dict(cer_fp32=math.nan, cer=3.0), False),
        (dict(mcd=math.inf), False),
    ],
)
def test_every_figure_is_held(figures, holds):
    quality = SpeechQuality(2, 0, **figures)
    assert quality.within(SpeechBudget(1.0, 0.1, 0.5)) == holds
    assert quality.measured == bool(figures)


def hum(rate, seconds=0.5):
    time = np.arange(int(rate * seconds)) / rate
    return 0.1 * sum(np.sin(2 * np.pi * 150 * k * time) / k for k in range(1, 9))


@pytest.mark.parametrize("rate", [RATE, 16000])
def test_a_voice_that_is_lost_is_infinitely_far(rate):
    wave = hum(rate)
    assert measure_or_lost(wave, wave, rate).mcd == 0
    assert measure_or_lost(wave, wave[:9], rate) == LOST
    assert measure_or_lost(wave, wave[:0], rate) == LOST
    assert measure_or_lost(wave, wave * np.nan, rate) == LOST
    whispered = 0.1 * np.random.default_rng(0).standard_normal(len(wave))
    assert measure_or_lost(wave, whispered, rate).log_f0_rmse == math.inf
    assert measure_or_lost(whispered, whispered, rate).log_f0_rmse is None
    assert measure_or_lost(wave[:9], wave[:9], rate).mcd is None


def test_a_bundle_that_says_nothing_misses_the_budget(voice, texts, monkeypatch):
    data = SynthesisEvaluator(Texts([(str(texts), "text", "text")]))
    baseline = data.run(voice, Device())
    assert baseline.measure(voice).within(SpeechBudget())
    speak = Text2Speech.__call__

    def mute(self, *args, **kwargs):
        made = speak(self, *args, **kwargs)
        return {**made, "wav": made["wav"][:9]}

    monkeypatch.setattr(Text2Speech, "__call__", mute)
    assert not baseline.measure(voice).within(SpeechBudget())
