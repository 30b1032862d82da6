"""Filter-and-sum networks: an array's channels, filtered as the network says.

Luo et al., "FaSNet" (ASRU 2019) and "End-to-end microphone permutation and number
invariant multi-channel speech separation" (ICASSP 2020). Frames are (frames, channels,
dim), segments of them (time, segments, channels, dim).
"""

from __future__ import annotations

import torch
from torch.nn.functional import linear, pad

from espnet_onnx_plugin.export.layers.dual_path import merge, split
from espnet_onnx_plugin.export.layers.separation import Norm, Projected, pointwise

#: Samples whose products :func:`correlation` sums at once.
_BLOCK = 24


class Average(torch.nn.Module):
    """Transform, average, concatenate: what channels tell each other.

    Args:
        transform, average, concatenate: a linear layer and its activation, each.
        norm: of each channel.
    """

    def __init__(
        self,
        transform: torch.nn.Module,
        average: torch.nn.Module,
        concatenate: torch.nn.Module,
        norm: torch.nn.Module,
    ):
        super().__init__()
        self.transform, self.average, self.norm = transform, average, Norm(norm)
        self.layer, self.activation = concatenate

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Add to (time, channels, dim) what the channels have in common."""
        own = self.transform(x)
        mean = self.average(own.mean(1, keepdim=True))
        of_own, of_mean = self.layer.weight.chunk(2, dim=1)
        y = linear(own, of_own) + linear(mean, of_mean, self.layer.bias)
        return x + self.norm(self.activation(y))


class _Block(torch.nn.Module):
    """Layers within segments, across them, and across channels."""

    def __init__(self, dprnn: torch.nn.Module, number: int):
        super().__init__()
        self.rnns = torch.nn.ModuleList(
            Projected(rnns[number]) for rnns in (dprnn.row_rnn, dprnn.col_rnn)
        )
        self.norms = torch.nn.ModuleList(
            Norm(norms[number]) for norms in (dprnn.row_norm, dprnn.col_norm)
        )
        self.average = Average(
            dprnn.ch_transform[number],
            dprnn.ch_average[number],
            dprnn.ch_concat[number],
            dprnn.ch_norm[number],
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(time, segments, channels, dim) -> the same shape."""
        for rnn, norm in zip(self.rnns, self.norms):
            y = rnn(x.flatten(1, 2)).view(x.shape)
            x = x + norm(y.flatten(0, 1)).view(x.shape)
            x = x.transpose(0, 1)
        return self.average(x.flatten(0, 1)).view(x.shape)


class FilterEstimator(torch.nn.Module):
    """``espnet2.enh.layers.fasnet.BF_module`` of one mixture."""

    def __init__(self, estimator: torch.nn.Module):
        super().__init__()
        self.speakers, self.size = estimator.num_spk, estimator.segment_size
        self.bottleneck = estimator.BN
        dprnn = estimator.dprnn_model
        self.blocks = torch.nn.Sequential(
            *(_Block(dprnn, number) for number in range(len(dprnn.row_rnn)))
        )
        self.activation, self.convolution = dprnn.output
        self.gated = estimator.fasnet_type == "fasnet"
        if self.gated:
            self.output, self.gate = estimator.output[0], estimator.output_gate[0]
        else:
            self.output = estimator.output

    def forward(self, x: torch.Tensor, first: bool = False) -> torch.Tensor:
        """Filters (frames, channels, speakers, dim).

        Args:
            x: features (frames, channels, dim).
            first: whether those of the first channel alone are wanted.
        """
        frames, channels, _ = x.shape
        y = split(pointwise(self.bottleneck, x).flatten(1), self.size)
        y = self.blocks(y.unflatten(2, (channels, -1)))
        if first:
            y, channels = y[:, :, :1], 1
        y = pointwise(self.convolution, self.activation(y))
        y = merge(y.flatten(2), frames).view(frames, channels, self.speakers, -1)
        filters = pointwise(self.output, y)
        if self.gated:
            gate = torch.sigmoid(pointwise(self.gate, y))
            filters = torch.tanh(filters) * gate
        return filters


def correlation(x: torch.Tensor, filters: torch.Tensor) -> torch.Tensor:
    """Sums of products of rows of samples with shorter ones, at each lag.

    A graph has no convolution of as many groups as there are rows, and all windows of a
    row are hundreds of times its size. So products of blocks of samples are summed
    first, then the blocks of a window.

    Args:
        x: (rows, samples).
        filters: (rows, filters, window), or of one row for all.

    Returns:
        (rows, filters, samples - window + 1).
    """
    window = filters.size(2)
    lags, blocks = x.size(1) - window + 1, -(-window // _BLOCK)
    missing = blocks * _BLOCK - window
    x, filters = pad(x, (0, missing)), pad(filters, (0, missing))
    starts = x.size(1) - _BLOCK + 1
    pieces = torch.stack([x[:, i : i + starts] for i in range(_BLOCK)], dim=1)
    sums = filters.unflatten(2, (blocks, _BLOCK)).flatten(1, 2) @ pieces
    # Block after block begins _BLOCK later: in longer lines the sums of a lag lie one
    # below the other.
    sums = pad(sums.unflatten(1, (-1, blocks)).flatten(2), (0, blocks * _BLOCK))
    return sums.unflatten(2, (blocks, starts + _BLOCK))[..., :lags].sum(2)
