"""Records of decoded utterances: appended one by one, whole or not at all.

A job may be killed at any moment. So it appends what it has found of an utterance as
one line with a checksum, and a line that a kill has torn is none. The first line says
what the results depend on besides the utterances: the bundle, options, versions.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.files import is_named, sync

#: The file of the records in a job's directory.
RECORDS = "records.jsonl"

#: What the results depend on besides the utterances, by name.
Facts = Mapping[str, Any]


class Draws(Protocol):
    """A generator that utterances draw from, one after the other."""

    def state(self) -> bytes:
        """Where it is."""

    def restore(self, state: bytes) -> None:
        """Go on from there."""


@dataclass(frozen=True)
class Record:
    """Results of an utterance.

    Attributes:
        key: its id.
        inputs: digest of what it was made of, see :class:`~.digests.InputDigests`.
        lines: by result file the lines, without the id.
        listed: by result file the file of ``files`` that it lists.
        files: digests of further files, by their path in the job's directory.
        timing: line of ``timing.jsonl``.
        failure: why there is no result; ``lines`` then hold what stands for one.
        drawn: states of the generator before and after, where the utterance drew.
    """

    key: str
    inputs: str | None
    lines: Mapping[str, list[str]] = field(default_factory=dict)
    listed: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    timing: Mapping[str, Any] | None = None
    failure: str | None = None
    drawn: tuple[str, str] | None = None

    def is_current(self, inputs: str | None, draws: Draws | None = None) -> bool:
        """Whether it is what the utterance would get again.

        Args:
            inputs: digest of its inputs now.
            draws: what it would draw from.
        """
        if self.failure is not None or inputs is None or inputs != self.inputs:
            return False
        return self.drawn is None or (
            draws is not None and encoded(draws) == self.drawn[0]
        )

    def is_intact(self, directory: Path) -> bool:
        """Whether its files are there as they were written."""
        try:
            return all(
                sha256(directory / name) == digest
                for name, digest in self.files.items()
            )
        except OSError:
            return False


def encoded(draws: Draws) -> str:
    """A generator's state as a record has it."""
    return base64.b85encode(draws.state()).decode()


def decoded(state: str) -> bytes:
    """The inverse of :func:`encoded`."""
    return base64.b85decode(state)


def _line(content: Any) -> bytes:
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode()
    return b"%08x %s\n" % (zlib.crc32(text), text)


def _lines(path: Path) -> Iterator[Any]:
    """The content of the lines that are whole."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return
    for line in data.split(b"\n")[:-1]:
        checksum, _, text = line.partition(b" ")
        if checksum == b"%08x" % zlib.crc32(text):
            yield json.loads(text)


def read_records(directory: Path) -> tuple[Facts | None, dict[str, Record]]:
    """The records of a job's directory, the newest of each utterance.

    Returns:
        What they depend on, None where there is none, and the records by id.
    """
    lines = _lines(directory / RECORDS)
    facts = next(lines, None)
    if not isinstance(facts, dict) or "key" in facts:
        return None, {}
    found: dict[str, Record] = {}
    for line in lines:
        if line.get("drawn"):
            line["drawn"] = tuple(line["drawn"])
        record = Record(**line)
        found.pop(record.key, None)  # in the order of the newest
        found[record.key] = record
    return facts, found


class Journal:
    """The records of a job while they are written.

    Args:
        directory: of the job; records that it has are kept.
        facts: what they depend on.
    """

    def __init__(self, directory: Path, facts: Facts):
        self._path = directory / RECORDS
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        self._file = open(self._path, "ab", buffering=0)
        if torn:
            self._file.write(b"\n")
        if self._file.tell() == 0:
            self._file.write(_line(dict(facts)))

    def append(self, record: Record) -> None:
        """Write a record.

        Raises:
            FileNotFoundError: if the directory is gone: another run has taken over.
        """
        if not is_named(self._file.fileno(), self._path):
            raise FileNotFoundError(
                errno.ENOENT, "another run has begun anew", str(self._path)
            )
        line = _line(asdict(record))
        if self._file.write(line) != len(line):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))

    def close(self) -> None:
        """Bring the records to the disk."""
        if not self._file.closed:
            os.fsync(self._file.fileno())
            self._file.close()


def write_records(directory: Path, facts: Facts, records: Mapping[str, Record]) -> None:
    """Write all records of a directory at once."""
    new = directory / f".{RECORDS}.new"
    with open(new, "wb") as file:
        file.write(_line(dict(facts)))
        file.writelines(_line(asdict(record)) for record in records.values())
        file.flush()
        os.fsync(file.fileno())
    new.replace(directory / RECORDS)
    sync(directory)
