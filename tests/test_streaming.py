"""Streams end to end at tiny size: ESPnet's own inference against ours."""

import argparse
import importlib
import json
import logging
import pickle
import re
import subprocess
from contextlib import nullcontext
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
from conftest import (
    RATE,
    a_few,
    asr_config,
    build_asr,
    build_lm,
    run_readme,
    save,
    sharpen,
    st_config,
)
from test_st import build_st

from espnet_onnx_plugin.bin import asr_inference_streaming, quantize
from espnet_onnx_plugin.bundle import Speech, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime import asr_streaming, st_streaming
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.recognition.course import Course
from espnet_onnx_plugin.runtime.recognition.endpoint import Activity, Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import STREAM_FILE
from espnet_onnx_plugin.runtime.recognition.results import Recognized
from espnet_onnx_plugin.runtime.recognition.stream import feed_together
from espnet_onnx_plugin.runtime.recognition.stream_engine import Part, Progress
from espnet_onnx_plugin.runtime.recognition.token_times import TokenTimes
from espnet_onnx_plugin.tasks import open_model

#: Sizes of an encoder whose blocks are those that ESPnet's search takes.
BLOCKS = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    block_size=40,
    hop_size=16,
    look_ahead=16,
)
CONFORMER = dict(BLOCKS, macaron_style=True, cnn_module_kernel=5)
SHORT_WINDOW = dict(fs=RATE, n_fft=64, win_length=50, hop_length=20, n_mels=20)

#: Training options of recognizers, by name.
RECOGNIZERS = {
    "transformer": dict(encoder="contextual_block_transformer", encoder_conf=BLOCKS),
    "conformer": dict(
        encoder="contextual_block_conformer",
        encoder_conf=CONFORMER,
        frontend_conf=SHORT_WINDOW,
    ),
    "chunk_mean": dict(
        encoder="contextual_block_transformer",
        encoder_conf=dict(BLOCKS, input_layer="conv2d6"),
        normalize="utterance_mvn",
        normalize_conf={},
    ),
}


def global_mvn(root):
    """Normalization by statistics of features of size 20."""
    random = np.random.default_rng(0)
    stats = dict(count=100.0, sum=random.standard_normal(20) * 100)
    np.savez(root / "stats.npz", **stats, sum_square=100 * (4 + random.random(20)))
    return dict(
        normalize="global_mvn",
        normalize_conf=dict(stats_file=str(root / "stats.npz")),
    )


