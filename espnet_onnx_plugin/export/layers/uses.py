"""USES and USES2: layers and graphs, over (frames, channels, frequencies, features).

A mixture of many channels and one of a single channel run through the same graphs.
"""

from __future__ import annotations

import torch
from torch.nn.functional import layer_norm, linear

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.enhancement import Segmental
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, spectral
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.improved_transformer import ImprovedTransformer
from espnet_onnx_plugin.export.layers.swin import SwinLayer

#: Of the traced axes.
SIZES = dict(frames=53, channels=3, bins=37)


def _through(layers: torch.nn.Sequential, x: torch.Tensor) -> torch.Tensor:
    """ESPnet's linear layer, activation and normalization of its own."""
    first, activation, norm = layers
    x = activation(first(x))
    gamma, beta = norm.gamma.flatten(), norm.beta.flatten()
    return layer_norm(x, x.shape[-1:], gamma, beta, norm.eps)


class _Attention(torch.nn.Module):
    """``ChannelAttention``: weights of channels by all frames and frequencies."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.module, self.heads = module, module.att_heads

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames, channels, frequencies, _ = x.shape
        query, key, value = (
            _through(self.module[f"attn_conv_{name}"], x)
            .unflatten(3, (-1, self.heads))
            .permute(4, 1, 0, 2, 3)
            for name in "QKV"
        )  # (heads, channels, frames, frequencies, features)
        scale = (frequencies * value.size(4)) ** 0.5
        query, key = (query / frames).flatten(2), (key / scale).flatten(2)
        weight = torch.softmax(query @ key.transpose(1, 2), dim=2)
        mixed = (weight @ value.flatten(2)).unflatten(2, value.shape[2:])
        mixed = mixed.permute(2, 1, 3, 0, 4).flatten(3)
        return _through(self.module.attn_concat_proj, mixed) + x


class _Concatenation(torch.nn.Module):
    """``ChannelTAC`` and ``ChannelAttentionTAC``: each channel beside all of them."""

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.transform, self.concat = module.transform, module.concat
        self.average = getattr(module, "average", None)
        if self.average is None:
            attention, activation = module.attention
            self.attention = torch.nn.Sequential(_Attention(attention), activation)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.transform(x)
        if self.average is None:
            others = self.attention(y)
        else:
            others = self.average(y.mean(dim=1, keepdim=True)).expand_as(y)
        return _through(self.concat, torch.cat((y, others), dim=3)) + x


class _Channels(torch.nn.Module):
    """Modelling of channels.

    Args:
        module: ESPnet's.
        several: whether it stands in for several channels only, as in USES2.
    """

    def __init__(self, module: torch.nn.Module, several: bool):
        super().__init__()
        attends = hasattr(module, "attn_conv_Q")
        self.several = several
        self.layer = _Attention(module) if attends else _Concatenation(module)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.several:
            return self.layer(x)
        # A graph has no branches: for one channel the layer gets no frequencies.
        frequencies = x.size(2)
        count = (torch.full((), x.size(1)) > 1) * frequencies
        there = count.item()
        torch._check(there >= 0)
        torch._check(there <= frequencies)
        made = self.layer(x.narrow(2, 0, there))
        return torch.cat((made, x.narrow(2, there, frequencies - there)), dim=2)


class Block(torch.nn.Module):
    """One block of USES, USES2-Comp or USES2-Swin.

    Args:
        block: ESPnet's.
        memory: how many of the frames in front are memory.
        several: see :class:`_Channels`.
    """

    def __init__(self, block: torch.nn.Module, memory: int = 0, several: bool = True):
        super().__init__()
        self.memory, self.windows, self.channels = memory, None, None
        self.paths = torch.nn.ModuleList()
        if hasattr(block, "freq_nn"):
            paths = (block.freq_nn, block.temporal_nn)
            self.paths.extend(ImprovedTransformer(path) for path in paths)
        layers = getattr(block, "freq_temporal_nn", None)
        if hasattr(block, "tf_nn"):
            layers = [block.tf_nn]
        if layers is not None:
            self.windows = SwinLayer(layers, block.window_size)
        if block.with_channel_modeling:
            self.channels = _Channels(block.channel_nn, several)

    def forward(self, x: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        """Run the block.

        Args:
            x: (memory + frames, channels, frequencies, features).
            weights: of the channels (channels,), for a block that joins them.
        """
        if self.channels is None and x.size(1) != 1:
            x = (x * weights[:, None, None]).sum(dim=1, keepdim=True)
        if self.windows is not None and self.memory:
            x = torch.cat((x[: self.memory], self.windows(x[self.memory :])))
        elif self.windows is not None:
            x = self.windows(x)
        for path in self.paths:  # of frequencies, of frames
            x = path(x.transpose(0, 2).flatten(1, 2)).unflatten(1, x.shape[1::-1])
        return x if self.channels is None else self.channels(x)


class _Front(torch.nn.Module):
    """Features of a spectrum."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.conv, net = separator.post_encoder, separator.uses
        self.norm, self.bottleneck = net.layer_norm, net.bottleneck_conv1x1

    def forward(self, spectrum: torch.Tensor) -> torch.Tensor:
        """(frames, channels, bins, 2) -> (frames, channels, bins, features)."""
        x = self.conv(spectrum.permute(1, 3, 2, 0)).permute(3, 0, 2, 1)
        gamma, beta = self.norm.gamma.flatten(), self.norm.beta.flatten()
        eps = torch.finfo(x.dtype).eps
        x = layer_norm(x, x.shape[-1:], gamma, beta, eps)
        return linear(x, self.bottleneck.weight[..., 0])


