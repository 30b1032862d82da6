"""``separator: dptnet``: attention and recurrence, in segments and across them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn.functional import pad

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.dual_path import DualPath, cut
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.layers.separation import MaskSeparator, Norm, pointwise
from espnet_onnx_plugin.export.registry import Arch, register


class _Layer(torch.nn.Module):
    """``espnet2.enh.layers.dptnet.ImprovedTransformerLayer``, time first."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.attention = layer.self_attn
        self.attention_norm = Norm(layer.norm_attn)
        self.rnn = RecurrentLayer(layer.rnn)
        self.feed_forward = layer.feed_forward
        self.norm = Norm(layer.norm_ff)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over sequences (time, sequences, dim)."""
        x = self.attention_norm(x + self.attention(x, x, x)[0])
        return self.norm(x + self.feed_forward(self.rnn.sequences(x)[0]))


class DPTNetSeparator(MaskSeparator):
    """``espnet2.enh.separator.dptnet_separator.DPTNetSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__(separator)
        self.segment_size = separator.segment_size
        self.outputs = separator.num_outputs
        self.norm = Norm(separator.enc_LN)
        net = separator.dptnet
        self.blocks = DualPath(
            map(_Layer, net.row_transformer), map(_Layer, net.col_transformer)
        )
        self.activation, self.convolution = net.output
        self.output, self.gate = separator.output, separator.output_gate

    def masks(self, x: torch.Tensor) -> Sequence[torch.Tensor]:
        """Masks of features (frames, dim), see :class:`.MaskSeparator`."""
        segments = self._split(self.norm(x[:, None])[:, 0])
        y = self.activation(self.blocks(segments))
        y = self._merge(pointwise(self.convolution, y), x.size(0))
        y = y.unflatten(1, (self.outputs, -1))
        (output, tanh), (gate, sigmoid) = self.output, self.gate
        return (tanh(pointwise(output, y)) * sigmoid(pointwise(gate, y))).unbind(1)

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """Segments (time, segments, dim), from one of zeros before the first frame on.

        As ESPnet's ``split_feature``: an unfolding, which ends where another segment
        would reach beyond a segment of zeros behind the last frame.
        """
        size, hop = self.segment_size, self.segment_size // 2
        number = (x.size(0) + size) // hop + 1
        x = pad(x, (0, 0, size, size))
        return cut(x, torch.arange(number) * hop, size)

    def _merge(
        self, segments: torch.Tensor, frames: int | torch.SymInt
    ) -> torch.Tensor:
        """Mean (frames, dim) of the segments that a frame lies in."""
        number = torch.ones_like(segments[..., :1])
        return self._added(segments, frames) / self._added(number, frames)

    def _added(
        self, segments: torch.Tensor, frames: int | torch.SymInt
    ) -> torch.Tensor:
        size, hop = self.segment_size, self.segment_size // 2
        hops = math.ceil(size / hop)  # 3 of an odd size, the last one not full
        pieces = pad(segments, (0, 0, 0, 0, 0, hops * hop - size))
        pieces = pieces.unflatten(0, (hops, hop)).transpose(1, 2).flatten(1, 2)
        return sum(pieces[i, size - i * hop :][:frames] for i in range(hops))


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    return direct(DPTNetSeparator(separator), ends)


_SMALL = dict(layer=1, unit=6, att_heads=2, segment_size=20)

register(
    Arch(
        role="separator",
        name="dptnet",
        wrap=wrap,
        tiny={
            "global": dict(_SMALL, layer=2),
            "odd": dict(
                _SMALL,
                segment_size=7,
                rnn_type="gru",
                bidirectional=False,
                norm_type="cLN",
                predict_noise=True,
                activation="swish",
            ),
            "shortest": dict(
                _SMALL, segment_size=3, rnn_type="rnn", norm_type="BN", num_spk=1
            ),
            "spectrum": dict(
                _SMALL,
                ends="stft",
                att_heads=3,
                norm_type="GN",
                nonlinear="sigmoid",
                activation="linear",
            ),
            "signed": dict(_SMALL, post_enc_relu=False, nonlinear="tanh"),
        },
    )
)
