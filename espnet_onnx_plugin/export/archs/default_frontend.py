"""``frontend: default``: short-time Fourier transform and log Mel filterbank."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register


class RealStft(torch.nn.Module):
    """Power spectrum of ``espnet2.layers.stft.Stft`` in real arithmetic.

    ONNX has no complex numbers. The transform is a convolution of the waveform with
    windowed cosines and sines, which is the same sum in another order.
    """

    def __init__(self, stft: torch.nn.Module):
        super().__init__()
        self.hop_length = stft.hop_length
        self.n_fft = stft.n_fft
        self.center = stft.center
        self.pad = stft.n_fft // 2 if stft.center else 0
        if stft.window is None:
            window = torch.ones(stft.win_length, dtype=torch.float64)
        else:
            window = getattr(torch, f"{stft.window}_window")(
                stft.win_length, dtype=torch.float64
            )
        left = (stft.n_fft - stft.win_length) // 2  # torch.stft centres a short window
        window = torch.nn.functional.pad(
            window, (left, stft.n_fft - stft.win_length - left)
        )
        if stft.normalized:
            window = window / stft.n_fft**0.5
        bins = stft.n_fft // 2 + 1 if stft.onesided else stft.n_fft
        phase = torch.arange(bins)[:, None] * torch.arange(stft.n_fft)[None]
        # The remainder keeps the angle small, hence exact.
        phase = (phase % stft.n_fft).double() * (2 * torch.pi / stft.n_fft)
        kernel = torch.cat((phase.cos() * window, -phase.sin() * window))
        self.register_buffer("kernel", kernel[:, None].float())

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> power spectrum (B, frames, bins), (B,)."""
        lengths = (
            torch.div(
                lengths + 2 * self.pad - self.n_fft,
                self.hop_length,
                rounding_mode="floor",
            )
            + 1
        )
        x = x[:, None]
        if self.pad:
            x = torch.nn.functional.pad(x, (self.pad, self.pad), mode="reflect")
        spectrum = torch.nn.functional.conv1d(x, self.kernel, stride=self.hop_length)
        real, imag = spectrum.square().chunk(2, dim=1)
        return (real + imag).transpose(1, 2), lengths


class DefaultFrontend(torch.nn.Module):
    """Waveform to log Mel filterbank, ESPnet's ``DefaultFrontend`` for one channel."""

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        enhancement = frontend.frontend
        if enhancement is not None and (
            enhancement.use_wpe or enhancement.use_beamformer
        ):
            raise PluginError(
                "frontend 'default' with use_wpe or use_beamformer is not supported: "
                "set both to false in frontend_conf, or export a model trained without"
            )
        if not frontend.apply_stft:
            raise PluginError(
                "frontend 'default' with apply_stft: false is not supported: its input "
                "is a complex spectrum, and graphs take waveforms"
            )
        self.stft = RealStft(frontend.stft)
        self.logmel = frontend.logmel
        self.sampling_rate = int(frontend.logmel.mel_options["sr"])
        #: Of a frame, as a bundle describes it.
        self.window = dict(n_fft=self.stft.n_fft, center=self.stft.center)

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        stft = self.stft
        samples = stft.n_fft - 2 * stft.pad + (frames - 1) * stft.hop_length
        # The reflection at the edges needs more samples than it adds.
        return max(samples, stft.pad + 1)

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, n_mels), (B,)."""
        power, lengths = self.stft(speech, lengths)
        # ESPnet blanks the spectrum and the features beyond each length; the second
        # alone decides the output.
        mask = make_pad_mask(lengths, power, 1)
        return self.logmel(power.masked_fill(mask, 0.0), lengths)


register(
    Arch(
        role="frontend",
        name="default",
        wrap=DefaultFrontend,
        tiny={
            "hop128": dict(fs=8000, n_fft=64, hop_length=32, n_mels=20),
            "short_window": dict(
                fs=8000, n_fft=64, win_length=50, hop_length=20, n_mels=20
            ),
            "plain": dict(
                fs=8000,
                n_fft=64,
                hop_length=32,
                n_mels=20,
                window=None,
                center=False,
                normalized=True,
                fmin=80,
                fmax=3800,
                htk=True,
            ),
        },
        limits="one channel (the first, as in ESPnet); no WPE, no beamformer",
    )
)
