"""Features of a stream: the frontend's graph, run over what has come so far.

Four ways to cut: ESPnet's three, whose frames depend on the pieces that the audio comes
in, and the exact one, whose frames are those of the whole utterance.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Framing
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session

#: Waveform (samples,) to features (frames, dim).
Extract = Callable[[np.ndarray], np.ndarray]


def extractor(bundle: Bundle, device: Device) -> Extract:
    """The frontend of a bundle; without one, features are read as they are."""
    if "frontend" not in bundle.manifest.graphs:
        return lambda feats: feats
    frontend = Session(bundle, "frontend", device)

    def extract(samples: np.ndarray) -> np.ndarray:
        lengths = np.array([len(samples)])
        feeds = {"speech": samples[None], "speech_lengths": lengths}
        made = frontend.run(feeds, fetch=("feats", "feats_lengths"))["feats"]
        return np.asarray(made)[0]

    return extract


@dataclass(frozen=True)
class Held:
    """A stream's state between two calls.

    Attributes:
        samples: (samples,), or (frames, dim) where there is no frontend, of which not
            everything has been made yet.
        begun: whether a call has been before.
        frames: how many have been given.
    """

    samples: np.ndarray
    begun: bool = False
    frames: int = 0

    def __len__(self) -> int:
        return len(self.samples)


class StreamFrontend(ABC):
    """Makes features of a waveform that comes in pieces.

    A model without a frontend reads features, which go through the same arithmetic.

    Args:
        framing: of the bundle.
        extract: makes features of a waveform, as of a whole utterance.
    """

    def __init__(self, framing: Framing, extract: Extract):
        self._framing = framing
        self._extract = extract
        #: Frames that a cut spoils on either side, as ESPnet counts them.
        self._trim = math.ceil(math.ceil(framing.win_length / framing.hop_length) / 2)

    def open(self) -> Held:
        """The state of a stream of which nothing has come yet."""
        return Held(np.zeros(0, np.float32))

    def feed(
        self, held: Held, samples: np.ndarray, last: bool
    ) -> tuple[np.ndarray | None, Held]:
        """Make the features that a piece of the stream completes.

        Args:
            held: as :meth:`open` or the call before gave it; it is not changed.
            samples: (samples,), any number of them.
            last: whether nothing follows.

        Returns:
            (frames, dim), or None where ESPnet gives nothing to its encoder; and the
            state behind them.
        """
        if len(held):
            samples = np.concatenate((held.samples, samples))
        feats, rest = self._feed(replace(held, samples=samples), last)
        frames = held.frames + (0 if feats is None else len(feats))
        # A view would keep the whole of a long piece in memory.
        return feats, Held(rest.samples.copy(), True, frames)

    @abstractmethod
    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        """The features of everything that is there, and what is to be kept of it."""

    @staticmethod
    def _padded(samples: np.ndarray, length: int) -> np.ndarray:
        """A waveform of at least so many samples, zeros behind it."""
        missing = length - len(samples)
        if missing <= 0 or samples.ndim > 1:
            return samples
        return np.pad(samples, (0, missing))

    def _trimmed(
        self, held: Held, samples: np.ndarray, last: bool
    ) -> np.ndarray | None:
        """Features without those that a cut spoils; None if these are too many."""
        feats = self._extract(samples)
        first = self._trim if held.begun else 0
        end = len(feats) - (0 if last else self._trim)
        return feats[first:end] if last or first <= end else None


class AsrFrontend(StreamFrontend):
    """Frames as ``espnet2/bin/asr_inference_streaming.py`` makes them.

    Up to a window of samples is held back, and what follows counts as the middle of the
    utterance even where it is the beginning. Where ESPnet fails, for it wants to keep
    more than there is, more is waited for.
    """

    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        samples, framing = held.samples, self._framing
        if last:
            window = max(framing.win_length, framing.shortest)
            return self._trimmed(held, self._padded(samples, window), last), held
        rest = len(samples) % framing.hop_length
        kept = (2 * self._trim - 1) * framing.hop_length + rest
        if len(samples) <= framing.win_length or kept > len(samples):
            return None, held
        feats = self._trimmed(held, samples[: len(samples) - rest], last)
        if feats is None:
            return None, held
        return feats, replace(held, samples=samples[len(samples) - kept :])


class StFrontend(StreamFrontend):
    """Frames as ``espnet2/bin/st_inference_streaming.py`` makes them.

    Where ESPnet fails, for there is less than it trims or than the transform takes,
    more is waited for.
    """

    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        samples, framing = held.samples, self._framing
        if last:
            samples = self._padded(samples, framing.shortest)
            return self._trimmed(held, samples, last), held
        overlap = framing.win_length - framing.hop_length
        end = len(samples) - (len(samples) - overlap) % framing.hop_length
        if end < max(overlap, framing.shortest):
            return None, held
        feats = self._trimmed(held, samples[:end], last)
        if feats is None:
            return None, held
        return feats, replace(held, samples=samples[end - overlap :])


class TransducerFrontend(StFrontend):
    """Frames of ``espnet2/asr_transducer/frontend/online_audio_processor.py``.

    As in ESPnet, a window is ``n_fft`` samples whatever ``win_length`` is, a last piece
    is padded to a decoding window, and an utterance of one piece loses its end.

    Args:
        framing, extract: see :class:`StreamFrontend`.
        window: samples of a decoding window.

    Attributes:
        fewest: feature frames of an utterance, at least.
    """

    def __init__(self, framing: Framing, extract: Extract, window: int):
        if framing.n_fft is None:
            raise PluginError(
                "the frames of this frontend are not made of a window of the waveform, "
                "by which ESPnet's streaming of transducers cuts it"
            )
        super().__init__(replace(framing, win_length=framing.n_fft), extract)
        self._window = window
        reach = window + 2 * framing.pad - framing.n_fft
        self.fewest = max(0, reach // framing.hop_length + 1 - self._trim)

    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        held = replace(held, begun=held.frames > 0)
        if not last:
            return super()._feed(held, last)
        samples = self._padded(held.samples, self._window)
        return self._trimmed(held, samples, last=held.begun), held


class ExactFrontend(StreamFrontend):
    """Frames of the whole utterance, whatever the pieces are.

    A frame is given when all its samples are there; the reflection at the ends of the
    waveform is that of its true ends. Before the first frame that is not given, so many
    samples are kept that the frames which the cut spoils are before it, too. An
    utterance of less than a window is padded as in ESPnet.
    """

    def __init__(self, framing: Framing, extract: Extract):
        super().__init__(framing, extract)
        if framing.n_fft is None:
            raise PluginError(
                "the frames of this frontend are not made of a window of the waveform, "
                "and have no exact form on a stream: use frontend espnet"
            )
        self._reach = framing.n_fft - framing.pad
        self._window = max(framing.win_length, framing.shortest)
        #: Frames that are made again before the first new one.
        self._before = framing.pad // framing.hop_length + 1

    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        samples, framing = held.samples, self._framing
        again = min(held.frames, self._before)
        if last:
            if not held.frames:
                samples = self._padded(samples, self._window)
            return self._extract(samples)[again:], held
        complete = (len(samples) - self._reach) // framing.hop_length + 1
        waits = not held.frames and len(samples) <= self._window
        if waits or complete <= again:
            return None, held
        feats = self._extract(samples)[again:complete]
        drop = max(0, complete - self._before) * framing.hop_length
        return feats, replace(held, samples=samples[drop:])


class ReadFeatures(StreamFrontend):
    """Frames of a model that has no frontend, as they come."""

    def _feed(self, held: Held, last: bool) -> tuple[np.ndarray | None, Held]:
        return held.samples, replace(held, samples=held.samples[:0])
