"""Mixtures that are still coming in, and what has been separated of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError


class Progress(Protocol):
    """Separation of one mixture as it comes."""

    def add(self, samples: np.ndarray) -> np.ndarray | None:
        """Separate on.

        Args:
            samples: (samples[, channels]), at least one.

        Returns:
            (outputs, samples) that have become known, or None.
        """

    def end(self) -> np.ndarray:
        """Give the rest: (outputs, samples), with it as many as have come."""


class MixtureStream:
    """A mixture that is still coming in; made by a model's ``stream``.

    It comes in pieces of any size, and what is kept of it does not grow. The peaks of
    its outputs are not known before its end, so they cannot be brought to 0.9, as
    ESPnet's commands do: a ``scale`` stands in for that.

    Args:
        begin: begins the separation of a mixture.
        check: makes samples what the model reads.
        described: the model.
        fs: samples a second.
        scale: factor of the outputs.
        latency: samples, see the attribute.

    Raises:
        PluginError: if the model cannot take the rate.

    Attributes:
        latency: seconds of the mixture that have to come from a sample on before that
            sample of the outputs is known. Computing takes time besides.
        samples: how many have come.
        busy_seconds: time that computing took.
    """

    def __init__(
        self,
        begin: Callable[[], Progress],
        check: Callable[[np.ndarray], np.ndarray],
        described: Enhancement,
        fs: int,
        scale: float,
        latency: int,
    ):
        if fs < 1:
            raise PluginError(f"sampling rate {fs} has to be 1 or more")
        rate = described.forward_rate
        if rate not in (None, fs):
            raise PluginError(
                f"the model works at {rate} samples a second, the stream comes at "
                f"{fs}: resample it"
            )
        self._begin, self._check = begin, check
        self._nothing = np.zeros((described.outputs, 0), np.float32)
        self._fs, self._scale = fs, np.float32(scale)
        self.latency = latency / fs
        self.reset()

    def reset(self) -> None:
        """Forget everything, as if nothing had come."""
        self._progress: Progress | None = None
        self.samples = 0
        self.busy_seconds = 0.0

    def feed(self, samples: np.ndarray) -> np.ndarray:
        """Separate on.

        Args:
            samples: (samples,) or (samples, channels), any number of them.

        Returns:
            (outputs, samples), those that have become known.

        Raises:
            PluginError: if the model cannot take the samples.
        """
        if not np.size(samples):
            return self._nothing
        start = time.perf_counter()
        checked = self._check(samples)
        if self._progress is None:
            self._progress = self._begin()
        made = self._progress.add(checked)
        self.samples += len(checked)
        self.busy_seconds += time.perf_counter() - start
        return self._nothing if made is None else made * self._scale

    def finish(self) -> np.ndarray:
        """End the mixture; what comes next is another one.

        Returns:
            (outputs, samples), the rest: with it there are as many as have come.

        Raises:
            PluginError: if the mixture is too short for the model.
        """
        ended, self._progress = self._progress, None
        if ended is None:
            return self._nothing
        start = time.perf_counter()
        made = ended.end()
        self.busy_seconds += time.perf_counter() - start
        return made * self._scale

    @property
    def real_time_factor(self) -> float:
        """Seconds that computing took, for a second of what has come."""
        return self.busy_seconds * self._fs / self.samples if self.samples else 0.0
