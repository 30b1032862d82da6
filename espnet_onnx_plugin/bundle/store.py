"""Bundles on disk: read and verified, written aside and renamed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from espnet_onnx_plugin.bundle import lift
from espnet_onnx_plugin.bundle.external_data import refuse_other_files
from espnet_onnx_plugin.bundle.graph import File, Graph, State, Tensor
from espnet_onnx_plugin.bundle.manifest import FORMAT_VERSION, Manifest
from espnet_onnx_plugin.bundle.typed import parse, plain
from espnet_onnx_plugin.bundle.yaml_file import read_yaml
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import new_directory, remove_tree, replace_directory

MANIFEST = "manifest.yaml"

#: Bytes of one: those of large models have some 50 KiB.
LARGEST_MANIFEST = 4 * 2**20

#: Letters of what is wrong with one.
_LONGEST_REASON = 500


@dataclass(frozen=True)
class Bundle:
    """A bundle on disk."""

    path: Path
    manifest: Manifest

    def file(self, file: File | str) -> Path:
        """Path of a file of the bundle."""
        return self.path / (file if isinstance(file, str) else file.name)

    @property
    def size(self) -> int:
        """Bytes of all files of the bundle."""
        return sum(f.stat().st_size for f in self.path.rglob("*") if f.is_file())


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    digest = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def weights_path(graph: Path) -> Path:
    """Where the weights of the graph that lies at ``graph`` are."""
    return graph.with_suffix(".weights")


def describe_file(path: Path) -> File:
    """The manifest's entry for a file."""
    return File(path.name, path.stat().st_size, sha256(path))


def describe(
    path: Path,
    inputs: Mapping[str, Tensor],
    outputs: Mapping[str, Tensor],
    states: Mapping[str, State],
) -> Graph:
    """The manifest's entry for a graph that lies at ``path``, weights beside it."""
    weights = weights_path(path)
    return Graph(
        file=describe_file(path),
        weights=describe_file(weights) if weights.exists() else None,
        inputs=dict(inputs),
        outputs=dict(outputs),
        states=dict(states),
    )


def redescribe(path: Path, graph: Graph) -> Graph:
    """The entry of a graph that was rewritten: same tensors, another file."""
    new = describe(path, graph.inputs, graph.outputs, graph.states)
    return dataclasses.replace(new, batches=graph.batches)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


_Dumper.add_representer(
    list,
    lambda dumper, data: dumper.represent_sequence(
        "tag:yaml.org,2002:seq", data, flow_style=True
    ),
)


def read_manifest(path: str | Path) -> Manifest:
    """Read what a bundle says of itself, without a look at its other files.

    Raises:
        PluginError: if the directory is no bundle, or is of another format.
    """
    path = Path(path)
    manifest_file = path / MANIFEST
    if not manifest_file.is_file():
        raise PluginError(f"{path} is not a bundle: it has no {MANIFEST}; export it")
    _refuse_link(manifest_file)
    try:
        content = read_yaml(manifest_file, plain=True, largest=LARGEST_MANIFEST)
        version = content["format_version"]
        if not isinstance(version, int):
            raise TypeError(version)
        if version == lift.FORMAT_VERSION:
            content, version = lift.lift(content, path), FORMAT_VERSION
        if version == FORMAT_VERSION:
            manifest = parse(Manifest, content, str(manifest_file))
            manifest.check_graphs()
            for file in manifest.files:
                _check_name(file.name, manifest_file)
            return manifest
    except PluginError as e:
        reason = " ".join(str(e).split())[:_LONGEST_REASON]  # what it holds is anything
        raise PluginError(f"{reason}; it is damaged, export the bundle again")
    except (KeyError, TypeError, AttributeError, ValueError):
        raise PluginError(f"{manifest_file} is damaged; export the bundle again")
    raise PluginError(
        f"{manifest_file} has format {version}, this version reads "
        f"{lift.FORMAT_VERSION} and {FORMAT_VERSION}; export the bundle again"
    )


def read_bundle(path: str | Path) -> Bundle:
    """Open a bundle and check that its files are the ones that were written.

    Raises:
        PluginError: if the directory is no bundle, is of another format, a file is
            missing, truncated or changed, or a graph reads one that is not listed.
    """
    path = Path(path)
    manifest = read_manifest(path)
    for file in manifest.files:
        _verify(path / file.name, file)
    for graph in manifest.graphs.values():
        weights = graph.weights.name if graph.weights else None
        refuse_other_files(path / graph.file.name, weights)
    return Bundle(path, manifest)


def _check_name(name: str, manifest: Path) -> None:
    """Refuse a file that is not in the bundle's directory itself."""
    plain = name.isprintable() and "\\" not in name and len(name) < 200
    if Path(name).name != name or name in ("", "..") or not plain:
        raise PluginError(f"{manifest} names {name!r}, which is no file of a bundle")


def _leads_out(file: Path) -> bool:
    """Whether a link leads out of the bundle; a hub's cache links to its own blobs."""
    target, home = file.resolve(), file.parent.resolve()
    caches = [
        above / "blobs" for above in home.parents if (above / "snapshots").is_dir()
    ]
    return target.parent not in (home, *caches)


def _refuse_link(file: Path) -> None:
    if file.is_symlink() and _leads_out(file):
        raise PluginError(
            f"{file} is a link that leads out of the bundle; copy what it links to"
        )


def _verify(file: Path, expected: File) -> None:
    _refuse_link(file)
    if not file.is_file():
        raise PluginError(f"{file} is missing; copy the bundle again, or export it")
    if file.stat().st_size != expected.size or sha256(file) != expected.sha256:
        raise PluginError(
            f"{file} is truncated or changed (its size or sha256 is not the "
            "manifest's); copy the bundle again, or export it"
        )


def write_manifest(path: Path, manifest: Manifest) -> None:
    """Write ``manifest.yaml`` into a directory that :func:`new_bundle` gave."""
    with open(path / MANIFEST, "w", encoding="utf-8") as f:
        yaml.dump(
            plain(manifest), f, Dumper=_Dumper, sort_keys=False, allow_unicode=True
        )


@contextlib.contextmanager
def new_bundle(output_dir: str | Path) -> Iterator[Path]:
    """Give a directory to write a bundle in; it becomes ``output_dir`` at the end.

    To be used by the one that holds ``output_dir``, see :func:`~.files.held`.

    On an exception the directory is removed and an older ``output_dir`` stays as it
    was. An ``output_dir`` that exists and is no bundle is refused.
    """
    output_dir = Path(output_dir)
    if output_dir.exists() and not (output_dir / MANIFEST).is_file():
        if not output_dir.is_dir() or any(output_dir.iterdir()):
            raise PluginError(
                f"{output_dir} exists and is not a bundle; remove it or give another "
                "--output_dir"
            )
    work = new_directory(output_dir)
    try:
        yield work
        replace_directory(work, output_dir)
    finally:
        remove_tree(work)
