"""``separator: bsrnn``: band-split RNN, of any sampling rate up to its own.

ESPnet's loops over bands are products of groups of bands here: neighbours of one width
are a batch. Bands above what a spectrum has are computed of zeros and cut off.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import torch
from torch.nn.functional import group_norm, layer_norm, linear, pad

from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, spectral
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.registry import Arch, register


class _Norm(torch.nn.Module):
    """A norm of ESPnet's layers, of values whose channels are the last axis.

    Args:
        norms: one, or one for each row of the values.
        rows_alone: whether ``GN`` normalizes each row by itself, or all together.
    """

    def __init__(self, *norms: torch.nn.Module, rows_alone: bool = True):
        super().__init__()
        first = norms[0]
        self.eps = torch.finfo(torch.float32).eps  # of those that ESPnet writes itself
        self.together = False
        if isinstance(first, torch.nn.modules.batchnorm._BatchNorm):
            self.over = "nothing"
            scales = [n.weight / (n.running_var + n.eps).sqrt() for n in norms]
            shifts = [n.bias - n.running_mean * s for n, s in zip(norms, scales)]
        elif isinstance(first, torch.nn.GroupNorm):
            self.over, self.eps, self.together = "row", first.eps, not rows_alone
            scales, shifts = [n.weight for n in norms], [n.bias for n in norms]
        else:
            by_row = type(first).__name__ == "ChannelFreqwiseLayerNorm"
            self.over = "row" if by_row else "channels"
            scales = [n.gamma.flatten() for n in norms]
            shifts = [n.beta.flatten() for n in norms]
        for name, values in (("scale", scales), ("shift", shifts)):
            value = torch.stack(list(values)).detach()[:, None]
            self.register_buffer(name, value)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(rows, columns, channels), as it comes."""
        if self.over == "channels":
            x = layer_norm(x, x.shape[-1:], eps=self.eps)
        elif self.together:
            x = group_norm(x[None], 1, eps=self.eps)[0]
        elif self.over == "row":
            x = group_norm(x, 1, eps=self.eps)
        return x * self.scale + self.shift


class _Bands:
    """Neighbouring bands of one width.

    Args:
        first: number of the first.
        bands: first and last bin of each.

    Attributes:
        number, width: how many bands, and bins of each.
    """

    def __init__(self, first: int, bands: Sequence[tuple[int, int]]):
        self.first, self.number = first, len(bands)
        self.width = bands[0][1] - bands[0][0] + 1
        self._starts = [start for start, _ in bands]

    def of(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bins, 2) -> (number, frames, width * 2)."""
        begin, count = self._starts[0], self.number * self.width
        if self._starts == list(range(begin, begin + count, self.width)):
            x = x.narrow(1, begin, count)
        else:
            bins = torch.tensor(self._starts)[:, None] + torch.arange(self.width)
            x = x.index_select(1, bins.flatten())
        x = x.unflatten(1, (self.number, self.width))
        return x.transpose(0, 1).flatten(2)


def _grouped(bands: Sequence[tuple[int, int]]) -> Iterator[_Bands]:
    first = 0
    for _, group in itertools.groupby(bands, lambda band: band[1] - band[0]):
        alike = list(group)
        yield _Bands(first, alike)
        first += len(alike)


def _stacked(convs: Sequence[torch.nn.Conv1d]) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (bands, input, output) and biases (bands, 1, output) of 1x1 ones."""
    weight = torch.stack([conv.weight[..., 0].T for conv in convs]).detach()
    return weight, torch.stack([conv.bias for conv in convs]).detach()[:, None]


class _Split(torch.nn.Module):
    """Channels of a group of bands.

    Args:
        split: ESPnet's module for all bands.
        bands: the group.
    """

    def __init__(self, split: torch.nn.Module, bands: _Bands):
        super().__init__()
        its = slice(bands.first, bands.first + bands.number)
        self.bands, self.norm = bands, _Norm(*split.norm[its])
        weight, bias = _stacked(split.fc[its])
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bins, 2) -> (bands, frames, channels)."""
        return self.norm(self.bands.of(x)) @ self.weight + self.bias


class _Decoder(torch.nn.Module):
    """Masks or residuals of all bands.

    Args:
        layers: ESPnet's for each band: norm, 1x1 convolution, tanh, another, GLU.
        bands: first and last bin of each.
        number: how many outputs are kept.
        made: how many ESPnet makes.
    """

    def __init__(
        self,
        layers: Sequence[torch.nn.Sequential],
        bands: Sequence[tuple[int, int]],
        number: int,
        made: int,
    ):
        super().__init__()
        self.norm = _Norm(*(layer[0] for layer in layers))
        weight, bias = _stacked([layer[1] for layer in layers])
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)
        self.groups, self.number = list(_grouped(bands)), number
        for i, group in enumerate(self.groups):
            its = layers[group.first : group.first + group.number]
            sizes = (2, made, group.width * 2)  # halves of the GLU, outputs, parts
            for name, value in zip(("weight", "bias"), _stacked([s[3] for s in its])):
                kept = value.unflatten(2, sizes)[:, :, :, :number].flatten(2)
                self.register_buffer(f"{name}{i}", kept)
        self._cover(bands)

    def _cover(self, bands: Sequence[tuple[int, int]]) -> None:
        """Where in the row of all bands each bin is: several places in some models."""
        places: list[list[int]] = [[] for _ in range(bands[-1][1] + 1)]
        row = 0
        for start, end in bands:
            for frequency in range(start, end + 1):
                places[frequency].append(row)
                row += 1
        most = max(map(len, places))
        # A place behind the last is zero.
        filled = [p + [row] * (most - len(p)) for p in places]
        self.overlap = most > 1
        self.register_buffer("places", torch.tensor(filled).T)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(bands, frames, channels) -> (number, frames, bins, 2)."""
        x = torch.tanh(self.norm(x) @ self.weight + self.bias)
        parts = []
        for i, group in enumerate(self.groups):
            y = x.narrow(0, group.first, group.number) @ getattr(self, f"weight{i}")
            value, gate = (y + getattr(self, f"bias{i}")).chunk(2, dim=2)
            y = (value * torch.sigmoid(gate)).unflatten(2, (self.number, -1, 2))
            parts.append(y.permute(2, 1, 0, 3, 4).flatten(2, 3))
        row = torch.cat(parts, dim=2)
        if not self.overlap:
            return row
        row = pad(row, (0, 0, 0, 1))
        pieces = [row.index_select(2, places) for places in self.places]
        return torch.stack(pieces).sum(dim=0)


