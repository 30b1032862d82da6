"""Result files of a decoding job, as ESPnet lays them out, and what a killed job keeps.

A job works in ``OUTPUT_DIR.incomplete``, where it appends a record of each utterance.
In the end it writes ESPnet's files of all records and renames the directory. Run again
after a kill, or a failure, it goes on from the records that are still current.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import held, replace_directory, sync_tree
from espnet_onnx_plugin.runtime.io.job import (
    FAILED,
    TIMING,
    Job,
    remove_if_useless,
    working_directory,
)
from espnet_onnx_plugin.runtime.io.records import (
    Draws,
    Journal,
    Record,
    decoded,
    encoded,
    read_records,
)

logger = logging.getLogger(__name__)

#: Files of a recognizer's best hypothesis, which may be of several speakers.
_MERGED = r"(asr_)?(token|token_int|score|text|text_nospecial|stream)(_spk\d+)?"

#: Number of failed utterances that an error names; the log names them all.
NAMED = 5


class IncompleteError(PluginError):
    """Some utterances have no result; those of the others are kept, under a name that
    says so.
    """


class JobWriter:
    """Records what becomes of the utterances of a job. Use :func:`job_writer`.

    Args:
        job: the job.
        work: where it writes, with the records that it begins with.

    Attributes:
        done: what becomes of utterances in the job, as a participle.
    """

    done: ClassVar[str] = "decoded"

    #: Result files that are for a recipe's merge alone.
    left_out: frozenset[str] = frozenset()

    #: Result files that are there where they have no line, too.
    lists: Sequence[str] = ()

    def __init__(self, job: Job, work: Path):
        self.job, self._work = job, work
        self._records = read_records(work)[1]
        self._earlier: dict[str, Record] = {}
        if job.earlier is not None:
            facts, found = read_records(job.earlier)
            self._earlier = found if facts == job.facts else {}
        self._kept: set[str] = set()
        self._left: set[str] = set()
        self._journal = Journal(work, job.facts)
        self._begin()

    @classmethod
    def check(cls, job: Job, **options: Any) -> None:
        """Refuse a job, before anything of an earlier one is touched.

        Args:
            job: the job.
            options: of the class.
        """

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether jobs write something of this name into their directory."""
        raise NotImplementedError

    @classmethod
    def lists_in(cls, final: Path, name: str) -> Path:
        """The directory ``final`` as the result file ``name`` lists its files."""
        return final

    @classmethod
    def merged(cls, name: str) -> str | None:
        """The file or directory of a decode's directory that a recipe makes of the
        jobs' ``name``, as ESPnet's recipes do; None where that stays with the jobs'.
        """
        raise NotImplementedError

    @classmethod
    def complete(cls, name: str) -> bool:
        """Whether a result file has a line of every utterance."""
        return True

    def _begin(self) -> None:
        self._lines: dict[str, list[str]] = {}
        self._listed: dict[str, str] = {}
        self._files: list[str] = []

    def _line(self, name: str, line: str) -> None:
        """A line of a result file for the utterance, less its id."""
        self._lines.setdefault(name, []).append(line)

    def _file(self, name: str, in_list: str | None = None) -> Path:
        """Where to write a file for the utterance, which a result file may list."""
        self._files.append(name)
        if in_list is not None:
            self._listed[in_list] = name
        path = self._work / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def kept(self, key: str, draws: Draws | None = None) -> bool:
        """Whether the results of an utterance are there and current.

        Args:
            key: its id.
            draws: what it would draw from; goes on from where it would be afterwards.
        """
        for records, directory, kept in (
            (self._records, self._work, self._kept),
            (self._earlier, self.job.earlier, self._left),
        ):
            record = records.get(key)
            if record is None or directory is None:
                continue
            inputs = self.job.digests.of(key)
            if record.is_current(inputs, draws) and record.is_intact(directory):
                if record.drawn is not None and draws is not None:
                    draws.restore(decoded(record.drawn[1]))
                kept.add(key)
                return True
        return False

    def _record(self, key: str, **more: Any) -> None:
        files = {name: sha256(self._work / name) for name in self._files}
        record = Record(
            key,
            self.job.digests.of(key),
            self._lines,
            self._listed,
            files,
            **more,
        )
        self._journal.append(record)
        self._records[key] = record
        self._begin()

    def record(
        self,
        key: str,
        timing: Mapping[str, Any],
        before: str | None = None,
        draws: Draws | None = None,
    ) -> None:
        """Record what was written of an utterance.

        Args:
            key: its id.
            timing: figures for ``timing.jsonl``.
            before: state of ``draws`` before the utterance, see
                :func:`~.records.encoded`.
            draws: what it has drawn from.
        """
        drawn = None
        if before is not None and draws is not None:
            after = encoded(draws)
            drawn = None if after == before else (before, after)
        self._record(key, timing={"key": key, **timing}, drawn=drawn)

    def failure(self, key: str, error: Exception) -> None:
        """Record that an utterance has no results, and why.

        What was written of it stands for its results where failures are allowed.
        """
        reason = " ".join(str(error).split()).removeprefix(f"utterance '{key}': ")
        logger.error("utterance '%s' is not %s: %s", key, self.done, reason)
        for name in self._files:
            (self._work / name).unlink(missing_ok=True)
        self._files, self._listed = [], {}
        self._record(key, failure=reason)

    def log_kept(self) -> None:
        """Say how much of the job is left to do, where something was kept."""
        kept, total = len(self._kept | self._left), len(self.job.keys)
        if kept:
            logger.info("kept %d of %d utterances; %d to do", kept, total, total - kept)

    def finish(self) -> None:
        """Write the result files.

        Raises:
            IncompleteError: if more utterances have no result than are allowed.
        """
        records = [self._records[key] for key in self.job.keys if key not in self._left]
        failed = {r.key: r.failure for r in records if r.failure is not None}
        allowed = len(failed) <= self.job.max_failures
        lines = result_lines(records, self._list_path, allowed)
        for name in self.lists:
            lines.setdefault(name, [])
        for name in self.left_out:
            lines.pop(name, None)
        write_lines(self._work, lines)
        self.close()
        sync_tree(self._work)
        if not allowed:
            raise IncompleteError(not_done(failed, len(self.job.keys), self.done))

    def _list_path(self, name: str, file: str) -> Path:
        return self.lists_in(self.job.output_dir, name) / file

    def close(self) -> None:
        """Bring the records to the disk."""
        self._journal.close()


