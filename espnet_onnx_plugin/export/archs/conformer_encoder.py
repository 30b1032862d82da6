"""``encoder: conformer``, relative positions latest and legacy, absolute and scaled."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

_TINY = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=1)
_LATEST = dict(_TINY, rel_pos_type="latest", macaron_style=True, cnn_module_kernel=3)
_ABSOLUTE = dict(
    _TINY,
    cnn_module_kernel=3,
    pos_enc_layer_type="abs_pos",
    selfattention_layer_type="selfattn",
)

register(
    Arch(
        role="encoder",
        name="conformer",
        wrap=refuse_token_ids,
        tiny={
            "latest": dict(_LATEST, num_blocks=2),
            "legacy": dict(_TINY, cnn_module_kernel=5, input_layer="conv2d2"),
            "legacy_zero_triu": dict(_TINY, use_cnn_module=False, zero_triu=True),
            "absolute": dict(_ABSOLUTE, input_layer="linear"),
            "scaled": dict(
                _ABSOLUTE, pos_enc_layer_type="scaled_abs_pos", input_layer="conv2d6"
            ),
            "convolutional": dict(
                _ABSOLUTE,
                output_size=16,
                pos_enc_layer_type="conv",
                input_layer="conv2d1",
                use_cnn_module=False,
            ),
            "post_norm": dict(
                _LATEST,
                normalize_before=False,
                concat_after=True,
                zero_triu=True,
                input_layer="conv2d8",
                activation_type="relu",
            ),
            "interctc": dict(
                _LATEST,
                num_blocks=3,
                interctc_layer_idx=[1, 2],
                positionwise_layer_type="conv1d",
            ),
            "conditioned": dict(
                _LATEST,
                num_blocks=2,
                interctc_layer_idx=[1],
                interctc_use_conditioning=True,
                positionwise_layer_type="conv1d-linear",
            ),
            "trimmed": dict(_TINY, num_blocks=2, interctc_layer_idx=[1], ctc_trim=True),
            "no_input_layer": dict(_LATEST, output_size=20, input_layer=None),
        },
        limits="input_layer embed is for token ids",
    )
)
