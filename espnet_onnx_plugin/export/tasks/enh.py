"""Models of the task enh: enhancement and separation."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Bundle, Enhancement, Manifest, Text
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build, read_config
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.enh_stream import without_stream
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.layers.draws import OF_LOADER, drawn_since
from espnet_onnx_plugin.export.parity.enhancement import (
    check_enhancement,
    check_score,
    check_stream,
)
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import Arch, find
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
from espnet_onnx_plugin.runtime.io.data import Source

#: Separators whose transform ESPnet's ``SeparateSpeech`` gives the sampling rate of the
#: input: uses2 is not among them.
_FOLLOW_RATE = ("bsrnn", "uses", "tfgridnetv3")


def _arch(config: Mapping[str, Any]) -> Arch:
    """The architecture of a training configuration.

    Raises:
        PluginError: if it is not supported.
    """
    if config.get("diffusion_model") is not None:
        return find("diffusion", config["diffusion_model"])
    return find("separator", config["separator"])


class EnhGraphs:
    """The graphs of ESPnet's ``ESPnetEnhancementModel``, alone or within another.

    Args:
        model: ESPnet's.
        args: its training arguments.
        joint: whether it is the first part of a model that recognizes speech.

    Raises:
        PluginError: if something in it is not supported.
    """

    #: How many numbers ESPnet's job draws before the first mixture.
    drawn = 0

    def __init__(
        self, model: torch.nn.Module, args: argparse.Namespace, joint: bool = False
    ):
        self.model, self.args, self.joint = model, args, joint
        arch = _arch(vars(args))
        whole = arch.role == "diffusion"
        self._follows_rate = not whole and args.separator in _FOLLOW_RATE
        ends = Ends(
            None if self.args.encoder == "same" else self.model.encoder,
            None if self.args.decoder == "same" else self.model.decoder,
            self._follows_rate,
        )
        self.wrapped: EnhModules = arch.wrap(model if whole else model.separator, ends)
        if joint:
            self.wrapped = without_stream(self.wrapped)
        for module in self.wrapped.modules.values():
            module.eval()

    def describe_enhancement(self) -> Enhancement:
        """Everything that the runtime has to know besides the graphs."""
        model, wrapped = self.model, self.wrapped
        method, variance = wrapped.method, None
        if isinstance(method, Diffusion):
            method = replace(method, drawn=self.drawn)
        if getattr(model, "normalize_variance_per_ch", False):
            variance = "channel"
        elif getattr(model, "normalize_variance", False):
            variance = "all"
        forward_rate = None
        if getattr(model, "always_forward_in_48k", False):
            # ESPnet leaves the rate to separators that follow it.
            forward_rate = None if self._follows_rate else 48000
        return Enhancement(
            outputs=model.num_spk,
            channels=wrapped.channels,
            ref_channel=model.ref_channel,
            min_length=max(wrapped.ends.min_length, wrapped.min_length),
            averages=wrapped.averages,
            modes=wrapped.modes,
            max_bins=wrapped.max_bins,
            method=method,
            analysis=wrapped.ends.analysis,
            synthesis=wrapped.ends.synthesis,
            variance=variance,
            categories=tuple((getattr(model, "categories", None) or {}).values()),
            named_categories=self._named_categories(),
            forward_rate=forward_rate,
            stream=wrapped.stream,
            enrollment=wrapped.enrollment,
            **self._preprocessing(),
        )

    def _named_categories(self) -> tuple[str, ...]:
        """Categories that ESPnet's preprocessor knows, by their number."""
        conf = getattr(self.args, "preprocessor_conf", None) or {}
        match getattr(self.args, "preprocessor", None):
            case None:
                known = None
            case "dynamic_mixing":
                known = conf.get("categories")
            case _:
                known = conf.get("categories", getattr(self.args, "categories", None))
        return tuple(dict.fromkeys(known or ()))

    def _preprocessing(self) -> dict[str, Any]:
        """Fields of what ESPnet's preprocessor does to a mixture in inference."""
        if getattr(self.args, "preprocessor", None) not in ("enh", "tse"):
            return {}
        conf = {**vars(self.args), **(self.args.preprocessor_conf or {})}
        volume = conf.get("speech_volume_normalize")
        return dict(
            single_channel=bool(conf.get("force_single_channel", False)),
            volume_normalize=None if volume is None else float(volume.split("_")[0]),
        )

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        return {role: m.graph_spec() for role, m in self.wrapped.modules.items()}

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        options = dict(enh_s2t_task=self.joint)
        ours = SeparateSpeech(bundle, device.provider, device.threads, **options)
        torch.manual_seed(ours.options.seed)
        figures, skipped = check_enhancement(ours.enhancement, ours, self.espnet())
        figures, skipped = dict(figures), list(skipped)
        if isinstance(self.wrapped.method, Diffusion):
            figures["score"] = check_score(self.model.diffusion, bundle, device)
        if ours.enhancement.stream is not None:
            streaming = SeparateSpeechStreaming(bundle, device.provider, device.threads)
            streams = check_stream(ours, streaming, self.espnet_streaming())
            figures.update(streams.figures)
            skipped += streams.skipped
        if not figures:
            raise PluginError(f"parity check failed: nothing is compared: {skipped[0]}")
        return Parity(figures, skipped)

    def espnet(self, **options: Any) -> Any:
        """ESPnet's ``SeparateSpeech`` of the model, which is loaded already.

        Args:
            options: arguments of its class that differ from their defaults.
        """
        from espnet2.bin.enh_inference import SeparateSpeech as Theirs

        values = dict(
            segment_size=None,
            hop_size=None,
            normalize_segment_scale=False,
            normalize_output_wav=False,
            ref_channel=self.model.ref_channel,
        )
        values.update(options)
        segments = (values["segment_size"], values["hop_size"])
        theirs = Theirs.__new__(Theirs)
        vars(theirs).update(
            values,
            enh_model=self.model,
            enh_train_args=self.args,
            num_spk=self.model.num_spk,
            sfi_processing=self._follows_rate,
            segmenting=None not in segments,
            show_progressbar=False,
            device="cpu",
            dtype="float32",
        )
        return theirs

    def espnet_streaming(self) -> Any:
        """ESPnet's ``SeparateSpeechStreaming`` of the model."""
        from espnet2.bin.enh_inference_streaming import (
            SeparateSpeechStreaming as Theirs,
        )

        theirs = Theirs.__new__(Theirs)
        vars(theirs).update(
            enh_model=self.model,
            enh_train_args=self.args,
            num_spk=self.model.num_spk,
            ref_channel=self.model.ref_channel,
            streaming_states=None,
            device="cpu",
            dtype="float32",
        )
        return theirs


class EnhExporter(EnhGraphs):
    """A trained enhancement model.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    def __init__(self, checkpoints: Checkpoints):
        from espnet2.tasks.enh import EnhancementTask

        config = checkpoints.train_config
        _arch(read_config(config)).needs()
        # ESPnet's job seeds, builds the model, and then loads the data: all of that
        # draws, whatever the seed, and what a diffusion model draws next is noise.
        torch.manual_seed(0)
        model, args = build(EnhancementTask, config, checkpoints.model_file)
        self.drawn = drawn_since(0) + OF_LOADER
        super().__init__(model, args)

    def write_texts(self, work: Path) -> dict[str, Text | None]:
        """There are none."""
        return {"text": None}

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        return dict(speech=None, search=None, enhancement=self.describe_enhancement())

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest: there is nothing to measure that the check does not."""
        return bundle.manifest
