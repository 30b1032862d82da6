"""Enhanced speech of several systems, as rows of the tables and to listen to."""

from __future__ import annotations

import logging
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.evaluate.sample import choose_keys
from espnet_onnx_plugin.evaluate.speech_quality import SUFFIXES, read_wav
from espnet_onnx_plugin.report.counts import read_result
from espnet_onnx_plugin.report.listening import UTTERANCES, write_page
from espnet_onnx_plugin.report.results import (
    Agreement,
    Result,
    System,
    check_same_keys,
)
from espnet_onnx_plugin.report.timing import (
    TIMING,
    UtteranceTiming,
    read_timings,
    speed_up,
    summarize,
)
from espnet_onnx_plugin.runtime.io.lists import read_scp

logger = logging.getLogger(__name__)

MIXTURE = "mixture"
CLEAN = "clean speech"

#: Waveforms of a speaker, by utterance.
Speaker = Mapping[str, Path]


@dataclass(frozen=True)
class EnhancedSet:
    """A test set as several systems enhance it.

    Attributes:
        name: Of the test set.
        systems: The reference first, if any.
        reference: What the others are compared with.
        data: Directory of its mixtures (``wav.scp``) and clean speech (``spkN.scp``),
            with their scores where ESPnet scored them.
        speakers: Waveforms by system, of each speaker.
        asr_dirs: Where ESPnet recognized the waveforms, by system.
        ratios: SNR in dB to the reference's waveform by system, of each speaker, by
            utterance.
    """

    name: str
    systems: Sequence[System]
    reference: System | None
    data: Path
    speakers: Mapping[str, Sequence[Speaker]]
    asr_dirs: Mapping[str, Path] = field(default_factory=dict)
    ratios: Mapping[str, Sequence[Mapping[str, float]]] = field(default_factory=dict)

    def results(self) -> list[Result]:
        """Return a row for the mixtures, if they are scored, and for each system."""
        timings = {
            system.name: read_timings(system.directory(self.name) / TIMING)
            for system in self.systems
        }
        rows = [self._result(system, timings) for system in self.systems]
        if scores := read_scores(self.data):
            mixture = Result(
                test_set=self.name,
                system=MIXTURE,
                utterances=max(row.utterances for row in rows),
                scores=scores,
            )
            rows = [mixture, *rows]
        return rows

    def _result(
        self, system: System, timings: Mapping[str, Mapping[str, UtteranceTiming]]
    ) -> Result:
        name, agreement, faster, differences = system.name, None, None, {}
        errors = self._errors(name)
        if self.reference is not None and system is not self.reference:
            base = self.reference.name
            if ratios := [r for one in self.ratios[name] for r in one.values()]:
                agreement = Agreement(base, statistics.median(ratios), min(ratios))
            faster = speed_up(timings[name], timings[base])
            for rate in errors.keys() & self._errors(base).keys():
                differences[rate] = errors[rate].rate - self._errors(base)[rate].rate
        return Result(
            test_set=self.name,
            system=name,
            utterances=len(self.speakers[name][0]),
            failed=len(system.failed(self.name)),
            errors=errors,
            scorers=frozenset({"sclite"} if errors else ()),
            differences=differences,
            scores=read_scores(system.directory(self.name)),
            agreement=agreement,
            timing=summarize(timings[name]),
            speed_up=faster,
            model_bytes=system.model_bytes,
            quantization=system.quantization,
        )

    def _errors(self, system: str) -> dict[str, ErrorCounts]:
        """Return what an ASR model errs on a system's waveforms, of all speakers."""
        if system not in self.asr_dirs:
            return {}
        directory = self.asr_dirs[system] / self.name
        return {
            name: sum(
                (
                    read_result(path)[0]
                    for path in sorted(directory.glob(f"spk_*/{score}/result.txt"))
                ),
                ErrorCounts(),
            )
            for name, score in {"WER": "score_wer", "CER": "score_cer"}.items()
            if any(directory.glob(f"spk_*/{score}/result.txt"))
        }

    def write_page(self, output_dir: Path) -> str:
        """Write a page to listen to the set, with mixtures and clean speech.

        Returns:
            Its path from ``output_dir``.
        """
        directory = output_dir / "listening" / self.name
        directory.parent.mkdir(parents=True, exist_ok=True)
        [first, *_] = self.speakers.values()
        made = [one.keys() for each in self.speakers.values() for one in each]
        common = [key for key in first[0] if all(key in keys for keys in made)]
        keys = choose_keys(dict.fromkeys(common, 0), UTTERANCES)
        sections = {
            f"{key}, speaker {n + 1}" if len(first) > 1 else key: (n, key)
            for key in keys
            for n in range(len(first))
        }
        mixtures = [read_sounds(self.data / "wav.scp")] * len(first)
        clean = [read_sounds(self.data / f"spk{n + 1}.scp") for n in range(len(first))]
        shown = {
            name: {title: speakers[n][key] for title, (n, key) in sections.items()}
            for name, speakers in {
                MIXTURE: mixtures,
                CLEAN: clean,
                **self.speakers,
            }.items()
            if all(key in speakers[n] for n, key in sections.values())
        }
        captions = {
            name: {
                title: f"SNR to {self.systems[0].name} {ratios[n][key]:.1f} dB"
                for title, (n, key) in sections.items()
            }
            for name, ratios in self.ratios.items()
        }
        texts = dict.fromkeys(sections, "")
        page = write_page(directory, self.name, texts, shown, captions, len(texts))
        return page.relative_to(output_dir).as_posix()


