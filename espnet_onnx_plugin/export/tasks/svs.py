"""Models of the task svs, and of gan_svs, whose models decode as those of svs do."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import ScoreInputs, Synthesis
from espnet_onnx_plugin.bundle.search import Features
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.layers.variances import pitch_settings
from espnet_onnx_plugin.export.tasks.synthesis import SynthesisExporter
from espnet_onnx_plugin.export.tts_module import TTSModule
from espnet_onnx_plugin.runtime.synthesis.inputs import Arguments

#: Models that are left out, and why.
_REFUSED = {
    "singing_tacotron": "ESPnet makes no waveform of its features, for it gives no "
    "features with an attention to a vocoder"
}


class SVSExporter(SynthesisExporter):
    """The modules of a trained singing voice model and of its vocoder.

    Args, raises: as of the base class.
    """

    role = "svs"

    def __init__(self, checkpoints: Checkpoints):
        super().__init__(checkpoints)
        self.score = self.read_of_score()

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Name a model that is left out, or that ESPnet cannot sing with.

        Args, raises: as of the base class.
        """
        name = config.get("svs")
        if name in _REFUSED:
            raise PluginError(f"svs '{name}' is not supported: {_REFUSED[name]}")
        if not config.get("use_preprocessor", True):
            raise PluginError(
                "use_preprocessor: false is not supported: scores need it"
            )
        if "hop_length" not in (config.get("feats_extract_conf") or {}):
            raise PluginError(
                "feats_extract_conf has no hop_length, without which ESPnet reads no "
                "score either"
            )

    def espnet_task(self, config: Mapping[str, Any]) -> type:
        """The one of ESPnet's two tasks that builds such a model.

        That of gan_svs gives every model ``generator_params``, which JointScore2Wav
        does not take; svs_inference builds it with the other one, its default.
        """
        from espnet2.tasks import gan_svs, svs

        return gan_svs.GANSVSTask if config.get("svs") == "vits" else svs.SVSTask

    @property
    def discrete(self) -> bool:
        """Whether ESPnet's model is that of discrete tokens."""
        return getattr(self.args, "model_type", "svs") == "discrete_svs"

    def check_options(self) -> Mapping[str, Any]:
        """How many tokens a frame has."""
        layers = getattr(self.model, "discrete_token_layers", 1)
        return dict(discrete_token_layers=layers)

    def waveform(self, outputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Give features, or tokens and F0, to ESPnet's vocoder."""
        if not self.discrete:
            return super().waveform(outputs)
        layers = self.model.discrete_token_layers
        return self.vocoder(outputs["feat_gen"].view(-1, layers), outputs["pitch"])

    @property
    def denormalized_by(self) -> torch.nn.Module | None:
        """ESPnet's ``GlobalMVN``; discrete tokens are never denormalized."""
        return None if self.discrete else self.model.normalize

    @property
    def reads_audio(self) -> bool:
        """Whether a graph reads features of singing, as a teacher."""
        parts = [module for role, module in self.modules.items() if role != "vocoder"]
        return any("feats" in module.inputs for module in parts)

    def teacher_forcing(self) -> tuple[dict[str, TTSModule], Features]:
        """The search, with how pitch is made; without what ESPnet cannot do."""
        model, search = self.model, self.wrapped.search
        if self.discrete:
            layers = model.discrete_token_layers
            search = dataclasses.replace(search, token_layers=layers)
        known = inspect.signature(self.voice.inference).parameters
        extract = model.pitch_extract
        unread = model.energy_extract is not None and "energy" not in known
        # Without durations, which ESPnet does not hand on, nothing is averaged.
        averaged = getattr(extract, "use_token_averaged_f0", False)
        reads_pitch = "pitch" in search.teacher_forcing
        if unread or averaged or (reads_pitch and extract is None):
            self.modules.pop("posterior", None)
            return {}, dataclasses.replace(search, teacher_forcing=())
        if reads_pitch:
            pitch = pitch_settings(extract, model.pitch_normalize)
            search = dataclasses.replace(search, pitch=pitch)
        return {}, search

    def read_of_score(self) -> ScoreInputs:
        """Inputs that are made of a score.

        Raises:
            PluginError: if ESPnet's model cannot sing with them.
        """
        reads, args = self.wrapped.score, self.args
        if getattr(self.voice, "use_discrete_token", False) and not self.discrete:
            raise PluginError(
                f"svs '{self.name}' with use_discrete_token needs model_type: "
                "discrete_svs in ESPnet too; train it with that"
            )
        by_frame = type(self.model.score_feats_extract).__name__ == "FrameScoreFeats"
        if by_frame and {"duration_syb", "slur"} & set(reads.ids):
            raise PluginError(
                f"svs '{self.name}' with score_feats_extract: frame_score_feats cannot "
                "sing in ESPnet either; train it with syllable_score_feats"
            )
        return ScoreInputs(
            fs=args.fs,
            hop_length=args.feats_extract_conf["hop_length"],
            ids=reads.ids,
            repeated_by=reads.repeated_by if by_frame else None,
            needs_labels=reads.needs_labels or by_frame or self.discrete,
        )

    def describe_synthesis(self) -> Synthesis:
        """Singing that the model makes, and what it reads of a score."""
        made = super().describe_synthesis()
        if self.discrete:  # ESPnet asks how many there are, whatever it does with them
            made = dataclasses.replace(made, reads=(*made.reads, "discrete_token"))
        return dataclasses.replace(made, score=self.score)

    def teacher(self, inputs: Arguments) -> Arguments:
        """Made-up singing of a song."""
        conf = self.args.feats_extract_conf
        frames = int(self.batch(inputs)["duration_phn"].sum())
        samples = conf.get("n_fft", 1024) + frames * conf["hop_length"]
        return {"singing": self.made_up_voice(samples, frames)}

    def batch(self, inputs: Arguments) -> Mapping[str, np.ndarray]:
        """Arguments of ESPnet's model: what its preprocessor makes of a song."""
        # What makes phonemes of a text has nothing to do where there are labels.
        args = argparse.Namespace(**{**vars(self.args), "g2p": None})
        preprocess = self.espnet_task(vars(self.args)).build_preprocess_fn(args, False)
        made = preprocess("song", dict(inputs["text"]))
        return {**inputs, **made, "text": made["label"]}
