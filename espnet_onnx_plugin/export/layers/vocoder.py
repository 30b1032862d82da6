"""From features to the waveform, as a graph."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import nothing_rectified
from espnet_onnx_plugin.export.registry import all_archs
from espnet_onnx_plugin.export.tts_module import TTSModule


def fold_weight_norm(module: torch.nn.Module) -> None:
    """Make the weights of a module what weight normalization makes them at each call.

    A graph would make them at each call too, and a quantizer would not know them.
    """
    for layer in module.modules():
        if hasattr(layer, "weight_g"):
            torch.nn.utils.remove_weight_norm(layer)
        elif hasattr(layer, "parametrizations"):
            torch.nn.utils.parametrize.remove_parametrizations(layer, "weight")


class Vocoder(TTSModule):
    """A generator of ESPnet or of parallel_wavegan.

    Args:
        generator: maps (1, dim, frames) to (1, bands, samples / bands).
        dim: size of a frame of the features.
        pqmf: what joins the bands; default: the generator's own, if it has one.
        condition: size of the vector that the whole utterance is conditioned on.
        factor: samples for each frame; default: the generator's own, or measured.

    Attributes:
        factor: samples for each frame.
        block: frames of a block of noise, where the noise has blocks.
        tokens: how many ids there are, where the features are such.
    """

    block = 1
    tokens: int | None = None

    def __init__(
        self,
        generator: torch.nn.Module,
        dim: int,
        pqmf: torch.nn.Module | None = None,
        condition: int | None = None,
        factor: int | None = None,
    ):
        super().__init__()
        fold_weight_norm(generator)
        self.generator = generator
        self.pqmf = getattr(generator, "pqmf", None) if pqmf is None else pqmf
        # parallel_wavegan keeps the statistics of its features in the generator.
        self.normalizes = hasattr(generator, "mean")
        if factor is None:
            factor = getattr(generator, "upsample_factor", None)
        if factor is not None:
            self.factor = int(factor)
        else:  # some of parallel_wavegan's, which read features alone
            with torch.no_grad():
                self.factor = len(self(torch.zeros(64, dim))) // 64
        self.inputs: dict[str, Tensor] = {
            "feats": Tensor("float32", ("frames", dim)),
            **self.source(),
        }
        if condition is not None:
            self.inputs["condition"] = Tensor("float32", (condition,))
        self.outputs = {"wav": Tensor("float32", ("samples",))}

    def source(self) -> dict[str, Tensor]:
        """Noise or sines that it reads besides the features, by name."""
        return {}

    def generate(self, c: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """(1, dim, frames) and the other inputs -> (1, bands, samples / bands)."""
        raise NotImplementedError

    def forward(self, feats: torch.Tensor, *others: torch.Tensor) -> torch.Tensor:
        """(frames, dim) -> (samples,)."""
        if self.normalizes:
            feats = (feats - self.generator.mean) / self.generator.scale
        wav = self.generate(feats.T[None], *others)
        if self.pqmf is not None:
            wav = self.pqmf.synthesis(wav)
        return wav[0].T.reshape(-1)


def by_frame(tensor: Tensor) -> bool:
    """Whether a vocoder's input has a row for each frame."""
    return tensor.axes[:1] == ("frames",)


@contextlib.contextmanager
def _in_double(module: torch.nn.Module) -> Iterator[None]:
    dtype = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    module.double()
    try:
        yield
    finally:
        module.float()
        torch.set_default_dtype(dtype)


@torch.no_grad()
def context(vocoder: Vocoder, longest: int = 512) -> tuple[int, int] | None:
    """Frames before and after a frame that decide the frame's samples.

    Measured: one frame is changed, and the samples that change are looked at.

    Args:
        vocoder: whose it is.
        longest: frames that it is looked for in.

    Returns:
        How many before and after; None if it sees every frame there is.
    """
    generator = torch.Generator().manual_seed(0)

    def draw(shape: Sequence[int], tensor: Tensor) -> torch.Tensor:
        if tensor.dtype == "int64":
            return torch.randint(vocoder.tokens, tuple(shape), generator=generator)
        return torch.randn(tuple(shape), generator=generator).double()

    frames = 64
    with _in_double(vocoder), nothing_rectified():
        while frames <= longest:
            sizes = {"frames": frames, "blocks": math.ceil(frames / vocoder.block)}
            inputs = {
                name: draw([sizes.get(axis, axis) for axis in tensor.axes], tensor)
                for name, tensor in vocoder.inputs.items()
            }
            whole = vocoder(*inputs.values())
            middle, before, after = frames // 2, 0, 0
            for name in 3 * [n for n, t in vocoder.inputs.items() if by_frame(t)]:
                values = inputs[name].clone()
                values[middle] = draw(values[middle].shape, vocoder.inputs[name])
                changed = vocoder(*{**inputs, name: values}.values()) != whole
                touched = changed.view(frames, -1).any(dim=1).nonzero()
                if len(touched):
                    before = max(before, int(touched[-1]) - middle)
                    after = max(after, middle - int(touched[0]))
            if before < frames - 1 - middle and after < middle:
                return before, after
            frames *= 2
    return None


def find_vocoder(generator: torch.nn.Module) -> Callable[..., Vocoder]:
    """The wrapper of a generator, by the name of its class.

    Raises:
        PluginError: if its class is not supported.
    """
    name = type(generator).__name__
    for arch in all_archs():
        if arch.role == "vocoder" and arch.name.replace("_", "") == name.lower():
            return arch.wrap
    known = ", ".join(arch.name for arch in all_archs() if arch.role == "vocoder")
    raise PluginError(f"vocoder '{name}' is not supported (supported: {known})")
