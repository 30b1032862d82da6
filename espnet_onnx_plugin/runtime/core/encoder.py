"""From audio to the encoder's outputs: the graphs of the frontend and the encoder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Framing, Speech
from espnet_onnx_plugin.runtime.core.buckets import bucket, pad_waveforms
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.runner import Value, shape_of
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import stack, take, to_numpy

#: Ends the name of a tensor that holds the lengths (utterances,) of another one's rows.
LENS = "_lens"

#: Begins the name of an intermediate CTC's scores, followed by the layer.
INTERCTC = "interctc_"

#: Samples of which an utterance has so many that its features are worth a look before
#: they are made: 65 s of 16 kHz.
BEGINNING = 2**20

#: Inputs of the encoder's graph for one utterance, by name.
Features = dict[str, Value]


@dataclass(frozen=True)
class Accompanied:
    """An utterance whose encoder reads more than its audio.

    Attributes:
        speech: (samples,), or (frames, dim) where there is no frontend.
        others: each (length, ...), by the name of the graph's input.
    """

    speech: np.ndarray
    others: Mapping[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.speech)

    @property
    def size(self) -> int:
        """Number of samples, or of features in all frames."""
        return self.speech.size


Utterance = np.ndarray | Accompanied


def _apart(utterance: Utterance) -> tuple[np.ndarray, Features]:
    """The audio of an utterance, and the inputs that accompany it."""
    if not isinstance(utterance, Accompanied):
        return utterance, {}
    others: Features = {}
    for name, array in utterance.others.items():
        others[name] = array[None]
        others[f"{name}_lengths"] = np.array([len(array)])
    return utterance.speech, others


class Encoded(dict[str, Value]):
    """The encoder graph's outputs for a batch of utterances, by name.

    Lengths are arrays; the others may lie on the device, with frames behind the longest
    utterance. Where the encoder tells speakers apart, each of them is an utterance,
    those of one recording in a row.
    """

    @property
    def lengths(self) -> np.ndarray:
        """(utterances,) number of encoder frames of each."""
        return to_numpy(self["encoder_out_lens"])

    def lengths_of(self, name: str) -> np.ndarray:
        """(utterances,) number of frames of one output.

        Scores of a CTC have as many as the encoder's output, unless they say otherwise.
        """
        return to_numpy(self.get(f"{name}{LENS}", self.lengths))

    def of(self, utterance: int, name: str) -> np.ndarray:
        """One output for one utterance, (frames, ...)."""
        value, frames = self[name], int(self.lengths_of(name)[utterance])
        if isinstance(value, np.ndarray):
            return value[utterance, :frames]
        return to_numpy(take(value, [utterance], frames))[0]

    @property
    def utterances(self) -> int:
        """Number of utterances."""
        return len(self.lengths)

    def select(self, utterances: Sequence[int]) -> Encoded:
        """Some of the utterances, without needless frames."""
        utterances = list(utterances)
        everyone = utterances == list(range(self.utterances))
        selected = Encoded()
        for name, value in self.items():
            if name.endswith(LENS):
                selected[name] = take(value, utterances)
                continue
            frames = int(self.lengths_of(name)[utterances].max())
            if not everyone or shape_of(value)[1] > frames:
                value = take(value, utterances, frames)
            selected[name] = value
        return selected

    @staticmethod
    def stack(utterances: Sequence[Encoded]) -> Encoded:
        """Batches as one."""
        if len(utterances) == 1:
            return utterances[0]
        stacked = Encoded()
        for name in utterances[0]:
            stacked[name] = stack([encoded[name] for encoded in utterances])
        return stacked


class Encoder:
    """Frontend and encoder of a bundle.

    Args:
        bundle: where the graphs lie.
        device: where they run.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._frontend = None
        if "frontend" in bundle.manifest.graphs:
            self._frontend = Session(bundle, "frontend", device)
        self._encoder = Session(bundle, "encoder", device)
        #: Names of the outputs.
        self.outputs = tuple(self._encoder.graph.outputs)
        self._resident = bool(device.resident)
        self._fetched = [
            name
            for name in self.outputs
            if name.endswith(LENS) or not (self._resident or name == "encoder_out")
        ]
        # Behind the utterances there may be an axis of speakers.
        self._tells_apart = len(self._encoder.graph.outputs["encoder_out"].axes) > 3
        self._buckets = device.buckets and self._encoder.graph.batches
        #: Of a frontend that makes the features of a batch at once; else None.
        self._framing = self._frames_of_windows(bundle.manifest.speech)
        #: Seconds that the newest call spent, by graph.
        self.seconds: dict[str, float] = {}

    def __call__(self, utterances: Sequence[Utterance]) -> Encoded:
        """Encode utterances, in one call where the graph gives each its own result.

        Args:
            utterances: each (samples,), or (frames, dim) where there is no frontend,
                alone or :class:`Accompanied`.
        """
        if self._buckets and self._framing is not None:
            return self._encode(self._features_together(utterances, self._framing))
        feats = self.features(utterances)
        alone = len(feats) == 1 and not self._buckets
        if alone or not self._encoder.graph.batches:
            return Encoded.stack([self._encode(feeds) for feeds in feats])
        return self.encode_together(feats)

    def features(self, utterances: Sequence[Utterance]) -> list[Features]:
        """Inputs of the encoder's graph for each utterance."""
        self.seconds = {"frontend": 0.0, "encoder": 0.0}
        return [self._features(utterance) for utterance in utterances]

    def encode_together(self, feats: Sequence[Features]) -> Encoded:
        """Encode a batch in one call, whatever the manifest says of batches."""
        feeds: Features = {}
        for name in feats[0]:
            values = [one[name] for one in feats]
            if not self._resident:
                values = [to_numpy(value) for value in values]
            length = None
            if self._buckets and name == "feats":
                length = bucket(max(shape_of(value)[1] for value in values))
            feeds[name] = stack(values, length)
        return self._encode(feeds)

    def _frames_of_windows(self, speech: Speech | None) -> Framing | None:
        """How the frontend cuts a waveform, where a frame is made of a window alone."""
        if self._frontend is None or speech is None or speech.framing is None:
            return None
        return None if speech.framing.n_fft is None else speech.framing

    def _features_together(
        self, utterances: Sequence[Utterance], framing: Framing
    ) -> Features:
        """Inputs of the encoder's graph for a batch, of one call of the frontend's."""
        self.seconds = {"frontend": 0.0, "encoder": 0.0}
        speeches, others = zip(*map(_apart, utterances))
        feeds = {
            "speech": pad_waveforms(speeches, framing),
            "speech_lengths": np.array([len(speech) for speech in speeches]),
        }
        return {
            **self._run_frontend(feeds),
            **{name: stack([one[name] for one in others]) for name in others[0]},
        }

    def _features(self, utterance: Utterance) -> Features:
        utterance, others = _apart(utterance)
        length = np.array([len(utterance)])
        if self._frontend is None:
            return {"feats": utterance[None], "feats_lengths": length, **others}
        if len(utterance) > BEGINNING and self._encoder.checks:
            # Features of hours take gigabytes of their own.
            beginning = self._features(utterance[:BEGINNING])
            times = len(utterance) / BEGINNING
            self._encoder.check({**beginning, **others}, times)
        feeds = {"speech": utterance[None], "speech_lengths": length}
        return {**self._run_frontend(feeds), **others}

    def _run_frontend(self, feeds: Features) -> Features:
        assert self._frontend is not None
        start = time.perf_counter()
        results = self._frontend.run(feeds, fetch=["feats_lengths"])
        self.seconds["frontend"] += time.perf_counter() - start
        return results

    def _encode(self, feeds: Features) -> Encoded:
        start = time.perf_counter()
        encoded = Encoded(self._encoder.run(feeds, self._fetched))
        if self._tells_apart:
            for name, value in encoded.items():
                array = to_numpy(value)
                encoded[name] = array.reshape(-1, *array.shape[2:])
        if self._buckets:
            for name in self._fetched:
                if not name.endswith(LENS):
                    longest = encoded.lengths_of(name).max()
                    encoded[name] = to_numpy(encoded[name])[:, :longest]
        self.seconds["encoder"] += time.perf_counter() - start
        return encoded
