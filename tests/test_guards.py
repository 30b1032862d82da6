"""Checks of the stages fail where what they guard is broken, or nothing is compared."""

import dataclasses
import json
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import save_tts

from espnet_onnx_plugin.bin import export, optimize, tts_inference, verify
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate import recognition
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.graphs import Comparison
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.evaluate.tokens import TokenQuality
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.parity.decoding import check_sequence
from espnet_onnx_plugin.export.parity.encoding import TOLERANCE, check_encoder
from espnet_onnx_plugin.export.parity.synthesis import _TOO_SHORT
from espnet_onnx_plugin.export.tasks.tts import TTSExporter
from espnet_onnx_plugin.optimize import fuse
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.search.graph_scorer import GraphScorer


def refused(capsys, main, *arguments):
    with pytest.raises(SystemExit) as e:
        main([str(argument) for argument in arguments])
    assert e.value.code == 1
    line = capsys.readouterr().err
    assert line.count("\n") == 1 or "WARNING" in line
    return line


# Parity of the encoder


class Graphs:
    """The encoder's graphs as :func:`check_encoder` calls them."""

    def __init__(self, value):
        self._value = value

    def __call__(self, utterances):
        out = np.full((1, 3, 2), self._value, np.float32)
        return Encoded({"encoder_out": out, "encoder_out_lens": np.array([3])})


def encoding(value):
    out = np.full((1, 3, 2), value, np.float32)
    return {"encoder_out": out, "encoder_out_lens": np.array([3])}


SPEECH = [("noise", np.ones(8, np.float32))]


def test_an_encoder_is_held_to_the_tolerance():
    figure = check_encoder(lambda _: encoding(1.0), Graphs(1.00005), SPEECH)
    assert 0 < figure <= TOLERANCE
    with pytest.raises(PluginError, match=r"encoder \(encoder_out\) differs"):
        check_encoder(lambda _: encoding(1.0), Graphs(1.0002), SPEECH)


def test_an_encoder_that_gives_no_numbers_is_refused():
    """PyTorch's own rounding, which is the limit then, is infinite too."""
    with pytest.raises(PluginError, match=r"encoder \(encoder_out\) differs.* by inf"):
        check_encoder(lambda _: encoding(np.nan), Graphs(np.nan), SPEECH)
    given = iter([encoding(1.0), encoding(np.nan)])
    with pytest.raises(PluginError, match=r"encoder \(encoder_out\) differs"):
        check_encoder(lambda _: next(given), Graphs(1.5), SPEECH)


def test_an_encoder_that_is_compared_on_nothing_is_refused():
    with pytest.raises(PluginError, match="no utterance to compare the encoder on"):
        check_encoder(lambda _: encoding(1.0), Graphs(1.0), [])


# Parity of decoders


def test_a_step_that_is_another_is_refused(tiny, tmp_path, monkeypatch):
    score = GraphScorer.score

    def louder(self, *args):
        scores, state = score(self, *args)
        return scores * np.float32(1.001), state

    monkeypatch.setattr(GraphScorer, "score", louder)
    with pytest.raises(PluginError, match="decoder differs from PyTorch.* on step 1"):
        export_bundle("asr", tiny["checkpoints"], tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [0.0, 1.0, np.nan])
def test_a_sequence_that_is_another_is_refused(value):
    size, decoder, memory, session = 4, mock.Mock(), mock.Mock(), mock.Mock()
    decoder.reference = lambda out, lens, ids, count: (
        torch.zeros(1, int(count), size),
        None,
    )
    memory.run.return_value = {}
    session.run.return_value = {"scores": np.full((3, 9, size), value, np.float32)}

    def check():
        return check_sequence(decoder, session, memory, 2, size, "mlm")

    if value == 0:
        assert check() == 0
    else:
        with pytest.raises(PluginError, match="mlm differs from PyTorch.* on 6 tokens"):
            check()


# The check of an optimized bundle


