"""What decode directories hold, as data: one row per test set and system."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from espnet_onnx_plugin.bundle import MANIFEST
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.bleu import Bleu, read_bleu
from espnet_onnx_plugin.report.counts import ErrorCounts, read_result

# Scoring directories of ESPnet's recipes, by the name of the rate they hold.
ERROR_TYPES = {"WER": "score_wer", "CER": "score_cer", "TER": "score_ter"}
# Where ESPnet's translation recipes score, by name: with case and punctuation, which
# recipes with "tgt_case tc" have, and without.
BLEU_FILES = {
    "BLEU": "score_bleu/result.tc.txt",
    "BLEU lc.rm": "score_bleu/result.lc.txt",
}
# Where a decode directory's sample was timed, in one process.
TIMING = "onnx_timing/output/timing.jsonl"
# Hypotheses whose scores are no further apart are equally good; ESPnet writes scores
# as "tensor(-12.3456)" or as plain numbers.
TIE = 1e-3
NUMBER = re.compile(r"-?(\d+\.?\d*(e[-+]?\d+)?|inf|nan)")


@dataclass(frozen=True)
class System:
    """A model to compare.

    Attributes:
        name: What the tables call it.
        decode_dir: Holds one directory for each test set.
        model_paths: Files and directories that make up the model.
    """

    name: str
    decode_dir: Path
    model_paths: tuple[Path, ...] = ()

    @property
    def model_bytes(self) -> int | None:
        """Return the size of all of the model's files, None where none is named."""
        if not self.model_paths:
            return None
        return sum(map(_size, self.model_paths))

    @property
    def quantization(self) -> Mapping[str, Any] | None:
        """Return what the quantization measured, None where there was none."""
        for path in self.model_paths:
            if (path / MANIFEST).is_file():
                manifest = yaml.safe_load((path / MANIFEST).read_text(encoding="utf-8"))
                return (manifest.get("checks") or {}).get("quantize")
        return None


@dataclass(frozen=True)
class UtteranceTiming:
    """What one utterance took. Seconds; peak memory of the process in MiB."""

    audio_seconds: float
    total_seconds: float
    peak_memory_mb: float


@dataclass(frozen=True)
class Timing:
    """Timings of a set of utterances, added up."""

    utterances: int
    audio_seconds: float
    total_seconds: float
    peak_memory_mb: float

    @property
    def rtf(self) -> float:
        """Return the real-time factor: decoding time over the audio's length."""
        return self.total_seconds / self.audio_seconds


@dataclass(frozen=True)
class Result:
    """One row of the report.

    Attributes:
        test_set: Name of the test set.
        system: Name of the system.
        utterances: Number of utterances decoded.
        errors: Counts by error type ("WER", "CER", "TER"), of those that were scored.
        scorers: What counted the errors.
        bleu: BLEU by name ("BLEU", "BLEU lc.rm"), of those that were scored.
        differences: Error rate or BLEU less the reference's, by name.
        speakers: Hypotheses of each utterance, one for each speaker.
        identical: Utterances with the same token_int as the reference's, of every
            speaker.
        ties: Those of the others whose scores are the reference's, to 1e-3.
        timing: Over the sample that was timed, None where none was.
        speed_up: The reference's time over this system's, None where it was not timed
            on the same sample.
        model_bytes: Size of the model's files.
        quantization: What the quantization measured, as the manifest has it.
    """

    test_set: str
    system: str
    utterances: int
    errors: Mapping[str, ErrorCounts] = field(default_factory=dict)
    scorers: frozenset[str] = frozenset()
    bleu: Mapping[str, Bleu] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    speakers: int = 1
    identical: int | None = None
    ties: int | None = None
    timing: Timing | None = None
    speed_up: float | None = None
    model_bytes: int | None = None
    quantization: Mapping[str, Any] | None = None


def compare(
    test_sets: Iterable[str], systems: Iterable[System], reference: System | None
) -> list[Result]:
    """Read all systems' decode directories.

    Args:
        test_sets: Names of the test sets, as the directories are called.
        systems: What to compare.
        reference: What to compare with, e.g. PyTorch's own decode.

    Returns:
        For each test set the reference's row, if any, then one for each system.

    Raises:
        PluginError: Where a decode directory lacks its token_int, the systems did not
            decode the same utterances, or a file is damaged.
    """
    systems = list(systems)
    results = []
    for test_set in test_sets:
        rows = [reference, *systems] if reference else systems
        decodes = [_Decode.read(system, test_set) for system in rows]
        for decode in decodes[1:]:
            _check_same_keys(decodes[0], decode)
        base = decodes[0] if reference else None
        results += [decode.result(test_set, base) for decode in decodes]
    return results


@dataclass(frozen=True)
class _Hypotheses:
    """Those of one speaker, by utterance; a greedy search gives no scores."""

    suffix: str  # of the speaker's files
    token_int: Mapping[str, str]
    scores: Mapping[str, float]

    def is_tie(self, key: str, base: _Hypotheses) -> bool:
        if self.token_int[key] == base.token_int[key]:
            return True
        if key not in self.scores or key not in base.scores:
            return False
        return abs(self.scores[key] - base.scores[key]) <= TIE


