"""Streams of stand-alone transducers: ESPnet's own inference against ours."""

import copy
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import RATE, a_few, build_lm, save
from espnet2.bin.asr_transducer_inference import main as reference_main
from test_asr_transducer import (
    CONFORMER,
    exported,
    random_search,
    reference,
    same,
    written,
)
from test_streaming import pieces, speech

from espnet_onnx_plugin.bin import asr_transducer_inference, quantize
from espnet_onnx_plugin.bin.reference import main as timed_main
from espnet_onnx_plugin.bundle import Bundle, ChunkStream, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.parity.chunks import Reference, check_chunks
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.export.tasks.asr_transducer import ASRTransducerExporter
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import quantize as quantized
from espnet_onnx_plugin.report.streams import read_streams
from espnet_onnx_plugin.runtime.asr_transducer import Speech2Text
from espnet_onnx_plugin.runtime.core.chunk_encoder import ChunkEncoder
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.stream_encoder import Chunk
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.recognition.endpoint import Endpointing
from espnet_onnx_plugin.runtime.recognition.heard import STREAM_FILE
from espnet_onnx_plugin.runtime.search.protocol import Piece
from espnet_onnx_plugin.runtime.search.transducer_online import OnlineTransducerSearch

CONV1D = dict(block_type="conv1d", output_size=8, kernel_size=3)
CAUSAL = dict(dynamic_chunk_training=True)

#: Encoders, by name: every block, both inputs, with and without causal convolutions.
ENCODERS = {
    "conformer": dict(body_conf=[dict(CONFORMER, num_blocks=2)], main_conf=CAUSAL),
    "mixed": dict(
        body_conf=[
            CONV1D,
            dict(CONFORMER, block_type="branchformer", conv_mod_kernel_size=5),
            dict(CONFORMER, block_type="ebranchformer", depth_conv_kernel_size=5),
        ],
        input_conf=dict(subsampling_factor=2, conv_size=4),
        main_conf=dict(CAUSAL, simplified_att_score=True),
    ),
    "not_causal": dict(
        body_conf=[CONFORMER],
        input_conf=dict(vgg_like=True, conv_size=[4, 6], subsampling_factor=6),
    ),
}

#: A frontend of which frames do not fall on the ends of chunks.
UNEVEN = dict(fs=RATE, n_fft=64, win_length=50, hop_length=20, n_mels=20)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Gives a tiny model's files and bundle by name, made when first asked for."""
    root = tmp_path_factory.mktemp("streams")
    made = {}

    def language_model():
        model, config = build_lm("seq_rnn", dict(unit=8, nhid=10, nlayers=2))
        model.lm.decoder.weight.data *= 4.0
        return save(model, config, root / "lm", "lm.pth")

    def give(name):
        if name not in made:
            choices = dict(encoder_conf=copy.deepcopy(ENCODERS[name]))
            if name == "not_causal":
                choices.update(frontend_conf=UNEVEN)
            lm = None
            if name == "conformer":
                lm = language_model()
            files = written(root / name, blank=6.0, **choices)
            bundle = exported(files, root / f"{name}_fp32", lm)
            made[name] = SimpleNamespace(files=files, lm=lm, bundle=bundle)
        return made[name]

    return give


#: Decoding windows in milliseconds at 16 kHz, twice as long at the models' 8 kHz.
WINDOW = 160


def options_of(search_type="default", **others):
    config = dict(beam_search_config=dict(search_type=search_type))
    # ESPnet's default has no bound, and takes minutes with random weights.
    beam = 1 if search_type == "default" else 3
    return dict(config, beam_size=beam, nbest=2, streaming=True, **others)


def assert_same_stream(model, size=None, seed=0, seconds=1.5, lm=None, **options):
    """Decode one stream after another, and hold every part's result against ESPnet's.

    Args:
        size: samples of a part; None: a decoding window.

    Returns:
        The most labels of a result.
    """
    labels = 0
    theirs = reference(model.files, lm, **options)
    if lm is None:
        options.update(lm_weight=0.0)
    ours = Speech2Text(model.bundle, **options)
    size = size or theirs.audio_processor.decoding_samples
    for wave in (speech(seconds, seed), speech(seconds / 2, seed + 1)):
        parts = pieces(wave, size)
        for i, part in enumerate(parts):
            final = i == len(parts) - 1
            found = ours.streaming_decode(part, is_final=final)
            expected = theirs.streaming_decode(part, is_final=final)
            same(found, expected)
        results = ours.hypotheses_to_results(found)
        assert [r[:3] for r in results] == [
            r[:3] for r in theirs.hypotheses_to_results(expected)
        ]
        labels = max(labels, len(found[0].yseq))
    return labels


