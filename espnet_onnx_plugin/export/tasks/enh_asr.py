"""The task of ``enh_asr.sh``: separation, and recognition of what comes out."""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.bundle.search import Blocks
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import WAVEFORM_TOLERANCE
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.enhancement import (
    furthest,
    louder_by_little,
    undetermined,
)
from espnet_onnx_plugin.export.parity.tolerance import Parity, require
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.tasks.asr import ASRExporter
from espnet_onnx_plugin.export.tasks.enh import EnhGraphs
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.enhancement.enhancer import Enhancer
from espnet_onnx_plugin.runtime.io.data import Source, usable


def options_of(part: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Training options of a part, as ``EnhS2TTask.build_model`` finds them.

    Args:
        part: ``enh`` or ``asr``: its option ``encoder`` is ``asr_encoder``, and those
            that both have are as they stand.
        options: of the whole.
    """
    prefix = f"{part}_"
    own = {
        k.removeprefix(prefix): v for k, v in options.items() if k.startswith(prefix)
    }
    return {
        **options,
        **{k: options.get(k) if v is None else v for k, v in own.items()},
    }


class EnhASRExporter(ASRExporter):
    """An ``ESPnetEnhS2TModel``, whose second part is an ``ESPnetASRModel``."""

    espnet_task = ("espnet2.tasks.enh_s2t", "EnhS2TTask")
    models = ("espnet",)
    streams = ()

    #: The model's first part.
    enhancement: EnhGraphs

    def read_config(self, path: Path) -> Mapping[str, Any]:
        """Training configuration of the recognition, if the model is one of this task.

        Raises:
            PluginError: if it is another one, or its enhancement is not supported.
        """
        config = super().read_config(path)
        parts = list(config.get("subtask_series") or ())
        if parts != ["enh", "asr"]:
            raise PluginError(
                f"{path}: subtask_series '{' '.join(parts)}' is not supported: task "
                "enh_asr exports models of 'enh asr'"
            )
        find("separator", config["enh_separator"]).needs()
        return options_of("asr", config)

    def build(
        self, checkpoints: Checkpoints
    ) -> tuple[torch.nn.Module, argparse.Namespace]:
        """The part that recognizes speech; the other one becomes an attribute."""
        model, args = super().build(checkpoints)
        enh, asr = (
            argparse.Namespace(**options_of(part, vars(args)))
            for part in ("enh", "asr")
        )
        self.enhancement = EnhGraphs(model.enh_model, enh, joint=True)
        return model.s2t_model, asr

    @functools.cached_property
    def speech(self) -> Speech:
        """Requirements of the mixture: the enhancement has its own on channels."""
        return dataclasses.replace(super().speech, all_channels=True)

    @property
    def blocks(self) -> Blocks:
        """None: ESPnet's simulated streaming does not find those of a joint model."""
        return Blocks()

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        first, second = self.enhancement.graph_specs(), super().graph_specs()
        if both := set(first).intersection(second):
            raise ValueError(f"both parts have graphs of role {', '.join(both)}")
        return {**first, **second}

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        described = self.enhancement.describe_enhancement()
        return {**super().describe(), "enhancement": described}

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare every graph of both parts, each with ESPnet's input of it.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        parts = [self.enhancement.check_parity(bundle, device)]
        if source is not None:
            parts.append(self._check_real_waveforms(Enhancer(bundle, device), source))
        parts.append(super().check_parity(bundle, device, source))
        figures = {name: f for part in parts for name, f in part.figures.items()}
        return Parity(figures, [case for part in parts for case in part.skipped])

    def _check_real_waveforms(self, enhancer: Enhancer, source: Source) -> Parity:
        worst, skipped = 0.0, []
        for key, mix, _ in usable(source, self.speech):
            expected = self.enhance(mix)
            figure = furthest(enhancer(enhancer.check(mix)), expected)
            if figure > WAVEFORM_TOLERANCE:
                again = self.enhance(louder_by_little(mix))
                reason = undetermined(again, expected)
                if reason is not None:
                    skipped.append(f"{key}: {reason}")
                    continue
            worst = max(worst, require("enhancement", key, figure, WAVEFORM_TOLERANCE))
        return Parity({"waveforms_on_real_audio": worst}, skipped)

    def real(self, source: Source, speech: Speech) -> Iterator[tuple[str, Utterance]]:
        """Waveforms that ESPnet makes of real utterances."""
        for key, mix, _ in usable(source, speech):
            for number, wave in enumerate(self.enhance(mix), 1):
                yield f"{key}, speaker {number}", wave

    @torch.no_grad()
    def enhance(self, mix: np.ndarray) -> np.ndarray:
        """Waveforms (speakers, samples) that ESPnet's first part makes of a mixture."""
        lengths = torch.tensor([len(mix)])
        model, speech = self.enhancement.model, torch.from_numpy(mix)[None]
        return torch.cat(model.forward_enhance(speech, lengths)[0]).numpy()
