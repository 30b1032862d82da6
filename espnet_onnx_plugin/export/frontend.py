"""Audio to what the search reads: frontend and encoder of a model, and their input."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Graph, Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.graph import export_encoder, export_frontend
from espnet_onnx_plugin.export.patches import subsampled
from espnet_onnx_plugin.export.registry import find

#: Frames a second of extracted features: Kaldi's default shift of 10 ms.
FEATURE_RATE = 100


def wrap_frontend(model: torch.nn.Module, args: Any) -> torch.nn.Module | None:
    """What makes features of a waveform, traceable; None where the model reads them."""
    if model.frontend is not None:
        return find("frontend", args.frontend).wrap(model.frontend).eval()
    features = find("encoder", args.encoder).features
    if features is None:
        return None
    if model.normalize is not None or model.preencoder is not None:
        raise PluginError(
            f"encoder '{args.encoder}' reads waveforms, and a normalize or preencoder "
            "before it is not supported: export a model trained without"
        )
    return features(model.encoder).eval()


def shortest_frames(encoder: torch.nn.Module, made: int = 1) -> int:
    """The fewest feature frames that ESPnet's encoder makes so many of."""
    subsampling = import_nets("pytorch_backend.transformer.subsampling")
    embed = getattr(encoder, "embed", None)
    conv = getattr(embed, "conv", None)

    def fails(frames: int) -> bool:
        if subsampling.check_short_utt(embed, frames)[0]:
            return True
        # Of streaming encoders ESPnet does not check it, and a convolution fails.
        left = subsampled(frames, conv if isinstance(conv, torch.nn.Sequential) else ())
        return left < made

    return next(frames for frames in itertools.count(1) if not fails(frames))


def _is_too_short(
    model: torch.nn.Module,
    frontend: torch.nn.Module | None,
    args: Any,
    frames: int,
) -> bool:
    """Whether ESPnet's model gives up on so many feature frames."""
    subsampling = import_nets("pytorch_backend.transformer.subsampling")
    speech = torch.zeros(1, frames, args.input_size or 0)
    if frontend is not None:
        speech = torch.zeros(1, frontend.shortest(frames))
    try:
        with torch.no_grad():
            model.encode(speech, torch.tensor([speech.size(1)]))
    except subsampling.TooShortUttError:
        return True
    return False


def describe_speech(
    model: torch.nn.Module, frontend: torch.nn.Module | None, args: Any
) -> Speech:
    """What the input has to be.

    Args:
        model: ESPnet's model.
        frontend: what :func:`wrap_frontend` gave.
        args: the training arguments.
    """
    frames = shortest_frames(model.encoder)
    if getattr(model, "postencoder", None) is not None:
        while _is_too_short(model, frontend, args, frames):
            frames += 1
    preprocessor = getattr(args, "preprocessor_conf", None) or {}
    common = dict(
        volume_normalize=getattr(args, "speech_volume_normalize", None),
        average_channels=bool(preprocessor.get("force_single_channel", False)),
    )
    if not args.use_preprocessor:
        common = {}
    if frontend is None:
        return Speech("features", FEATURE_RATE, args.input_size, frames, **common)
    samples = frontend.shortest(frames)
    return Speech("waveform", frontend.sampling_rate, 0, samples, **common)


def _example(speech: Speech, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Two utterances of unequal lengths, to trace a graph with."""
    shape = (2, length, *([speech.feature_dim] if speech.feature_dim else []))
    generator = torch.Generator().manual_seed(1)
    lengths = torch.tensor([length, length - length // 5])
    return torch.randn(shape, generator=generator), lengths


def export_audio(
    frontend: torch.nn.Module | None,
    encoder: EncoderGraph,
    speech: Speech,
    work: Path,
) -> dict[str, Graph]:
    """Write the graphs from audio to encoder output, by role."""
    graphs = {}
    example = _example(speech, speech.min_length * 8 + 1)
    if frontend is not None:
        with torch.no_grad():
            feats, lengths = frontend(*example)
            while feats.size(1) < encoder.trace_frames:
                example = _example(speech, 2 * example[0].size(1))
                feats, lengths = frontend(*example)
        graphs["frontend"] = export_frontend(
            frontend, example, feats.shape[2:], work / "frontend.onnx"
        )
        # With an even number of frames torch 2.11 fails on strided convolutions:
        # "Unable to determine the domain of the given function".
        frames = feats.size(1) - 1 + feats.size(1) % 2
        example = (feats[:, :frames], lengths.clamp(max=frames))
    elif example[0].size(1) < encoder.trace_frames:
        example = _example(speech, encoder.trace_frames)
    graphs["encoder"] = export_encoder(encoder, example, work / "encoder.onnx")
    return graphs