# The encoder


@pytest.mark.parametrize("name", a_few(ENCODERS))
def test_encoder_is_espnets(models, name):
    """The export compares all of it; here also what is left for the next chunk."""
    model = models(name)
    manifest = model.bundle.manifest
    assert 0 < manifest.checks["parity"]["stream"] <= TOLERANCE
    exporter = ASRTransducerExporter(Checkpoints(*model.files.values()))
    encoder = ChunkEncoder(model.bundle, Device(), left_context=5)
    ours = encoder.start()
    theirs = Reference(exporter.model, encoder.stream.again, left_context=5)
    random = np.random.default_rng(0)
    names = [n for n in manifest.graphs["stream_chunks"].states]
    assert (name == "not_causal") != any(n.startswith("convolution") for n in names)
    for frames in (40, 25, 33, 64):
        feats = random.standard_normal((frames, 20)).astype(np.float32)
        [made] = encoder.feed([Chunk(ours, feats, False)])
        expected = theirs.feed(feats)
        np.testing.assert_allclose(made.encoder_out, expected, atol=1e-5, rtol=1e-4)
        ours, caches = made.state, {}
        for i, own in enumerate(theirs.caches):
            kinds = ("attention", "convolution", "merge")
            if not isinstance(own, list):
                own, kinds = [own], ("convolution",)
            caches |= {f"{kind}_{i}": c[0].numpy() for kind, c in zip(kinds, own)}
        for name_of_state, cache in ours.caches.items():
            np.testing.assert_allclose(
                cache, caches[name_of_state], atol=1e-5, rtol=1e-4
            )


def test_a_difference_is_told(models):
    model = models("conformer")
    exporter = ASRTransducerExporter(Checkpoints(*model.files.values()))
    check_chunks(exporter.model, model.bundle, Device())
    with torch.no_grad():
        exporter.model.encoder.encoders.blocks[1].norm_conv.bias += 0.01
    with pytest.raises(PluginError, match="stream_chunks differs .* feature frames"):
        check_chunks(exporter.model, model.bundle, Device())


def test_a_short_chunk_waits(models):
    encoder = ChunkEncoder(models("conformer").bundle, Device(), left_context=4)
    feats = np.random.default_rng(1).standard_normal((60, 20)).astype(np.float32)
    [whole] = encoder.feed([Chunk(encoder.start(), feats, False)])
    state, frames = encoder.start(), []
    for part in np.split(feats, [3, 5, 14]):
        [made] = encoder.feed([Chunk(state, part, False)])
        state, frames = made.state, [*frames, made.encoder_out]
    assert [len(one) for one in frames[:3]] == [0, 0, 0]
    np.testing.assert_allclose(frames[3], whole.encoder_out, atol=1e-6)


# The search


def same_in_chunks(seed, search_type, lm):
    """Hypotheses of random networks behind every chunk, of streams side by side."""
    theirs, ours, utterances = random_search(seed, search_type, lm)
    random = np.random.default_rng(seed)
    ours = OnlineTransducerSearch(ours)
    streams = [
        np.split(one, np.sort(random.integers(0, len(one) + 1, size=2)))
        for one in utterances
    ]
    states, found = [ours.open() for _ in streams], []
    for number in range(3):
        pieces = [
            Piece(state, parts[number], None, number == 2)
            for state, parts in zip(states, streams)
        ]
        made = ours.feed(pieces)
        states = [one.state for one in made]
        found.append([one.hypotheses for one in made])
    for i, parts in enumerate(streams):
        for number, part in enumerate(parts):
            final = number == 2
            # Of no frames at all ours has no hypotheses yet.
            with torch.no_grad():
                expected = theirs(torch.tensor(part), is_final=final)
            if found[number][i] or final:
                same(found[number][i], expected)