def not_done(failed: Mapping[str, str], total: int, done: str) -> str:
    """Sentence on utterances without results.

    Args:
        failed: reasons by id.
        total: number of utterances.
        done: what should have become of them.
    """
    reasons = [f"'{key}' ({why})" for key, why in list(failed.items())[:NAMED]]
    if len(failed) > NAMED:
        reasons.append(f"and {len(failed) - NAMED} more, which the log names")
    return (
        f"{len(failed)} of {total} utterances could not be {done}: {', '.join(reasons)}"
    )


def result_lines(
    records: Iterable[Record],
    list_path: Callable[[str, str], Path],
    with_failed: bool,
) -> dict[str, list[str]]:
    """The lines of result files, by file.

    Args:
        records: of the utterances, in the order of the lines.
        list_path: the path that a result file has for a file that it lists.
        with_failed: whether what stands for the results of failed ones is among them.
    """
    lines: dict[str, list[str]] = {}
    for record in records:
        key = record.key
        if record.failure is not None:
            lines.setdefault(FAILED, []).append(f"{key} {record.failure}")
        if record.failure is None or with_failed:
            for name, values in record.lines.items():
                lines.setdefault(name, []).extend(f"{key} {value}" for value in values)
        for name, file in record.listed.items():
            lines.setdefault(name, []).append(f"{key} {list_path(name, file)}")
        if record.timing is not None:
            lines.setdefault(TIMING, []).append(json.dumps(record.timing))
    return lines


def write_lines(directory: Path, lines: Mapping[str, Iterable[str]]) -> None:
    """Write files of lines into a directory."""
    for name, content in lines.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "w", encoding="utf-8") as file:
            file.writelines(f"{line}\n" for line in content)


#: Bytes of an id in the name of a file, which has at most 255, our suffix and, while it
#: is moved, a few more among them.
_LONGEST_NAME = 255 - len(".flac") - len("..new")


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
    """Writes ``{n}best_recog/{token,token_int,score,text}``."""

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether it is a directory of results."""
        return name.endswith("best_recog")

    @classmethod
    def merged(cls, name: str) -> str | None:
        """ESPnet's recipes take these files of the best hypothesis."""
        directory, _, file = name.partition("/")
        if directory not in ("1best_recog", "1asr_best_recog"):
            return None
        return file if re.fullmatch(_MERGED, file) else None

    def results(self, files: Mapping[str, str | Sequence[str]]) -> None:
        """Write the results of an utterance.

        A token may hold a line break; in a file it is a space.

        Args:
            files: the line or lines of each file, by its path.
        """
        for name, content in files.items():
            for line in [content] if isinstance(content, str) else content:
                self._line(name, re.sub(r"[\r\n]+", " ", line))


Writer = TypeVar("Writer", bound=JobWriter)


@contextlib.contextmanager
def job_writer(kind: type[Writer], job: Job, **options: Any) -> Iterator[Writer]:
    """The writer of a job, whose results lie in ``output_dir`` once the block has
    ended well.

    On an exception the records stay in ``{output_dir}.incomplete``, from which the next
    job with the same facts goes on. Results of an earlier run are that first, or are
    removed, so that they cannot be taken for this one's.

    Args:
        kind: class of the writer.
        job: the job.
        options: of the class besides.

    Raises:
        PluginError: if ``output_dir`` holds something else, another job writes it, or
            more utterances failed than are allowed; the results of the others are then
            in ``{output_dir}.incomplete``.
    """
    with held(job.output_dir), contextlib.ExitStack() as stack:
        kind.check(job, **options)
        work = working_directory(job, kind.owns)
        stack.callback(remove_if_useless, work)
        writer = kind(job, work, **options)
        stack.callback(writer.close)
        yield writer
        try:
            writer.finish()
        except IncompleteError as e:
            others = any(r.failure is None for r in read_records(work)[1].values())
            kept = f"; the results of the others are in {work}" if others else ""
            raise PluginError(f"{e}{kept}")
        replace_directory(work, job.output_dir)
