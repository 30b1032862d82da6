"""Frontend and encoder of a model, from audio to what the search reads."""

from __future__ import annotations

import argparse
import itertools

import torch

from espnet_onnx_plugin.bundle import Framing, Speech, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import EncoderModule
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.padding import subsampled
from espnet_onnx_plugin.export.registry import find

#: Frames a second of extracted features: Kaldi's default shift of 10 ms.
FEATURE_RATE = 100


def wrap_frontend(
    model: torch.nn.Module, args: argparse.Namespace
) -> torch.nn.Module | None:
    """Waveform to features, traceable; None where the model reads features."""
    if model.frontend is not None:
        return find("frontend", args.frontend).wrap(model.frontend).eval()
    choice = getattr(args, "encoder", None)  # stand-alone transducers have none
    features = None if choice is None else find("encoder", choice).features
    if features is None:
        return None
    if model.normalize is not None or model.preencoder is not None:
        raise PluginError(
            f"encoder '{choice}' reads waveforms, and a normalize or preencoder "
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
    args: argparse.Namespace,
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


def _describe_framing(
    frontend: torch.nn.Module | None, args: argparse.Namespace
) -> Framing:
    """The cutting into frames, by the defaults of ``Speech2TextStreaming``."""
    conf = getattr(args, "frontend_conf", None) or {}
    n_fft = conf.get("n_fft", 512)
    win_length = conf.get("win_length") or n_fft
    window = getattr(frontend, "window", {})
    return Framing(win_length, conf.get("hop_length", 128), **window)


def describe_speech(
    model: torch.nn.Module, frontend: torch.nn.Module | None, args: argparse.Namespace
) -> Speech:
    """Requirements of the model's input.

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
    framing = _describe_framing(frontend, args)
    common = dict(
        volume_normalize=getattr(args, "speech_volume_normalize", None),
        average_channels=bool(preprocessor.get("force_single_channel", False)),
    )
    if not args.use_preprocessor:
        common = {}
    common["framing"] = framing
    if frontend is None:
        return Speech("features", FEATURE_RATE, args.input_size, frames, **common)
    samples = frontend.shortest(frames)
    return Speech("waveform", frontend.sampling_rate, 0, samples, **common)


def audio_specs(
    frontend: torch.nn.Module | None, encoder: EncoderModule, speech: Speech
) -> dict[str, GraphSpec]:
    """The graphs from audio to encoder output, by role.

    A frontend that gives every utterance as many frames says so in ``frames``.

    Args:
        frontend: what :func:`wrap_frontend` gave.
        encoder: of the model.
        speech: what :func:`describe_speech` gave.
    """
    length = speech.min_length * 8 + 1
    if frontend is None:
        length = max(length, encoder.trace_frames)
        return {"encoder": encoder.graph_spec(length, (speech.feature_dim,))}
    feats = features_of(frontend, length)
    while feats.size(1) < encoder.trace_frames:
        length *= 2
        feats = features_of(frontend, length)
    return {
        "frontend": frontend_spec(frontend, length),
        # With an even number of frames torch 2.11 fails on strided convolutions:
        # "Unable to determine the domain of the given function".
        "encoder": encoder.graph_spec(
            feats.size(1) - 1 + feats.size(1) % 2, feats.shape[2:]
        ),
    }


def frontend_spec(frontend: torch.nn.Module, length: int) -> GraphSpec:
    """The graph of a frontend.

    Args:
        frontend: what :func:`wrap_frontend` gave.
        length: samples that it is traced with.
    """
    frames = getattr(frontend, "frames", "frames_in")
    shape = features_of(frontend, length).shape[2:]
    return GraphSpec(
        frontend,
        {
            "speech": Tensor("float32", ("utterances", "samples")),
            "speech_lengths": Tensor("int64", ("utterances",)),
        },
        {
            "feats": Tensor("float32", ("utterances", frames, *shape)),
            "feats_lengths": Tensor("int64", ("utterances",)),
        },
        sizes={"samples": length},
    )


@torch.no_grad()
def features_of(frontend: torch.nn.Module, length: int) -> torch.Tensor:
    """Features of so many samples of noise."""
    generator = torch.Generator().manual_seed(1)
    speech = torch.randn((2, length), generator=generator)
    return frontend(speech, torch.tensor([length, length - length // 5]))[0]