@pytest.mark.parametrize("lm", a_few(["lstm", "none"]))
@pytest.mark.parametrize("search_type", ["default", "tsd", "maes"])
def test_hypotheses_go_on_as_espnets(search_type, lm):
    for seed in range(8):
        same_in_chunks(seed, search_type, lm)


# Features


@pytest.mark.espnet
@pytest.mark.parametrize("name", ["conformer", "not_causal"])
def test_features_are_espnets(models, name):
    model = models(name)
    for window in (60, 160, 640):
        options = options_of(decoding_window=window)
        processor = reference(model.files, **options).audio_processor
        frontend = Speech2Text(model.bundle, **options).engine.frontend
        again = processor.offset_frames
        for length in (4000, 700, 3, 2 * processor.decoding_samples):
            for size in (processor.decoding_samples, 333):
                processor.reset_cache()
                held, before = frontend.open(), 0
                parts = pieces(speech(length / RATE), size)
                for i, part in enumerate(parts):
                    final = i == len(parts) - 1
                    feats, held = frontend.feed(held, part, final)
                    with torch.no_grad():
                        expected, _ = processor.compute_features(
                            torch.tensor(part), final
                        )
                    # ESPnet's begin with the last ones of before.
                    expected = expected[0, min(before, again) :].numpy()
                    assert difference(feats, expected) <= TOLERANCE
                    before = min(before, again) + len(feats)


# ESPnet's class


@pytest.mark.espnet
@pytest.mark.parametrize("with_lm", [False, True], ids=["alone", "lm"])
@pytest.mark.parametrize("search_type", ["default", "tsd", "maes"])
def test_partial_and_final_results_are_espnets(models, search_type, with_lm):
    model, labels = models("conformer"), 0
    lm = dict(lm=model.lm, lm_weight=0.1) if with_lm else {}
    for window, left_context in ((WINDOW, 32), (320, 0)):
        options = options_of(search_type, decoding_window=window)
        options.update(left_context=left_context)
        # Of speech in which no two ways tie to the last digits of the features.
        seed = 2 if with_lm else 0
        labels += assert_same_stream(model, seed=seed, **options, **lm)
    assert labels > 4


@pytest.mark.espnet
@pytest.mark.parametrize("name", ["mixed", "not_causal"])
def test_encoders_are_espnets(models, name):
    options = options_of("tsd", decoding_window=WINDOW, left_context=3)
    assert assert_same_stream(models(name), **options) > 2
    assert assert_same_stream(models(name), size=3001, seed=2, **options) > 2


def test_parts_of_any_size_are_taken(models):
    """ESPnet fails on a part that is shorter than a window."""
    options = options_of("tsd", decoding_window=WINDOW, lm_weight=0.0)
    ours = Speech2Text(models("conformer").bundle, **options)
    wave = speech(1.0)
    for part in pieces(wave, 100)[:-1]:
        found = ours.streaming_decode(part)
    assert max(len(h.yseq) for h in found) > 1
    assert ours.streaming_decode(wave[:0], is_final=True)
    # The next utterance begins anew, and so it does behind a reset.
    expected = ours.streaming_decode(wave, is_final=True)
    ours.streaming_decode(wave)
    ours.reset_streaming_cache()
    assert ours.streaming_decode(wave, is_final=True) == expected


# Streams as objects


def test_streams_are_kept_copied_saved_and_fed_together(models):
    """Each gets what a command gives, however it comes in."""
    model = models("conformer")
    options = options_of("tsd", decoding_window=WINDOW, lm_weight=0.1)
    ours = Speech2Text(model.bundle, **options)
    waves = [speech(1.5, 2), speech(4 * 2560 / RATE, 3)]
    expected = ours.batch([ours.prepare(wave) for wave in waves])
    streams, shown = [ours.open() for _ in waves], []
    for start in range(0, 9000, 700):
        ours.feed(streams, [wave[start : start + 700] for wave in waves])
        shown.append(streams[0].partial)
    resumed = Speech2Text(model.bundle, **options).resume(streams[0].save())
    streams += [streams[0].copy(), resumed]
    for stream, wave in zip(streams, [waves[0], waves[1], waves[0], waves[0]]):
        stream.feed(wave[9100:])
    ended = [stream.final() for stream in streams]
    for utterance, results in zip(ended, [*expected, expected[0], expected[0]]):
        same([r.hypothesis for r in utterance.results], [r[3] for r in results])
    [best, *_] = expected[0]
    for partial in shown:
        stable = partial.stable_tokens
        assert partial.token_int[:stable] == best.token_int[:stable]
    assert max(partial.stable_tokens for partial in shown) > 0
    assert streams[0].flicker.erased == expected[0].flicker.erased
    assert (ended[0].words, ended[0].latency.last_word) == ([], None)  # without a CTC


