"""Blocks of TF-GridNet, in the layout in which onnxruntime runs them fastest.

ESPnet's three versions differ in how they pad and normalize. Here each is made of its
own weights over (frames, bins, channels): an LSTM then reads its sequences along the
first axis, without the copies that ESPnet makes around each layer, and what ESPnet
writes as unfolding and as a transposed convolution is slices and matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch.nn.functional import layer_norm, linear, pad, prelu

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer


class Path(torch.nn.Module):
    """An LSTM along one axis, and its input added.

    It reads ``kernel`` neighbours at once, every ``hop``, and gives what is added to
    as many.

    Args:
        block: ESPnet's.
        name: intra or inter.
        kernel, hop: as above.
    """

    def __init__(self, block: torch.nn.Module, name: str, kernel: int, hop: int):
        super().__init__()
        norm, rnn = getattr(block, f"{name}_norm"), getattr(block, f"{name}_rnn")
        last = getattr(block, f"{name}_linear")
        self.rnn, self.hop, self.pieces = RecurrentLayer(rnn), hop, -(-kernel // hop)
        # A LayerNorm, or the first version's own, which has all axes.
        self.eps, self.norm_weight, self.norm_bias = norm.eps, *(
            (norm.weight, norm.bias)
            if isinstance(norm, torch.nn.LayerNorm)
            else (norm.gamma.flatten(), norm.beta.flatten())
        )
        weight = self.rnn.weight
        if isinstance(last, torch.nn.Linear):
            read = weight.unflatten(2, (kernel, -1))
            give, bias = last.weight.detach().unflatten(0, (kernel, -1)), last.bias
        else:
            read = weight.unflatten(2, (-1, kernel)).transpose(2, 3)
            give, bias = last.weight.detach().permute(2, 1, 0), last.bias.repeat(hop)
        more = self.pieces * hop - kernel
        self.rnn.weight = pad(read, (0, 0, 0, more)).flatten(2)
        give = pad(give, (0, 0, 0, 0, 0, more)).unflatten(0, (self.pieces, hop))
        # Each (hop * channels, H), a weight of its own: quantization takes no parts.
        self.give = torch.nn.ParameterList(give.flatten(1, 2).unbind())
        self.register_buffer("bias", bias.detach())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run over the first axis.

        Args:
            x: (steps * hop, others, channels).
        """
        normed = layer_norm(x, x.shape[-1:], self.norm_weight, self.norm_bias, self.eps)
        if self.hop > 1:
            normed = normed.unflatten(0, (-1, self.hop)).transpose(1, 2).flatten(2)
        last = self.pieces - 1
        steps = normed.size(0) - last
        read = [normed.narrow(0, i, steps) for i in range(self.pieces)]
        y, *_ = self.rnn.sequences(torch.cat(read, dim=2) if last else normed)
        given = [linear(y, weight) for weight in self.give[:last]]
        total = pad(linear(y, self.give[last], self.bias), (0, 0, 0, 0, last, 0))
        for i, piece in enumerate(given):
            total = total + pad(piece, (0, 0, 0, 0, i, last - i))
        if last:  # the first of them have no bias yet
            total = total + pad(self.bias.expand(last, 1, -1), (0, 0, 0, 0, 0, steps))
        if self.hop > 1:
            total = total.unflatten(2, (self.hop, -1)).transpose(1, 2).flatten(0, 1)
        return x + total


class Heads(torch.nn.Module):
    """A linear layer, an activation and a normalization, for each of some heads.

    Args:
        weight: (heads * dim, channels[, 1, 1]).
        bias: (heads * dim,).
        activation: ``PReLU`` with a slope for each head, or something without weights.
        gamma, beta: of the normalization (heads, dim, bins), or (heads, dim, 1) where
            each bin is normalized by itself.
        eps: of the normalization.
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor,
        activation: torch.nn.Module,
        gamma: torch.Tensor,
        beta: torch.Tensor,
        eps: float,
    ):
        super().__init__()
        self.heads, self.dim, bins = gamma.shape
        self.each_bin, self.eps = bins == 1, eps
        self.activation = activation
        self.register_buffer("weight", weight.detach().flatten(1))
        self.register_buffer("bias", bias.detach())
        for name, value in (("gamma", gamma), ("beta", beta)):
            value = value.detach().transpose(1, 2)  # (heads, bins, dim)
            self.register_buffer(name, value if bins == 1 else value.flatten(1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bins, channels) -> (heads, frames, bins * dim)."""
        y = linear(x, self.weight, self.bias).unflatten(2, (self.heads, self.dim))
        y = y.permute(2, 0, 1, 3)
        if isinstance(self.activation, torch.nn.PReLU):
            y = prelu(y[None], self.activation.weight)[0]
        else:
            y = self.activation(y)
        y = y if self.each_bin else y.flatten(2)
        y = layer_norm(y, y.shape[-1:], eps=self.eps)
        y = y * self.gamma[:, None] + self.beta[:, None]
        return y.flatten(2) if self.each_bin else y


