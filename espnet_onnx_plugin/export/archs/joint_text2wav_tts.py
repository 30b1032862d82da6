"""``tts: joint_text2wav``: a text-to-features model and a vocoder, trained together."""

from __future__ import annotations

import dataclasses

import torch

from espnet_onnx_plugin.export.archs import (
    fastspeech2_tts,
    fastspeech_tts,
    melgan_generator_vocoder,
    parallel_wavegan_generator_vocoder,
    style_melgan_generator_vocoder,
    tacotron2_tts,
    transformer_tts,
)
from espnet_onnx_plugin.export.layers.vocoder import find_vocoder
from espnet_onnx_plugin.export.registry import Arch, find, register
from espnet_onnx_plugin.export.tts_module import TTSModules


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_tts.joint.JointText2Wav``; ESPnet gives it no decoding options."""
    text2mel = tts.generator["text2mel"]
    arch = find("tts", type(text2mel).__name__.lower())
    wrapped = arch.wrap(text2mel, normalize)
    vocoder = find_vocoder(tts.generator["vocoder"])(
        tts.generator["vocoder"],
        text2mel.odim,
        pqmf=tts.pqmf if tts.use_pqmf else None,
    )
    return dataclasses.replace(
        wrapped,
        modules={**wrapped.modules, "vocoder": vocoder},
        search=dataclasses.replace(wrapped.search, options=()),
        vocoder_reads="feat_gen",
    )


_HIFIGAN = dict(
    channels=8,
    upsample_scales=[4, 2],
    upsample_kernel_sizes=[8, 4],
    resblock_kernel_sizes=[3],
    resblock_dilations=[[1]],
)


def _tiny(text2mel: str, params: dict, vocoder: str, vocoder_params: dict, **others):
    return dict(
        text2mel_type=text2mel,
        text2mel_params=dict(params),
        vocoder_type=f"{vocoder}_generator",
        vocoder_params=dict(vocoder_params),
        segment_size=4,
        discriminator_type="hifigan_period_discriminator",
        discriminator_params=dict(period=2, channels=4, downsample_scales=[2]),
        **others,
    )


register(
    Arch(
        role="tts",
        name="joint_text2wav",
        wrap=wrap,
        tiny={
            "fastspeech2_hifigan": _tiny(
                "fastspeech2", fastspeech2_tts.SMALL, "hifigan", _HIFIGAN
            ),
            "fastspeech_parallel_wavegan": _tiny(
                "fastspeech",
                fastspeech_tts.SMALL,
                "parallel_wavegan",
                parallel_wavegan_generator_vocoder.SMALL,
            ),
            "tacotron2_multi_band_melgan": _tiny(
                "tacotron2",
                tacotron2_tts.SMALL,
                "melgan",
                dict(
                    melgan_generator_vocoder.SMALL,
                    upsample_scales=[2, 2],
                    out_channels=4,
                ),
                use_pqmf=True,
            ),
            "transformer_style_melgan": _tiny(
                "transformer",
                transformer_tts.SMALL,
                "style_melgan",
                style_melgan_generator_vocoder.SMALL,
            ),
        },
    )
)
