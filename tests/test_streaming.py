"""Streams end to end at tiny size: ESPnet's own inference against ours."""

import argparse

import numpy as np
import pytest
from conftest import (
    RATE,
    asr_config,
    build_asr,
    build_lm,
    save,
    sharpen,
    st_config,
)

from espnet_onnx_plugin.bundle import Framing
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime import asr_streaming, st_streaming
from espnet_onnx_plugin.runtime.core import stream_features

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

    def give(name):
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
            made[name] = argparse.Namespace(asr=asr, lm=made["lm"], bundle=bundle)
        return made[name]

    return give


def espnet(model, **options):
    """ESPnet's class for streams with a recognizer."""
    from espnet2.bin.asr_inference_streaming import Speech2TextStreaming

    return Speech2TextStreaming(
        str(model.asr["config"]),
        str(model.asr["file"]),
        lm_train_config=str(model.lm["config"]),
        lm_file=str(model.lm["file"]),
        **options,
    )


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for (text, token, token_int, hyp), other in zip(ours, theirs):
        assert token_int == other[2]
        assert (text, token) == tuple(other[:2])
        assert list(hyp.yseq) == [int(i) for i in other[3].yseq]
        assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)


OPTIONS = {
    "joint": dict(beam_size=4, ctc_weight=0.3, lm_weight=0.0, nbest=3),
    "lm": dict(
        beam_size=3,
        ctc_weight=0.5,
        lm_weight=0.3,
        penalty=0.2,
        disable_repetition_detection=True,
        nbest=2,
    ),
    "lengths": dict(
        beam_size=3, maxlenratio=0.2, minlenratio=0.05, normalize_length=True, nbest=2
    ),
    "limits": dict(
        beam_size=3,
        ctc_weight=0.3,
        lm_weight=0.0,
        encoded_feat_length_limit=30,
        decoder_text_length_limit=6,
        disable_repetition_detection=True,
    ),
}


@pytest.mark.parametrize("size", [512, 640, 5120, 333, 40000])
@pytest.mark.parametrize(
    "name, options",
    [
        ("transformer", "joint"),
        ("transformer", "lm"),
        ("transformer", "lengths"),
        ("conformer", "lm"),
        ("conformer", "limits"),
        ("chunk_mean", "lm"),
    ],
)
def test_partial_and_final_results_are_espnets(models, name, options, size):
    model, options = models(name), OPTIONS[options]
    theirs = espnet(model, **options)
    ours = asr_streaming.Speech2TextStreaming(
        model.bundle, frontend="espnet", **options
    )
    partials = lengths = 0
    for seed, seconds in ((0, 4.0), (1, 2.7)):
        parts = pieces(speech(seconds, seed), size)
        for i, part in enumerate(parts):
            final = i == len(parts) - 1
            found = ours(part, is_final=final)
            assert_same(found, theirs(part, is_final=final))
            partials += bool(found) and not final
        lengths = max(lengths, len(found[0][2]) if found else 0)
    assert lengths > 3