class _Layer(torch.nn.Module):
    """An LSTM along time or along the bands, and its input added."""

    def __init__(
        self,
        norm: torch.nn.Module,
        rnn: torch.nn.LSTM,
        last: torch.nn.Linear,
        time: bool,
    ):
        super().__init__()
        self.norm, self.rnn = _Norm(norm, rows_alone=False), RecurrentLayer(rnn)
        self.last, self.time = last, time

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bands, channels), as it comes."""
        y = self.norm(x)
        y = self.rnn.sequences(y if self.time else y.transpose(0, 1))[0]
        y = linear(y, self.last.weight, self.last.bias)
        return x + (y if self.time else y.transpose(0, 1))


class BSRNNModule(GraphModule):
    """The separator.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        net = separator.bsrnn
        bands = net.band_split.subbands
        self.starts, self.bins = [start for start, _ in bands], bands[-1][1] + 1
        self.split = torch.nn.ModuleList(
            _Split(net.band_split, group) for group in _grouped(bands)
        )
        layers = []
        for i in range(net.num_layer):
            layers += [
                _Layer(net.norm_time[i], net.rnn_time[i], net.fc_time[i], True),
                _Layer(net.norm_freq[i], net.rnn_freq[i], net.fc_freq[i], False),
            ]
        self.layers = torch.nn.ModuleList(layers)
        decoder, number = net.mask_decoder, separator.num_spk
        self.mask = _Decoder(decoder.mlp_mask, bands, number, net.num_spk)
        self.residual = _Decoder(decoder.mlp_residual, bands, number, net.num_spk)
        self.inputs, self.outputs = ends.inputs(1), ends.outputs(number)
        self.sizes = dict(frames=53, bins=self.bins - 2)

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        bins, count = spectrum.size(1), len(self.starts)
        x = pad(spectrum, (0, 0, 0, self.bins - bins))
        x = torch.cat([split(x) for split in self.split])
        there = (torch.tensor(self.starts) < bins).sum().item()
        torch._check(there >= 1)
        torch._check(there <= count)
        x = x.transpose(0, 1).narrow(1, 0, there)
        for layer in self.layers:
            x = layer(x)
        x = pad(x.transpose(0, 1), (0, 0, 0, 0, 0, count - there))
        mask = self.mask(x).narrow(2, 0, bins)
        real, imaginary = mask[..., 0], mask[..., 1]
        turned = torch.stack((-spectrum[..., 1], spectrum[..., 0]), dim=-1)
        masked = real[..., None] * spectrum + imaginary[..., None] * turned
        return masked + self.residual(x).narrow(2, 0, bins)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """All of it: there is one graph for every sampling rate."""
    module = BSRNNModule(separator, spectral(ends))
    return EnhModules({"separator": module}, ends, max_bins=module.bins)


def _bands(*widths: int) -> list[list[int]]:
    """First and last bins of bands of these widths."""
    ends = list(itertools.accumulate(widths))
    return [[end - width, end - 1] for width, end in zip(widths, ends)]


_SMALL = dict(
    ends="stft",
    num_channels=4,
    num_layers=1,
    target_fs=16000,
    subbands=_bands(3, 2, 2, 2, 4, 4, 4, 12),
)

register(
    Arch(
        role="separator",
        name="bsrnn",
        wrap=wrap,
        tiny={
            "group": dict(_SMALL, num_layers=2),
            "causal": dict(_SMALL, num_spk=2, norm_type="cLN", causal=True),
            "frequencies": dict(_SMALL, norm_type="cfLN", predict_noise=True),
            "batch": dict(
                _SMALL,
                norm_type="BN",
                subbands=[[0, 2], [1, 4], [4, 7], [6, 12], [11, 22], [20, 32]],
            ),
        },
    )
)
