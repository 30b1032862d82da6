"""Export of a trained model: checkpoint to bundle."""

import dataclasses
import logging
import shutil
from pathlib import Path
from typing import Any, Dict, Optional

import numpy as np
import onnx
import torch

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import (
    Bundle,
    Manifest,
    Speech,
    new_bundle,
    read_bundle,
    sha256,
    write_manifest,
)
from espnet_onnx_plugin.derive import is_current
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export import parity
from espnet_onnx_plugin.export.graph import OPSET
from espnet_onnx_plugin.export.model import Checkpoints
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.task import TaskModel, task_model
from espnet_onnx_plugin.runtime.data import Source, usable
from espnet_onnx_plugin.runtime.device import Device
from espnet_onnx_plugin.runtime.encoder import Encoder
from espnet_onnx_plugin.runtime.session import Session

logger = logging.getLogger(__name__)


def fingerprint(task: str, checkpoints: Checkpoints) -> Dict[str, Any]:
    """What a bundle is made from; equal fingerprints give equal bundles."""
    import espnet2

    return {
        "task": task,
        "files": {name: sha256(path) for name, path in checkpoints.files().items()},
        "espnet": getattr(espnet2, "__version__", "unknown"),
        "torch": str(torch.__version__),
        "onnx": onnx.__version__,
        "opset": OPSET,
        "espnet_onnx_plugin": espnet_onnx_plugin.__version__,
    }


def export_bundle(
    task: str,
    checkpoints: Checkpoints,
    output_dir: Path,
    parity_source: Optional[Source] = None,
) -> Bundle:
    """Write a bundle from ESPnet's checkpoints, and check it.

    Args:
        task: the task that trained them.
        checkpoints: the files.
        output_dir: the bundle; left alone when it is up to date.
        parity_source: real audio, of which a few utterances check the encoder.

    Raises:
        PluginError: if something is not supported, cannot be read, or a graph differs
            from PyTorch; ``output_dir`` is then as it was.
    """
    source = fingerprint(task, checkpoints)
    if is_current(output_dir, source):
        logger.info("%s is up to date", output_dir)
        return read_bundle(output_dir)
    with new_bundle(output_dir) as work:
        _export(task, checkpoints, work, source, parity_source)
    return read_bundle(output_dir)


def _export(
    task: str,
    checkpoints: Checkpoints,
    work: Path,
    source: Dict[str, Any],
    parity_source: Optional[Source],
) -> None:
    espnet: TaskModel = task_model(task)(checkpoints)
    texts = espnet.write_texts(work)
    graphs = espnet.export(work)
    ngrams = {}
    for name in ("ngram", "src_ngram"):
        file = getattr(checkpoints, f"{name}_file")
        if file is not None:
            ngrams[name] = f"{name}{file.suffix}"
            shutil.copyfile(file, work / ngrams[name])
    manifest = Manifest(
        task=task,
        graphs=graphs,
        speech=espnet.speech,
        search=espnet.search,
        source=source,
        **ngrams,
        **texts,
    )
    bundle = Bundle(work, manifest)
    figures = check_parity(bundle, espnet, parity_source)
    encoder, speech = Encoder(bundle, Device()), manifest.speech
    for role in espnet.mixed(bundle):
        logger.info("%s mixes the utterances of a batch: it gets them singly", role)
        graphs[role] = dataclasses.replace(graphs[role], batches=False)
    # Frames made of a transcript have no time.
    if "ctc_log_probs" in encoder.outputs and not espnet.encoder.others:
        shift = frame_shift(encoder, speech)
        speech = dataclasses.replace(speech, frame_shift=shift)
    manifest = dataclasses.replace(
        manifest, graphs=graphs, speech=speech, checks=dict(parity=figures)
    )
    write_manifest(work, manifest)


def frame_shift(encoder: Encoder, speech: Speech, frames: int = 4) -> Optional[float]:
    """How much longer an input is for one more frame of the encoder's output.

    Args:
        encoder: whose lengths are measured.
        speech: what its input has to be.
        frames: how many frames it is measured over.

    Returns:
        Samples or frames of the input; None where a longer input gives no more frames.
    """

    def encoded(length: int) -> int:
        shape = [length, speech.feature_dim] if speech.feature_dim else [length]
        return int(encoder([np.zeros(shape, np.float32)]).lengths[0])

    def shortest(wanted: int, low: int) -> Optional[int]:
        high = 2 * low
        while encoded(high) < wanted:
            low, high = high, 2 * high
            if high > 64 * first:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if encoded(middle) >= wanted else (middle, high)
        return high

    first = 8 * speech.min_length
    known = encoded(first)
    start, end = shortest(known + 1, first), shortest(known + 1 + frames, first)
    return None if start is None or end is None else (end - start) / frames


def check_parity(
    bundle: Bundle, espnet: TaskModel, source: Optional[Source] = None
) -> Dict[str, float]:
    """Compare every graph of an fp32 bundle with the model it was made from.

    Args:
        bundle: the graphs.
        espnet: the model.
        source: real audio for the encoder, besides noise.

    Returns:
        The largest relative difference by component.

    Raises:
        PluginError: if one is above the tolerance.
    """
    logger.info("comparing every graph with PyTorch")
    device = Device()
    speech = bundle.manifest.speech
    encoder = Encoder(bundle, device)
    figures = {"encoder": parity.check_encoder(espnet.encode, encoder, espnet.noise())}
    if source is not None:
        figures["encoder_on_real_audio"] = parity.check_encoder(
            espnet.encode,
            encoder,
            (
                (key, espnet.accompany(array))
                for key, array, _ in usable(source, speech)
            ),
        )
    for role, step in espnet.steps.items():
        if role not in bundle.manifest.graphs:
            raise PluginError(f"{bundle.path} has no {role}; export it with one")
        memory = None
        if step.memory is not None:
            memory = Session(bundle, f"{role}_memory", device)
        session = Session(bundle, role, device)
        dim, vocabulary = espnet.sizes(role)
        whole = isinstance(step, SequenceModule)
        check = parity.check_sequence if whole else parity.check_step
        figures[role] = check(step, session, memory, dim, vocabulary, role)
    figures.update(espnet.check_parity(bundle))
    for name, figure in figures.items():
        logger.info("parity of %s: %.1e", name, figure)
    return {k: float(np.format_float_scientific(v, 2)) for k, v in figures.items()}
