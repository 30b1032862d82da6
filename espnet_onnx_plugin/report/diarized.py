"""Diarized recordings of several systems, as rows of the tables and to listen to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.diarization import same_decisions
from espnet_onnx_plugin.report.enhanced import EnhancedSet, Speaker, snr_of_files
from espnet_onnx_plugin.report.results import Result, System, check_same_keys
from espnet_onnx_plugin.runtime.diarization.writer import ACTIVITIES
from espnet_onnx_plugin.runtime.io.lists import read_scp

# Of md-eval.pl, over all recordings: the one without "nooverlap" in its name.
OVERALL = re.compile(r"OVERALL SPEAKER DIARIZATION ERROR = ([\d.]+) percent .*\(ALL\)")


@dataclass(frozen=True)
class DiarizedSet(EnhancedSet):
    """A test set as several systems diarize it, and separate its speakers.

    Attributes:
        speakers: As of :class:`EnhancedSet`, as many as every system has in some of
            the recordings, of these.
        activities: Probabilities (frames, speakers) by system, by recording.
    """

    activities: Mapping[str, Mapping[str, np.ndarray]] = field(default_factory=dict)

    def results(self) -> list[Result]:
        """Return a row for the mixtures, if they are scored, and for each system."""
        rows = super().results()
        return [self._diarized(row) for row in rows]

    def _diarized(self, row: Result) -> Result:
        """Return a row with what is of diarization in it."""
        if row.system not in self.activities:
            return replace(row, utterances=len(self.activities[self.systems[0].name]))
        [system] = [s for s in self.systems if s.name == row.system]
        scores = {**read_errors(system.directory(self.name)), **row.scores}
        made = self.activities[row.system]
        if self.reference is not None and system is not self.reference:
            expected = self.activities[self.reference.name]
            both = expected.keys() & made.keys()
            if shares := [same_decisions(made[key], expected[key]) for key in both]:
                equal, decisions = map(sum, zip(*shares))
                scores["activities"] = 100 * equal / decisions
        return replace(row, utterances=len(made), scores=scores)


def read_errors(directory: Path) -> dict[str, float]:
    """Return the diarization error rate that ESPnet's scoring shows, if it scored.

    The lowest one over its thresholds and median filters, in percent.
    """
    rates = []
    for path in (directory / "scoring").glob("result_th*_med*_collar*"):
        found = OVERALL.search(path.read_text(encoding="utf-8"))
        if found is not None:
            rates.append(float(found[1]))
    return {"der": min(rates)} if rates else {}


def compare_diarized(
    test_sets: Sequence[str],
    systems: Sequence[System],
    reference: System | None,
    data_dir: Path,
) -> list[DiarizedSet]:
    """Read the decode directories of systems that diarize and separate.

    Args:
        test_sets: Names of the test sets, as the directories are called.
        systems: What to compare.
        reference: What to compare with, e.g. PyTorch's own decode.
        data_dir: Holds a directory for each test set: mixtures and clean speech.

    Raises:
        PluginError: Where a decode directory lacks its files, the systems did not
            diarize the same recordings, or a file is damaged.
    """
    systems = [reference, *systems] if reference else list(systems)
    sets = []
    for name in test_sets:
        directories = {s.name: s.directory(name) for s in systems}
        first = directories[systems[0].name]
        activities = {s: _read_activities(d) for s, d in directories.items()}
        failed = frozenset().union(*(s.failed(name) for s in systems))
        for other, directory in directories.items():
            check_same_keys(
                first,
                activities[systems[0].name].keys(),
                directory,
                activities[other].keys(),
                failed,
            )
        waves = {s: _read_speakers(d) for s, d in directories.items()}
        ratios = {}
        for system in systems[1:] if reference else ():
            base, made = waves[systems[0].name], waves[system.name]
            ratios[system.name] = [
                {
                    key: snr_of_files(theirs[key], ours[key])
                    for key in theirs
                    if _number(base, key) == _number(made, key)
                }
                for theirs, ours in zip(base, made)
            ]
        complete, number = _complete(waves, activities[systems[0].name])
        sets.append(
            DiarizedSet(
                name=name,
                systems=systems,
                reference=reference,
                data=data_dir / name,
                speakers={
                    system: [
                        {key: one[key] for key in complete} for one in speakers[:number]
                    ]
                    for system, speakers in waves.items()
                },
                ratios=ratios,
                activities=activities,
            )
        )
    return sets


def _read_activities(directory: Path) -> dict[str, np.ndarray]:
    path = directory / ACTIVITIES
    if not path.is_file():
        raise PluginError(f"{path} is missing: diarize this test set first")
    read = {}
    for key, value in read_scp(path).items():
        try:
            read[key] = np.load(value)
        except (OSError, ValueError) as e:
            raise PluginError(f"{path}: {value} cannot be read: {e}") from None
    if not read:
        raise PluginError(f"{path} is empty: diarize this test set again")
    return read


def _read_speakers(directory: Path) -> list[Speaker]:
    """Read lists of waveforms, some of which may be empty: speakers are counted."""
    speakers: list[Speaker] = []
    for n in range(1, 100):
        path = directory / f"spk{n}.scp"
        if not path.is_file():
            break
        table = read_scp(path)
        speakers.append({key: Path(value) for key, value in table.items()})
    while speakers and not speakers[-1]:
        speakers.pop()
    return speakers


def _complete(
    waves: Mapping[str, Sequence[Speaker]], keys: Iterable[str]
) -> tuple[list[str], int]:
    """Return the recordings in which every system has most speakers, and how many.

    Raises:
        PluginError: If in none of them every system has one.
    """
    common = {
        key: min(_number(speakers, key) for speakers in waves.values()) for key in keys
    }
    most = max(common.values())
    if not most:
        raise PluginError(
            "in none of the recordings every system has separated a speaker: give "
            "num_spk in the inference configuration"
        )
    return [key for key, number in common.items() if number == most], most


def _number(speakers: Sequence[Speaker], key: str) -> int:
    """Return how many speakers a recording has."""
    return sum(key in one for one in speakers)