def test_a_long_stream_keeps_what_it_goes_on_from(models):
    options = options_of("maes", decoding_window=WINDOW, lm_weight=0.1)
    stream = Speech2Text(models("conformer").bundle, **options).open()
    sizes, labels = [], []
    for seed in range(5):
        stream.feed(speech(2.0, seed))
        sizes.append(len(stream.save()))
        labels.append(len(stream.partial.token_int))
    assert labels[-1] - labels[1] > 8
    # Those of the hypotheses and of the language model, and the tokens that are shown.
    assert sizes[-1] - sizes[1] < 60 * (labels[-1] - labels[1]) + 2000


def test_streams_end_by_the_silence_of_their_labels(models):
    options = options_of("tsd", decoding_window=WINDOW, lm_weight=0.0)
    ours = Speech2Text(models("conformer").bundle, **options)
    wave = np.concatenate([speech(1.0, 2), np.zeros(5 * RATE, np.float32)])
    stream = ours.open(Endpointing(silence_after_speech=1.0, length=None))
    ended = stream.feed(wave)
    assert ended[0].reason.startswith("silence") and ended[0].end < 6.0
    stream = ours.open(Endpointing(None, None, length=0.64))
    ended = [*stream.feed(speech(1.5)), stream.final()]
    assert [u.reason for u in ended] == ["length", "length", "final"]
    whole = ours.open()
    whole.feed(speech(1.5)[: 2 * 2560])
    assert ended[0].results == whole.final().results


def test_audio_is_transcribed_as_it_comes(models, tmp_path, capsys):
    import transcribe

    write_scp(tmp_path / "audio", dict(a=speech(1.5, 2)))
    args = ["--model_dir", models("conformer").bundle.path, tmp_path / "audio"]
    options = ["--options", "beam_size=2,lm_weight=0.0,decoding_window=160"]
    transcribe.main([*map(str, args), *options])
    *partial, last = map(json.loads, capsys.readouterr().out.splitlines())
    assert partial and last["text"] and last["reason"] == "final"


def test_whole_utterances_are_decoded_as_a_whole(models):
    model = models("conformer")
    options = options_of("tsd")
    wave = speech(1.0)
    same(
        Speech2Text(model.bundle, lm_weight=0.0, **options)(wave),
        reference(model.files, **options)(wave),
    )
    options.update(decoding_window=-1, lm_weight=0.0)  # which is no streaming
    ours = Speech2Text(model.bundle, **options)
    assert [r.hypothesis for r in ours.recognize(wave)] == ours(wave)
    with pytest.raises(PluginError, match="opened with streaming"):
        ours.streaming_decode(wave)


# Commands


def write_scp(root, waves):
    root.mkdir()
    lines = []
    for key, wave in waves.items():
        soundfile.write(root / f"{key}.wav", wave, RATE)
        lines.append(f"{key} {root / key}.wav\n")
    (root / "wav.scp").write_text("".join(lines))
    return f"{root / 'wav.scp'},speech,sound"


