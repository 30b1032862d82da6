"""Features from durations: FastSpeech, FastSpeech 2, ProDiff, JETS and VITS, and models
that sing.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.core.session import run
from espnet_onnx_plugin.runtime.synthesis.features import Graphs, Synthesized
from espnet_onnx_plugin.runtime.synthesis.model_inputs import Given, ModelInputs
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.teacher_forcing import (
    align,
    checked_durations,
    path_of,
    pitch_of_song,
    variances_of_speech,
)
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

logger = logging.getLogger(__name__)


class Lengths(NamedTuple):
    """How long each symbol lasts.

    Attributes:
        frames: of each symbol (symbols,), int64.
        output: what ESPnet gives as the durations (symbols,).
    """

    frames: np.ndarray
    output: np.ndarray

    @property
    def symbol_of_frame(self) -> np.ndarray:
        """The symbol that each frame belongs to, (frames,)."""
        return np.repeat(np.arange(len(self.frames)), self.frames)


class FromDurations:
    """A model that predicts how long each symbol lasts.

    Args:
        graphs: encoder and decoder, and what teacher forcing needs.
        search: of the manifest.
        espnet: the release that exported the bundle.
    """

    def __init__(self, graphs: Graphs, search: Durations, espnet: str):
        self._graphs, self._search = graphs, search
        self._encoder, self._decoder = graphs["encoder"], graphs["decoder"]
        self._gives_zeros = (
            search.model == "FastSpeech2"
            and conventions(espnet).fastspeech2_gives_zeros
        )

    def features(
        self, inputs: ModelInputs, options: TtsOptions, noise: Noise
    ) -> Synthesized:
        """Make the features of one utterance."""
        encoded = self._encode(inputs, options, noise)
        hidden: Mapping[str, np.ndarray] = encoded
        if not options.use_teacher_forcing or not self._forces_durations:
            lengths = self._predicted(encoded["duration"], inputs.durations, options)
        elif "alignment" in self._graphs:
            return self._aligned(encoded, inputs.tensors["feats"], noise)
        elif "posterior" in self._graphs:
            return self._posterior(encoded, inputs.tensors, noise)
        else:
            frames = checked_durations(inputs.durations, len(encoded["duration"]))
            lengths = Lengths(frames, encoded["log_duration"])  # as ESPnet gives them
            of_speech = variances_of_speech(
                self._graphs, inputs.tensors, self._search, frames
            )
            hidden = {**encoded, **of_speech}
        decoded = self._decode(hidden, lengths, options, noise)
        path = None
        if "alignment" in self._graphs:  # of VITS, which gives how text is aligned
            path = path_of(lengths.symbol_of_frame, len(lengths.frames))
        # ESPnet gives none of a model that makes the waveform itself.
        given = () if "feats" in decoded else ("pitch", "energy")
        variances = {name: encoded[name] for name in given if name in encoded}
        made = Synthesized(
            **{**variances, **decoded},
            condition=encoded.get("condition"),
            att_w=path,
            duration=lengths.output,
        )
        return self._taught(made, inputs) if options.use_teacher_forcing else made

    def _taught(self, made: Synthesized, inputs: ModelInputs) -> Synthesized:
        """Tokens and F0 of the singing in the place of those that were made."""
        tokens, pitch = inputs.discrete_token, self._search.pitch
        if tokens is None or pitch is None or inputs.speech is None:
            return made
        frames = len(tokens) // (self._search.token_layers or 1)
        f0 = pitch_of_song(inputs.speech, frames, pitch)
        return dataclasses.replace(made, feat_gen=tokens[:, None], pitch=f0)

    @property
    def _forces_durations(self) -> bool:
        """Whether teacher forcing has to do with durations."""
        by_role = any(role in self._graphs for role in ("alignment", "posterior"))
        return by_role or "durations" in self._search.teacher_forcing

    def _encode(
        self, inputs: ModelInputs, options: TtsOptions, noise: Noise
    ) -> dict[str, np.ndarray]:
        """Outputs of the encoder by name."""
        noise.skip(self._search.unused_draws["encoder"])
        tensors = dict(inputs.tensors)
        if "noise_dur" in self._encoder.graph.inputs:
            shape = (2, len(inputs))
            # ESPnet draws nothing for durations that it does not predict.
            predicted = inputs.durations is None and not options.use_teacher_forcing
            drawn = noise.normal(1, *shape)[0] if predicted else np.zeros(shape)
            tensors["noise_dur"] = drawn.astype(np.float32)
            tensors["noise_scale_dur"] = np.array(options.noise_scale_dur, np.float32)
        return run(self._encoder, tensors)

    def _predicted(
        self, predicted: np.ndarray, given: Given, options: TtsOptions
    ) -> Lengths:
        """Predicted lengths after the speed; VITS takes given ones in their place."""
        speed = np.float32(options.speed_control_alpha)
        if self._search.rounding == "ceil":
            frames = np.ceil(predicted * speed).astype(np.int64)
            if given is not None:
                frames = checked_durations(given, len(predicted))
            return Lengths(frames, frames)
        frames = predicted
        if speed != 1.0:
            frames = np.round(frames.astype(np.float32) * speed).astype(np.int64)
        if not frames.any():
            logger.warning("predicted durations are all 0, they count as all 1")
            frames = np.ones_like(frames)
        # ESPnet gives those before the speed.
        as_predicted = speed != 1.0 or self._gives_zeros
        return Lengths(frames, predicted if as_predicted else frames)

    def _decode(
        self,
        hidden: Mapping[str, np.ndarray],
        lengths: Lengths,
        options: TtsOptions,
        noise: Noise,
    ) -> dict[str, np.ndarray]:
        """Outputs of the decoder by name, for hidden states that last so long."""
        symbol_of_frame = lengths.symbol_of_frame
        noise.skip(self._search.unused_draws["decoder"])
        tensors = {
            **hidden,
            **self._decoder_noise(len(symbol_of_frame), options, noise),
            "duration": lengths.frames,
            "symbol_of_frame": symbol_of_frame,
        }
        return run(self._decoder, tensors)

    def _decoder_noise(
        self, frames: int, options: TtsOptions, noise: Noise
    ) -> dict[str, np.ndarray]:
        """Noise that the decoder reads, and its scale."""
        tensor = self._decoder.graph.inputs.get("noise")
        if tensor is None:
            return {}
        if len(tensor.axes) == 3:
            draws, dim, _ = tensor.axes
            drawn = [
                noise.normal(1, 1, int(dim), frames)[0, 0] for _ in range(int(draws))
            ]
            return {"noise": np.stack(drawn)}
        scale = np.array(options.noise_scale, np.float32)
        first, second = tensor.axes
        if second == "frames":
            values = noise.normal(1, int(first), frames)[0]
        else:  # ESPnet draws it like a transposed tensor
            values = noise.normal(frames, int(second), blocked=False)
        return {"noise": values, "noise_scale": scale}

    def _aligned(
        self, encoded: Mapping[str, np.ndarray], feats: np.ndarray, noise: Noise
    ) -> Synthesized:
        """Hidden frames of speech, which VITS's vocoder reads in teacher forcing."""
        aligned = align(self._latents("alignment", encoded, feats, noise))
        return Synthesized(
            feats=aligned.latents,
            condition=encoded.get("condition"),
            att_w=aligned.path,
        )

    def _posterior(
        self,
        encoded: Mapping[str, np.ndarray],
        singing: Mapping[str, np.ndarray],
        noise: Noise,
    ) -> Synthesized:
        """Hidden frames and F0 of singing, which VISinger's vocoder reads in teacher
        forcing.
        """
        feats, f0 = singing["feats"], None
        made = self._latents("posterior", encoded, feats, noise)
        if self._search.pitch is not None:
            f0 = pitch_of_song(singing["speech"], len(feats), self._search.pitch)
        condition = encoded.get("condition")
        return Synthesized(feats=made["latents"], condition=condition, f0=f0)

    def _latents(
        self,
        role: str,
        encoded: Mapping[str, np.ndarray],
        feats: np.ndarray,
        noise: Noise,
    ) -> dict[str, np.ndarray]:
        """Outputs of the graph that makes latents of features."""
        session = self._graphs[role]
        width, _ = session.graph.inputs["noise"].axes
        drawn = noise.normal(1, int(width), len(feats))[0]
        return run(session, {**encoded, "feats": feats, "noise": drawn})
