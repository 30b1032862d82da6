"""Diarization, alone or with separation: the bundles of tasks diar and enh_diar."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.diarization.activities import (
    at_samples,
    most_alike,
    sigmoid,
)
from espnet_onnx_plugin.runtime.diarization.diarizer import Diarizer
from espnet_onnx_plugin.runtime.diarization.options import DiarOptions
from espnet_onnx_plugin.runtime.enhancement.engine import to_peak
from espnet_onnx_plugin.runtime.enhancement.enhancer import Enhancer
from espnet_onnx_plugin.runtime.enhancement.multi_mask import NUM_SPK
from espnet_onnx_plugin.runtime.enhancement.segments import Stitching
from espnet_onnx_plugin.runtime.io.speech import prepare


class Diarized(NamedTuple):
    """One recording, diarized.

    Attributes:
        waves: (speakers, samples), or None where nothing separates them.
        activities: (frames, speakers), probabilities.
    """

    waves: np.ndarray | None
    activities: np.ndarray


class DiarizeSpeech(OpenedModel[DiarOptions]):
    """A bundle's model, as ``espnet2.bin.diar_inference.DiarizeSpeech``.

    The options are those of
    :class:`~espnet_onnx_plugin.runtime.diarization.options.DiarOptions`.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Attributes:
        num_spk: how many speakers there are in a recording; None: they are counted.
        most: the most speakers that it separates; None: it separates none.
    """

    task = "diar"
    joint_task = "enh_diar"
    options_class = DiarOptions

    def _open(self) -> None:
        self.options = self._options
        self._diarizer = Diarizer(self.bundle, self.device)
        self._enhancer: Enhancer | None = None
        if self.options.enh_s2t_task:
            self._enhancer = Enhancer(self.bundle, self.device)
        self.num_spk, fixed = self.options.num_spk, self._diarizer.described.num_spk
        self.most: int | None = None
        if self._enhancer is not None:
            self.most = self._enhancer.described.outputs
        if fixed is not None and self.num_spk != fixed:
            raise PluginError(
                f"num_spk {self.num_spk}: the model does not count speakers, it was "
                f"trained on {fixed}: set num_spk to {fixed}"
            )
        if self.num_spk is not None and self.most is not None:
            self._separable(self.num_spk)

    @property
    def enhancement(self) -> Enhancement | None:
        """Description of the separation, where there is one."""
        return None if self._enhancer is None else self._enhancer.described

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds of the newest call by part."""
        parts = {"diarization": self._diarizer.seconds}
        if self._enhancer is not None:
            parts["separator"] = self._enhancer.seconds
        return parts

    def __call__(
        self, speech: np.ndarray, fs: int = 8000
    ) -> tuple[list[np.ndarray] | None, np.ndarray]:
        """Diarize recordings of one length, and separate their speakers.

        Args:
            speech: (utterances, samples), or (utterances, frames, dim) where the model
                reads features.
            fs: samples a second, by which segments are cut.

        Returns:
            Of each speaker (utterances, samples), or None where nothing separates them;
            and the probabilities (utterances, frames, speakers) that one is active.
            ESPnet returns the pair in both cases.

        Raises:
            PluginError: if a recording cannot be used, or several have other numbers of
                speakers.
        """
        speech = np.asarray(speech)
        if speech.ndim < 2 or not len(speech):
            raise PluginError(
                f"speech of shape {speech.shape} has to be (utterances, samples), or "
                "(utterances, frames, dim) of features"
            )
        if len(speech) > 1 and self.num_spk is None:
            raise PluginError(
                "speakers are counted in one recording at a time, as in ESPnet: give "
                "num_spk, or one utterance"
            )
        made = [self.diarize(one, fs) for one in speech]
        activities = np.stack([one.activities for one in made])
        waves = [one.waves for one in made if one.waves is not None]
        return list(np.stack(waves, axis=1)) if waves else None, activities

    def duration(self, speech: np.ndarray, fs: int) -> float:
        """Seconds of a recording, at ``fs`` samples a second where it is a mixture."""
        expected = self.bundle.manifest.speech
        return len(speech) / fs if expected is None else expected.seconds(len(speech))

    def diarize(self, speech: np.ndarray, fs: int = 8000) -> Diarized:
        """Diarize one recording.

        Args:
            speech: (samples,) or (frames, dim).
            fs: see :meth:`__call__`.

        Raises:
            PluginError: if it cannot be used.
        """
        self._diarizer.seconds = 0.0
        if self._enhancer is None:
            return Diarized(None, sigmoid(self._in_segments(self._check(speech), fs)))
        self._enhancer.seconds = 0.0
        mix = self._enhancer.check(speech)
        encoded = self._enhancer.encode(mix)
        logits = self._diarizer(mix, self.num_spk, encoded)
        number = self._separable(logits.shape[1])
        others = {NUM_SPK: np.array(number)}
        changed = self._normalize(mix.copy())
        if self._cuts(changed, fs):
            waves = self._stitched(changed, fs, others)
        else:
            same = np.array_equal(changed, mix)
            waves = self._enhancer(changed, None, others | (encoded if same else {}))
        activities = sigmoid(logits)
        if self.options.multiply_diar_result:
            at_each = at_samples(activities, waves.shape[1])
            order = list(most_alike(waves, at_each))
            activities, waves = activities[:, order], waves * at_each[:, order].T
        return Diarized(
            to_peak(waves) if self.options.normalize_output_wav else waves, activities
        )

    def _check(self, speech: np.ndarray) -> np.ndarray:
        """A recording (samples,) or (frames, dim), as the graphs read it."""
        expected = self.bundle.manifest.speech
        assert expected is not None
        speech = prepare(speech, expected)
        if len(speech) < expected.min_length:
            raise PluginError(
                f"a recording of {len(speech)} samples or frames is too short, the "
                f"model needs {expected.min_length}"
            )
        return speech

    def _separable(self, number: int) -> int:
        """Pass on how many speakers there are."""
        assert self.most is not None
        if not 1 <= number <= self.most:
            raise PluginError(
                f"{number} speakers: the model separates 1 to {self.most}; give num_spk"
            )
        return number

    def _in_segments(self, speech: np.ndarray, fs: int) -> np.ndarray:
        """Logits (frames, speakers) of segments, each diarized by itself.

        Speakers that a segment has not are never active there.
        """
        size = self.options.segment_size
        if size is None or len(speech) <= size * fs:
            return self._diarizer(speech, self.num_spk)
        parts = [
            self._diarizer(piece, self.num_spk) for piece in _pieces(speech, size, fs)
        ]
        most = max(part.shape[1] for part in parts)
        return np.concatenate(
            [
                np.pad(
                    part,
                    [(0, 0), (0, most - part.shape[1])],
                    constant_values=-np.inf,
                )
                for part in parts
            ]
        )

    def _cuts(self, mix: np.ndarray, fs: int) -> bool:
        """Whether a mixture is separated segment by segment."""
        segments = self.options.segments
        return segments is not None and len(mix) > segments[0] * fs

    def _stitched(
        self, mix: np.ndarray, fs: int, others: dict[str, np.ndarray]
    ) -> np.ndarray:
        """Outputs (speakers, samples) of segments, put together."""
        assert self._enhancer is not None and self.options.segments is not None
        enhancer = self._enhancer

        def separate(piece: np.ndarray) -> np.ndarray:
            made = enhancer(piece, None, others)
            # ESPnet diarizes each segment too, to no effect but this one.
            self._normalize(piece)
            return made

        scale = self.options.normalize_segment_scale
        reference = (lambda piece: piece) if scale else None
        stitching = Stitching(separate, fs, self.options.segments, reference)
        known, rest = stitching.add(mix), stitching.end()
        return rest if known is None else np.concatenate((known, rest), axis=1)

    def _normalize(self, mix: np.ndarray) -> np.ndarray:
        """Change a mixture in place as ESPnet does while it diarizes it.

        See :class:`~espnet_onnx_plugin.bundle.Diarization`.
        """
        how = self._diarizer.described.normalized
        if how == "mean":
            mix -= mix.mean()
        elif how == "deviation":
            mix /= max(mix.std(), np.float32(1e-20))
        return mix


def _pieces(speech: np.ndarray, size: float, fs: int) -> Iterator[np.ndarray]:
    """Segments of a recording, of so many seconds, the last one with zeros behind it.

    Where each begins is computed as in ESPnet, whose product rounds.
    """
    length, number = int(size * fs), int(np.ceil(len(speech) / (size * fs)))
    for i in range(number):
        begin = int(i * size * fs)
        piece = speech[begin : begin + length]
        missing: Sequence[tuple[int, int]] = [(0, length - len(piece))]
        yield np.pad(piece, [*missing, *[(0, 0)] * (speech.ndim - 1)])
