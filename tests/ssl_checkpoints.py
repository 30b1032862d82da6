"""Checkpoints of tiny self-supervised models with random weights, as frontends read
them: s3prl's, those of transformers and ESPnet's own.
"""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

#: The convolutions of wav2vec 2.0 with few channels: 400 samples wide, 320 apart.
CONVOLUTIONS = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2

_SIZES: dict[str, Any] = dict(
    conv_feature_layers=str(CONVOLUTIONS),
    encoder_layers=2,
    encoder_embed_dim=12,
    encoder_ffn_embed_dim=16,
    encoder_attention_heads=2,
    conv_pos=8,
    conv_pos_groups=2,
    final_dim=4,
)
#: What the large models have and the base models have not.
_LARGE = dict(extractor_mode="layer_norm", layer_norm_first=True, conv_bias=True)


def randomize(model):
    """Away from biases of 0 and scales of 1."""
    import torch

    for parameter in model.parameters():
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def write(name: str, directory: Path) -> Path:
    """Write what is read for a name: of an s3prl upstream, and of a model besides."""
    import torch

    torch.manual_seed(0)
    if name in _WRITERS:
        return _WRITERS[name](directory / name)
    path = directory / f"{name}.pt"
    torch.save(_CHECKPOINTS[name](), path)
    return path


class StandIn:
    """Stand-in for the parts of fairseq that ESPnet imports: it needs Python 3.10.

    The models are s3prl's copies of fairseq's.
    """

    def __init__(self, directory: Path):
        from s3prl.upstream.hubert.hubert_model import HubertModel
        from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Model

        self.directory = directory
        self.modules = {
            "fairseq": SimpleNamespace(checkpoint_utils=self),
            "fairseq.models.wav2vec.wav2vec2": SimpleNamespace(
                Wav2Vec2Model=Wav2Vec2Model
            ),
            "fairseq.models.hubert.hubert": SimpleNamespace(HubertModel=HubertModel),
        }

    def load_model_ensemble_and_task(self, paths: Any, **settings: Any):
        """One of the tiny models, by the name of its file."""
        from s3prl.upstream.hubert.convert import load_converted_model as hubert
        from s3prl.upstream.wav2vec2.convert import load_converted_model as wav2vec2

        name = Path(paths[0]).stem
        load = hubert if name.startswith("hubert") else wav2vec2
        model, _ = load(str(write(name, self.directory)))
        config = SimpleNamespace(encoder_embed_dim=_SIZES["encoder_embed_dim"])
        model.cfg = config
        return [model], SimpleNamespace(model=config), None


def with_checkpoints(conf: Any, directory: Path) -> Any:
    """A configuration in which frontends have the checkpoints that they read."""
    if isinstance(conf, list):
        return [with_checkpoints(value, directory) for value in conf]
    if not isinstance(conf, dict):
        return conf
    conf = {key: with_checkpoints(value, directory) for key, value in conf.items()}
    if "upstream" in conf:
        conf["path_or_url"] = str(write(conf["upstream"], directory))
    for key in ("model", "path_or_url"):
        if conf.get(key) in _WRITERS:
            conf[key] = str(write(conf[key], directory))
    for key in ("w2v", "hubert"):
        if f"{key}_url" in conf:  # ESPnet looks for the file before it downloads
            write(Path(conf[f"{key}_url"]).stem, directory)
            conf[f"{key}_dir_path"] = str(directory)
    return conf


def _hubert() -> dict[str, Any]:
    from s3prl.upstream.hubert.hubert_model import (
        HubertConfig,
        HubertModel,
        HubertPretrainingConfig,
    )

    task, symbols = dict(normalize=False, label_rate=50), [["a", "b"]]
    sizes = {**_SIZES, "label_rate": 50}
    model = HubertModel(HubertConfig(**sizes), HubertPretrainingConfig(**task), symbols)
    return dict(
        task_cfg=task,
        model_cfg=sizes,
        model_weight=randomize(model).state_dict(),
        dictionaries_symbols=symbols,
    )


def _wav2vec2() -> dict[str, Any]:
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    sizes = {**_SIZES, **_LARGE, "latent_dim": 4, "latent_vars": 4}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes))
    return dict(
        task_cfg=dict(normalize=True),
        model_cfg=sizes,
        model_weight=randomize(model).state_dict(),
    )