class GridBlock(torch.nn.Module):
    """One block.

    Args:
        block: ESPnet's.
        heads: queries, keys, values and what is made of the values.
        surrounded: whether zeros are put on both sides of each axis, or behind alone.
    """

    def __init__(
        self, block: torch.nn.Module, heads: Mapping[str, Heads], surrounded: bool
    ):
        super().__init__()
        self.kernel, self.hop = block.emb_ks, block.emb_hs
        self.left = self.kernel - self.hop if surrounded else 0
        self.intra = Path(block, "intra", self.kernel, self.hop)
        self.inter = Path(block, "inter", self.kernel, self.hop)
        self.heads = torch.nn.ModuleDict(heads)

    def _behind(self, size: int) -> int:
        """How many zeros stand behind an axis."""
        steps = (size + 2 * self.left - self.kernel + self.hop - 1) // self.hop + 1
        return (steps + self.intra.pieces - 1) * self.hop - self.left - size

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, bins, channels), as it comes."""
        frames, bins, channels = x.shape
        around = (self.left, self._behind(bins), self.left, self._behind(frames))
        x = pad(x, (0, 0, *around))
        x = self.intra(x.transpose(0, 1))
        x = self.inter(x.transpose(0, 1))
        x = x.narrow(0, self.left, frames).narrow(1, self.left, bins)
        query, key, value = (self.heads[name](x) for name in ("Q", "K", "V"))
        weight = query @ key.transpose(1, 2) / query.size(2) ** 0.5
        mixed = torch.softmax(weight, dim=2) @ value
        mixed = mixed.unflatten(2, (bins, -1)).permute(1, 2, 0, 3).flatten(2)
        return x + self.heads["proj"](mixed)[0].unflatten(1, (bins, channels))


class GridNet(GraphModule):
    """A whole separator.

    Args:
        separator: ESPnet's.
        ends: what stands around it.
        blocks: its blocks.
        scaled: whether the mixture is brought to variance 1 before, and back after.
    """

    def __init__(
        self,
        separator: torch.nn.Module,
        ends: Ends,
        blocks: list[GridBlock],
        scaled: bool,
    ):
        super().__init__()
        self.conv, self.deconv = separator.conv, separator.deconv
        self.blocks = torch.nn.ModuleList(blocks)
        self.number, self.scaled = separator.num_spk, scaled
        several = () if separator.n_imics == 1 else (separator.n_imics,)
        self.inputs = ends.inputs(separator.n_imics)
        if scaled:
            speech = Tensor("float32", ("samples", *several))
            self.inputs = {**self.inputs, "speech": speech}
        self.outputs = ends.outputs(self.number)
        self.sizes = dict(samples=2111, frames=53, bins=37)

    def forward(self, x: torch.Tensor, *speech: torch.Tensor) -> torch.Tensor:
        deviation = speech[0].std() if self.scaled else 1.0
        x = x / deviation
        x = x.permute(3, 1, 0, 2).flatten(0, 1) if x.ndim == 4 else x.permute(2, 0, 1)
        x = self.conv(x[None])[0].permute(1, 2, 0)
        for block in self.blocks:
            x = block(x)
        x = self.deconv(x.permute(2, 0, 1)[None])[0]
        return x.unflatten(0, (self.number, 2)).permute(0, 2, 3, 1) * deviation


def own_ends(separator: torch.nn.Module, ends: Ends) -> Ends:
    """The transforms that the first two versions hold themselves.

    Raises:
        PluginError: if the model has others besides.
    """
    if ends.encoder is not None or ends.decoder is not None:
        raise PluginError(
            "this separator transforms waveforms itself: encoder and decoder have to "
            "be 'same'"
        )
    return Ends(separator.enc, separator.dec)


def grid(
    separator: torch.nn.Module,
    ends: Ends,
    blocks: list[GridBlock],
    scaled: bool,
    min_length: int = 1,
) -> EnhModules:
    """All of a TF-GridNet, see :class:`GridNet` and :class:`EnhModules`."""
    module = GridNet(separator, ends, blocks, scaled)
    return EnhModules(
        {"separator": module},
        ends,
        channels=separator.n_imics,
        min_length=min_length,
    )


def shared_heads(block: torch.nn.Module) -> dict[str, Heads]:
    """Heads of the later versions, whose heads share a layer."""
    made = {}
    for name in ("Q", "K", "V"):
        conv = getattr(block, f"attn_conv_{name}")
        norm = getattr(block, f"attn_norm_{name}")
        made[name] = Heads(
            conv.weight,
            conv.bias,
            norm.act,
            norm.gamma[0, :, :, 0],
            norm.beta[0, :, :, 0],
            norm.eps,
        )
    return {**made, "proj": heads_of([block.attn_concat_proj])}


def heads_of(heads: list[torch.nn.Sequential]) -> Heads:
    """Heads that have layers of their own: 1x1 convolution, activation, norm.

    Raises:
        PluginError: if the activation has weights that are not known.
    """
    convs, activations, norms = zip(*heads)
    activation = activations[0]
    if isinstance(activation, torch.nn.PReLU):
        activation = torch.nn.PReLU(len(heads))
        activation.weight.data = torch.cat([a.weight.data for a in activations])
    elif list(activation.parameters()):
        raise PluginError(
            f"activation {type(activation).__name__} of tfgridnet is not supported"
        )
    return Heads(
        torch.cat([conv.weight for conv in convs]),
        torch.cat([conv.bias for conv in convs]),
        activation,
        torch.cat([norm.gamma[:, :, 0] for norm in norms]),
        torch.cat([norm.beta[:, :, 0] for norm in norms]),
        norms[0].eps,
    )
