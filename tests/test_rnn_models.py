"""RNN encoders and decoders end to end at tiny size: ESPnet's inference and ours."""

import numpy as np
import pytest
from conftest import (
    a_few,
    asr_config,
    build_asr,
    build_lm,
    save,
    sharpen,
    waves,
    write_data,
)

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.bundle.graph_file import load_graph
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import calibrate, quantize
from espnet_onnx_plugin.quantize.sensitivity import rank
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source

MODELS = {
    "vgg_location": dict(
        encoder="vgg_rnn",
        encoder_conf=dict(num_layers=2, hidden_size=10, output_size=9),
        decoder="rnn",
        decoder_conf=dict(
            hidden_size=11, att_conf=dict(atype="location", adim=8, aconv_filts=4)
        ),
    ),
    "gru_multi_head": dict(
        encoder="rnn",
        encoder_conf=dict(rnn_type="gru", num_layers=2, hidden_size=10, output_size=9),
        decoder="rnn",
        decoder_conf=dict(
            rnn_type="gru",
            num_layers=2,
            hidden_size=11,
            att_conf=dict(atype="multi_head_loc", adim=8, aheads=2, aconv_filts=4),
        ),
    ),
}

OPTIONS = {
    "joint": dict(beam_size=4, ctc_weight=0.3, lm_weight=0.4, nbest=3),
    "attention": dict(beam_size=3, ctc_weight=0.0, lm_weight=0.2, penalty=0.3),
    "ctc_only": dict(beam_size=3, ctc_weight=1.0, lm_weight=0.2),
}


@pytest.fixture(scope="module", params=a_few(MODELS))
def rnn(request, tmp_path_factory):
    """A tiny model and LM on disk, and their bundle."""
    root = tmp_path_factory.mktemp(request.param)
    config = asr_config(**MODELS[request.param])
    model = build_asr(config, seed=1)
    sharpen(model)
    asr = save(model, config, root / "asr", "model.pth")
    lm_model, lm_config = build_lm("seq_rnn", dict(unit=6, nhid=7, nlayers=1))
    lm = save(lm_model, lm_config, root / "lm", "lm.pth")
    checkpoints = Checkpoints(asr["config"], asr["file"], lm["config"], lm["file"])
    bundle = export_bundle("asr", checkpoints, root / "fp32")
    source = Source(write_data(root / "data") / "wav.scp", "sound")
    return dict(root=root, asr=asr, lm=lm, bundle=bundle, source=source)


def espnet(rnn, **options):
    from espnet2.bin.asr_inference import Speech2Text

    return Speech2Text(
        str(rnn["asr"]["config"]),
        str(rnn["asr"]["file"]),
        lm_train_config=str(rnn["lm"]["config"]),
        lm_file=str(rnn["lm"]["file"]),
        **options,
    )


@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_espnets(rnn, name):
    theirs = espnet(rnn, **OPTIONS[name])
    ours = espnet_onnx_plugin.Speech2Text(rnn["bundle"], **OPTIONS[name])
    utterances = list(waves(3).values())
    together = ours.batch([ours.prepare(wave) for wave in utterances])
    lengths = set()
    for wave, batched in zip(utterances, together):
        expected = theirs(wave.astype(np.float32))
        results = ours(wave)
        assert len(results) == len(expected)
        for (_, _, token_int, hyp), other, same in zip(results, expected, batched):
            assert token_int == other[2] == same[2]
            assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)
            lengths.add(len(token_int))
    assert max(lengths) > 1


def test_the_encoder_takes_batches(rnn):
    assert rnn["bundle"].manifest.graphs["encoder"].batches


def test_optimized_and_quantized_bundles_decode(rnn):
    optimized = optimize(rnn["bundle"], rnn["root"] / "optimized", "cpu", None)
    ours = espnet_onnx_plugin.Speech2Text(rnn["bundle"], **OPTIONS["joint"])
    fused = espnet_onnx_plugin.Speech2Text(optimized, **OPTIONS["joint"])
    audio = RecognitionEvaluator(rnn["source"], options=OPTIONS["joint"])
    free = TokenBudget(max_wer_increase=100.0, min_token_agreement=0.0)
    quantized = quantize(rnn["bundle"], rnn["root"] / "int8", "int8", audio, free)
    small = espnet_onnx_plugin.Speech2Text(quantized, **OPTIONS["joint"])
    for wave in waves(2).values():
        assert fused(wave)[0][2] == ours(wave)[0][2]
        assert small(wave)
    differences = read_bundle(quantized.path).manifest.checks["quantize"]["differences"]
    assert max(differences.values()) < 0.05
    assert min(differences[role] for role in ("encoder", "decoder")) > 0
    graphs = {
        role: {x.op_type for x in load_graph(quantized.file(f"{role}.onnx")).graph}
        for role in ("encoder", "decoder")
    }
    # A step's cells are products that take part; the filter of weights does not.
    assert not {"Gemm", "QLinearConv"} & graphs["decoder"]
    assert "Conv" in graphs["decoder"] and "LSTM" not in graphs["encoder"]


def test_lstm_layers_are_ranked_by_what_int8_costs(rnn):
    quantizer = calibrate(
        rnn["bundle"], "int8", RecognitionEvaluator(), TokenBudget(), Device()
    )
    outputs = {"encoder": ["encoder_out"]}
    lowerings = {"encoder": quantizer.lowerings["encoder"]}
    steps = rank(lowerings, outputs, quantizer.baseline.feeds, Device())
    layers = [step for step in steps if step.layer.endswith(".rnn")]
    encoder = rnn["bundle"].file("encoder.onnx")
    lstm = [x.op_type for x in load_graph(encoder).graph].count("LSTM")
    assert len(layers) == lstm
    assert all(step.form == "fp32" and 0 < step.gain < 0.1 for step in layers)
