"""Models that listen through a self-supervised one: ESPnet's inference against ours."""

import numpy as np
import pytest
import ssl_checkpoints
from test_asr import compare, variant

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.registry import find

CTC_ONLY = dict(decoder=None, model_conf=dict(ctc_weight=1.0))
CONFORMER = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=1,
    input_layer="conv2d2",
    cnn_module_kernel=3,
)

MODELS = {
    "s3prl": dict(
        frontend="s3prl",
        frontend_conf=dict(
            frontend_conf=dict(upstream="wavlm_local"), multilayer_feature=True
        ),
        preencoder="linear",
        preencoder_conf=dict(input_size=12, output_size=10),
        encoder="conformer",
        encoder_conf=CONFORMER,
    ),
    "fused": dict(
        CTC_ONLY,
        frontend="fused",
        frontend_conf=find("frontend", "fused").tiny["filterbank_and_hubert"],
        preencoder="linear",
        preencoder_conf=dict(input_size=12, output_size=10),
        encoder="conformer",
        encoder_conf=CONFORMER,
    ),
    "torchaudiohubert": dict(
        CTC_ONLY,
        frontend=None,
        input_size=1,
        normalize=None,
        encoder="torchaudiohubert",
        encoder_conf=dict(
            find("encoder", "torchaudiohubert").tiny["base"],
            extractor_conv_layer_config=list(map(list, ssl_checkpoints.CONVOLUTIONS)),
        ),
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_results_are_espnets(name, tmp_path):
    config = MODELS[name]
    try:
        if config["frontend"] is not None:
            find("frontend", config["frontend"]).needs()
    except PluginError as e:
        pytest.skip(str(e))
    config = ssl_checkpoints.with_checkpoints(config, tmp_path)
    files, bundle = variant(tmp_path, **config)
    speech = bundle.manifest.speech
    assert (speech.kind, speech.sampling_rate) == ("waveform", 16000)
    random = np.random.default_rng(0)
    utterances = [0.1 * random.standard_normal(n) for n in (16000, 30007, 9999)]
    ctc_weight = 0.3 if "decoder" not in config else 1.0
    compare(files, bundle, utterances, beam_size=3, ctc_weight=ctc_weight)
