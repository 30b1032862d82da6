"""The task of ``diar.sh``: diarization."""

from __future__ import annotations

import argparse
import functools
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Diarization, Manifest, Speech, Text
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build, read_config
from espnet_onnx_plugin.export.diar_module import (
    DiarizationEncoder,
    normalized_in_place,
    speaker_modules,
)
from espnet_onnx_plugin.export.frontend import (
    describe_speech,
    features_of,
    frontend_spec,
    wrap_frontend,
)
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.diarization import (
    check_logits,
    espnet_logits,
    joined,
)
from espnet_onnx_plugin.export.parity.encoding import noise
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.diarization.diarizer import Diarizer
from espnet_onnx_plugin.runtime.io.data import Source, usable


class DiarizationGraphs:
    """The graphs of ESPnet's ``ESPnetDiarizationModel``, alone or within another.

    Args:
        model: ESPnet's.
        args: its training arguments.
        bottleneck: size of the bottleneck feature that its encoder reads; None: it
            reads features.

    Raises:
        PluginError: if something in it is not supported.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        args: argparse.Namespace,
        bottleneck: int | None = None,
    ):
        self.model, self.args = model, args
        self.frontend = wrap_frontend(model, args)
        self.example_length = 0
        features = None
        if self.frontend is not None:
            self.example_length = 8 * self.frontend.shortest(15) + 1
            features = features_of(self.frontend, self.example_length).size(2)
        elif bottleneck is None:
            features = args.input_size
        self.encoder = DiarizationEncoder(model, vars(args), features, bottleneck)
        self.speakers, num_spk = speaker_modules(model, vars(args))
        for module in (self.encoder, *self.speakers.values()):
            module.eval()
        normalized = normalized_in_place(model) if bottleneck is not None else None
        self.diarization = Diarization(num_spk=num_spk, normalized=normalized)

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        specs = {}
        if self.frontend is not None:
            specs["frontend"] = frontend_spec(self.frontend, self.example_length)
        modules = {"encoder": self.encoder, **self.speakers}
        return specs | {role: m.graph_spec() for role, m in modules.items()}

    def espnet(self, **options: Any) -> Any:
        """ESPnet's ``DiarizeSpeech`` of a model, which is loaded already.

        Args:
            options: its attributes that differ from those of its defaults.
        """
        from espnet2.bin.diar_inference import DiarizeSpeech as Theirs

        theirs = Theirs.__new__(Theirs)
        vars(theirs).update(
            diar_model=self.model,
            diar_train_args=self.args,
            num_spk=self.diarization.num_spk,
            enh_s2t_task=False,
            device="cpu",
            dtype="float32",
            **options,
        )
        return theirs


class DiarExporter:
    """A trained diarization model.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    def __init__(self, checkpoints: Checkpoints):
        from espnet2.tasks.diar import DiarizationTask

        config = read_config(checkpoints.train_config)
        for role in ("frontend", "normalize", "encoder", "attractor"):
            if config.get(role) is not None:
                find(role, config[role]).needs()
        model, args = build(
            DiarizationTask, checkpoints.train_config, checkpoints.model_file
        )
        self.graphs = DiarizationGraphs(model, args)

    @functools.cached_property
    def speech(self) -> Speech:
        """Requirements of the model's input."""
        graphs = self.graphs
        return describe_speech(graphs.model, graphs.frontend, graphs.args)

    def write_texts(self, work: Path) -> dict[str, Text | None]:
        """There are none."""
        return {"text": None}

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        return self.graphs.graph_specs()

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        diarization = self.graphs.diarization
        return dict(speech=self.speech, search=None, diarization=diarization)

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare every graph with PyTorch, on noise and on real audio if given.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        ours, theirs = Diarizer(bundle, device), self.graphs.espnet()

        def logits(speech: np.ndarray) -> list[np.ndarray]:
            return joined(*ours.speakers(speech))

        expected = functools.partial(espnet_logits, theirs)
        figures = {"diarization": check_logits(logits, expected, noise(self.speech))}
        if source is not None:
            real = ((key, array) for key, array, _ in usable(source, self.speech))
            figure = check_logits(logits, expected, real)
            figures["diarization_on_real_audio"] = figure
        return Parity(figures)

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest: there is nothing to measure that the check does not."""
        return bundle.manifest