def _data2vec() -> dict[str, Any]:
    from s3prl.upstream.data2vec.data2vec_model import (
        Data2VecAudioConfig,
        Data2VecAudioModel,
    )

    sizes = {**_SIZES, "extractor_mode": "layer_norm", "pos_conv_depth": 2}
    sizes.pop("final_dim")
    model = Data2VecAudioModel(Data2VecAudioConfig(**sizes))
    model.remove_pretraining_modules()
    return dict(
        task_cfg=dict(normalize=True),
        model_cfg=sizes,
        model_weight={**randomize(model).state_dict(), "_ema": {}},
    )


def _wavlm() -> dict[str, Any]:
    return _microsofts(
        **_LARGE,
        normalize=True,
        relative_position_embedding=True,
        gru_rel_pos=True,
        num_buckets=24,
        max_distance=40,
    )


def _microsofts(**settings: Any) -> dict[str, Any]:
    """WavLM, which s3prl takes for UniSpeech-SAT too."""
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    config = {**vars(WavLMConfig()), **_SIZES, **settings}
    config.pop("final_dim")
    model = randomize(WavLM(WavLMConfig(config)))
    return dict(cfg=config, model=model.state_dict())


def _transformers(kind: str, **settings: Any) -> Callable[[Path], Path]:
    def write_model(path: Path) -> Path:
        import transformers

        config = getattr(transformers, f"{kind}Config")(
            hidden_size=12,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=16,
            conv_dim=[8] * 7,
            num_conv_pos_embeddings=8,
            num_conv_pos_embedding_groups=2,
            **settings,
        )
        model = randomize(getattr(transformers, f"{kind}Model")(config))
        model.save_pretrained(path)
        transformers.Wav2Vec2FeatureExtractor().save_pretrained(path)
        return path

    return write_model


def _w2v_bert(path: Path) -> Path:
    """Configuration and feature extractor: the weights are those of the checkpoint."""
    import transformers

    transformers.Wav2Vec2BertConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        conv_depthwise_kernel_size=5,
        left_max_position_embeddings=6,
        right_max_position_embeddings=2,
    ).save_pretrained(path)
    transformers.SeamlessM4TFeatureExtractor(padding_value=1).save_pretrained(path)
    return path


def _espnets(**choices: Any) -> Callable[[Path], Path]:
    def write_model(path: Path) -> Path:
        from conftest import TOKENS, build, save
        from espnet2.tasks.ssl import SSLTask

        config = dict(
            SSLTask.get_default_config(),
            token_list=TOKENS,
            frontend_conf=dict(
                norm_mode="group_norm",
                conv_mode="standard",
                bias=False,
                shapes=[[8, 10, 5], [8, 3, 2], [12, 2, 2]],
            ),
            loss=[dict(name="hubert", conf=dict(num_classes=4, final_dim=4))],
            **choices,
        )
        return save(build(SSLTask, config), config, path, "model.pth")["file"]

    return write_model


_CHECKPOINTS = dict(
    data2vec_local=_data2vec,
    hubert_local=_hubert,
    unispeech_sat_local=_microsofts,
    wav2vec2_local=_wav2vec2,
    wavlm_local=_wavlm,
)

_BLOCKS = dict(attention_heads=2, linear_units=12, num_blocks=2)

#: Of models that are more than one file, or ESPnet's.
_WRITERS = dict(
    hf_hubert_custom=_transformers("Hubert"),
    hf_wav2vec2_custom=_transformers(
        "Wav2Vec2", feat_extract_norm="layer", do_stable_layer_norm=True
    ),
    w2v_bert=_w2v_bert,
    espnet_hubert=_espnets(
        normalize=None,
        preencoder_conf=dict(output_size=16),
        encoder_conf=dict(
            _BLOCKS,
            output_size=16,
            input_layer="wav2vec",
            normalize_before=False,
            pos_enc_layer_type="conv",
        ),
    ),
    espnet_conformer=_espnets(
        preencoder=None,
        encoder="conformer",
        encoder_conf=dict(
            _BLOCKS, output_size=8, rel_pos_type="latest", cnn_module_kernel=3
        ),
    ),
)
