"""Decode directories of a recognizer, as rows of the tables."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.report.bleu import Bleu, read_bleu
from espnet_onnx_plugin.report.counts import read_result
from espnet_onnx_plugin.report.results import (
    TIE,
    Result,
    System,
    check_same_keys,
)
from espnet_onnx_plugin.report.streams import Streams, read_streams
from espnet_onnx_plugin.report.timing import (
    TIMING,
    UtteranceTiming,
    read_timings,
    speed_up,
    summarize,
)
from espnet_onnx_plugin.runtime.io.lists import read_scp

# Where ESPnet's recipes score, by the name of the rate.
SCORES = {"WER": "score_wer", "CER": "score_cer", "TER": "score_ter"}
BLEU_FILES = {
    "BLEU": "score_bleu/result.tc.txt",
    "BLEU lc.rm": "score_bleu/result.lc.txt",
}
# ESPnet writes scores as "tensor(-12.3456)" or as plain numbers.
NUMBER = re.compile(r"-?(\d+\.?\d*(e[-+]?\d+)?|inf|nan)")


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
            check_same_keys(
                decodes[0].directory, decodes[0].names, decode.directory, decode.names
            )
        base = decodes[0] if reference else None
        results += [decode.result(test_set, base) for decode in decodes]
    return results


@dataclass(frozen=True)
class _Hypotheses:
    """Results of one speaker, by utterance; a greedy search gives no scores."""

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
    streams: Streams | None

    @classmethod
    def read(cls, system: System, test_set: str) -> _Decode:
        directory = system.directory(test_set)
        errors, scorers = {}, set()
        for error_type, score_dir in SCORES.items():
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
            timings=read_timings(directory / TIMING),
            streams=read_streams(directory),
        )

    @property
    def utterances(self) -> Collection[str]:
        return self.speakers[0].token_int

    @property
    def names(self) -> set[str]:
        return {key + one.suffix for one in self.speakers for key in one.token_int}

    def result(self, test_set: str, base: _Decode | None) -> Result:
        differences, identical, ties, faster = {}, None, None, None
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
            faster = speed_up(self.timings, base.timings)
        return Result(
            test_set=test_set,
            system=self.system.name,
            utterances=len(self.utterances),
            failed=len(self.system.failed(test_set)),
            errors=self.errors,
            scorers=self.scorers,
            bleu=self.bleu,
            differences=differences,
            speakers=len(self.speakers),
            identical=identical,
            ties=ties,
            timing=summarize(self.timings),
            streams=self.streams,
            speed_up=faster,
            model_bytes=self.system.model_bytes,
            quantization=self.system.quantization,
        )


def _read_table(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise PluginError(f"{path} is missing: decode this test set first")
    table = read_scp(path)
    if not table:
        raise PluginError(f"{path} is empty: decode this test set again")
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