def read_sounds(scp: Path) -> Speaker:
    """Return the files of a list that are files of sound."""
    table = read_scp(scp) if scp.is_file() else {}
    paths = {key: Path(value) for key, value in table.items()}
    return {k: p for k, p in paths.items() if p.suffix in SUFFIXES and p.is_file()}


def read_scores(directory: Path) -> dict[str, float]:
    """Return the means that ESPnet's scoring wrote, by the name that it gives them.

    Raises:
        PluginError: If one is not a number.
    """
    scores = {}
    for path in sorted((directory / "scoring").glob("result_*.txt")):
        text = path.read_text(encoding="utf-8").strip()
        try:
            scores[path.stem.removeprefix("result_")] = float(text)
        except ValueError:
            raise PluginError(f"{path}: not a score: '{text}': score again") from None
    return scores


def snr(reference: np.ndarray, other: np.ndarray) -> float:
    """Return the signal-to-noise ratio in dB: infinite where nothing differs.

    Args:
        reference: (samples,), the signal.
        other: (samples,); its difference from the signal is the noise.
    """
    signal = reference.astype(np.float64)
    noise = other.astype(np.float64) - signal
    if not noise.any():
        return math.inf
    energy = float(signal @ signal)
    return 10 * math.log10(energy / float(noise @ noise)) if energy else -math.inf


def snr_of_files(reference: Path, other: Path) -> float:
    """Return the ratio of waveforms in files.

    Raises:
        PluginError: If a file cannot be read, or they differ in length or rate.
    """
    (wave, rate), (other_wave, other_rate) = read_wav(reference), read_wav(other)
    if (len(wave), rate) != (len(other_wave), other_rate):
        raise PluginError(
            f"{other} has {len(other_wave)} samples at {other_rate} Hz, {reference} "
            f"{len(wave)} at {rate} Hz"
        )
    return snr(wave, other_wave)


def compare_enhanced(
    test_sets: Sequence[str],
    systems: Sequence[System],
    reference: System | None,
    data_dir: Path,
    asr_dirs: Mapping[str, Path] | None = None,
) -> list[EnhancedSet]:
    """Read the decode directories of systems that enhance, separate or extract.

    Args:
        test_sets: Names of the test sets, as the directories are called.
        systems: What to compare.
        reference: What to compare with, e.g. PyTorch's own decode.
        data_dir: Holds a directory for each test set: mixtures and clean speech.
        asr_dirs: Where ESPnet recognized what they made, by the systems' names.

    Raises:
        PluginError: Where a decode directory lacks its waveforms, the systems did not
            enhance the same utterances, or a file is damaged.
    """
    systems = [reference, *systems] if reference else list(systems)
    sets = []
    for name in test_sets:
        speakers = {s.name: _read_speakers(s.directory(name)) for s in systems}
        first = systems[0]
        for system in systems[1:]:
            check_same_keys(
                first.directory(name),
                _names(speakers[first.name]),
                system.directory(name),
                _names(speakers[system.name]),
                {
                    _name(key, n)
                    for key in first.failed(name) | system.failed(name)
                    for n in range(1, len(speakers[first.name]) + 1)
                },
            )
        ratios = {}
        for system in systems[1:] if reference else ():
            pairs = zip(speakers[first.name], speakers[system.name], strict=True)
            ratios[system.name] = [
                {k: snr_of_files(base[k], made[k]) for k in base if k in made}
                for base, made in pairs
            ]
        sets.append(
            EnhancedSet(
                name=name,
                systems=systems,
                reference=reference,
                data=data_dir / name,
                speakers=speakers,
                asr_dirs=asr_dirs or {},
                ratios=ratios,
            )
        )
    return sets


def _read_speakers(directory: Path) -> list[Speaker]:
    paths = [directory / f"spk{n}.scp" for n in range(1, 100)]
    speakers = []
    for path in paths:
        if not path.is_file():
            break
        table = read_scp(path)
        if not table:
            raise PluginError(f"{path} is empty: enhance this test set again")
        speakers.append({key: Path(value) for key, value in table.items()})
    if not speakers:
        raise PluginError(f"{paths[0]} is missing: enhance this test set first")
    return speakers


def _names(speakers: Sequence[Speaker]) -> set[str]:
    return {_name(key, n) for n, one in enumerate(speakers, 1) for key in one}


def _name(key: str, speaker: int) -> str:
    return f"{key} of speaker {speaker}"
