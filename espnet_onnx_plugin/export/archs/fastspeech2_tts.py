"""``tts: fastspeech2``."""

from __future__ import annotations

from espnet_onnx_plugin.export.archs import fastspeech_tts
from espnet_onnx_plugin.export.registry import Arch, register

SMALL = dict(
    fastspeech_tts.SMALL,
    pitch_predictor_chans=8,
    pitch_embed_kernel_size=1,
    energy_predictor_chans=8,
    energy_embed_kernel_size=3,
)

register(
    Arch(
        role="tts",
        name="fastspeech2",
        wrap=fastspeech_tts.wrap,
        tiny={
            "transformer": dict(SMALL, spks=3),
            "conformer": dict(
                SMALL,
                encoder_type="conformer",
                decoder_type="conformer",
                conformer_rel_pos_type="latest",
                conformer_dec_kernel_size=7,
                reduction_factor=2,
                spk_embed_dim=5,
            ),
            "legacy_conformer": dict(
                SMALL, encoder_type="conformer", decoder_type="conformer"
            ),
        },
        limits="no bucket_infer",
    )
)
