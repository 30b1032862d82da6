"""A model of features and a vocoder that ESPnet trained together."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch

from espnet_onnx_plugin.export.layers.vocoder import find_vocoder
from espnet_onnx_plugin.export.tts_module import TTSModules


def with_vocoder(
    wrapped: TTSModules, joint: torch.nn.Module, features: torch.nn.Module
) -> TTSModules:
    """Add the vocoder, which reads the features before they are denormalized.

    ESPnet gives such a model no decoding options.

    Args:
        wrapped: the model of features.
        joint: ESPnet's model of both.
        features: its model of features.
    """
    vocoder = find_vocoder(joint.generator["vocoder"])(
        joint.generator["vocoder"],
        features.odim,
        pqmf=joint.pqmf if joint.use_pqmf else None,
    )
    return dataclasses.replace(
        wrapped,
        modules={**wrapped.modules, "vocoder": vocoder},
        search=dataclasses.replace(wrapped.search, options=()),
        vocoder_reads="feat_gen",
    )


def tiny(
    part: str,
    name: str,
    params: Mapping[str, Any],
    vocoder: str,
    vocoder_params: Mapping[str, Any],
    **others: Any,
) -> dict[str, Any]:
    """A tiny configuration.

    Args:
        part: ESPnet's name of the model of features in it.
        name, params: of that model.
        vocoder, vocoder_params: of the vocoder.
        others: other settings.
    """
    return {
        f"{part}_type": name,
        f"{part}_params": dict(params),
        "vocoder_type": f"{vocoder}_generator",
        "vocoder_params": dict(vocoder_params),
        "segment_size": 4,
        "discriminator_type": "hifigan_period_discriminator",
        "discriminator_params": dict(period=2, channels=4, downsample_scales=[2]),
        **others,
    }


#: A vocoder of tiny configurations.
HIFIGAN = dict(
    channels=8,
    upsample_scales=[4, 2],
    upsample_kernel_sizes=[8, 4],
    resblock_kernel_sizes=[3],
    resblock_dilations=[[1]],
)
