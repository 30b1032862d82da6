"""``encoder: branchformer``, the three ways to merge its branches."""

from __future__ import annotations

from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.registry import Arch, register

_TINY = dict(
    output_size=8,
    attention_heads=2,
    cgmlp_linear_units=16,
    num_blocks=1,
)
_ABSOLUTE = dict(_TINY, pos_enc_layer_type="abs_pos", attention_layer_type="selfattn")

register(
    Arch(
        role="encoder",
        name="branchformer",
        wrap=refuse_token_ids,
        tiny={
            "concat": _TINY,
            "learned_ave": dict(_TINY, merge_method="learned_ave"),
            "fixed_ave_edges": dict(
                _TINY, num_blocks=2, merge_method="fixed_ave", cgmlp_weight=[0.0, 1.0]
            ),
            "legacy": dict(_TINY, rel_pos_type="legacy", input_layer="conv2d2"),
            "absolute": dict(
                _ABSOLUTE,
                use_linear_after_conv=True,
                gate_activation="swish",
                input_layer="conv2d1",
            ),
            "fast_attention": dict(
                _ABSOLUTE,
                attention_layer_type="fast_selfattn",
                merge_method="fixed_ave",
                cgmlp_weight=0.3,
                input_layer="linear",
            ),
            "attention_only": dict(_TINY, use_cgmlp=False, input_layer="conv2d6"),
            "cgmlp_only": dict(_TINY, use_attn=False, input_layer="conv2d8"),
        },
        limits="input_layer embed is for token ids",
    )
)
