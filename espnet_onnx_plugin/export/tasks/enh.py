"""Models of the task enh: enhancement and separation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Bundle, Enhancement, Manifest, Text
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.export.checkpoints import (
    Checkpoints,
    build,
    overwritten,
    read_config,
)
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.layers.draws import OF_LOADER, drawn_since
from espnet_onnx_plugin.export.parity.enhancement import check_enhancement, check_stream
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.enh_streaming import SeparateSpeechStreaming
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import find as find_task

#: Separators whose transform ESPnet's ``SeparateSpeech`` gives the sampling rate of the
#: input: uses2 is not among them.
_FOLLOW_RATE = ("bsrnn", "uses", "tfgridnetv3")


class EnhExporter:
    """The graphs of a trained enhancement model.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    def __init__(self, checkpoints: Checkpoints):
        parts = find_task("enh").overwritten
        other = checkpoints.inference_enh_config
        with overwritten(checkpoints.train_config, other, parts) as train_config:
            self._build(train_config, checkpoints.model_file)

    def _build(self, train_config: Path, model_file: Path) -> None:
        from espnet2.tasks.enh import EnhancementTask

        config = read_config(train_config)
        diffusion = config.get("diffusion_model")
        arch = (
            find("diffusion", diffusion)
            if diffusion is not None
            else find("separator", config["separator"])
        )
        arch.needs()
        # ESPnet's job seeds, builds the model, and then loads the data: all of that
        # draws, whatever the seed, and what a diffusion model draws next is noise.
        torch.manual_seed(0)
        self.model, self.args = build(EnhancementTask, train_config, model_file)
        drawn = drawn_since(0) + OF_LOADER
        self._follows_rate = diffusion is None and self.args.separator in _FOLLOW_RATE
        ends = Ends(
            None if self.args.encoder == "same" else self.model.encoder,
            None if self.args.decoder == "same" else self.model.decoder,
            self._follows_rate,
        )
        part = self.model if diffusion is not None else self.model.separator
        self.wrapped: EnhModules = arch.wrap(part, ends)
        if isinstance(self.wrapped.method, Diffusion):
            method = replace(self.wrapped.method, drawn=drawn)
            self.wrapped = replace(self.wrapped, method=method)
        for module in self.wrapped.modules.values():
            module.eval()

    def describe_enhancement(self) -> Enhancement:
        """Everything that the runtime has to know besides the graphs."""
        model, wrapped = self.model, self.wrapped
        variance = None
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
            method=wrapped.method,
            analysis=wrapped.ends.analysis,
            synthesis=wrapped.ends.synthesis,
            variance=variance,
            categories=tuple((getattr(model, "categories", None) or {}).values()),
            forward_rate=forward_rate,
            stream=wrapped.stream,
            **self._preprocessing(),
        )

    def _preprocessing(self) -> dict[str, Any]:
        """Fields of what ESPnet's preprocessor does to a mixture in inference."""
        if getattr(self.args, "preprocessor", None) != "enh":
            return {}
        conf = {**vars(self.args), **(self.args.preprocessor_conf or {})}
        volume = conf.get("speech_volume_normalize")
        return dict(
            single_channel=bool(conf.get("force_single_channel", False)),
            volume_normalize=None if volume is None else float(volume.split("_")[0]),
        )

    def write_texts(self, work: Path) -> dict[str, Text | None]:
        """There are none."""
        return {"text": None}

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        return {role: m.graph_spec() for role, m in self.wrapped.modules.items()}

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        return dict(speech=None, search=None, enhancement=self.describe_enhancement())

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest: there is nothing to measure that the check does not."""
        return bundle.manifest

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        ours = SeparateSpeech(bundle, device.provider, device.threads)
        torch.manual_seed(ours.options.seed)
        parity = check_enhancement(ours.enhancement, ours, self.espnet())
        if ours.enhancement.stream is None:
            return parity
        streaming = SeparateSpeechStreaming(bundle, device.provider, device.threads)
        figure = check_stream(ours, streaming, self.espnet_streaming())
        return parity._replace(figures={**parity.figures, "stream": figure})

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
