"""HiFi-GAN that reads discrete tokens and the fundamental frequency."""

from __future__ import annotations

import math

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.vocoder import Vocoder
from espnet_onnx_plugin.export.registry import Arch, register


class DiscreteSymbolF0(Vocoder):
    """``parallel_wavegan.models.DiscreteSymbolF0Generator``.

    It is in parallel_wavegan's repository, not in its release 0.6.1.

    Args:
        generator: the network.
        dim: tokens of a frame, as the model of features makes them: what counts is how
            many the network reads.
        pqmf: None: it makes one band.
    """

    def __init__(self, generator: torch.nn.Module, dim: int, pqmf: None = None):
        if generator.num_spk_embs > 0:
            raise PluginError(
                "vocoder 'discrete_symbol_f0_generator' with num_spk_embs above 0 is "
                "not supported: ESPnet names it no singer"
            )
        if generator.use_embedding_feats:
            raise PluginError(
                "vocoder 'discrete_symbol_f0_generator' with use_embedding_feats is "
                "not supported: ESPnet gives it tokens"
            )
        steps = [
            layer.stride[0]
            for layer in generator.upsamples.modules()
            if isinstance(layer, torch.nn.ConvTranspose1d)
        ]
        layers = generator.layer_num if generator.use_weight_sum else 1
        self.reads_f0 = generator.use_f0
        super().__init__(generator, layers, factor=math.prod(steps))
        embeddings = generator.emb if generator.use_weight_sum else [generator.emb]
        self.tokens = min(embedding.num_embeddings for embedding in embeddings)
        self.inputs["feats"] = Tensor("int64", ("frames", layers))

    def source(self) -> dict[str, Tensor]:
        return {"f0": Tensor("float32", ("frames",))} if self.reads_f0 else {}

    def generate(self, c: torch.Tensor, *f0: torch.Tensor) -> torch.Tensor:
        return self.generator(c, f0[0][None, None] if f0 else None)


_SMALL = dict(
    channels=8,
    in_channels=6,
    linear_channel=4,
    num_embs=12,
    num_spk_embs=0,
    upsample_scales=[4, 2],
    upsample_kernel_sizes=[8, 4],
    resblock_kernel_sizes=[3],
    resblock_dilations=[[1, 3]],
)

register(
    Arch(
        role="vocoder",
        name="discrete_symbol_f0_generator",
        wrap=DiscreteSymbolF0,
        limits="of models of discrete tokens (`svs2`); without `num_spk_embs`",
        tiny={
            "tokens": dict(_SMALL),
            "layers": dict(_SMALL, use_weight_sum=True, layer_num=3, use_f0=False),
        },
    )
)
