"""GeneratedFeatures that text-to-speech models generate: postnet and normalization."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.tts_module import TTSModule


class Denormalize(torch.nn.Module):
    """The inverse of ESPnet's ``GlobalMVN``."""

    def __init__(self, normalize: torch.nn.Module):
        super().__init__()
        scale = normalize.std.float() if normalize.norm_vars else None
        shift = normalize.mean.float() if normalize.norm_means else None
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(frames, dim) in the normalized domain -> in the features' own."""
        x = x if self.scale is None else x * self.scale
        return x if self.shift is None else x + self.shift


class GeneratedFeatures(torch.nn.Module):
    """A model's generated features, and those before they were normalized.

    Args:
        dim: size of a frame.
        normalize: ESPnet's ``GlobalMVN``, or None.
        frames: name of their axis of frames.
    """

    def __init__(
        self, dim: int, normalize: torch.nn.Module | None, frames: str = "frames_out"
    ):
        super().__init__()
        names = ["feat_gen"] + ["feat_gen_denorm"] * (normalize is not None)
        self.outputs = {name: Tensor("float32", (frames, dim)) for name in names}
        self.inverse = None if normalize is None else Denormalize(normalize)

    def forward(self, feats: torch.Tensor) -> list[torch.Tensor]:
        """(frames, dim) -> the outputs."""
        return [feats] if self.inverse is None else [feats, self.inverse(feats)]


def with_postnet(tts: torch.nn.Module, feats: torch.Tensor) -> torch.Tensor:
    """GeneratedFeatures (1, frames, dim) after the postnet, if there is one."""
    if tts.postnet is None:
        return feats
    return feats + tts.postnet(feats.transpose(1, 2)).transpose(1, 2)


class Postnet(TTSModule):
    """The end of an autoregressive model, which reads all its frames.

    Args:
        tts: ESPnet's model.
        postnet: its postnet, or None.
        activation: what follows the postnet, or None.
        normalize: ESPnet's ``GlobalMVN``, or None.
    """

    def __init__(
        self,
        tts: torch.nn.Module,
        postnet: torch.nn.Module | None,
        normalize: torch.nn.Module | None,
        activation: torch.nn.Module | None = None,
    ):
        super().__init__()
        self.postnet, self.activation = postnet, activation
        self.features = GeneratedFeatures(tts.odim, normalize, "frames")
        self.inputs = {"frames": Tensor("float32", ("frames", tts.odim))}
        self.outputs = self.features.outputs

    def forward(self, frames: torch.Tensor):
        """(frames, odim) -> features."""
        feats = with_postnet(self, frames[None])[0]
        if self.activation is not None:
            feats = self.activation(feats)
        return tuple(self.features(feats))
