"""Synthesis with the bundles of a task: graphs, features and waveforms put together."""

from __future__ import annotations

import copy
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle.search import Frames, Framewise
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.core.session import run
from espnet_onnx_plugin.runtime.synthesis.described import features_of, synthesis_of
from espnet_onnx_plugin.runtime.synthesis.features import (
    FeatureModel,
    Graphs,
    Synthesized,
)
from espnet_onnx_plugin.runtime.synthesis.frame_by_frame import FrameByFrame
from espnet_onnx_plugin.runtime.synthesis.frames_of_inputs import FramesOfInputs
from espnet_onnx_plugin.runtime.synthesis.from_durations import FromDurations
from espnet_onnx_plugin.runtime.synthesis.inputs import Texts
from espnet_onnx_plugin.runtime.synthesis.model_inputs import ModelInputs
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
from espnet_onnx_plugin.runtime.synthesis.vocoder import VocoderInputs, open_vocoder
from espnet_onnx_plugin.runtime.text.converter import TokenConverter


class Request(NamedTuple):
    """A call: the inputs of an utterance, and the options for it."""

    inputs: ModelInputs
    options: TtsOptions


class Synthesizer(OpenedModel[TtsOptions], ABC):
    """A bundle's model and vocoder. A task's class makes it a drop-in for ESPnet's.

    Such a class says in :meth:`_request` what is given for an utterance, and has
    ESPnet's ``__call__`` around :meth:`_synthesize`.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Attributes:
        data: what reads a recipe's files for it, and makes up others.
        noise: what is drawn from, for one utterance after the other.
        seconds: of the newest call, by part: acoustic, vocoder.
        symbols: how many tokens the newest text had, with the one that ends it.
        f0: fundamental frequency of the newest song in Hz (frames,), where the vocoder
            reads it, as the model makes it.
        given_f0: the one that the vocoder reads in its place, where it is as long. It
            is for comparisons: seconds into a song phases are rounded so coarsely (see
            :mod:`.excitation`) that roundings of F0 are heard in the waveform.
    """

    options_class: type[TtsOptions] = TtsOptions
    data: ClassVar[type[Texts]] = Texts

    def _open(self) -> None:
        bundle, device = self.bundle, self.device
        self.options = self._options
        self.synthesis = synthesis_of(bundle.manifest)
        self.search = features_of(bundle.manifest)
        self.converter = TokenConverter(bundle)
        self._call_options()  # refuses those that the model cannot meet
        self._graphs = Graphs(bundle, device)
        self._features = self._open_features()
        self.vocoder = open_vocoder(bundle, device)
        self.noise = self._seeded(self.options.seed)
        self.seconds: dict[str, float] = {}
        self.symbols = 0
        self.f0: np.ndarray | None = None
        self.given_f0: np.ndarray | None = None

    def _open_features(self) -> FeatureModel:
        if isinstance(self.search, Frames):
            return FrameByFrame(self._graphs, self.search)
        if isinstance(self.search, Framewise):
            return FramesOfInputs(self._graphs)
        return FromDurations(self._graphs, self.search, self.bundle.manifest.espnet)

    def _seeded(self, seed: int) -> Noise:
        return Noise(seed, mkl=self.search.mkl)

    def begin_job(self) -> None:
        """Draw on as ESPnet's command does, which seeds before it builds the model."""
        self.noise = self._seeded(self.options.seed)
        self.noise.skip(self.search.drawn)

    @property
    def fs(self) -> int | None:
        """Sampling rate of the waveforms, or None where there are none."""
        return self.synthesis.sampling_rate

    @property
    def use_speech(self) -> bool:
        """Whether speech has to be given."""
        return self.options.use_teacher_forcing or "speech" in self.synthesis.reads

    @property
    def use_sids(self) -> bool:
        """Whether a speaker's id has to be given."""
        return "sids" in self.synthesis.reads

    @property
    def use_lids(self) -> bool:
        """Whether a language's id has to be given."""
        return "lids" in self.synthesis.reads

    @property
    def use_spembs(self) -> bool:
        """Whether a speaker's embedding has to be given."""
        return "spembs" in self.synthesis.reads

    @property
    def espnet_options(self) -> dict[str, Any]:
        """The options that ESPnet gives to its model, by its names for them."""
        return self.options.as_espnet(self.search.options)

    def _call_options(self, conf: Mapping[str, Any] | None = None) -> TtsOptions:
        """Options of a call.

        Args:
            conf: those that differ from the object's.

        Raises:
            PluginError: if one is unknown or cannot be met by the model.
        """
        options = self.options.changed(conf).for_model(self.search.options)
        if options.use_teacher_forcing and not self.search.teacher_forcing:
            raise PluginError(
                f"use_teacher_forcing: {self.bundle.path} cannot be taught, as ESPnet "
                "cannot do it with this model either; leave the option out"
            )
        return options

    def _needed(self, options: TtsOptions) -> set[str]:
        """Names of what the model reads besides text, with these options."""
        forced = self.search.teacher_forcing if options.use_teacher_forcing else ()
        return {*self.synthesis.reads, *forced}

    def _features_of_speech(self, speech: np.ndarray) -> np.ndarray:
        """Normalized features (frames, dim) of speech (samples,).

        Raises:
            PluginError: if it is too short.
        """
        expected = self.bundle.manifest.speech
        if expected is None:  # then the model is given features
            return speech
        if len(speech) < expected.min_length:
            raise PluginError(
                f"speech of {len(speech)} samples is too short, the model needs "
                f"{expected.min_length}"
            )
        return run(self._graphs["frontend"], {"speech": speech})["feats"]

    def require_packages(self, kinds: Mapping[str, str]) -> None:
        """Load what all utterances need.

        Args:
            kinds: types of the inputs in a recipe's files, by name.

        Raises:
            PluginError: if a package is missing.
        """

    @abstractmethod
    def prepare(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs of an utterance after ESPnet's preprocessor.

        Args:
            inputs: by name, of a recipe's files.

        Raises:
            PluginError: if there is something wrong with them.
        """

    @abstractmethod
    def _request(self, *args: Any, **kwargs: Any) -> Request:
        """Check what is given for an utterance; every task has its own inputs.

        Args:
            args, kwargs: as of ESPnet's class.
        """

    def _synthesize(self, *args: Any, **kwargs: Any) -> dict[str, np.ndarray]:
        """Synthesize one utterance.

        Args:
            args, kwargs: as of :meth:`__call__`.

        Returns:
            ESPnet's outputs by name.
        """
        start = time.perf_counter()
        made = self._acoustic(*args, **kwargs)
        outputs = self._outputs(made)
        middle = time.perf_counter()
        if self.vocoder is not None:
            outputs["wav"] = self.vocoder(self._for_vocoder(made), self.noise)
        end = time.perf_counter()
        self.seconds = {"acoustic": middle - start, "vocoder": end - middle}
        return outputs

    def stream(
        self, *args: Any, chunk: int = 50, **kwargs: Any
    ) -> Iterator[np.ndarray]:
        """Synthesize one utterance, and give its waveform in pieces.

        Their concatenation is the waveform of :meth:`__call__`. A vocoder that is not
        convolutional, and Griffin-Lim, give one piece.

        Args:
            args, kwargs: as of :meth:`__call__`.
            chunk: frames of a piece.

        Raises:
            PluginError: if the model makes no waveforms.
        """
        if chunk < 1:
            raise PluginError(f"chunk {chunk} must be 1 frame or more")
        if self.vocoder is None:
            raise PluginError(f"{self.bundle.path} makes features, not waveforms")
        made = self._acoustic(*args, **kwargs)
        yield from self.vocoder.stream(self._for_vocoder(made), self.noise, chunk)

    def audio_seconds(self, made: Mapping[str, np.ndarray]) -> float:
        """Duration of what was made; of features, that of their waveform."""
        shift = self.synthesis.frame_shift
        if self.fs is None or shift is None:
            raise PluginError(f"{self.bundle.path} does not say how long a frame lasts")
        if "wav" in made:
            return len(made["wav"]) / self.fs
        return len(made["feat_gen"]) * shift / self.fs

    def first_audio_seconds(self, *args: Any, **kwargs: Any) -> float:
        """How long the first piece of :meth:`stream` takes, which is made for that.

        What the next call draws stays as it was.

        Args:
            args, kwargs: as of :meth:`stream`.
        """
        noise = copy.deepcopy(self.noise)
        start = time.perf_counter()
        next(self.stream(*args, **kwargs))
        seconds = time.perf_counter() - start
        self.noise = noise
        return seconds

    def _outputs(self, made: Synthesized) -> dict[str, Any]:
        """ESPnet's outputs by name, before the vocoder's turn."""
        return made.outputs()

    def _acoustic(self, *args: Any, **kwargs: Any) -> Synthesized:
        """Features of one utterance, before the vocoder's turn."""
        inputs, options = self._request(*args, **kwargs)
        self.symbols = len(inputs) + 1
        if options.always_fix_seed:
            self.noise = self._seeded(options.seed)
        return self._features.features(inputs, options, self.noise)

    def _for_vocoder(self, made: Synthesized) -> VocoderInputs:
        """Inputs of the vocoder."""
        reads = self.synthesis.vocoder_reads
        if reads == "feat_gen_denorm" and self.options.prefer_normalized_feats:
            reads = "feat_gen"
        self.f0 = f0 = made.f0
        if f0 is not None and self.given_f0 is not None:
            f0 = self.given_f0 if len(self.given_f0) == len(f0) else f0
        return VocoderInputs(getattr(made, reads), made.condition, f0)
