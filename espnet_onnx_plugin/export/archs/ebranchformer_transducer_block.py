"""``block_type: ebranchformer`` of a stand-alone transducer's encoder."""

from __future__ import annotations

from espnet_onnx_plugin.export.layers.transducer_blocks import AttentionBlock
from espnet_onnx_plugin.export.registry import Arch, register

_BLOCK = dict(
    block_type="ebranchformer",
    hidden_size=8,
    linear_size=12,
    heads=2,
    conv_mod_kernel_size=3,
)

register(
    Arch(
        role="transducer_block",
        name="ebranchformer",
        wrap=AttentionBlock,
        tiny={
            "conv2d": dict(
                body_conf=[dict(_BLOCK, num_blocks=2, depth_conv_kernel_size=5)]
            ),
            "causal": dict(
                body_conf=[_BLOCK],
                input_conf=dict(vgg_like=True, conv_size=[4, 4]),
                main_conf=dict(
                    dynamic_chunk_training=True,
                    pos_wise_act_type="leaky_relu",
                    norm_type="rms_norm",
                    after_norm_partial=0.5,
                ),
            ),
        },
    )
)
