"""Checkpoints of tiny self-supervised models with random weights, as s3prl has them."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict

#: The convolutions of wav2vec 2.0 with few channels: 400 samples wide, 320 apart.
CONVOLUTIONS = [(8, 10, 5)] + [(8, 3, 2)] * 4 + [(8, 2, 2)] * 2

_SIZES: Dict[str, Any] = dict(
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


def write(upstream: str, directory: Path) -> Path:
    """Write the checkpoint that an s3prl upstream ``<family>_local`` reads."""
    import torch

    torch.manual_seed(0)
    path = directory / f"{upstream}.pt"
    torch.save(_CHECKPOINTS[upstream](), path)
    return path


class StandIn:
    """What ESPnet imports of fairseq, which Python 3.11 has no release of.

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
    """A configuration in which s3prl's upstreams have the checkpoints they read."""
    if isinstance(conf, list):
        return [with_checkpoints(value, directory) for value in conf]
    if not isinstance(conf, dict):
        return conf
    conf = {key: with_checkpoints(value, directory) for key, value in conf.items()}
    if "upstream" in conf:
        conf["path_or_url"] = str(write(conf["upstream"], directory))
    for key in ("w2v", "hubert"):
        if f"{key}_url" in conf:  # ESPnet looks for the file before it downloads
            write(Path(conf[f"{key}_url"]).stem, directory)
            conf[f"{key}_dir_path"] = str(directory)
    return conf


def _hubert() -> Dict[str, Any]:
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


def _wav2vec2() -> Dict[str, Any]:
    from s3prl.upstream.wav2vec2.wav2vec2_model import Wav2Vec2Config, Wav2Vec2Model

    sizes = {**_SIZES, **_LARGE, "latent_dim": 4, "latent_vars": 4}
    model = Wav2Vec2Model(Wav2Vec2Config(**sizes))
    return dict(
        task_cfg=dict(normalize=True),
        model_cfg=sizes,
        model_weight=randomize(model).state_dict(),
    )


def _wavlm() -> Dict[str, Any]:
    from s3prl.upstream.wavlm.WavLM import WavLM, WavLMConfig

    config = dict(
        vars(WavLMConfig()),
        **{**_SIZES, **_LARGE, "normalize": True},
        relative_position_embedding=True,
        gru_rel_pos=True,
        num_buckets=24,
        max_distance=40,
    )
    config.pop("final_dim")
    model = randomize(WavLM(WavLMConfig(config)))
    return dict(cfg=config, model=model.state_dict())


_CHECKPOINTS = dict(hubert_local=_hubert, wav2vec2_local=_wav2vec2, wavlm_local=_wavlm)