def speech(seconds=4.0, seed=0):
    """Tones that come and go, and noise."""
    random = np.random.default_rng(seed)
    time = np.arange(int(seconds * RATE)) / RATE
    loud = np.repeat(random.random(len(time) // 800 + 1) > 0.4, 800)[: len(time)]
    pitch = np.repeat(random.uniform(200, 3000, len(time) // 1600 + 1), 1600)
    wave = 0.4 * loud * np.sin(2 * np.pi * pitch[: len(time)] * time)
    return (wave + 0.01 * random.standard_normal(len(time))).astype(np.float32)


def pieces(wave, size):
    """Parts of a wave as ESPnet's command cuts it; the last may be empty."""
    count = len(wave) // size
    return [wave[i * size : (i + 1) * size] for i in range(count)] + [
        wave[count * size :]
    ]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives a tiny model's files and bundle by name, made when first asked for."""
    root = tmp_path_factory.mktemp("streams")
    made = {}

    def lm():
        model, config = build_lm(
            "transformer", dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=2)
        )
        return save(model, config, root / "lm", "lm.pth")

    def translator():
        conf = dict(asr_weight=0.0, st_mtlalpha=0.3)
        choices = {**global_mvn(root), **RECOGNIZERS["transformer"]}
        config = st_config(**choices, model_conf=conf)
        files = save(build_st(config, seed=1), config, root / "st", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("st", checkpoints, root / "st_fp32").path
        return argparse.Namespace(files=files, bundle=bundle)

    def give(name):
        if name == "st" and name not in made:
            made[name] = translator()
        if name not in made:
            if "lm" not in made:
                made["lm"] = lm()
            choices = {**global_mvn(root), **RECOGNIZERS[name]}
            config = asr_config(**choices)
            model = build_asr(config, seed=1)
            sharpen(model)
            asr = save(model, config, root / name, "model.pth")
            checkpoints = Checkpoints(
                asr["config"], asr["file"], made["lm"]["config"], made["lm"]["file"]
            )
            bundle = export_bundle("asr", checkpoints, root / f"{name}_fp32").path
            made[name] = argparse.Namespace(files=asr, lm=made["lm"], bundle=bundle)
        return made[name]

    return give


def espnet(model, **options):
    """ESPnet's class for streams with a recognizer."""
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    return Speech2TextStreaming(
        str(model.files["config"]),
        str(model.files["file"]),
        lm_train_config=str(model.lm["config"]),
        lm_file=str(model.lm["file"]),
        **options,
    )


def ours(model, **options):
    return asr_streaming.Speech2TextStreaming(model.bundle, **options)


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (text, token, token_int, hyp), other in zip(ours, theirs):
        assert token_int == other[2]
        assert (text, token) == tuple(other[:2])
        assert list(hyp.yseq) == [int(i) for i in other[3].yseq]
        assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)


#: Where the command for streams leaves their figures.
STREAM = Path("1best_recog", STREAM_FILE)

#: Searches, of which the first are fast.
PLAIN = dict(beam_size=2, ctc_weight=0.5, lm_weight=0.0, nbest=2)
JOINT = dict(beam_size=3, ctc_weight=0.3, lm_weight=0.3, penalty=0.2, nbest=3)
LENGTHS = dict(
    beam_size=3, maxlenratio=0.2, minlenratio=0.05, normalize_length=True, nbest=2
)
LIMITS = dict(
    beam_size=3,
    ctc_weight=0.3,
    lm_weight=0.0,
    encoded_feat_length_limit=30,
    decoder_text_length_limit=6,
    disable_repetition_detection=True,
)


# Features


def of_espnet(theirs, wave, size, arithmetic):
    """Features of each part, by ESPnet; up to the part on which it fails."""
    import torch

    module = importlib.import_module(f"espnet2.bin.{arithmetic}_inference_streaming")
    # The class of translation has no other model than that of recognition here.
    theirs = SimpleNamespace(**vars(theirs), st_model=theirs.asr_model)
    state, made = None, []
    parts = pieces(wave, size)
    for i, part in enumerate(parts):
        try:
            with torch.no_grad():
                feats, _, state = module.Speech2TextStreaming.apply_frontend(
                    theirs, torch.tensor(part), state, is_final=i == len(parts) - 1
                )
        except (RuntimeError, IndexError):
            break
        made.append(None if feats is None else feats[0].numpy())
    return made


@pytest.mark.parametrize("name", a_few(["transformer", "conformer", "chunk_mean"]))
@pytest.mark.parametrize("arithmetic", ["asr", "st"])
def test_features_are_espnets(models, name, arithmetic, monkeypatch):
    model = models(name)
    theirs = espnet(model)
    cls = dict(asr=asr_streaming, st=st_streaming)[arithmetic].Speech2TextStreaming
    monkeypatch.setattr(
        asr_streaming.Speech2TextStreaming, "espnet_frontend", cls.espnet_frontend
    )
    frontend = ours(model, frontend="espnet").engine.frontend
    whole = 0
    for length in (8000, 2001, 100, 45, 20):
        wave = speech(length / RATE)
        for size in (1, 7, 33, 64, 333, 512, 640, 5120):
            expected = of_espnet(theirs, wave, size, arithmetic)
            held, parts = frontend.open(), pieces(wave, size)
            made = []
            for i, part in enumerate(parts):
                feats, held = frontend.feed(held, part, i == len(parts) - 1)
                made.append(feats)
            assert made[-1] is not None  # ours never fails
            whole += len(expected) == len(made)
            for feats, other in zip(made, expected):
                assert (feats is None) == (other is None)
                if other is not None:
                    np.testing.assert_allclose(feats, other, atol=1e-4, rtol=1e-4)
    assert whole > 10


@pytest.mark.parametrize("name", ["transformer", "conformer"])
def test_exact_features_are_those_of_the_whole_utterance(models, name):
    model = ours(models(name))
    frontend, encoder = model.engine.frontend, Encoder(model.bundle, model.device)
    window = model.speech.framing.win_length
    for length in (8000, 2001, 100, 65, 64, 45, 20):
        wave = speech(length / RATE)
        padded = np.pad(wave, (0, max(0, window - length)))
        [whole] = encoder.features([padded])
        for size in (1, 7, 33, 64, 333, 512, 5120):
            held, parts, made = frontend.open(), pieces(wave, size), []
            for i, part in enumerate(parts):
                feats, held = frontend.feed(held, part, i == len(parts) - 1)
                made += [] if feats is None else [feats]
                assert len(held) < 4 * window + size
            np.testing.assert_allclose(
                np.concatenate(made), whole["feats"].numpy()[0], atol=1e-5
            )


# ESPnet's class


@pytest.mark.espnet
@pytest.mark.parametrize(
    "name, options, sizes",
    [
        ("transformer", JOINT, [512, 5120, 333]),
        ("transformer", dict(JOINT, disable_repetition_detection=True), [640]),
        ("transformer", LENGTHS, [5120, 40000]),
        ("conformer", JOINT, [640, 5120]),
        ("conformer", LIMITS, [512]),
        ("chunk_mean", PLAIN, [5120, 333]),
    ],
)
def test_partial_and_final_results_are_espnets(models, name, options, sizes):
    model = models(name)
    theirs = espnet(model, **options)
    mine = ours(model, frontend="espnet", **options)
    lengths = set()
    for size in sizes:
        parts = pieces(speech(2.4, size), size)
        for i, part in enumerate(parts):
            final = i == len(parts) - 1
            found = mine(part, is_final=final)
            assert_same(found, theirs(part, is_final=final))
        lengths.add(len(found[0][2]) if found else 0)
    assert max(lengths) > 2


@pytest.mark.parametrize(
    "options, size",
    [
        (dict(beam_size=3, ctc_weight=0.3, nbest=2), 512),
        (dict(beam_size=3, incremental_decode=True), 2500),
        (dict(beam_size=2, disable_repetition_detection=True, penalty=0.1), 700),
        (
            dict(
                beam_size=3,
                ctc_weight=0.3,
                time_sync=True,
                incremental_decode=True,
                blank_penalty=0.7,
                hold_n=2,
            ),
            2500,
        ),
    ],
)
def test_translations_are_espnets(models, options, size):
    from espnet2.bin.st_inference_streaming import Speech2TextStreaming

    model = models("st")
    theirs = Speech2TextStreaming(
        str(model.files["config"]), str(model.files["file"]), **options
    )
    mine = st_streaming.Speech2TextStreaming(
        model.bundle, frontend="espnet", sim_chunk_length=size, **options
    )
    wave = speech(2.0)
    parts = pieces(wave, size)
    for i, part in enumerate(parts):
        final = i == len(parts) - 1
        found = mine(part, is_final=final)
        assert_same(found, theirs(part, is_final=final))
    assert len(found[0][2]) > 1
    # The command feeds an utterance of less than two parts in one.
    short = wave[: 2 * size - 1]
    [result] = mine.batch([short])
    assert_same(result, theirs(short))


@pytest.mark.parametrize("task", ["asr", "st"])
def test_commands_take_espnets_options(task):
    command = f"{task}_inference_streaming"
    theirs = importlib.import_module(f"espnet2.bin.{command}").get_parser()
    mine = importlib.import_module(f"espnet_onnx_plugin.bin.{command}").COMMAND
    known = {action.dest: action for action in mine.get_parser()._actions}
    files = {f"{task}_train_config", f"{task}_model_file", "lm_train_config"}
    for action in theirs._actions:
        if action.dest not in files | {"lm_file", "word_lm_file"}:
            assert action.dest in known
            if action.dest in vars(mine.options()):
                assert known[action.dest].default == action.default


def write_scp(directory, waves):
    directory.mkdir()
    lines = []
    for key, wave in waves.items():
        soundfile.write(directory / f"{key}.wav", wave, RATE)
        lines.append(f"{key} {directory / key}.wav\n")
    (directory / "wav.scp").write_text("".join(lines))
    return f"{directory / 'wav.scp'},speech,sound"


def test_files_are_espnets(models, tmp_path):
    from espnet2.bin import asr_inference_streaming as module

    model = models("transformer")
    data = write_scp(tmp_path / "data", {f"u{i}": speech(1 + i, i) for i in range(3)})
    common = ["--data_path_and_name_and_type", data, "--sim_chunk_length", "1280"]
    for name, value in PLAIN.items():
        common += [f"--{name}", str(value)]
    files = ["--asr_train_config", model.files["config"]]
    files += ["--asr_model_file", model.files["file"]]
    module.main([*map(str, files), *common, "--output_dir", str(tmp_path / "espnet")])
    for size in (1, 3):  # one utterance, and several streams at once
        args = ["--model_dir", model.bundle, "--batch_size", size]
        args += ["--output_dir", tmp_path / f"ours{size}"]
        asr_inference_streaming.main([*map(str, args), *common])
        for name in ("text", "token", "token_int"):
            for n in (1, 2):
                path = Path(f"{n}best_recog", name)
                written = (tmp_path / f"ours{size}" / path).read_text()
                assert written == (tmp_path / "espnet" / path).read_text()


def test_an_utterance_shorter_than_a_part_is_decoded(models, tmp_path):
    """ESPnet ends in a NameError, or feeds none of it; or its encoder fails."""
    waves = dict(short=speech(1.0), long=speech(2.0), nothing=speech(0.01))
    data = write_scp(tmp_path / "data", waves)
    args = ["--data_path_and_name_and_type", data, "--sim_chunk_length", "12000"]
    args += ["--model_dir", models("transformer").bundle, "--beam_size", "2"]
    asr_inference_streaming.main([*map(str, args), "--output_dir", str(tmp_path / "o")])
    lines = (tmp_path / "o/1best_recog/token_int").read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["short", "long", "nothing"]
    assert len(lines[0].split()) > 1 and len(lines[2].split()) == 1


def test_a_budget_is_measured_on_streams(models, tmp_path):
    bundle = read_bundle(models("transformer").bundle)
    data = write_scp(tmp_path / "data", dict(a=speech(1.0), b=speech(1.3, 1)))
    command = "asr_inference_streaming"
    args = "--beam_size 2 --ctc_weight 1.0 --lm_weight 0 --sim_chunk_length 640"
    options = quantize.search_options(command, None, args)
    source = Source.parse(data.replace(",speech", ""))
    evaluator = RecognitionEvaluator(source, dict(options, command=command))
    baseline = evaluator.run(bundle, Device())
    assert list(baseline.decoded) == ["a", "b"]
    assert "stream_blocks" in baseline.feeds
    assert baseline.measure(bundle).identical == 2
    with pytest.raises(PluginError, match="'asr_streaming' is not one of"):
        open_model(bundle, "asr_streaming")


# Streams


def assert_alike(results, expected):
    """Results of the same frames, encoded in other batches, are the same."""
    assert [r.token_int for r in results] == [r.token_int for r in expected]
    scores = [r.hypothesis.score for r in expected]
    assert [r.hypothesis.score for r in results] == pytest.approx(scores, abs=1e-3)


@pytest.mark.parametrize("name", ["transformer", "conformer"])
def test_exact_results_do_not_depend_on_the_parts(models, name):
    model = ours(models(name), **PLAIN)
    wave = speech(2.4)
    whole = model.open()
    whole.feed(wave)
    expected = whole.final()
    assert len(expected.results[0].token_int) > 2
    for milliseconds in (10, 37, 160, 640):
        stream, size = model.open(), milliseconds * RATE // 1000
        for part in pieces(wave, size):
            assert stream.feed(part) == []
        utterance = stream.final()
        assert_alike(utterance.results, expected.results)
        assert (utterance.tokens, utterance.end) == (expected.tokens, expected.end)
    assert_alike(model(wave), expected.results)


@pytest.mark.parametrize("name", ["transformer", "conformer"])
def test_the_exact_encoder_is_that_of_whole_utterances(models, name):
    model = ours(models(name), **PLAIN)
    wave, given = speech(2.4), []
    feed = model.engine.encoder.feed
    model.engine.encoder.feed = lambda chunks: [given.extend(feed(chunks)), given[-1:]][
        1
    ]
    stream = model.open()
    for part in pieces(wave, 80):
        stream.feed(part)
    stream.final()
    whole = Encoder(model.bundle, model.device)([wave])
    joined = np.concatenate([one.encoder_out for one in given])
    np.testing.assert_allclose(joined, whole["encoder_out"].numpy()[0], atol=1e-4)


def test_partial_results_keep_what_is_stable(models):
    options = dict(PLAIN, disable_repetition_detection=True)
    model = ours(models("transformer"), **options)
    stream, shown, stable = model.open(), [], 0
    for part in pieces(speech(3.0), 320):
        stream.feed(part)
        partial = stream.partial
        assert partial.stable_tokens >= stable
        stable = partial.stable_tokens
        assert partial.text == model.converter.tokens2text(partial.token)
        assert partial.stable_words <= len(partial.words)
        shown.append(partial)
    result = stream.final()
    for partial in shown:
        kept = partial.token_int[: partial.stable_tokens]
        assert result.results[0].token_int[: len(kept)] == kept
        words = [word.text for word in partial.words[: partial.stable_words]]
        text = result.results[0].text.split()
        assert text[: len(words)] == words
    assert stable > 0
    assert stream.flicker.said == len(result.results[0].text.split())
    assert stream.partial.token_int == []
    assert result.latency.work > 0


def test_copied_saved_and_resumed_streams_go_on(models):
    model = ours(models("transformer"), **PLAIN)
    wave = speech(2.4)
    stream = model.open()
    stream.feed(wave)
    expected = stream.final()
    stream.reset()
    stream.feed(wave[:11111])
    copied, saved = stream.copy(), stream.save()
    stream.feed(speech(1.0, 5))
    stream.final()
    resumed = ours(models("transformer"), **PLAIN).resume(saved)
    for other in (copied, resumed):
        other.feed(wave[11111:])
        utterance = other.final()
        assert utterance.results == expected.results
        assert utterance.tokens == expected.tokens
    with pytest.raises(PluginError, match="saved with another model"):
        ours(models("conformer"), **PLAIN).resume(saved)
    for bad in (b"", saved[:-9], pickle.dumps(({}, logging.root))):
        with pytest.raises(PluginError, match="no saved stream"):
            model.resume(bad)


def test_streams_together_get_what_they_get_alone(models):
    model = ours(models("transformer"), **JOINT)
    waves = [speech(2.0), speech(1.1, 1), speech(1.7, 2)]
    alone = []
    for wave in waves:
        stream = model.open()
        stream.feed(wave)
        alone.append(stream.final().results)
    streams = [model.open() for _ in waves]
    for start in range(0, 16000, 700):
        model.feed(streams, [wave[start : start + 700] for wave in waves])
    for stream, expected in zip(streams, alone):
        assert_alike(stream.final().results, expected)
    batch = model.batch([model.prepare(wave) for wave in waves])
    for results, expected in zip(batch, alone):
        assert_alike(results, expected)


def test_the_readmes_streams(models, capsys):
    bundle = models("transformer").bundle
    given = dict(first=speech(1.0), rest=speech(0.5, 1))
    made = run_readme("Speech2TextStreaming", {"BUNDLE": bundle}, **given)
    assert made["results"][0][2] and made["utterance"].results
    assert capsys.readouterr().out == ""


# Latency


def test_delays_are_of_the_audio_and_of_the_computation():
    model = SimpleNamespace(
        speech=Speech("waveform", 1000, 0, 1, frame_shift=100.0),
        blank=0,
        bundle=SimpleNamespace(
            manifest=SimpleNamespace(tokens=SimpleNamespace(token_type="word"))
        ),
        converter=SimpleNamespace(ids2tokens=lambda ids: [str(i) for i in ids]),
        engine=SimpleNamespace(search=SimpleNamespace(running=lambda state: state)),
    )
    begun, course = SimpleNamespace(search=None), Course()

    def feed(spoken, hypotheses, seconds, results=None):
        nonlocal course
        part = Part(begun, np.zeros(500, np.float32), results is not None)
        state = SimpleNamespace(search=hypotheses)
        progress = Progress(state, (), scores(spoken) if spoken else None)
        course = course.followed(model, part, progress, results or [], seconds)

    feed([0, 0, 1, 1, 0], [[9]], 0.1)
    assert course.first is None and course.activity.start == 2
    feed([0, 1, 0, 0, 0], [[9, 5], [9, 5, 0, 6]], 0.7)
    assert (course.first, course.stable) == ((1000, 0.7), 1)
    feed([], None, 0.1)  # begins when the part before is done, 0.2 s late
    feed([], [[9, 5, 6], [9, 5, 7]], 0.1)
    assert course.words == ("5", "6") and course.erased == 0
    feed([], [[9, 5, 7]], 0.2)
    assert course.changed == (2500, 0.2) and course.erased == 1
    feed([], None, 0.05, [Recognized("5 7", ["5", "7"], [5, 7], None)])
    latency = course.latency(model)
    assert latency == pytest.approx((0.8, 1.8, 1.25 / 3, 0.7, 0.2))
    feed([], None, 0.0, [])
    assert course.words == () and course.erased == 3
    assert course.latency(model)[:2] == (None, None)


def test_the_command_leaves_the_figures_of_streams(models, tmp_path):
    model = models("transformer")
    waves = {f"u{i}": speech(1 + i, i) for i in range(2)} | dict(none=speech(0.01))
    data = write_scp(tmp_path / "data", waves)
    args = ["--data_path_and_name_and_type", data, "--sim_chunk_length", "1280"]
    args += ["--model_dir", model.bundle, "--frontend", "exact"]
    for name, value in PLAIN.items():
        args += [f"--{name}", value]
    found = []
    for size in (1, 3):  # one stream, and several at once
        out = tmp_path / str(size)
        more = ["--batch_size", size, "--output_dir", out]
        asr_inference_streaming.main([*map(str, [*args, *more])])
        figures = {k: json.loads(v) for k, v in read_scp(out / STREAM).items()}
        assert all(row.pop("work") > 0 for row in figures.values())
        for row in figures.values():
            both = (row.pop("first_computation"), row.pop("last_computation"))
            assert both == (None, None) or min(both) > 0
        found.append(figures)
    assert found[0] == found[1]
    # They are those of a stream that is fed the same parts.
    recognizer = ours(model, **PLAIN)
    stream = recognizer.open()
    for key in ("u0", "u1"):
        *first, last = pieces(waves[key], 1280)
        for part in first:
            stream.feed(part)
        [[utterance]] = feed_together(recognizer, [stream], [last], is_final=True)
        row, latency = found[0][key], utterance.latency
        assert row["said"] == len(utterance.results[0].text.split()) > 0
        assert row["first_partial"] == pytest.approx(latency.first_partial, abs=1e-4)
        assert (row["frontend"], row["chunk_seconds"]) == ("exact", 0.16)
    erased = [found[0][key]["erased"] for key in ("u0", "u1")]
    assert stream.flicker.erased == sum(erased) > 0
    assert found[0]["none"] == dict(
        frontend="exact",
        chunk_seconds=0.16,
        first_partial=None,
        last_word=None,
        erased=0,
        said=0,
    )
    assert not (out / "2best_recog" / STREAM.name).exists()


def recipes_find_exact(bundle):
    """Whether stage 16 finds that a bundle has an exact front end."""
    stages = Path(__file__).parents[1] / "egs2_stage/onnx_stages.sh"
    with TemporaryDirectory() as directory:
        (Path(directory) / "fp32").symlink_to(bundle)
        script = f". {stages}; onnx_dir={directory}; onnx_has_exact fp32"
        return subprocess.run(["bash", "-c", script]).returncode == 0


@pytest.mark.parametrize("name", ["transformer", "chunk_mean"])
def test_recipes_find_which_bundles_have_an_exact_front_end(models, name):
    found = recipes_find_exact(models(name).bundle)
    assert found == (name == "transformer")
    with nullcontext() if found else pytest.raises(PluginError):
        ours(models(name), **PLAIN)


def test_frames_that_are_not_of_one_window_have_no_exact_front_end(models, tmp_path):
    manifest = (models("transformer").bundle / "manifest.yaml").read_text()
    (tmp_path / "fp32").mkdir()
    for old, new in (("frontend:", "frontend:"), ("  frontend:", "  none:")):
        text = re.sub(r"n_fft: \d+", "n_fft: null", manifest).replace(old, new)
        (tmp_path / "fp32/manifest.yaml").write_text(text)
        # Without a frontend the model reads features, which come as they are.
        assert recipes_find_exact(tmp_path / "fp32") == (old != new)


# Ends


def scores(spoken):
    """Scores of a CTC (frames, 3) that hears token 1 in some frames."""
    return np.log(np.where(np.array(spoken)[:, None], [0.2, 0.7, 0.1], [0.8, 0.1, 0.1]))


def test_ends_are_found_by_silence_and_by_length():
    rules = Endpointing(1.0, 3.0, 10.0)
    silent = Activity().followed(scores([0] * 29), blank=0)
    assert rules.ended(silent, 0.1, 2.9) is None
    silent = silent.followed(scores([0]), blank=0)
    assert rules.ended(silent, 0.1, 3.0) == "silence_without_speech"
    spoken = silent.followed(scores([1, 0, 1] + [0] * 9), blank=0)
    assert (spoken.start, spoken.end, spoken.frames) == (30, 33, 42)
    assert rules.ended(spoken, 0.1, 4.2) is None
    assert rules.ended(spoken, 0.1, 10.0) == "length"
    spoken = spoken.followed(scores([0]), blank=0)
    assert rules.ended(spoken, 0.1, 4.3) == "silence_after_speech"
    assert Endpointing(None, None, None).ended(spoken, 0.1, 99.0) is None
    with pytest.raises(PluginError, match="length -1 must be above 0"):
        Endpointing(length=-1)


def test_audio_is_transcribed_as_it_comes(models, tmp_path, capsys):
    import transcribe

    write_scp(tmp_path / "audio", dict(a=speech(1.0), b=speech(1.2, 1)))
    args = ["--model_dir", models("transformer").bundle, tmp_path / "audio"]
    options = "beam_size=2,ctc_weight=1.0,lm_weight=0.0"
    transcribe.main([*map(str, args), "--options", options, "--length", "0.7"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    names = [Path(line["input"]).name for line in lines if "text" in line]
    assert names == ["a.wav"] * 2 + ["b.wav"] * 2
    ends = [line["reason"] for line in lines if "text" in line]
    assert ends == ["length", "final"] * 2
    assert all(line["text"] and line["words"] for line in lines if "text" in line)


def test_other_models_transcribe_whole_files(tiny, capsys):
    import transcribe

    args = ["--model_dir", str(tiny["bundle"]), "--options", "beam_size=2"]
    transcribe.main([*args, str(tiny["data"] / "utt0.wav")])
    assert json.loads(capsys.readouterr().out)["text"]
    for inputs, message in (
        (["-"], "cannot recognize a stream"),
        ([], "name files"),
        ([str(tiny["data"] / "no.wav")], "no.wav"),
    ):
        with pytest.raises(SystemExit):
            transcribe.main([*args, *inputs])
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1


def test_a_long_stream_is_cut_and_stays_small(models):
    model = ours(models("transformer"), beam_size=1, ctc_weight=1.0, lm_weight=0.0)
    wave = np.concatenate([speech(1.0, i) for i in range(8)])
    results = []
    for size in (333, len(wave)):
        stream, ended, sizes = model.open(Endpointing(length=2.0)), [], []
        for part in pieces(wave, size):
            ended += stream.feed(part)
            sizes.append(len(stream.save()))
        ended.append(stream.final())
        assert stream.seconds == 8.0
        results.append([u._replace(latency=None) for u in ended])
    assert [(u.start, u.end) for u in results[0][:-1]] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
    ]
    assert results[0] == results[1]
    assert max(u.tokens[-1].end for u in results[0] if u.tokens) > 6
    # The state is that of one utterance, not of all.
    assert max(sizes) < 500_000


def test_times_come_with_the_tokens():
    times = TokenTimes().followed(scores([0, 1, 0]), [1], certain=0, blank=0)
    assert times.spans == ()
    times = times.followed(scores([0, 0, 1, 1]), [1, 1], certain=1, blank=0)
    assert times.spans == ((1, 2),)
    times = times.followed(scores([0]), [1, 1], certain=2, blank=0)
    assert times.spans == ((1, 2), (5, 7))
    # Tokens that do not fit into the frames get their times later, or never.
    assert times.followed(scores([0]), [1] * 9, certain=9, blank=0).spans == times.spans


def test_models_that_cannot_are_refused(models, tiny):
    with pytest.raises(PluginError, match="cannot encode a stream"):
        asr_streaming.Speech2TextStreaming(tiny["bundle"])
    with pytest.raises(PluginError, match="utterance_mvn .* use frontend espnet"):
        ours(models("chunk_mean"), frontend="exact")
    with pytest.raises(PluginError, match="frontend 'other' is neither"):
        ours(models("transformer"), frontend="other")
    with pytest.raises(PluginError, match="sim_chunk_length -1 must be 0 or more"):
        ours(models("transformer"), sim_chunk_length=-1)
