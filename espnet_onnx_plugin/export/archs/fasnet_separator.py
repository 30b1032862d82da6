"""``separator: fasnet``: an array's channels filtered and summed, or implicitly so."""

from __future__ import annotations

import torch
from torch.nn.functional import linear, pad

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModule, EnhModules
from espnet_onnx_plugin.export.layers.dual_path import merge
from espnet_onnx_plugin.export.layers.filter_and_sum import (
    FilterEstimator,
    correlation,
)
from espnet_onnx_plugin.export.layers.separation import Norm, Projected, pointwise
from espnet_onnx_plugin.export.registry import Arch, register


class _Framed(torch.nn.Module):
    """Frames that overlap by half, as ``espnet2.enh.layers.fasnet`` counts them."""

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.window, self.stride = net.window, net.stride
        self.encoder, self.norm = net.encoder, Norm(net.enc_LN)

    def _padded(self, x: torch.Tensor, around: int = 0) -> torch.Tensor:
        """Samples (samples, channels) between zeros, as (channels, samples)."""
        whole = ((x.size(0) + self.stride) // self.window + 1) * self.window
        behind = whole - x.size(0) + around
        return pad(x.T, (self.stride + around, behind))

    def _encoded(self, padded: torch.Tensor) -> torch.Tensor:
        """Frames (frames, channels, dim) of (channels, samples)."""
        y = torch.nn.functional.conv1d(
            padded[:, None], self.encoder.weight, stride=self.stride
        )
        return y.permute(2, 0, 1)


class FaSNet(_Framed):
    """``espnet2.enh.layers.fasnet.FaSNet_TAC`` of one mixture."""

    def __init__(self, net: torch.nn.Module):
        super().__init__(net)
        self.context, self.eps = net.context, net.eps
        self.estimator = FilterEstimator(net.all_BF)

    def _frames(self, padded: torch.Tensor, size: int) -> torch.Tensor:
        """Frames (frames, channels, size) of (channels, samples)."""
        steps = -(-size // self.stride)
        count = (padded.size(1) - size) // self.stride + 1
        whole = (count + steps - 1) * self.stride
        padded = pad(padded, (0, whole - padded.size(1)))
        pieces = padded.unflatten(1, (-1, self.stride)).transpose(0, 1)
        parts = [pieces[i : i + count] for i in range(steps)]
        return torch.cat(parts, dim=2)[..., :size]

    def _similarities(
        self, contexts: torch.Tensor, padded: torch.Tensor
    ) -> torch.Tensor:
        """Cosines (frames, channels, lags) of the first channel's frames with all.

        Args:
            contexts: frames and what is around them (frames, channels, samples).
            padded: the samples that they are of (channels, samples).
        """
        frames = contexts[:, 0, self.context : self.context + self.window]
        norms = frames.norm(dim=1)[:, None, None] + self.eps
        # A row is a channel of a frame.
        filters = frames[:, None].expand(-1, contexts.size(1), -1).flatten(0, 1)
        products = correlation(contexts.flatten(0, 1), filters[:, None])
        products = products.view(contexts.size(0), contexts.size(1), -1)
        energies = correlation(padded**2, torch.ones(1, 1, self.window))[:, 0]
        energies = self._frames(energies.sqrt() + self.eps, 2 * self.context + 1)
        return products / (energies * norms)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (speakers, samples) of (samples, channels)."""
        padded = self._padded(x, self.context)
        contexts = self._frames(padded, 2 * self.context + self.window)
        encoded = self.norm(self._encoded(padded))
        features = (encoded, self._similarities(contexts, padded))
        filters = self.estimator(torch.cat(features, dim=2))
        made = correlation(contexts.flatten(0, 1), filters.flatten(0, 1))
        made = made.view(*filters.shape[:3], self.window).mean(1)
        made = made.permute(2, 0, 1)  # (window, frames, speakers)
        return merge(made, x.size(0)).T


class _Decompressed(torch.nn.Module):
    """Layers over the frames of a context, and what is added to their output."""

    def __init__(self, rnn: torch.nn.Module, norm: torch.nn.Module):
        super().__init__()
        self.rnn, self.norm = Projected(rnn), Norm(norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(time, sequences, dim) -> the same shape."""
        return x + self.norm(self.rnn(x))


class ImplicitFaSNet(_Framed):
    """``espnet2.enh.layers.ifasnet.iFaSNet`` of one mixture."""

    def __init__(self, net: torch.nn.Module):
        super().__init__(net)
        self.context, self.eps = net.context, net.eps
        self.estimator = FilterEstimator(net.separator)
        self.summary, self.summarized = net.summ_BN, net.summ_output
        self.over_context = _Decompressed(net.summ_RNN, net.summ_LN)
        self.generation, self.generated = net.gen_BN, net.gen_output
        self.over_filter = _Decompressed(net.gen_RNN, net.gen_LN)
        self.decoder = net.decoder

    def _contexts(self, x: torch.Tensor) -> torch.Tensor:
        """Frames around each (context, frames, channels, dim) of (frames, ...)."""
        frames, around = x.size(0), self.context
        x = pad(x, (0, 0, 0, 0, around, around))
        return torch.stack([x[i : i + frames] for i in range(2 * around + 1)])

    def _correlations(self, contexts: torch.Tensor) -> torch.Tensor:
        """Cosines (frames, channels, context squared) with the first channel."""
        norms = (contexts.pow(2).sum(3, keepdim=True) + self.eps).sqrt()
        rows = (contexts / norms).permute(1, 2, 0, 3)
        return (rows @ rows[:, :1].transpose(2, 3)).flatten(2)

    def _summaries(self, contexts: torch.Tensor) -> torch.Tensor:
        """Vectors (frames, channels, dim) of contexts."""
        y = self.summary(contexts).flatten(1, 2)
        y = self.over_context(y).mean(0)
        return self.summarized(y).view(contexts.shape[1:])

    def _filters(self, contexts: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        """Filters (context, frames, speakers, dim) of the first channel.

        Args:
            contexts: of that channel (context, frames, dim).
            wanted: of each speaker (frames, speakers, dim).
        """
        of_context, of_wanted = self.generation.weight.flatten(1).chunk(2, dim=1)
        y = linear(contexts, of_context)[:, :, None]
        y = y + linear(wanted, of_wanted, self.generation.bias)
        filters = self.over_filter(y.flatten(1, 2)).view(y.shape)
        return pointwise(self.generated, filters)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Waveforms (speakers, samples) of (samples, channels)."""
        encoded = self._encoded(self._padded(x))
        contexts = self._contexts(encoded)
        normalized = self._contexts(self.norm(encoded))
        features = (self._summaries(normalized), self._correlations(contexts))
        wanted = self.estimator(torch.cat(features, dim=2), first=True)[:, 0]
        filters = self._filters(normalized[:, :, 0], wanted)
        made = (contexts[:, :, :1] * filters).mean(0)  # (frames, speakers, dim)
        waves = self.decoder(made.permute(1, 2, 0))[:, 0]
        return waves[:, self.stride : self.stride + x.size(0)]


class FaSNetSeparator(torch.nn.Module):
    """``espnet2.enh.separator.fasnet_separator.FaSNetSeparator`` of one mixture."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        net = separator.fasnet
        self.num_spk = separator.num_spk
        self.net = ImplicitFaSNet(net) if hasattr(net, "decoder") else FaSNet(net)

    def forward(
        self, mixture: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[list[torch.Tensor]]:
        """Waveforms (1, samples) of each speaker, as of ESPnet's separator."""
        return (list(self.net(mixture[0])[: self.num_spk, None].unbind(0)),)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    if ends.encoder is not None or ends.decoder is not None:
        raise PluginError("separator fasnet needs encoder and decoder same")
    module = EnhModule(FaSNetSeparator(separator), ends, None)
    return EnhModules({"separator": module}, ends, None)


_SMALL = dict(
    ends="same",
    enc_dim=6,
    feature_dim=6,
    hidden_dim=4,
    layer=2,
    segment_size=8,
    num_spk=1,
    win_len=2,
    context_len=2,
    sr=8000,
)

register(
    Arch(
        role="separator",
        name="fasnet",
        wrap=wrap,
        tiny={
            "sum": dict(_SMALL, fasnet_type="fasnet"),
            "implicit": dict(_SMALL, fasnet_type="ifasnet", num_spk=2),
            "noise": dict(
                _SMALL, fasnet_type="fasnet", num_spk=2, predict_noise=True, win_len=5
            ),
            "implicit_noise": dict(
                _SMALL, fasnet_type="ifasnet", predict_noise=True, context_len=4
            ),
        },
    )
)
