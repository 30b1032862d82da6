"""From one bundle to another: every graph rewritten, everything else carried over."""

import dataclasses
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import (
    MANIFEST,
    Bundle,
    Graph,
    Manifest,
    Precision,
    new_bundle,
    read_bundle,
    redescribe,
    sha256,
    write_manifest,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import held

logger = logging.getLogger(__name__)

#: Writes the new form of a graph: (role, old file, new file). Returns whether an
#: utterance gets the same result in a batch as alone, where it did before.
Rewrite = Callable[[str, Path, Path], bool]

#: Measures a new bundle and returns its figures, or raises to refuse it. It may write
#: the bundle's graphs again until they pass.
Check = Callable[[Bundle], Mapping[str, Any]]


def derive(
    parent: Bundle,
    output_dir: Path,
    made_by: Mapping[str, Any],
    rewrite: Rewrite,
    check: Check,
    precision: Precision | None = None,
    graphs: Mapping[str, Graph] | None = None,
    force: bool = False,
) -> Bundle:
    """Write the bundle that ``rewrite`` makes of ``parent``.

    Args:
        parent: the bundle that is read.
        output_dir: the new one; left alone when it is up to date.
        made_by: what decides the result besides the parent: versions, options.
        rewrite: called for each graph.
        check: called with the new bundle before it takes its place.
        precision: of the new bundle, where it is not the parent's.
        graphs: entries of the new graphs, where their tensors are not the parent's.
        force: write it anew where it is up to date too.

    Raises:
        PluginError: if ``output_dir`` is the parent, or the check refuses; an older
            ``output_dir`` then stays as it was.
    """
    if output_dir.resolve() == parent.path.resolve():
        raise PluginError(
            f"--output_dir {output_dir} is --model_dir; give another directory"
        )
    origin = {
        "parent": sha256(parent.path / MANIFEST),
        "made_by": dict(made_by),
        "espnet_onnx_plugin": espnet_onnx_plugin.__version__,
    }
    with held(output_dir):
        if not force and is_current(output_dir, origin):
            logger.info("%s is up to date", output_dir)
            return read_bundle(output_dir)
        graph_files = {
            file.name
            for graph in parent.manifest.graphs.values()
            for file in (graph.file, graph.weights)
            if file is not None
        }
        with new_bundle(output_dir) as work:
            for file in parent.path.iterdir():
                if file.name != MANIFEST and file.name not in graph_files:
                    shutil.copyfile(file, work / file.name)
            graphs = {
                role: _rewritten(role, graph, parent, work, rewrite)
                for role, graph in (graphs or parent.manifest.graphs).items()
            }
            source = {
                k: v for k, v in parent.manifest.source.items() if k not in origin
            } | origin
            manifest: Manifest = dataclasses.replace(
                parent.manifest,
                graphs=graphs,
                precision=precision or parent.manifest.precision,
                source=source,
                checks={},
            )
            checks = {**parent.manifest.checks, **check(Bundle(work, manifest))}
            graphs = {  # a check may mend what it measures
                role: redescribe(work / graph.file.name, graph)
                for role, graph in graphs.items()
            }
            write_manifest(
                work, dataclasses.replace(manifest, graphs=graphs, checks=checks)
            )
        return read_bundle(output_dir)


def _rewritten(
    role: str, graph: Graph, parent: Bundle, work: Path, rewrite: Rewrite
) -> Graph:
    new = work / graph.file.name
    batches = rewrite(role, parent.file(graph.file.name), new)
    return dataclasses.replace(
        redescribe(new, graph), batches=graph.batches and batches
    )


def is_current(output_dir: Path, origin: Mapping[str, Any]) -> bool:
    """Whether ``output_dir`` already holds a whole bundle of this origin."""
    try:
        source = read_bundle(output_dir).manifest.source
    except PluginError:
        return False
    # What is derived of a bundle has that one's sources too, and a parent besides.
    return all(source.get(name) == origin.get(name) for name in ("parent", *origin))
