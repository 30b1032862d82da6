"""``tts: fastspeech``."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.durations import DurationEncoder, FeatureDecoder
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModules


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.tts.fastspeech.FastSpeech``, and ``FastSpeech2``."""
    if getattr(tts, "_bucket_infer", False):
        raise PluginError(
            f"{type(tts).__name__} with bucket_infer: true, where padding changes the "
            "features, is not supported: take it out of the model's config.yaml, and "
            "ESPNET_BUCKET_INFER out of the environment"
        )
    encoder = DurationEncoder(tts, tts.odim, tts.eos)
    return TTSModules(
        {"encoder": encoder, "decoder": FeatureDecoder(tts, encoder, normalize)},
        Durations(
            model=type(tts).__name__,
            rounding="round",
            teacher_forcing=("speech", "durations", *encoder.variances),
            options=("speed_control_alpha",),
        ),
    )


SMALL = dict(
    adim=8,
    aheads=2,
    elayers=1,
    eunits=8,
    dlayers=1,
    dunits=8,
    postnet_layers=2,
    postnet_chans=8,
    postnet_filts=3,
    duration_predictor_chans=8,
)

register(
    Arch(
        role="tts",
        name="fastspeech",
        wrap=wrap,
        tiny={
            "transformer": dict(SMALL, positionwise_conv_kernel_size=3),
            "conformer": dict(
                SMALL,
                encoder_type="conformer",
                decoder_type="conformer",
                conformer_dec_kernel_size=7,
                reduction_factor=2,
                postnet_layers=0,
                spks=3,
                langs=2,
                spk_embed_dim=5,
                spk_embed_integration_type="concat",
            ),
            "style": dict(
                SMALL,
                use_gst=True,
                gst_tokens=3,
                gst_heads=2,
                gst_conv_chans_list=[4] * 6,
                gst_gru_units=6,
                gst_gru_layers=2,
                spk_embed_dim=5,
                use_scaled_pos_enc=False,
            ),
        },
    )
)
