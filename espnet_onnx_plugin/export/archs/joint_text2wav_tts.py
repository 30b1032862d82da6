"""``tts: joint_text2wav``: a text-to-features model and a vocoder, trained together."""

from __future__ import annotations

import functools

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
from espnet_onnx_plugin.export.layers.joint import HIFIGAN, tiny, with_vocoder
from espnet_onnx_plugin.export.registry import Arch, find, register
from espnet_onnx_plugin.export.tts_module import TTSModules


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_tts.joint.JointText2Wav``."""
    text2mel = tts.generator["text2mel"]
    arch = find("tts", type(text2mel).__name__.lower())
    return with_vocoder(arch.wrap(text2mel, normalize), tts, text2mel)


_tiny = functools.partial(tiny, "text2mel")

register(
    Arch(
        role="tts",
        name="joint_text2wav",
        wrap=wrap,
        tiny={
            "fastspeech2_hifigan": _tiny(
                "fastspeech2", fastspeech2_tts.SMALL, "hifigan", HIFIGAN
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
