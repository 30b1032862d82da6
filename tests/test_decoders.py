"""Whole models with other decoders at tiny size: ESPnet's inference against ours."""

import copy

import numpy as np
import pytest
import torch
from conftest import asr_config, build_asr, save, waves

import espnet_onnx_plugin
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import quantize

#: As egs2/librispeech has it.
S4 = dict(
    n_layers=2,
    layer=[
        dict(_name_="s4", d_state=8, n_ssm=1, measure="legs", postact="glu"),
        dict(_name_="mha", n_head=2),
        dict(_name_="ff", expand=2, activation="gelu"),
    ],
    residual="residual",
    norm="layer",
)
CONVOLUTIONS = dict(
    attention_heads=2,
    linear_units=12,
    num_blocks=2,
    conv_wshare=2,
    conv_kernel_length=[3, 5],
)


@pytest.mark.parametrize(
    "decoder, conf", [("s4", S4), ("dynamic_conv2d", CONVOLUTIONS)]
)
def test_results_are_espnets(decoder, conf, tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    config = asr_config(decoder=decoder, decoder_conf=conf)
    model = build_asr(copy.deepcopy(config))
    output = model.decoder.output if decoder == "s4" else model.decoder.output_layer
    output.weight.data *= 6.0
    output.bias.data[-1] -= 3.0
    model.ctc.ctc_lo.weight.data *= 6.0
    with torch.no_grad():  # training leaves a state space another readout
        tokens, lengths = torch.randint(0, 20, (2, 9)), torch.tensor([9, 6])
        model.decoder(torch.randn(2, 7, 8), torch.tensor([7, 5]), tokens, lengths)
    files = save(model, config, tmp_path / "asr", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("asr", checkpoints, tmp_path / "fp32")
    for ctc_weight in (0.0, 0.3):
        options = dict(beam_size=4, ctc_weight=ctc_weight, nbest=2)
        theirs = Speech2Text(str(files["config"]), str(files["file"]), **options)
        ours = espnet_onnx_plugin.Speech2Text(bundle, **options)
        audio = list(waves(3).values())
        together = ours.batch([ours.prepare(wave) for wave in audio])
        for wave, in_batch in zip(audio, together):
            expected = theirs(wave.astype(np.float32))
            results = ours(wave)
            assert len(results) == len(expected) == 2
            for (*found, hyp), (*other, their_hyp) in zip(results, expected):
                assert found == other and len(found[2]) > 5
                assert hyp.score == pytest.approx(float(their_hyp.score), abs=1e-3)
            assert [r[2] for r in in_batch] == [r[2] for r in results]
    if decoder == "s4":
        with pytest.raises(PluginError, match="scores one hypothesis at a time"):
            espnet_onnx_plugin.Speech2Text(bundle, beam_size=4, time_sync=True)
    figures = optimize(bundle, tmp_path / "optimized", "cpu", None)
    figures = figures.manifest.checks["optimize"]
    assert figures["identical"] == figures["utterances"] > 0
    figures = quantize(bundle, tmp_path / "int8").manifest.checks["quantize"]
    assert 0 < figures["differences"]["decoder"] < 0.3