@dataclass(frozen=True)
class _Decode:
    system: System
    directory: Path
    speakers: tuple[_Hypotheses, ...]
    errors: Mapping[str, ErrorCounts]
    scorers: frozenset[str]
    bleu: Mapping[str, Bleu]
    timings: Mapping[str, UtteranceTiming]

    @classmethod
    def read(cls, system: System, test_set: str) -> _Decode:
        directory = system.decode_dir / test_set
        errors, scorers = {}, set()
        for error_type, score_dir in ERROR_TYPES.items():
            path = directory / score_dir / "result.txt"
            if path.is_file():
                errors[error_type], scorer = read_result(path)
                scorers.add(scorer)
        return cls(
            system=system,
            directory=directory,
            speakers=_read_speakers(directory),
            errors=errors,
            scorers=frozenset(scorers),
            bleu={
                name: read_bleu(directory / file)
                for name, file in BLEU_FILES.items()
                if (directory / file).is_file()
            },
            timings=_read_timings(directory / TIMING),
        )

    @property
    def utterances(self) -> Collection[str]:
        return self.speakers[0].token_int

    @property
    def names(self) -> set[str]:
        return {key + one.suffix for one in self.speakers for key in one.token_int}

    @property
    def total_seconds(self) -> float:
        return sum(timing.total_seconds for timing in self.timings.values())

    def result(self, test_set: str, base: _Decode | None) -> Result:
        differences, identical, ties, speed_up = {}, None, None, None
        if base is not None and base is not self:
            for error_type in self.errors.keys() & base.errors.keys():
                rate, base_rate = (d.errors[error_type].rate for d in (self, base))
                differences[error_type] = rate - base_rate
            for name in self.bleu.keys() & base.bleu.keys():
                differences[name] = self.bleu[name].score - base.bleu[name].score
            pairs = list(zip(self.speakers, base.speakers, strict=True))
            others = [
                key
                for key in self.utterances
                if any(ours.token_int[key] != b.token_int[key] for ours, b in pairs)
            ]
            identical = len(self.utterances) - len(others)
            ties = sum(all(ours.is_tie(key, b) for ours, b in pairs) for key in others)
            if self.timings and self.timings.keys() == base.timings.keys():
                speed_up = base.total_seconds / self.total_seconds
        return Result(
            test_set=test_set,
            system=self.system.name,
            utterances=len(self.utterances),
            errors=self.errors,
            scorers=self.scorers,
            bleu=self.bleu,
            differences=differences,
            speakers=len(self.speakers),
            identical=identical,
            ties=ties,
            timing=_sum_timings(self.timings.values()),
            speed_up=speed_up,
            model_bytes=self.system.model_bytes,
            quantization=self.system.quantization,
        )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise PluginError(f"{path} is missing: decode this test set first")
    table: dict[str, str] = {}
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        key, *values = line.split()
        if key in table:
            raise PluginError(f"{path}:{number}: a second line for '{key}'")
        table[key] = " ".join(values)
    return table


def _read_speakers(directory: Path) -> tuple[_Hypotheses, ...]:
    """Read what was decoded, of several speakers from a file for each."""
    suffixes = [""]
    if (directory / "token_int_spk1").is_file():
        paths = directory.glob("token_int_spk*")
        suffixes = sorted(path.name[len("token_int") :] for path in paths)
    speakers = []
    for suffix in suffixes:
        path = directory / f"score{suffix}"
        scores = _read_table(path) if path.is_file() else {}
        speakers.append(
            _Hypotheses(
                suffix=suffix,
                token_int=_read_table(directory / f"token_int{suffix}"),
                scores={key: _number(text) for key, text in scores.items()},
            )
        )
    return tuple(speakers)


def _number(text: str) -> float:
    match = NUMBER.search(text)
    return float(match[0]) if match else math.nan


def _read_timings(path: Path) -> dict[str, UtteranceTiming]:
    """Read the timings of a sample, none where the test set was not timed."""
    timings: dict[str, UtteranceTiming] = {}
    if not path.is_file():
        return timings
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            row = json.loads(line)
            key = row["key"]
            timing = UtteranceTiming(
                row["audio_seconds"], row["total_seconds"], row["peak_memory_mb"]
            )
        except (KeyError, TypeError, ValueError) as error:
            raise PluginError(f"{path}:{number}: not a timing: {error!r}") from error
        if key in timings:
            raise PluginError(f"{path}:{number}: a second timing for '{key}'")
        timings[key] = timing
    return timings


def _check_same_keys(base: _Decode, other: _Decode) -> None:
    missing = sorted(base.names - other.names)
    extra = sorted(other.names - base.names)
    parts = [
        f"{what} {len(keys)} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})"
        for what, keys in (("lacks", missing), ("adds", extra))
        if keys
    ]
    if parts:
        raise PluginError(
            f"{other.directory}: other utterances than {base.directory}: "
            f"{' and '.join(parts)}: decode it again"
        )


def _sum_timings(timings: Iterable[UtteranceTiming]) -> Timing | None:
    timings = list(timings)
    if not timings:
        return None
    return Timing(
        utterances=len(timings),
        audio_seconds=sum(t.audio_seconds for t in timings),
        total_seconds=sum(t.total_seconds for t in timings),
        peak_memory_mb=max(t.peak_memory_mb for t in timings),
    )
