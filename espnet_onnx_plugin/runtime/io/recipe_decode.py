"""A decode of a recipe's test set: jobs share it, one directory has it in the end.

The jobs of a run write into ``LOG_DIR/RUN/output.N``. Their records are gathered in
``LOG_DIR/output``, from which a later run knows what is left to do, whatever the number
of its jobs; and ESPnet's files in the decode's directory are made of them. The mark is
written last: a directory without it, or with another one's, is no decode.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import REMOVED, sync_tree, write_whole
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.job import FAILED, TIMING, prune
from espnet_onnx_plugin.runtime.io.records import (
    Facts,
    Record,
    read_records,
    write_records,
)
from espnet_onnx_plugin.runtime.io.writer import (
    JobWriter,
    not_done,
    result_lines,
    write_lines,
)

#: The mark: what made the decode, its files with their digests, and what failed.
MARK = "onnx_decode.json"

#: The mark of a decode that is being made anew.
_WITHDRAWN = f".{MARK}.old"

#: Directories of the jobs of a run, in the log directory; each run has its own, so that
#: jobs of a run that was killed cannot write into a later one's.
RUNS = "run.*"

_REMEDY = "run stage 16 again"


@dataclass(frozen=True)
class RecipeDecode:
    """A decode of a test set.

    Attributes:
        directory: where ESPnet has its results.
        log_dir: where its jobs write.
        kind: what writes their results.
        keys: ids of the utterances.
        facts: what the results depend on besides the utterances.
        digests: of the inputs of the utterances.
    """

    directory: Path
    log_dir: Path
    kind: type[JobWriter]
    keys: Sequence[str]
    facts: Facts
    digests: InputDigests

    @property
    def store(self) -> Path:
        """Directory of all records."""
        return self.log_dir / "output"

    def left(self) -> list[str]:
        """The utterances that have to be decoded; gathers what earlier runs have left.

        Where utterances draw from a generator one after the other, these are all until
        the decode is whole: only the job that comes to one knows its state.
        """
        records = self._gather()
        left = [key for key in self.keys if not self._has(records, key)]
        if left and any(record.drawn for record in records.values()):
            left = list(self.keys)
        if left or not self._is_whole(records):
            self._withdraw()
        return left

    def forget(self) -> None:
        """Remove what earlier runs have left."""
        self._withdraw()
        for left in [self.store, *self.log_dir.glob(RUNS)]:
            shutil.rmtree(left, ignore_errors=True)

    def merge(self, max_failures: int, files: Sequence[str] = ()) -> None:
        """Make ESPnet's files of what the jobs have written, then the mark.

        Args:
            max_failures: number of utterances that may have no result.
            files: those to make; default: all.

        Raises:
            PluginError: if one has not been decoded, if more of them have failed, or if
                a file would lack one; there is no mark then.
        """
        self._withdraw()
        records = self._gather()
        missing = [key for key in self.keys if key not in records]
        if missing:
            raise PluginError(
                f"{self.directory}: {len(missing)} of {len(self.keys)} utterances were "
                "not decoded, or with another model or other options than at the end "
                f"of the run, '{missing[0]}' the first; {_REMEDY}"
            )
        in_order = [records[key] for key in self.keys]
        failed = {r.key: r.failure for r in in_order if r.failure is not None}
        if len(failed) > max_failures:
            write_lines(
                self.store, {FAILED: result_lines(in_order, _path, False)[FAILED]}
            )
            raise PluginError(
                not_done(failed, len(self.keys), self.kind.done)
                + f" (in {self.store}); mend or remove them and {_REMEDY}, which does "
                f"them alone, or allow them by --onnx_max_failures {len(failed)}"
            )
        self._write(in_order, failed, files)

    def _has(self, records: Mapping[str, Record], key: str) -> bool:
        record = records.get(key)
        if record is None or record.failure is not None:
            return False
        return record.inputs == self.digests.of(key) and record.is_intact(self.store)

    def _is_whole(self, records: Mapping[str, Record]) -> bool:
        """Whether the mark is there, and the files are as it has them."""
        mark = read_mark(self.directory)
        if mark is None or mark["facts"] != self.facts or mark["failed"]:
            return False
        places = self._places(records[key] for key in self.keys)
        return (
            mark["utterances"] == len(self.keys)
            and not changed(self.directory, mark)
            and all(place.is_file() for place in places.values())
        )

    def _withdraw(self) -> None:
        """Take the mark away; what it says of files is needed to remove them."""
        with contextlib.suppress(FileNotFoundError):
            (self.directory / MARK).rename(self.directory / _WITHDRAWN)

    def _gather(self) -> dict[str, Record]:
        """Take what the jobs have written into the store."""
        facts, records = read_records(self.store)
        if facts != self.facts:
            shutil.rmtree(self.store, ignore_errors=True)
            records = {}
        self.store.mkdir(parents=True, exist_ok=True)
        runs = sorted(self.log_dir.glob(RUNS), key=lambda run: run.stat().st_mtime_ns)
        for job in (job for run in runs for job in sorted(run.glob("output.*"))):
            facts, found = read_records(job)
            if facts == self.facts and job.is_dir():
                for record in found.values():
                    if all(_link(job / n, self.store / n) for n in record.files):
                        records[record.key] = record
        write_records(self.store, self.facts, records)
        for run in runs:
            # A job that has lost its driver may still be writing there.
            shutil.rmtree(run, ignore_errors=True)
        return records

    def _place(self, file: str) -> Path | None:
        """Where a file of the jobs lies in the decode's directory."""
        name = self.kind.merged(file)
        return None if name is None else self.directory / name

    def _places(self, records: Iterable[Record]) -> dict[str, Path]:
        """Places of all files that have one."""
        files = {file for record in records for file in record.files}
        found = {file: self._place(file) for file in sorted(files)}
        return {file: place for file, place in found.items() if place is not None}

    def _list_path(self, name: str, file: str) -> Path:
        place = self._place(file)
        return self.kind.lists_in(self.store, name) / file if place is None else place

    def _write(
        self,
        records: Sequence[Record],
        failed: Mapping[str, str],
        files: Sequence[str],
    ) -> None:
        prune(self.store)
        lines = result_lines(records, self._list_path, True)
        write_lines(self.store, lines)
        sync_tree(self.store)
        made = {}
        for name, content in lines.items():
            merged = self.kind.merged(name) if name not in (TIMING, FAILED) else None
            if merged is not None and (not files or merged in files):
                if self.kind.complete(merged):
                    self._check(merged, content, failed)
                made[merged] = "".join(
                    f"{line}\n" for line in sorted(content, key=str.encode)
                )
        for name in files:
            if not self.kind.complete(name):
                made.setdefault(name, "")
        places = self._places(records)
        self._remove_others({self.directory / name for name in made}, places)
        for file, place in places.items():
            _link(self.store / file, place)
        for name, text in made.items():
            (self.directory / name).parent.mkdir(parents=True, exist_ok=True)
            write_whole(self.directory / name, text)
        mark = {
            "facts": self.facts,
            "utterances": len(self.keys),
            "failed": dict(failed),
            "files": {name: sha256(self.directory / name) for name in sorted(made)},
        }
        write_whole(self.directory / MARK, json.dumps(mark, indent=1) + "\n")
        (self.directory / _WITHDRAWN).unlink(missing_ok=True)

    def _remove_others(self, made: set[Path], places: Mapping[str, Path]) -> None:
        """Remove what an earlier merge has made and this one does not."""
        mark = read_mark(self.directory, _WITHDRAWN)
        earlier = {self.directory / name for name in (mark["files"] if mark else ())}
        for directory in {place.parent for place in places.values()}:
            if directory.is_dir():
                earlier |= {path for path in directory.iterdir() if path.is_file()}
        for path in earlier - made - set(places.values()):
            if not path.name.startswith(REMOVED):
                path.unlink(missing_ok=True)

    def _check(
        self, name: str, lines: Iterable[str], failed: Mapping[str, Any]
    ) -> None:
        """Refuse a file that does not have every utterance once."""
        found: dict[str, int] = {}
        for line in lines:
            key = line.split(maxsplit=1)[0]
            found[key] = found.get(key, 0) + 1
        for key in self.keys:
            if found.get(key, 0) != 1 and key not in failed:
                has = f"has {found[key]} lines of" if key in found else "lacks"
                raise PluginError(f"{self.directory / name} {has} '{key}'; {_REMEDY}")


def _path(name: str, file: str) -> Path:
    return Path(file)


def read_mark(directory: Path, name: str = MARK) -> dict[str, Any] | None:
    """The mark of a decode's directory; None where there is none that can be read."""
    try:
        mark = json.loads((directory / name).read_text(encoding="utf-8"))
        return mark if set(mark) == {"facts", "utterances", "failed", "files"} else None
    except (OSError, ValueError, TypeError):
        return None


def changed(directory: Path, mark: Mapping[str, Any]) -> list[str]:
    """The result files that are not as a mark has them."""
    return [
        name
        for name, digest in mark["files"].items()
        if not (directory / name).is_file() or sha256(directory / name) != digest
    ]


def _link(source: Path, target: Path) -> bool:
    """Have a file under a second name too, or copy it; False where it is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    new = target.with_name(f".{target.name}.new")
    try:
        new.unlink(missing_ok=True)
        try:
            os.link(source, new)
        except FileNotFoundError:
            raise
        except OSError:  # of another file system, or one without links
            shutil.copyfile(source, new)
    except FileNotFoundError:
        return False
    new.replace(target)
    return True