def test_commands_write_what_espnet_writes(models, tmp_path):
    model, lm = models("conformer"), models("conformer").lm
    waves = dict(a=speech(1.0), b=speech(1.7, 1), short=speech(0.005))
    waves["even"] = speech(4 * 2560 / RATE, 2)  # behind which nothing is left
    data = write_scp(tmp_path / "data", waves)
    config = dict(options_of("maes", decoding_window=WINDOW), lm_weight=0.3)
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(config))
    common = ["--config", str(tmp_path / "decode.yaml")]
    common += ["--data_path_and_name_and_type", data, "--left_context", "8"]
    names = ("asr_train_config", "asr_model_file", "lm_train_config", "lm_file")
    paths = [*model.files.values(), *lm.values()]
    given = [w for n, p in zip(names, paths) for w in (f"--{n}", str(p))]
    for entry, out in ((reference_main, "espnet"), (timed_main, "timed")):
        command = ["--inference", "asr_transducer_inference"] * (out == "timed")
        entry([*command, *common, *given, "--output_dir", str(tmp_path / out)])
    lines = (tmp_path / "timed/timing.jsonl").read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == list(waves)
    bundle = ["--model_dir", str(model.bundle.path), "--batch_size", "3"]
    asr_transducer_inference.main(
        [*common, *bundle, "--output_dir", str(tmp_path / "ours")]
    )
    for n in ("1best_recog", "2best_recog"):
        for name in ("token", "token_int", "text"):
            ours = (tmp_path / "ours" / n / name).read_text()
            assert ours == (tmp_path / "espnet" / n / name).read_text()
            assert ours.count("\n") == 4
        scores = [
            [float(line.split()[1]) for line in open(tmp_path / who / n / "score")]
            for who in ("ours", "espnet")
        ]
        np.testing.assert_allclose(*scores, rtol=2e-5, atol=1e-3)
    figures = read_scp(tmp_path / "ours/1best_recog" / STREAM_FILE)
    assert json.loads(figures["b"])["said"] > 0 and len(figures) == 4
    assert read_streams(tmp_path / "ours/1best_recog").chunk_seconds == 0.32


def test_smaller_bundles_encode_streams(models, tmp_path):
    bundle = models("mixed").bundle
    assert bundle.manifest.stream == ChunkStream(
        again=7, shortest=11, normalize="utterance_mvn"
    )
    optimized = optimize(bundle, tmp_path / "optimized", "cpu").manifest
    figures = optimized.checks["optimize"]
    assert 0 < figures["differences"]["stream_chunks"] <= TOLERANCE
    assert "not_compared" not in figures
    exporter = ASRTransducerExporter(Checkpoints(*models("mixed").files.values()))
    check_chunks(exporter.model, read_bundle(tmp_path / "optimized"), Device())
    small = quantized(bundle, tmp_path / "int8").manifest
    assert "stream_chunks" in small.checks["quantize"]["differences"]
    assert small.stream == optimized.stream == bundle.manifest.stream


def test_a_budget_is_measured_on_streams(models, tmp_path):
    bundle = read_bundle(models("mixed").bundle.path)
    data = write_scp(tmp_path / "data", dict(a=speech(1.0), b=speech(1.3, 1)))
    args = f"--streaming true --decoding_window {WINDOW} --beam_size 1"
    options = quantize.search_options("asr_transducer_inference", None, args)
    source = Source.parse(data.replace(",speech", ""))
    baseline = RecognitionEvaluator(source, options).run(bundle, Device())
    ours = Speech2Text(bundle, **options)
    wave, _ = soundfile.read(tmp_path / "data" / "a.wav")
    [expected] = ours.batch([ours.prepare(wave)])
    assert baseline.decoded["a"].token_int == expected[0].token_int
    assert "encoder" not in baseline.feeds and "stream_chunks" in baseline.feeds
    assert baseline.measure(bundle).identical == 2
    assert baseline.time(bundle)


# Refusals


@pytest.mark.parametrize(
    "options, message",
    [
        (options_of("alsd"), "alsd is not for streaming.*use default, tsd or maes"),
        (options_of(decoding_window=5), "decoding_window 5 is too short.* 15 or more"),
    ],
)
def test_what_cannot_be_met_is_refused(models, options, message):
    with pytest.raises(PluginError, match=message):
        Speech2Text(models("conformer").bundle, **options)


@pytest.mark.parametrize(
    "choices",
    [
        dict(encoder_conf=dict(body_conf=[CONV1D])),  # which drops frames
        dict(frontend=None, frontend_conf={}, input_size=20),
    ],
    ids=["conv1d", "features"],
)
def test_what_cannot_stream_is_refused(models, choices, tmp_path):
    files = written(tmp_path / "asr", **copy.deepcopy(choices))
    assert ASRTransducerExporter(Checkpoints(*files.values())).stream is None
    bundle = models("mixed").bundle
    bundle = Bundle(bundle.path, replace(bundle.manifest, stream=None))
    message = "reads waveforms and whose conv1d.*dynamic_chunk_training: true"
    with pytest.raises(PluginError, match=message):
        Speech2Text(bundle, streaming=True)
