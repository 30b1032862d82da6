"""A decoding job's directory: what an earlier run has left there, and may serve."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import REMOVED, remove_tree, replace_directory
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.records import RECORDS, Facts, read_records

TIMING = "timing.jsonl"

#: Utterances that have no results, and why; there only where there is one.
FAILED = "failed"


@dataclass(frozen=True)
class Job:
    """A decoding job.

    Attributes:
        output_dir: where its results will be.
        keys: ids of its utterances, in their order.
        facts: what the results depend on besides the utterances.
        digests: of the inputs of the utterances.
        max_failures: how many utterances may have no result.
        force: decode everything anew.
        earlier: directory of results of other jobs; an utterance of which they are
            current is left to them.
    """

    output_dir: Path
    keys: Sequence[str]
    facts: Facts
    digests: InputDigests
    max_failures: int = 0
    force: bool = False
    earlier: Path | None = None


def remove_if_useless(work: Path) -> None:
    """Remove records of no result, from which nothing can go on."""
    found = read_records(work)[1].values() if work.exists() else ()
    if work.exists() and all(record.failure is not None for record in found):
        remove_tree(work)


def working_directory(job: Job, owns: Callable[[str], bool]) -> Path:
    """The directory to work in, with the records of an earlier run if they serve.

    Args:
        job: the job.
        owns: whether jobs of its kind write something of a name there.

    Raises:
        PluginError: if there is something else.
    """
    final = job.output_dir
    work = final.with_name(f"{final.name}.incomplete")
    serves = None
    for earlier in filter(Path.exists, (work, final)):
        for entry in earlier.iterdir():
            ours = entry.name in (TIMING, FAILED, RECORDS) or owns(entry.name)
            if not ours and not entry.name.startswith(REMOVED):
                raise PluginError(
                    f"{earlier} holds {entry.name}, which no decoding job wrote; "
                    "give another --output_dir"
                )
        if not job.force and read_records(earlier)[0] == job.facts:
            serves = earlier
    for earlier in filter(Path.exists, (work, final)):
        if earlier != serves:
            remove_tree(earlier)
    if serves is None:
        work.mkdir(parents=True, exist_ok=True)  # see remove_tree
    else:
        if serves == final:
            replace_directory(final, work)
        prune(work)
    return work


def prune(directory: Path) -> None:
    """Remove all of a job's directory but its records and their files."""
    keep = {
        name for record in read_records(directory)[1].values() for name in record.files
    }
    keep.add(RECORDS)
    for at, directories, names in os.walk(directory, topdown=False):
        for name in names:
            path = Path(at, name)
            if path.relative_to(directory).as_posix() in keep:
                continue
            if not name.startswith(REMOVED):
                path.unlink()
        for name in directories:
            with contextlib.suppress(OSError):  # it holds files that are kept
                Path(at, name).rmdir()
