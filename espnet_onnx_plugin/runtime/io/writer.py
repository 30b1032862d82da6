"""Result files of a decoding job, as ESPnet lays them out."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, TextIO

from espnet_onnx_plugin.errors import PluginError

logger = logging.getLogger(__name__)

TIMING = "timing.jsonl"

#: Utterances that have no results, and why; there only where there is one.
FAILED = "failed"


class IncompleteError(PluginError):
    """Some utterances have no result; those of the others are kept, under a name that
    says so.
    """


class JobWriter:
    """Files of a job, each of which begins with its first line.

    Args:
        work: where it writes.

    Attributes:
        done: what becomes of utterances in the job, as a participle.
    """

    done: ClassVar[str] = "decoded"

    def __init__(self, work: Path):
        self._work = work
        self._files: dict[str, TextIO] = {}
        self._failures: list[str] = []

    def _line(self, name: str, line: str) -> None:
        if name not in self._files:
            path = self._work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = open(path, "w", encoding="utf-8")
        self._files[name].write(line + "\n")

    def failure(self, key: str, error: Exception) -> None:
        """Write down that an utterance has no results, and why."""
        reason = " ".join(str(error).split())
        logger.error("utterance '%s' is not %s: %s", key, self.done, reason)
        self._line(FAILED, f"{key} {reason}")
        self._failures.append(f"utterance '{key}': {reason}")

    def check(self, total: int) -> None:
        """Refuse a job of ``total`` utterances of which some have no results.

        Raises:
            IncompleteError: with their number and the first.
        """
        if self._failures:
            raise IncompleteError(
                f"{len(self._failures)} of {total} utterances could not be {self.done},"
                f" the file {FAILED} names them; the first: {self._failures[0]}"
            )

    def timing(self, **values: str | float | None) -> None:
        """Write one line of ``timing.jsonl``."""
        self._line(TIMING, json.dumps(values))

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


#: Bytes of a file's name that file systems take, without the suffix of ours.
_LONGEST_NAME = 255 - len(".flac")


def check_file_names(keys: Iterable[str], done: str) -> None:
    """Refuse utterances that no file can be named after.

    A file's name is the id and a suffix, of which dots alone are no part. Scripts read
    it as an option where it begins with a dash.

    Args:
        keys: their ids.
        done: what would become of them, as a participle.

    Raises:
        PluginError: naming the first.
    """
    for key in keys:
        size = len(os.fsencode(key))
        if (
            set(key) & {"/", "\0"}
            or not key.strip(".")
            or key.startswith("-")
            or size > _LONGEST_NAME
        ):
            shown = repr(key) if size < 80 else f"{key[:40]!r}... of {size} bytes"
            raise PluginError(
                f"utterance id {shown} cannot be the name of a file: rename the "
                f"utterance; nothing was {done}"
            )


class ResultWriter(JobWriter):
    """Writes ``{n}best_recog/{token,token_int,score,text}`` and ``timing.jsonl``.

    Use :func:`result_writer`, which makes them appear only when they are whole.
    """

    def results(self, key: str, files: Mapping[str, str | Sequence[str]]) -> None:
        """Write the results of an utterance.

        A token may hold a line break; in a file it is a space.

        Args:
            key: the utterance's id.
            files: the line or lines of each file, by its path.
        """
        for name, content in files.items():
            for line in [content] if isinstance(content, str) else content:
                self._line(name, re.sub(r"[\r\n]+", " ", f"{key} {line}"))


@contextlib.contextmanager
def written_aside(
    output_dir: str | Path, ours: Callable[[str], bool]
) -> Iterator[Path]:
    """A directory that becomes ``output_dir`` once the block has ended well.

    On an exception nothing is left of it, but for :class:`IncompleteError`, after which
    it lies in ``{output_dir}.incomplete``. Results of an earlier run are removed first,
    so that they cannot be taken for this one's.

    Args:
        output_dir: where it will be.
        ours: whether a job writes something of this name; what holds anything else is
            not removed.

    Raises:
        PluginError: if ``output_dir`` holds something else.
    """
    output_dir = Path(output_dir)
    incomplete = output_dir.with_name(f"{output_dir.name}.incomplete")
    for earlier in filter(Path.exists, (output_dir, incomplete)):
        for entry in earlier.iterdir():
            if entry.name != TIMING and not ours(entry.name):
                raise PluginError(
                    f"{earlier} holds {entry.name}, which no decoding job wrote; "
                    "give another --output_dir"
                )
        shutil.rmtree(earlier)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    work.chmod(0o755)  # mkdtemp's is private; ESPnet's are not
    try:
        yield work
        work.rename(output_dir)
    except IncompleteError as e:
        if not any(work.iterdir()):
            raise
        work.rename(incomplete)
        raise PluginError(f"{e}; the results of the others are in {incomplete}")
    finally:
        if work.exists():
            shutil.rmtree(work)


@contextlib.contextmanager
def result_writer(output_dir: str | Path) -> Iterator[ResultWriter]:
    """A writer whose files lie in ``output_dir`` once the block has ended well."""
    with written_aside(output_dir, lambda n: n.endswith("best_recog")) as work:
        writer = ResultWriter(work)
        try:
            yield writer
        finally:
            writer.close()
