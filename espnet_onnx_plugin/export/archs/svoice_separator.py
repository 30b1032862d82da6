"""``separator: svoice``: products of recurrent layers, of waveforms."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import conv_transpose1d, pad

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.dual_path import DualPath, merge, split
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.layers.separation import Norm, pointwise
from espnet_onnx_plugin.export.registry import Arch, register


class _Layer(torch.nn.Module):
    """``espnet2.enh.layers.dpmulcat.MulCatBlock``, its norm and what goes around it."""

    def __init__(self, block: torch.nn.Module, norm: torch.nn.Module):
        super().__init__()
        self.rnn, self.gate_rnn = RecurrentLayer(block.rnn), RecurrentLayer(
            block.gate_rnn
        )
        self.projection, self.gate_projection = block.rnn_proj, block.gate_rnn_proj
        self.block_projection = block.block_projection
        self.norm = None if isinstance(norm, torch.nn.Identity) else Norm(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over sequences (time, sequences, dim)."""
        y = self.projection(self.rnn.sequences(x)[0])
        y = y * self.gate_projection(self.gate_rnn.sequences(x)[0])
        y = self.block_projection(torch.cat((y, x), dim=2))
        return x + (y if self.norm is None else self.norm.of_all(y))


class SVoiceSeparator(torch.nn.Module):
    """``espnet2.enh.separator.svoice_separator.SVoiceSeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.num_spk, self.dim = separator.num_spk, separator.enc_dim
        self.segment_size = separator.segment_size
        self.encoder = separator.encoder
        net = separator.rnn_model
        self.blocks = DualPath(
            map(_Layer, net.rows_grnn, net.rows_normalization),
            map(_Layer, net.cols_grnn, net.cols_normalization),
        )
        self.activation, self.convolution = net.output
        # ESPnet takes means of so many neighbours, and adds the frames that they are.
        self.kernel = separator.decoder.kernel_size
        length = self.dim // self.kernel
        pooled = torch.eye(length).repeat_interleave(self.kernel, dim=0) / self.kernel
        unused = torch.zeros(self.dim - len(pooled), length)
        self.register_buffer("frames", torch.cat((pooled, unused))[:, None])

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[list[torch.Tensor], Any]:
        """Waveforms (1, samples) of each speaker, as ESPnet's separator."""
        encoded = self.encoder(x)[0].transpose(0, 1)
        y = self.activation(self.blocks(split(encoded, self.segment_size)))
        y = merge(pointwise(self.convolution, y), encoded.size(0))
        y = y.unflatten(1, (self.num_spk, self.dim)).permute(1, 2, 0)
        hop = self.kernel // 2
        waves = conv_transpose1d(y, self.frames, stride=hop)[:, 0]
        missing = self.kernel + hop - 1 - self.frames.size(2)  # at most
        waves = pad(waves, (0, max(missing, 0)))[:, : x.size(1)]
        return list(waves[:, None].unbind(0)), lengths


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    return direct(SVoiceSeparator(separator), ends)


_SMALL = dict(
    ends="same", enc_dim=16, kernel_size=4, hidden_size=6, num_layers=2, segment_size=20
)

register(
    Arch(
        role="separator",
        name="svoice",
        wrap=wrap,
        tiny={
            "both_directions": dict(_SMALL),
            "one_direction": dict(
                _SMALL, bidirectional=False, input_normalize=True, segment_size=7
            ),
            "short_frames": dict(_SMALL, kernel_size=5, num_spk=3),
            "long_frames": dict(_SMALL, enc_dim=48, num_spk=1),
        },
    )
)
