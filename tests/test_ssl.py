"""Models that listen through a self-supervised one: ESPnet's inference against ours."""

import sys
from argparse import Namespace

import numpy as np
import onnx
import pytest
import ssl_checkpoints
from conftest import asr_config, build_asr
from test_asr import compare, variant

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.frontend import wrap_frontend
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import quantize

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
    "espnet_ssl": dict(
        CTC_ONLY,
        frontend="espnet_ssl",
        frontend_conf=find("frontend", "espnet_ssl").tiny["hubert_weighted_sum"],
    ),
    "huggingface": dict(
        CTC_ONLY,
        frontend="huggingface",
        frontend_conf=find("frontend", "huggingface").tiny["w2v_bert"],
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


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.more if name == "espnet_ssl" else [])
        for name in MODELS
    ],
)
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
    if name == "s3prl":
        assert_lowers(bundle, tmp_path)


def assert_lowers(bundle, tmp_path):
    """Optimization and quantization reach the model that a frontend is."""
    fused = optimize(bundle, tmp_path / "optimized", "cpu", None)
    rules = fused.manifest.checks["optimize"]["nodes"]["frontend"]["rules"]
    assert rules["attention"] == 2
    int8 = quantize(bundle, tmp_path / "int8")
    graph = onnx.load(int8.file(int8.manifest.graphs["frontend"].file.name)).graph
    types = [tensor.data_type for tensor in graph.initializer]
    assert types.count(onnx.TensorProto.INT8) == 15  # 7 a layer, and the projection


@pytest.mark.parametrize(
    "role, name, package, remedy",
    [
        ("frontend", "s3prl", "s3prl", "pip install s3prl"),
        ("frontend", "huggingface", "transformers", "pip install transformers"),
        ("encoder", "wav2vec2", "fairseq", "installers/install_fairseq.sh"),
    ],
)
def test_a_missing_package_is_named(monkeypatch, role, name, package, remedy):
    for module in (package, f"{package}.nn"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PluginError, match=f"{package} .*{remedy}"):
        find(role, name).needs()


@pytest.mark.parametrize(
    "model, settings, message",
    [
        ("hf_hubert_custom", {}, "of model type hubert is not supported.*use frontend"),
        ("w2v_bert", dict(add_adapter=True), "with add_adapter True"),
        ("w2v_bert", dict(position_embeddings_type="rotary"), "_type rotary is not"),
    ],
)
def test_a_model_that_espnet_cannot_train_with_is_refused(
    model, settings, message, tmp_path
):
    hub = pytest.importorskip("transformers")
    path = ssl_checkpoints.write(model, tmp_path)
    hub.AutoConfig.from_pretrained(path, **settings).save_pretrained(path)
    config = asr_config(
        **CTC_ONLY,
        frontend="huggingface",
        frontend_conf=dict(model=str(path), load_pretrained=False),
    )
    with pytest.raises(PluginError, match=message):
        wrap_frontend(build_asr(config), Namespace(**config))


def test_a_normalization_of_waveforms_is_refused():
    config = asr_config(**{**MODELS["torchaudiohubert"], "normalize": "utterance_mvn"})
    with pytest.raises(PluginError, match="reads waveforms, and a normalize"):
        wrap_frontend(build_asr(config), Namespace(**config))
