"""Score networks of diffusion models, without complex numbers: ONNX has none.

ESPnet's layers run as they are, on pairs of real and imaginary parts.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from espnet2.enh.layers import dcunet, ncsnpp
from espnet2.enh.layers.ncsnpp_utils import up_or_down_sampling
from torch.nn.functional import conv2d, conv_transpose2d, pad

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import replaced


class Pair:
    """A complex tensor, as far as ESPnet's layers use one.

    Args:
        parts: (..., 2), real and imaginary.
    """

    def __init__(self, parts: torch.Tensor):
        self.parts = parts

    @classmethod
    def of(cls, real: torch.Tensor, imag: torch.Tensor) -> Pair:
        """Put one together."""
        return cls(torch.stack((real, imag), dim=-1))

    @property
    def shape(self) -> torch.Size:
        return self.parts.shape[:-1]

    @property
    def real(self) -> torch.Tensor:
        return self.parts[..., 0]

    @property
    def imag(self) -> torch.Tensor:
        return self.parts[..., 1]

    def __getitem__(self, index: tuple) -> Pair:
        return Pair(self.parts[(*index, slice(None))])

    def __add__(self, other: Pair) -> Pair:
        return Pair(self.parts + other.parts)


class ScoreNetwork(torch.nn.Module):
    """A network that says which way the noise of a spectrum lies.

    Args:
        net: ESPnet's.
    """

    def __init__(self, net: torch.nn.Module):
        super().__init__()
        self.net = net

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Run the network.

        Args:
            x: (1, 2, bins, frames, 2): a noisy sample and the mixture, parts last.
            time: (1,).

        Returns:
            (1, 1, bins, frames, 2).
        """
        raise NotImplementedError


def _resampled(
    x: torch.Tensor,
    kernel: torch.Tensor,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int] = (0, 0),
) -> torch.Tensor:
    """Filter as ``upfirdn2d``, which computes what it throws away.

    Args:
        x: (batch, channels, height, width).
        kernel: (size, size).
        up, down: one of them is 1.
        pad: zeros before and behind both axes.
    """
    flat, size = x.flatten(0, 1)[:, None], kernel.size(0)
    if up == 1:
        flat = torch.nn.functional.pad(flat, (*pad, *pad))
        flat = conv2d(flat, kernel.flip(0, 1)[None, None], stride=down)
    else:
        flat = conv_transpose2d(flat, kernel[None, None], stride=up)
        cut, lengths = size - 1 - pad[0], [
            s * up + sum(pad) - size + 1 for s in x.shape[2:]
        ]
        flat = flat.narrow(2, cut, lengths[0]).narrow(3, cut, lengths[1])
    return flat[:, 0].unflatten(0, x.shape[:2])


class NcsnppScore(ScoreNetwork):
    """NCSN++, whose frames are padded to a multiple of 64."""

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Score, see the base class."""
        with contextlib.ExitStack() as stack:
            for owner, name, value in (
                (self.net, "pad_spec", self._padded),
                (up_or_down_sampling, "upfirdn2d", _resampled),
                (torch, "view_as_complex", lambda parts: parts),
            ):
                stack.enter_context(replaced(owner, name, value))
            return self.net(Pair(x), time)

    @staticmethod
    def _padded(x: Pair) -> Pair:
        return Pair(pad(x.parts, (0, 0, 0, -x.shape[3] % 64)))


class DcunetScore(ScoreNetwork):
    """DCUNet, whose frames are padded, or cut, to where its strides meet."""

    def __init__(self, net: torch.nn.Module, bins: int):
        super().__init__(net)
        frequencies, self.stride = (int(n) for n in net.encoders_stride_product)
        if (bins - 1) % frequencies:
            raise PluginError(
                f"score_model dcunet {net.architecture} takes numbers of frequencies "
                f"that are 1 more than a multiple of {frequencies}, not {bins}"
            )
        self.fix = net.fix_length_mode
        self._paddings: dict[int, list[int]] = {}
        with torch.no_grad(), self._recorded():
            frames = 4 * self.stride + 1
            net(torch.zeros(1, 2, bins, frames, dtype=torch.cfloat), torch.ones(1))

    @contextlib.contextmanager
    def _recorded(self) -> Iterator[None]:
        """Keep how much each transposed convolution adds: ESPnet asks for a size."""
        own = torch.nn.ConvTranspose2d._output_padding

        def record(module: torch.nn.Module, *args: object, **kwargs: object):
            self._paddings[id(module)] = own(module, *args, **kwargs)
            return self._paddings[id(module)]

        with replaced(torch.nn.ConvTranspose2d, "_output_padding", record):
            yield

    def forward(self, x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        """Score, see the base class."""
        frames = x.size(3)
        if self.fix == "pad":
            x = pad(x, (0, 0, 0, -(frames - 1) % self.stride))
        elif self.fix == "trim":
            x = x.narrow(3, 0, (frames - 1) // self.stride * self.stride + 1)

        def known(module: torch.nn.Module, *_: object, **__: object) -> list[int]:
            return self._paddings[id(module)]

        with contextlib.ExitStack() as stack:
            for owner, name, value in (
                (dcunet, "torch_complex_from_reim", Pair.of),
                (dcunet.ComplexLinear, "forward", _linear),
                (torch, "view_as_complex", Pair),
                (torch.nn.ConvTranspose2d, "_output_padding", known),
            ):
                stack.enter_context(replaced(owner, name, value))
            made = self._run(Pair(x), time).parts
        if self.fix == "trim":
            return pad(made, (0, 0, 0, frames - made.size(3)))
        return made.narrow(3, 0, frames)

    def _run(self, x: Pair, time: torch.Tensor) -> Pair:
        net, seen = self.net, []
        embedded = None if net.time_embedding is None else self._embedded(time)
        for encoder in net.encoders:
            x = encoder(x, embedded)
            seen.append(x)
        for skipped, decoder in zip(reversed(seen[:-1]), net.decoders):
            x = decoder(x, embedded, output_size=[])
            x = Pair(torch.cat((x.parts, skipped.parts), dim=1))
        return net.output_layer(x, output_size=[])

    def _embedded(self, time: torch.Tensor) -> Pair:
        first, *others = self.net.embed
        if hasattr(first, "W"):
            angle = time[:, None] * first.W[None] * 2 * math.pi
        else:
            steps = torch.arange(first.embed_dim) / (first.embed_dim - 1)
            angle = time[:, None] * (10 ** (4 * steps))[None]
        if first.complex_valued:
            x = Pair.of(torch.cos(angle), torch.sin(angle))
        else:
            real = torch.cat((torch.sin(angle), torch.cos(angle)), dim=1)
            x = Pair.of(real, torch.zeros_like(real))
        for layer in others:
            x = layer(x)
        return x


def _linear(self: torch.nn.Module, x: Pair) -> Pair:
    """``ComplexLinear.forward``."""
    real = self.re(x.real) - self.im(x.imag)
    return Pair.of(real, self.re(x.imag) + self.im(x.real))


def score_network(net: torch.nn.Module, bins: int) -> ScoreNetwork:
    """The network without complex numbers.

    Args:
        net: ESPnet's.
        bins: how many frequencies it reads.

    Raises:
        PluginError: if it is not known, or cannot take so many.
    """
    if isinstance(net, ncsnpp.NCSNpp):
        return NcsnppScore(net)
    if isinstance(net, dcunet.DCUNet):
        return DcunetScore(net, bins)
    raise PluginError(f"score_model {type(net).__name__} is not supported")