class _Back(torch.nn.Module):
    """Spectra of features."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.activation, self.output = separator.uses.output
        self.conv, self.number = separator.pre_decoder, separator.num_spk

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bins, features) -> (number, frames, bins, 2)."""
        weight = self.output.weight.flatten(1)
        x = linear(self.activation(x), weight, self.output.bias)
        x = x.unflatten(2, (self.number, -1)).permute(2, 3, 1, 0)
        return self.conv(x).permute(0, 3, 2, 1)


def _axes(ends: Ends) -> tuple[str | int, ...]:
    """Axes of features: frames, channels and frequencies."""
    _, channels, bins, _ = ends.inputs(None)["spectrum"].axes
    return ("frames", channels, bins)


class Encoder(GraphModule):
    """Features of a mixture, and the memory in front of the first segment.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        net = separator.uses
        self.front = _Front(separator)
        tokens = net.memory_tokens
        tokens = [tokens] if net.memory_types == 1 else list(tokens)
        tokens = torch.stack([t.detach()[0, 0, :, 0].T for t in tokens])
        self.register_buffer("tokens", tokens)  # (modes, frames, features)
        axes, size = _axes(ends), net.bottleneck_size
        self.inputs = {**ends.inputs(None), "mode": Tensor("int64", ())}
        self.outputs = {
            "features": Tensor("float32", (*axes, size)),
            "memory": Tensor("float32", (net.memory_size, *axes[1:], size)),
        }
        self.sizes = SIZES

    def forward(
        self, spectrum: torch.Tensor, mode: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        x = self.front(spectrum)
        memory = self.tokens.index_select(0, mode[None])[0]
        return x, memory[:, None, None].expand(-1, x.size(1), x.size(2), -1)


class Segment(GraphModule):
    """One segment and the memory behind those before.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
        several: see :class:`_Channels`.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends, several: bool):
        super().__init__()
        net = separator.uses
        self.memory = net.memory_size
        self.blocks = torch.nn.ModuleList(
            Block(block, self.memory, several) for block in net.atf_blocks
        )
        (_, *axes), size = _axes(ends), net.bottleneck_size
        memory = Tensor("float32", (self.memory, *axes, size))
        self.inputs = {
            "features": Tensor("float32", (net.segment_size, *axes, size)),
            "memory": memory,
            "channel_weights": Tensor("float32", ("channels",)),
        }
        self.outputs = {
            "separated": Tensor("float32", (net.segment_size, axes[-1], size)),
            "next_memory": memory,
        }
        self.sizes = SIZES

    def forward(
        self, features: torch.Tensor, memory: torch.Tensor, weights: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        x = torch.cat((memory, features))
        for block in self.blocks:
            x = block(x, weights)
        memory = x[: self.memory].expand(-1, features.size(1), -1, -1)
        return x[self.memory :].mean(dim=1), memory


class Decoder(GraphModule):
    """Spectra of all segments.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        self.back = _Back(separator)
        axes = ("frames", _axes(ends)[-1], separator.uses.bottleneck_size)
        self.inputs = {"separated": Tensor("float32", axes)}
        self.outputs = ends.outputs(separator.num_spk)
        self.sizes = SIZES

    def forward(self, separated: torch.Tensor) -> torch.Tensor:
        return self.back(separated)


class Whole(GraphModule):
    """A model without segments, USES2-Swin.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
    """

    def __init__(self, separator: torch.nn.Module, ends: Ends):
        super().__init__()
        self.front, self.back = _Front(separator), _Back(separator)
        self.blocks = torch.nn.ModuleList(Block(b) for b in separator.uses.blocks)
        weights = Tensor("float32", ("channels",))
        self.inputs = {**ends.inputs(None), "channel_weights": weights}
        self.outputs = ends.outputs(separator.num_spk)
        self.sizes = SIZES

    def forward(self, spectrum: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        x = self.front(spectrum)
        for block in self.blocks:
            x = block(x, weights)
        return self.back(x.mean(dim=1))


def segmental(separator: torch.nn.Module, ends: Ends, several: bool) -> EnhModules:
    """A model that runs over segments with a memory.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
        several: whether channels are modelled where there are several only.
    """
    net = separator.uses
    return EnhModules(
        {
            "separator_encoder": Encoder(separator, spectral(ends)),
            "separator": Segment(separator, ends, several),
            "separator_decoder": Decoder(separator, ends),
        },
        ends,
        channels=None,
        method=Segmental(net.segment_size),
        averages=separator.ref_channel is None,
        modes=net.memory_types,
    )
