"""``feats_extract: fbank``, ``spectrogram`` and ``linear_spectrogram``.

Text-to-speech models read speech for their style, and for teacher forcing.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.archs.default_frontend import RealStft
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModule


class Analysis(TTSModule):
    """A waveform to the features that a model was trained on.

    Args:
        extract: ESPnet's ``feats_extract``.
        normalize: ESPnet's ``GlobalMVN``, or None.
    """

    def __init__(self, extract: torch.nn.Module, normalize: torch.nn.Module | None):
        super().__init__()
        self.stft = RealStft(extract.stft)
        self.extract, self.normalize = extract, normalize
        self.inputs = {"speech": Tensor("float32", ("samples",))}
        shape = ("frames", extract.output_size())
        self.outputs = {"feats": Tensor("float32", shape)}

    @property
    def sizes(self):
        """A few frames, each of the samples that it needs."""
        return {"samples": 2 * self.stft.n_fft + 7 * self.stft.hop_length}

    def shortest(self) -> int:
        """The fewest samples that the reflection at the edges takes."""
        return self.stft.pad + 1 if self.stft.pad else self.stft.n_fft

    def features(self, power: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        """Power spectrum (1, frames, bins), (1,) -> (1, frames, dim)."""
        raise NotImplementedError

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        """(samples,) -> (frames, dim)."""
        length = torch.full((1,), speech.size(0), dtype=torch.int64)
        feats = self.features(*self.stft(speech[None], length))[0]
        if self.normalize is not None:
            if self.normalize.norm_means:
                feats = feats - self.normalize.mean.float()
            if self.normalize.norm_vars:
                feats = feats / self.normalize.std.float()
        return feats


class LogMel(Analysis):
    """``LogMelFbank``."""

    def features(self, power, lengths):
        return self.extract.logmel(power.clamp(min=1e-10).sqrt(), lengths)[0]


class LogSpectrogram(Analysis):
    """``LogSpectrogram``."""

    def features(self, power, lengths):
        return 0.5 * torch.log10(power.clamp(min=1e-10))


class LinearSpectrogram(Analysis):
    """``LinearSpectrogram``."""

    def features(self, power, lengths):
        return power.clamp(min=1e-10).sqrt()


_SMALL = dict(n_fft=64, hop_length=16)

for name, wrap, conf in (
    ("fbank", LogMel, dict(_SMALL, fs=8000, n_mels=10, fmin=80, fmax=3800)),
    ("spectrogram", LogSpectrogram, dict(_SMALL, win_length=50)),
    ("linear_spectrogram", LinearSpectrogram, dict(_SMALL, center=False)),
):
    register(Arch(role="feats_extract", name=name, wrap=wrap, tiny={"small": conf}))
