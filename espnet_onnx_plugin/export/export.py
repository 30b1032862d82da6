"""Export of a trained model: checkpoint to bundle."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import (
    Bundle,
    Manifest,
    describe_file,
    new_bundle,
    read_bundle,
    write_manifest,
)
from espnet_onnx_plugin.bundle.derive import is_current
from espnet_onnx_plugin.export.checkpoints import (
    Checkpoints,
    overwritten,
    read_config,
    refuse_ngram,
)
from espnet_onnx_plugin.export.fingerprint import fingerprint
from espnet_onnx_plugin.export.graph import export_graphs
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.tasks.exporter import Exporter, find_exporter
from espnet_onnx_plugin.files import held
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import find

logger = logging.getLogger(__name__)

#: What graphs are checked on where nothing else is said.
CPU = Device()


def export_bundle(
    task: str,
    checkpoints: Checkpoints,
    output_dir: Path,
    parity_source: Source | None = None,
    device: Device = CPU,
    force: bool = False,
) -> Bundle:
    """Write a bundle from ESPnet's checkpoints, and check it.

    Args:
        task: the task that trained them; s2t also stands for s2t_ctc.
        checkpoints: the files.
        output_dir: the bundle; left alone when it is up to date.
        parity_source: real audio, of which a few utterances check the encoder.
        device: what the graphs are checked on.
        force: write it anew where it is up to date too.

    Raises:
        PluginError: if something is not supported, cannot be read, or a graph differs
            from PyTorch; ``output_dir`` is then as it was.
    """
    task = _recognized(task, checkpoints)
    source = fingerprint(task, checkpoints)
    with held(output_dir):
        if not force and is_current(output_dir, source):
            logger.info("%s is up to date", output_dir)
            return read_bundle(output_dir)
        other, parts = checkpoints.inference_enh_config, find(task).overwritten
        with overwritten(checkpoints.train_config, other, parts) as config:
            checkpoints = dataclasses.replace(checkpoints, train_config=config)
            with new_bundle(output_dir) as work:
                _export(task, checkpoints, work, source, parity_source, device)
        return read_bundle(output_dir)


def _recognized(task: str, checkpoints: Checkpoints) -> str:
    """The task of a model, which the driver of another one may have trained."""
    by_model = find(task).by_model
    if not by_model:
        return task
    return by_model.get(read_config(checkpoints.train_config).get("model"), task)


def _export(
    task: str,
    checkpoints: Checkpoints,
    work: Path,
    source: dict[str, Any],
    parity_source: Source | None,
    device: Device,
) -> None:
    ngrams = {}
    for name in ("ngram", "src_ngram"):
        file = getattr(checkpoints, f"{name}_file")
        if file is not None:
            refuse_ngram(file)
            copy = work / f"{name}{file.suffix}"
            shutil.copyfile(file, copy)
            ngrams[name] = describe_file(copy)
    model = find_exporter(task)(checkpoints)
    texts = model.write_texts(work)
    graphs = export_graphs(model.graph_specs(), work)
    manifest = Manifest(
        task=task,
        graphs=graphs,
        source=source,
        **model.describe(),
        **ngrams,
        **texts,
    )
    bundle = Bundle(work, manifest)
    parity = check_parity(bundle, model, device, parity_source)
    checks: dict[str, Any] = dict(parity=parity.figures)
    if parity.skipped:
        checks["parity_skipped"] = list(parity.skipped)
    manifest = model.measured(bundle, device)
    write_manifest(work, dataclasses.replace(manifest, checks=checks))


def check_parity(
    bundle: Bundle,
    model: Exporter,
    device: Device,
    source: Source | None = None,
) -> Parity:
    """Compare every graph of an fp32 bundle with the model it was made from.

    Args:
        bundle: the graphs.
        model: the model.
        device: what the graphs run on.
        source: real audio for the encoder, besides noise.

    Raises:
        PluginError: if a difference is above the tolerance.
    """
    logger.info("comparing every graph with PyTorch")
    figures, skipped = model.check_parity(bundle, device, source)
    for name, figure in figures.items():
        logger.info("parity of %s: %.1e", name, figure)
    for case in skipped:
        logger.warning("parity check skipped: %s", case)
    rounded = {k: float(np.format_float_scientific(v, 2)) for k, v in figures.items()}
    return Parity(rounded, skipped)
