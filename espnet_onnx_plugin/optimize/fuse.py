"""Fused graphs: our rules, then onnxruntime's own optimizer, ahead of time.

On the CPU the level is the one below hardware-specific layouts, so that a bundle runs
on any machine; onnxruntime adds those when it loads a graph. For CUDA it stops at what
every provider runs, for here nodes are the CPU's, and the rest is fused when the graph
is loaded: for CUDA nodes onnxruntime's own optimizer makes SkipLayerNormalization,
BiasGelu, FastGelu, QuickGelu (SiLU), BiasSoftmax and FusedMatMul
(``graph_transformer_utils.cc``).
"""

from __future__ import annotations

import logging
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import onnxruntime as ort

from espnet_onnx_plugin.bundle import Bundle, weights_path
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.bundle.graph_file import THRESHOLD, load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.evaluator import Evaluator, evaluator_of
from espnet_onnx_plugin.optimize.rules.registry import apply_rules
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import session_options
from espnet_onnx_plugin.tasks import task_of

logger = logging.getLogger(__name__)

CPU = Device()

#: Largest difference of an output relative to its scale that fusion may cause.
TOLERANCE = 1e-4

_LEVELS = {
    "cpu": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "cuda": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "tensorrt": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
}


def fuse_graph(source: Path, target: Path, provider: str, device: Device = CPU) -> None:
    """Write what onnxruntime's optimizer makes of one ONNX file.

    Args:
        source, target: the files.
        provider: where the graph will run.
        device: where it is optimized.
    """
    options = session_options(device)
    options.graph_optimization_level = _LEVELS[provider]
    options.optimized_model_filepath = str(target)
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_file_name",
        weights_path(target).name,
    )
    options.add_session_config_entry(
        "session.optimized_model_external_initializers_min_size_in_bytes",
        str(THRESHOLD),
    )
    try:
        ort.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    except Exception as e:  # onnxruntime's exceptions have no common base
        reason = str(e).splitlines()[0]
        raise PluginError(
            f"onnxruntime {ort.__version__} cannot write the optimized {source.stem} "
            f"({reason}); check the space left in {target.parent.parent}"
        )


def optimize_graph(
    source: Path, target: Path, provider: str, device: Device = CPU
) -> dict[str, int]:
    """Write the optimized form of an ONNX file; returns how often each rule matched."""
    model, counts = apply_rules(load_graph(source), provider)
    with tempfile.TemporaryDirectory(dir=target.parent) as work:
        rewritten = Path(work) / target.name
        save_graph(model, rewritten)
        fuse_graph(rewritten, target, provider, device)
    return counts


def count_nodes(path: Path) -> Counter:
    """Nodes of a graph by operator."""
    graph = onnx.load(path, load_external_data=False).graph
    return Counter(node.op_type for node in graph.node)


def optimize(
    model: Bundle,
    output_dir: Path,
    provider: str,
    evaluator: Evaluator[Any] | None = None,
    device: Device = CPU,
    force: bool = False,
) -> Bundle:
    """Write the fused form of a bundle, and check that it decodes the same.

    Args:
        model: the bundle to optimize.
        output_dir: the new bundle.
        provider: where it will run.
        evaluator: what to compare on, of the model's task.
        device: where it is optimized and compared.
        force: write it anew where it is up to date too.

    Raises:
        PluginError: if an output differs from the original's, or any token or waveform
            does.
    """
    evaluator = evaluator_of(model)() if evaluator is None else evaluator
    nodes: dict[str, Any] = {}

    def rewrite(role: str, old: Path, new: Path) -> bool:
        rules = optimize_graph(old, new, provider, device)
        before, after = count_nodes(old), count_nodes(new)
        nodes[role] = {
            "before": sum(before.values()),
            "after": sum(after.values()),
            "rules": {name: count for name, count in rules.items() if count},
            "fused": dict(after - before),
        }
        return True

    def check(bundle: Bundle) -> Mapping[str, Any]:
        comparison = evaluator.compare(model, bundle, device)
        if not comparison.utterances:
            raise PluginError(
                "there is no utterance to compare the optimized model on; nothing was "
                "written"
            )
        if comparison.not_compared:
            logger.warning(
                "not compared with the original, for nothing here uses them: %s",
                ", ".join(comparison.not_compared),
            )
        for component, figure in comparison.differences.items():
            if not figure <= TOLERANCE:
                raise PluginError(
                    f"optimized {component} differs from the original by {figure:.1e} "
                    f"(allowed {TOLERANCE:.0e}); nothing was written"
                )
        if comparison.identical < comparison.utterances:
            raise PluginError(
                f"the optimized model gave other {task_of(model).gives} for "
                f"{comparison.utterances - comparison.identical} of "
                f"{comparison.utterances} utterances; nothing was written"
            )
        return {"optimize": {"nodes": nodes, **comparison.as_dict()}}

    made_by = dict(
        step="optimize",
        provider=provider,
        calibration=evaluator.as_dict(),
        onnxruntime=ort.__version__,
    )
    return derive(model, output_dir, made_by, rewrite, check, force=force)
