"""The task of ``enh_diar.sh``: diarization, and separation of those who are found."""

from __future__ import annotations

import argparse
import bisect
import functools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Enhancement, Manifest, Text
from espnet_onnx_plugin.bundle.enhancement import MultiMask
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build, read_config
from espnet_onnx_plugin.export.enh_module import Ends
from espnet_onnx_plugin.export.frontend import shortest_frames
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.parity.diarization import (
    check_logits,
    check_separation,
    espnet_logits,
    joined,
)
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.tasks.diar import DiarizationGraphs
from espnet_onnx_plugin.export.tasks.enh_asr import options_of
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.diarization.diarizer import Diarizer
from espnet_onnx_plugin.runtime.enhancement.enhancer import Enhancer
from espnet_onnx_plugin.runtime.enhancement.inputs import made_up
from espnet_onnx_plugin.runtime.enhancement.multi_mask import NUM_SPK
from espnet_onnx_plugin.runtime.io.data import Source, iterate
from espnet_onnx_plugin.runtime.io.lists import spread


class EnhDiarExporter:
    """An ``ESPnetEnhS2TModel``, whose second part is an ``ESPnetDiarizationModel``.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    def __init__(self, checkpoints: Checkpoints):
        from espnet2.tasks.enh_s2t import EnhS2TTask

        path = checkpoints.train_config
        config = read_config(path)
        parts = list(config.get("subtask_series") or ())
        if parts != ["enh", "diar"]:
            raise PluginError(
                f"{path}: subtask_series '{' '.join(parts)}' is not supported: task "
                "enh_diar exports models of 'enh diar'"
            )
        enh, diar = (options_of(part, config) for part in parts)
        separator = find("separator_nomask", enh["separator"])
        mask_module = find("mask_module", enh["mask_module"])
        for role in ("frontend", "normalize", "encoder", "attractor"):
            if diar.get(role) is not None:
                find(role, diar[role]).needs()
        self.model, self.args = build(EnhS2TTask, path, checkpoints.model_file)
        enh_model = self.model.enh_model
        self.ends = Ends(
            None if enh["encoder"] == "same" else enh_model.encoder,
            None if enh["decoder"] == "same" else enh_model.decoder,
        )
        self.separation = {
            "separator": separator.wrap(enh_model.separator, self.ends),
            **mask_module.wrap(enh_model.mask_module, self.ends),
        }
        for module in self.separation.values():
            module.eval()
        self.graphs = DiarizationGraphs(
            self.model.s2t_model,
            argparse.Namespace(**options_of("diar", vars(self.args))),
            enh_model.separator.output_dim,
        )

    @functools.cached_property
    def enhancement(self) -> Enhancement:
        """Description of the separation for the runtime, besides the graphs."""
        model = self.model.enh_model
        return Enhancement(
            outputs=model.mask_module.max_num_spk,
            channels=1,
            ref_channel=model.ref_channel,
            min_length=self._min_length(),
            method=MultiMask(),
            analysis=self.ends.analysis,
            synthesis=self.ends.synthesis,
        )

    def _min_length(self) -> int:
        """The fewest samples of which the diarization's encoder makes a frame."""
        encoder, wanted = self.model.enh_model.encoder, shortest_frames(
            self.graphs.model.encoder
        )

        @torch.no_grad()
        def enough(samples: int) -> bool:
            features, _ = encoder(torch.zeros(1, samples), torch.tensor([samples]))
            return features.size(1) >= wanted

        least = self.ends.min_length
        if self.graphs.frontend is not None:
            least = max(least, self.graphs.frontend.shortest(1))
        most = least
        while not enough(most):
            most *= 2
        lengths = range(least, most + 1)
        return lengths[bisect.bisect_left(lengths, True, key=enough)]

    def write_texts(self, work: Path) -> dict[str, Text | None]:
        """There are none."""
        return {"text": None}

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        specs = {role: m.graph_spec() for role, m in self.separation.items()}
        return specs | self.graphs.graph_specs()

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        return dict(
            speech=None,
            search=None,
            enhancement=self.enhancement,
            diarization=self.graphs.diarization,
        )

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare every graph with PyTorch, on noise and on real audio if given.

        The separation is compared with ESPnet's for every number of speakers.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        enhancer, diarizer = Enhancer(bundle, device), Diarizer(bundle, device)
        theirs = self.espnet()

        def logits(mix: np.ndarray) -> list[np.ndarray]:
            return joined(*diarizer.speakers(mix, None, enhancer.encode(mix)))

        def separate(mix: np.ndarray, number: int) -> np.ndarray:
            return enhancer(mix, None, {NUM_SPK: np.array(number)})

        figures, most = {}, self.enhancement.outputs
        expected = functools.partial(espnet_logits, theirs)
        sources = {"": [(what, m.speech_mix) for what, m in made_up(self.enhancement)]}
        if source is not None:
            sources["_on_real_audio"] = list(_read(source, enhancer))
        for name, mixtures in sources.items():
            figures[f"diarization{name}"] = check_logits(logits, expected, mixtures)
            figures[f"waveforms{name}"] = check_separation(
                separate, theirs, most, mixtures
            )
        return Parity(figures)

    def espnet(self, **options: Any) -> Any:
        """ESPnet's ``DiarizeSpeech`` of the model, see :class:`.DiarizationGraphs`."""
        self.model.inherite_attributes(
            inherite_s2t_attrs=["decoder", "attractor"],
            inherite_enh_attrs=["mask_module"],
        )
        theirs = self.graphs.espnet(**options)
        vars(theirs).update(diar_model=self.model, enh_s2t_task=True)
        return theirs

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest: there is nothing to measure that the check does not."""
        return bundle.manifest


def _read(source: Source, enhancer: Enhancer) -> Iterator[tuple[str, np.ndarray]]:
    """Some of the mixtures of a source that the model can take."""
    for key, audio in iterate(source, spread(list(source.entries()), source.limit)):
        yield key, enhancer.check(audio.array)
