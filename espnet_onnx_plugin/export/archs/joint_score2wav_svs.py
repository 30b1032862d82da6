"""``svs: joint_score2wav``: a model of features and a vocoder, trained together."""

from __future__ import annotations

import dataclasses
import functools

import torch

from espnet_onnx_plugin.export.archs import (
    melgan_generator_vocoder,
    naive_rnn_dp_svs,
    parallel_wavegan_generator_vocoder,
    style_melgan_generator_vocoder,
    xiaoice_svs,
)
from espnet_onnx_plugin.export.layers.joint import HIFIGAN, tiny, with_vocoder
from espnet_onnx_plugin.export.registry import Arch, find, register
from espnet_onnx_plugin.export.tts_module import TTSModules


def wrap(svs: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_svs.joint.JointScore2Wav``, which reads the label's durations."""
    from espnet2.gan_svs.joint.joint_score2wav import AVAILABLE_SCORE2MEL

    score2mel = svs.generator["score2mel"]
    names = {cls: name for name, cls in AVAILABLE_SCORE2MEL.items()}
    arch = find("svs", names[type(score2mel)])
    wrapped = arch.wrap(score2mel, normalize, duration="duration_phn")
    score = dataclasses.replace(wrapped.score, needs_labels=True)
    wrapped = dataclasses.replace(wrapped, score=score)
    return with_vocoder(wrapped, svs, score2mel)


_tiny = functools.partial(tiny, "score2mel")

register(
    Arch(
        role="svs",
        name="joint_score2wav",
        wrap=wrap,
        tiny={
            "xiaoice_hifigan": _tiny("xiaoice", xiaoice_svs.SMALL, "hifigan", HIFIGAN),
            "naive_rnn_dp_hifigan": _tiny(
                "naive_rnn_dp", dict(naive_rnn_dp_svs.SMALL, spks=3), "hifigan", HIFIGAN
            ),
            "xiaoice_parallel_wavegan": _tiny(
                "xiaoice",
                dict(xiaoice_svs.SMALL, langs=2),
                "parallel_wavegan",
                parallel_wavegan_generator_vocoder.SMALL,
            ),
            "naive_rnn_dp_multi_band_melgan": _tiny(
                "naive_rnn_dp",
                naive_rnn_dp_svs.SMALL,
                "melgan",
                dict(
                    melgan_generator_vocoder.SMALL,
                    upsample_scales=[2, 2],
                    out_channels=4,
                ),
                use_pqmf=True,
            ),
            "xiaoice_style_melgan": _tiny(
                "xiaoice",
                dict(xiaoice_svs.SMALL, spk_embed_dim=5),
                "style_melgan",
                style_melgan_generator_vocoder.SMALL,
            ),
        },
    )
)
