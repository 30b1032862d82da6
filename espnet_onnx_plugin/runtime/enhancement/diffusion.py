"""Enhancement by reverse diffusion: predictor and corrector around a score network.

Y. Song et al., "Score-Based Generative Modeling through Stochastic Differential
Equations", algorithms 3 and 5, for the process of S. Welker et al., "Speech Enhancement
with Score-Based Generative Models in the Complex STFT Domain", as
``espnet2.enh.diffusion`` samples it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class DiffusionSeparation:
    """Runs the graph ``separator``, which is the score, at every step.

    Args:
        bundle: where it lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        described = bundle.manifest.enhancement
        assert described is not None and isinstance(described.method, Diffusion)
        self._method = described.method
        self._score = Session(bundle, "separator", device)
        ratio = self._method.sigma_max / self._method.sigma_min
        self._log_ratio = math.log(ratio)
        self.begin(0)

    def begin(self, seed: int, job: bool = False) -> None:
        """Draw from now on as after a seed, for one mixture after the other.

        Args:
            seed: as torch's.
            job: whether numbers are left out that ESPnet's job draws before.
        """
        self.noise = Noise(seed)
        if job:
            self.noise.skip(self._method.drawn)

    def __call__(self, inputs: Mapping[str, np.ndarray]) -> np.ndarray:
        """Outputs of one mixture, see :class:`~.engine.Separation`."""
        method, mixture = self._method, inputs["spectrum"]
        if method.normalize:
            peak = np.hypot(mixture[..., 0], mixture[..., 1]).max()
            mixture = mixture / (peak * np.float32(1.1) + np.float32(1e-5))
        sample: np.ndarray = mixture + self._draw(mixture) * self._deviation(1.0)
        mean = sample
        for time in np.linspace(1, method.end, method.steps):
            for _ in range(method.corrector_steps):
                step = 2 * (method.snr * self._deviation(time)) ** 2
                mean = sample + np.float32(step) * self.score(sample, mixture, time)
                sample = mean + self._draw(mixture) * np.float32(math.sqrt(2 * step))
            growth = self._growth(time)
            drift = np.float32(method.theta / method.steps) * (mixture - sample)
            score = self.score(sample, mixture, time)
            mean = sample - (drift - np.float32(growth**2) * score)
            sample = mean + self._draw(mixture) * np.float32(growth)
        return mean[None]

    def score(self, sample: np.ndarray, mixture: np.ndarray, time: float) -> np.ndarray:
        """Direction in which the data lie of a sample.

        Args:
            sample, mixture: (frames, bins, 2).
            time: from 1, where there is noise, to 0.
        """
        [score] = run(
            self._score,
            {
                "sample": sample,
                "spectrum": mixture,
                "time": np.array([time], np.float32),
            },
        ).values()
        return score

    def _draw(self, like: np.ndarray) -> np.ndarray:
        """As ``torch.randn_like`` draws complex numbers: each part has variance 1/2.

        ESPnet's spectra are transposed, so that torch draws one number at a time, in
        the order of memory; with a single frame, or frequency, they are not.
        """
        blocked = 1 in like.shape[:2]
        return self.noise.normal(*like.shape, blocked=blocked) * np.float32(0.5**0.5)

    def _deviation(self, time: float) -> np.float32:
        """Standard deviation of the process at a time: ``OUVESDE._std``."""
        method, log_ratio = self._method, self._log_ratio
        rate = method.theta + log_ratio
        variance = method.sigma_min**2 * math.exp(-2 * method.theta * time)
        variance *= math.expm1(2 * rate * time) * log_ratio / rate
        return np.float32(math.sqrt(variance))

    def _growth(self, time: float) -> float:
        """Standard deviation of what one step adds: ``OUVESDE.discretize``."""
        sigma = self._method.sigma_min * math.exp(self._log_ratio * time)
        return sigma * math.sqrt(2 * self._log_ratio / self._method.steps)
