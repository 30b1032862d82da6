"""``block_type: conformer`` of a stand-alone transducer's encoder."""

from __future__ import annotations

from espnet_onnx_plugin.export.layers.transducer_blocks import AttentionBlock
from espnet_onnx_plugin.export.registry import Arch, register

_BLOCK = dict(
    block_type="conformer",
    hidden_size=8,
    linear_size=12,
    heads=2,
    conv_mod_kernel_size=5,
)

register(
    Arch(
        role="transducer_block",
        name="conformer",
        wrap=AttentionBlock,
        tiny={
            "conv2d": dict(body_conf=[dict(_BLOCK, num_blocks=2)]),
            "causal": dict(
                body_conf=[_BLOCK],
                input_conf=dict(subsampling_factor=6, conv_size=4),
                main_conf=dict(
                    dynamic_chunk_training=True,
                    simplified_att_score=True,
                    norm_type="rms_norm",
                    pos_wise_act_type="ftswish",
                    conv_mod_act_type="mish",
                ),
            ),
            "vgg": dict(
                body_conf=[_BLOCK],
                input_conf=dict(vgg_like=True, conv_size=4),
                main_conf=dict(
                    norm_type="scale_norm",
                    pos_wise_act_type="smish",
                    conv_mod_act_type="hardtanh",
                ),
            ),
        },
    )
)
