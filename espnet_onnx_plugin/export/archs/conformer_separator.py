"""``separator: conformer``."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.separation import AttentionMasks
from espnet_onnx_plugin.export.registry import Arch, register


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    encoder = separator.conformer
    layers = encoder.embed
    if encoder.conv_subsampling_factor > 1 or isinstance(layers[0], torch.nn.Embedding):
        raise PluginError(
            "separator conformer: input_layer conv2d, vgg2l and embed are not "
            "supported, as ESPnet's masks then have other frames than the mixture; "
            "train with input_layer linear"
        )
    return direct(AttentionMasks(separator, encoder), ends)


_SMALL = dict(adim=8, aheads=2, layers=2, linear_units=12)
_ABSOLUTE = dict(
    _SMALL,
    conformer_pos_enc_layer_type="abs_pos",
    conformer_self_attn_layer_type="selfattn",
)

register(
    Arch(
        role="separator",
        name="conformer",
        wrap=wrap,
        tiny={
            "relative": dict(_SMALL, ends="stft"),
            "legacy": dict(
                _SMALL,
                conformer_pos_enc_layer_type="legacy_rel_pos",
                conformer_self_attn_layer_type="legacy_rel_selfattn",
                conformer_enc_kernel_size=5,
                predict_noise=True,
            ),
            "absolute": dict(
                _ABSOLUTE,
                use_cnn_in_conformer=False,
                conformer_activation_type="relu",
                nonlinear="sigmoid",
                normalize_before=True,
            ),
            "scaled": dict(
                _ABSOLUTE,
                conformer_pos_enc_layer_type="scaled_abs_pos",
                use_macaron_style_in_conformer=False,
                concat_after=True,
                nonlinear="tanh",
            ),
            "convolutions": dict(
                _SMALL, positionwise_layer_type="conv1d", num_spk=1, ends="stft"
            ),
            "one_convolution": dict(
                _SMALL,
                positionwise_layer_type="conv1d-linear",
                positionwise_conv_kernel_size=3,
            ),
            "no_input_layer": dict(_SMALL, adim=12, input_layer=None),
        },
        limits="input_layer linear",
    )
)