@pytest.mark.parametrize(
    "comparison, message",
    [
        (Comparison(0, "real", 0, {}), "no utterance to compare the optimized model"),
        (Comparison(3, "real", 2, {}), "other tokens for 1 of 3 utterances"),
        (Comparison(3, "real", 3, {"lm": 2e-4}), "optimized lm differs"),
        (Comparison(3, "real", 3, {"lm": float("nan")}), "optimized lm differs"),
    ],
)
def test_an_optimized_bundle_that_is_another_is_refused(
    comparison, message, tiny, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(RecognitionEvaluator, "compare", lambda *args: comparison)
    files = ("--model_dir", tiny["bundle"], "--output_dir", tmp_path / "new")
    assert message in refused(capsys, optimize.main, *files)
    assert not list(tmp_path.iterdir())


def test_a_graph_that_was_not_compared_is_written_down(
    tiny, tmp_path, monkeypatch, caplog
):
    model = read_bundle(tiny["bundle"])
    made = fuse.optimize(model, tmp_path / "whole", "cpu", None)
    assert "not_compared" not in made.manifest.checks["optimize"]
    assert set(made.manifest.checks["optimize"]["differences"]) >= {"encoder", "lm"}
    options = dict(beam_size=2, lm_weight=0.0)
    monkeypatch.setattr(recognition, "search_options", lambda bundle: options)
    made = fuse.optimize(model, tmp_path / "part", "cpu", None)
    assert made.manifest.checks["optimize"]["not_compared"] == ["lm"]
    assert "not compared with the original, for nothing here uses them: lm" in (
        caplog.text
    )


def test_graphs_of_a_voice_that_were_not_compared_are_written_down(tmp_path):
    """A voice speaks without what reads the teacher's speech."""
    files = save_tts("vits", "one_speaker", tmp_path / "model")
    checkpoints = Checkpoints(files["config"], files["file"])
    model = export_bundle("tts", checkpoints, tmp_path / "onnx")
    made = fuse.optimize(model, tmp_path / "optimized", "cpu", None)
    figures = made.manifest.checks["optimize"]
    assert figures["not_compared"] == ["frontend", "alignment"]
    assert not {*figures["not_compared"]} & {*figures["differences"]}


def test_tokens_and_errors_of_a_quantized_model_are_held():
    budget = TokenBudget(max_wer_increase=0.1, min_token_agreement=0.99)
    assert TokenQuality(5, 5, 0.99, 4.0, 4.1).within(budget)
    for broken in (
        dict(token_agreement=0.98),
        dict(token_agreement=float("nan")),
        dict(wer=4.2),
        dict(wer=float("nan")),
    ):
        quality = dataclasses.replace(TokenQuality(5, 5, 0.99, 4.0, 4.1), **broken)
        assert not quality.within(budget)


# The parity of a voice


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    files = save_tts("fastspeech2", "conformer", tmp_path_factory.mktemp("tts"))
    return Checkpoints(files["config"], files["file"])


SHORT = "Padding size should be less than the corresponding input dimension, but got 3"


def failing(monkeypatch, message, fails):
    """Let ESPnet's inference fail where ``fails(tokens, taught)``."""
    infer = TTSExporter.infer

    def broken(self, inputs, options, seed):
        if fails(len(inputs["text"]), options["use_teacher_forcing"]):
            raise RuntimeError(message)
        return infer(self, inputs, options, seed)

    monkeypatch.setattr(TTSExporter, "infer", broken)


def test_a_text_that_is_too_short_is_written_down_as_skipped(
    voice, tmp_path, monkeypatch, capsys
):
    failing(monkeypatch, SHORT, lambda tokens, taught: tokens == 4)
    files = ("--train_config", voice.train_config, "--model_file", voice.model_file)
    output = tmp_path / "onnx"
    export.main([*map(str, ("--task", "tts", *files, "--output_dir", output))])
    skipped = read_bundle(output).manifest.checks["parity_skipped"]
    assert [case.partition(":")[0] for case in skipped] == [
        "a text of 4 tokens",
        "a text of 4 tokens that is taught",
    ]
    capsys.readouterr()
    verify.main([*map(str, ("--model_dir", output, *files))])
    assert "2 cases skipped: a text of 4 tokens: " in capsys.readouterr().out


@pytest.mark.parametrize("frames", [0, 2])
@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv1d(4, 4, 7),
        torch.nn.ReflectionPad1d(3),
        torch.nn.ConvTranspose1d(4, 4, 4),
        torch.nn.Upsample(scale_factor=2),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_are_given_too_few_frames_are_known(layer, frames):
    try:
        layer(torch.zeros(1, 4, frames))
    except RuntimeError as e:
        assert _TOO_SHORT.search(" ".join(str(e).split()))
    else:
        assert frames
    with pytest.raises(RuntimeError) as e:
        layer(torch.zeros(1, 5, 9)) @ torch.zeros(3)
    assert not _TOO_SHORT.search(str(e.value))


@pytest.mark.parametrize(
    "reason, fails, message",
    [
        (
            "Expected all tensors to be on the same device",
            lambda tokens, taught: tokens == 4,
            "cannot speak a text of 4 tokens: Expected all",
        ),
        (SHORT, lambda tokens, taught: not taught, "cannot speak any made-up text: a"),
        (SHORT, lambda tokens, taught: taught, "any made-up text that is taught: a"),
    ],
)
def test_a_way_to_speak_that_was_not_compared_is_refused(
    reason, fails, message, voice, tmp_path, monkeypatch
):
    failing(monkeypatch, reason, fails)
    with pytest.raises(PluginError, match=message):
        export_bundle("tts", voice, tmp_path / "onnx")
    assert not list(tmp_path.iterdir())


def test_a_voice_that_is_another_is_refused(voice, tmp_path, monkeypatch):
    infer = TTSExporter.infer

    def louder(self, *args):
        outputs = infer(self, *args)
        return {**outputs, "feat_gen": outputs["feat_gen"] * 1.001}

    monkeypatch.setattr(TTSExporter, "infer", louder)
    with pytest.raises(PluginError, match="parity check failed: feat_gen differs"):
        export_bundle("tts", voice, tmp_path / "onnx")


# The time to the first audio


@pytest.mark.parametrize("asked", [False, True])
def test_speech_is_made_once_where_nobody_asks_for_the_first_audio(
    asked, tmp_path, monkeypatch
):
    files = save_tts("vits", "one_speaker", tmp_path / "model")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("tts", checkpoints, tmp_path / "onnx")
    (tmp_path / "text").write_text("one abc\ntwo a lot of tokens\n")
    runs, run = [], Session.run

    def count(self, feeds, fetch):
        runs.append(self.graph.file.name)
        return run(self, feeds, fetch)

    monkeypatch.setattr(Session, "run", count)
    data = f"--data_path_and_name_and_type={tmp_path / 'text'},text,text"
    command = ["--model_dir", str(bundle.path), "--output_dir", str(tmp_path / "out")]
    asks = ["--time_first_audio", "true"] if asked else []
    tts_inference.main([*command, data, *asks])
    assert runs.count("vocoder.onnx") == (4 if asked else 2)
    lines = (tmp_path / "out/timing.jsonl").read_text().splitlines()
    first = [json.loads(line).get("first_audio_seconds") for line in lines]
    assert all(first) if asked else first == [None, None]
