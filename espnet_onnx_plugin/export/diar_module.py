"""Graphs of diarization models, of one recording: there is no axis of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import run_encoder
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.diarization.diarizer import (
    ATTRACTOR,
    BOTTLENECK,
    DECODER,
    FEATURES,
)


class DiarizationEncoder(GraphModule):
    """``ESPnetDiarizationModel.encode`` behind the frontend.

    Args:
        model: an ``ESPnetDiarizationModel``.
        choices: what ``config.yaml`` names for normalize and encoder.
        features: size of the features that it reads, or None.
        bottleneck: size of the bottleneck feature that it reads, or None.
    """

    # Odd numbers: with even ones torch 2.11 fails on strided convolutions.
    sizes = dict(frames=121, feature_frames=97)

    def __init__(
        self,
        model: torch.nn.Module,
        choices: Mapping[str, Any],
        features: int | None,
        bottleneck: int | None = None,
    ):
        super().__init__()
        self.reads_bottleneck = bottleneck is not None
        self.encoder = find("encoder", choices["encoder"]).wrap(model.encoder)
        self.normalize = None
        if features is not None and model.normalize is not None:
            self.normalize = find("normalize", choices["normalize"]).wrap(
                model.normalize
            )
        self.inputs = {}
        if bottleneck is not None:
            self.inputs[BOTTLENECK] = Tensor("float32", ("frames", bottleneck))
        if features is not None:
            frames = "frames" if bottleneck is None else "feature_frames"
            self.inputs[FEATURES] = Tensor("float32", (frames, features))
        axes = ("frames_out", model.encoder.output_size())
        self.outputs = {"encoder_out": Tensor("float32", axes)}

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Encode a recording: the inputs, in order, to (frames, size)."""
        parts = list(inputs)
        if self.normalize is not None:
            feats = parts[-1][None]
            lengths = torch.full((1,), feats.size(1))
            parts[-1] = self.normalize(feats, lengths)[0][0]
        if len(parts) > 1:
            bottleneck, feats = parts
            parts = [bottleneck, feats[_nearest(feats.size(0), bottleneck.size(0))]]
        x = torch.cat(parts, dim=1)[None]
        encoded, _ = run_encoder(self.encoder, x, torch.full((1,), x.size(1)))
        return encoded[0]


def _nearest(given: Any, wanted: Any) -> torch.Tensor:
    """Indices (wanted,) of the frames that ``F.interpolate`` takes of those given.

    As it computes them, in single precision.
    """
    scale = torch.full((), given).float() / torch.full((), wanted).float()
    indices = (torch.arange(wanted).float() * scale).floor().long()
    return torch.minimum(indices, torch.full((), given) - 1)


class SpeakerDecoder(GraphModule):
    """Logits of each speaker, of the encoder's frames, by ``decoder: linear``."""

    def __init__(self, decoder: torch.nn.Module, size: int):
        super().__init__()
        self.decoder = decoder
        self.inputs = {"encoder_out": Tensor("float32", ("frames", size))}
        axes = ("frames", decoder.num_spk)
        self.outputs = {"predictions": Tensor("float32", axes)}

    def forward(self, encoder_out: torch.Tensor) -> torch.Tensor:
        """Frames (frames, size) -> logits (frames, speakers)."""
        return self.decoder(encoder_out[None], None)[0]


class SpeakerAttractor(GraphModule):
    """Attractors of speakers, and the logits of the encoder's frames by each.

    Args:
        attractor: as an architecture wraps it.
        size: of the encoder's output.
    """

    sizes = dict(attractors=5)

    def __init__(self, attractor: torch.nn.Module, size: int):
        super().__init__()
        self.attractor = attractor
        self.inputs = {
            "encoder_out": Tensor("float32", ("frames", size)),
            "dec_input": Tensor("float32", ("attractors", size)),
        }
        self.outputs = {
            "predictions": Tensor("float32", ("frames", "attractors")),
            "att_prob": Tensor("float32", ("attractors",)),
        }

    def forward(
        self, encoder_out: torch.Tensor, dec_input: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits (frames, attractors) that a speaker is active, and (attractors,) that
        there is one more.
        """
        attractors, exist = self.attractor(encoder_out, dec_input)
        return encoder_out @ attractors.T, exist


def speaker_modules(
    model: torch.nn.Module, choices: Mapping[str, Any]
) -> tuple[dict[str, GraphModule], int | None]:
    """The graph behind the encoder, by role, and the number of speakers if it is fixed.

    Args:
        model: an ``ESPnetDiarizationModel``.
        choices: what ``config.yaml`` names for decoder and attractor.

    Raises:
        PluginError: if it is not supported.
    """
    size = model.encoder.output_size()
    if model.attractor is not None:
        attractor = find("attractor", choices["attractor"]).wrap(model.attractor)
        if attractor.size != size:
            raise PluginError(
                f"attractors of size {attractor.size} cannot be compared with frames "
                f"of size {size}: ESPnet's inference fails on this model"
            )
        return {ATTRACTOR: SpeakerAttractor(attractor, size)}, None
    if choices["decoder"] != "linear":
        raise PluginError(f"decoder '{choices['decoder']}' is none of a diarization")
    return {DECODER: SpeakerDecoder(model.decoder, size)}, int(model.decoder.num_spk)


def normalized_in_place(model: torch.nn.Module) -> Any:
    """The field of that name of :class:`~espnet_onnx_plugin.bundle.Diarization`.

    Without a frontend ESPnet hands the waveform itself to ``normalize``, which works in
    place, also where the encoder reads a bottleneck feature in its stead.

    Args:
        model: an ``ESPnetDiarizationModel``.

    Raises:
        PluginError: if it is not utterance_mvn that does so.
    """
    normalize = model.normalize
    if model.frontend is not None or normalize is None:
        return None
    if not hasattr(normalize, "norm_means") or hasattr(normalize, "stats_file"):
        raise PluginError(
            "without a frontend, the normalize of a diarization is given the waveform, "
            "which statistics of features are not of: export a model trained with "
            "utterance_mvn or none"
        )
    if normalize.norm_means:
        return "mean"
    return "deviation" if normalize.norm_vars else None
