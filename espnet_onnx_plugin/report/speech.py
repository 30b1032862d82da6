"""Synthesized speech of several systems, as rows of the tables and to listen to."""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.asr_scoring import count_characters
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.evaluate.sample import choose_keys
from espnet_onnx_plugin.evaluate.speech_quality import (
    MEL_CEPSTRA,
    Measures,
    average,
    measure_files,
    read_wav,
    wav_files,
)
from espnet_onnx_plugin.report.listening import write_page
from espnet_onnx_plugin.report.results import (
    SINGING_SCORES,
    Result,
    System,
    check_same_keys,
)
from espnet_onnx_plugin.report.tables import MISSING
from espnet_onnx_plugin.report.timing import (
    TIMING,
    UtteranceTiming,
    read_timings,
    speed_up,
    summarize,
)
from espnet_onnx_plugin.runtime.io.lists import read_scp

logger = logging.getLogger(__name__)

RECORDINGS = "recordings"


@dataclass(frozen=True)
class SynthesizedSet:
    """A test set as several systems synthesize it.

    Attributes:
        name: Of the test set.
        systems: The reference first, if any.
        reference: What the others are compared with.
        utterances: How many there are.
        texts: What was to be said, by utterance, of those that are measured.
        wavs: Files of these by system; recordings too, where there are any.
        sung: Whether it is songs.
        measures: How far a system's speech is from another's or from recordings: by
            system, by the other's name, by utterance.
        errors: Character errors of the ASR model, by system.
    """

    name: str
    systems: Sequence[System]
    reference: System | None
    utterances: int
    texts: Mapping[str, str]
    wavs: Mapping[str, Mapping[str, Path]]
    sung: bool = False
    measures: Mapping[str, Mapping[str, Mapping[str, Measures]]] = field(
        default_factory=dict
    )
    errors: Mapping[str, ErrorCounts] = field(default_factory=dict)

    def results(self) -> list[Result]:
        """Return a row for each system."""
        timings = {
            system.name: read_timings(system.directory(self.name) / TIMING)
            for system in self.systems
        }
        return [self._result(system, timings) for system in self.systems]

    def _result(
        self, system: System, timings: Mapping[str, Mapping[str, UtteranceTiming]]
    ) -> Result:
        name = system.name
        errors = {"CER": self.errors[name]} if name in self.errors else {}
        differences, faster = {}, None
        if self.reference is not None and system is not self.reference:
            base = self.reference.name
            faster = speed_up(timings[name], timings[base])
            if errors:
                differences["CER"] = self.errors[name].rate - self.errors[base].rate
        return Result(
            test_set=self.name,
            system=name,
            utterances=self.utterances,
            failed=len(system.failed(self.name)),
            errors=errors,
            scorers=frozenset({"jiwer"} if errors else ()),
            differences=differences,
            measured=len(self.texts),
            scores=read_singing_scores(system.directory(self.name)),
            distances={
                other: average(measures.values())
                for other, measures in self.measures.get(name, {}).items()
            },
            timing=summarize(timings[name]),
            speed_up=faster,
            model_bytes=system.model_bytes,
            quantization=system.quantization,
        )

    def write_page(self, output_dir: Path) -> str:
        """Write a page to listen to the set, with distances to the reference.

        Returns:
            Its path from ``output_dir``.
        """
        directory = output_dir / "listening" / self.name
        directory.parent.mkdir(parents=True, exist_ok=True)
        base = self.reference.name if self.reference else RECORDINGS
        captions = {
            name: {key: _describe(measured) for key, measured in measures[base].items()}
            for name, measures in self.measures.items()
            if base in measures
        }
        page = write_page(
            directory,
            self.name,
            self.texts,
            self.wavs,
            captions,
            with_f0=self.sung,
        )
        return page.relative_to(output_dir).as_posix()


def _describe(measures: Measures) -> str:
    mcd, rmse = measures.mcd, measures.log_f0_rmse
    return (
        f"MCD {MISSING if mcd is None else f'{mcd:.2f} dB'}, "
        f"log-F0 RMSE {MISSING if rmse is None else f'{rmse:.3f}'}"
    )


def read_singing_scores(directory: Path) -> dict[str, float]:
    """Return the means in percent that the scoring stage of ESPnet's svs.sh wrote.

    Raises:
        PluginError: If a file holds none.
    """
    scores = {}
    for name in SINGING_SCORES:
        files = directory.glob(f"scoring/sing_metrics/*/{name}_avg_result.txt")
        for path in files:
            found = re.search(r"^Average: (.+)%", path.read_text("utf-8"), re.MULTILINE)
            try:
                scores[name] = float(found[1])
            except (TypeError, ValueError):
                raise PluginError(f"{path} has no average: score again") from None
    return scores


def compare_speech(
    test_sets: Sequence[str],
    systems: Sequence[System],
    reference: System | None,
    data_dir: Path,
    num_utts: int,
    transcribe: Callable[[Path], str] | None = None,
) -> list[SynthesizedSet]:
    """Measure the speech of several systems.

    Args:
        test_sets: Names of the test sets, as the directories are called.
        systems: What to compare.
        reference: What to compare with, e.g. PyTorch's own decode.
        data_dir: Holds a directory for each test set: its text, and its wav.scp where
            there are recordings.
        num_utts: How many utterances to measure of each, spread over it.
        transcribe: Gives the text that an ASR model recognizes in a file.

    Raises:
        PluginError: Where a decode directory has no waveforms, the systems did not
            synthesize the same utterances, or a file is damaged.
    """
    systems = [reference, *systems] if reference else list(systems)
    sets = [
        _read(name, systems, reference, data_dir / name, num_utts) for name in test_sets
    ]
    with _processes() as pool:
        return [_measure(synthesized, pool, transcribe) for synthesized in sets]


@contextmanager
def _processes() -> Iterator[Executor]:
    # Started anew: onnxruntime's threads do not survive a fork.
    with ProcessPoolExecutor(
        len(os.sched_getaffinity(0)), mp_context=get_context("spawn")
    ) as pool:
        yield pool


def _read(
    name: str,
    systems: Sequence[System],
    reference: System | None,
    data: Path,
    num_utts: int,
) -> SynthesizedSet:
    wavs = {}
    directories = {system.name: system.directory(name) for system in systems}
    first = systems[0].name
    failed = frozenset().union(*(system.failed(name) for system in systems))
    for system, directory in directories.items():
        files = wav_files(directory / "wav") if (directory / "wav").is_dir() else {}
        if not files:
            raise PluginError(f"no waveform in {directory}/wav: synthesize them first")
        wavs[system] = files
        check_same_keys(
            directories[first], wavs[first], directory, wavs[system], failed
        )
    texts = read_scp(data / "text")
    if missing := [key for key in wavs[first] if key not in texts]:
        raise PluginError(f"{data}/text has no line for utterance '{missing[0]}'")
    common = [key for key in wavs[first] if key not in failed]
    keys = choose_keys(dict.fromkeys(common, 0), num_utts)
    if recordings := _recordings(data / "wav.scp", keys):
        wavs[RECORDINGS] = recordings
    return SynthesizedSet(
        name=name,
        systems=systems,
        reference=reference,
        utterances=len(wavs[first]),
        texts={key: texts[key] for key in keys},
        wavs={n: {key: files[key] for key in keys} for n, files in wavs.items()},
        sung=(data / "score.scp").is_file(),
    )


def _recordings(scp: Path, keys: Sequence[str]) -> dict[str, Path]:
    """Return the recordings of utterances, none where they are not files of sound."""
    files = wav_files(scp) if scp.is_file() else {}
    if all(key in files and files[key].is_file() for key in keys):
        return files
    logger.warning("nothing is compared with recordings: no sound files in %s", scp)
    return {}


def _measure(
    synthesized: SynthesizedSet,
    pool: Executor,
    transcribe: Callable[[Path], str] | None,
) -> SynthesizedSet:
    names, wavs = [system.name for system in synthesized.systems], synthesized.wavs
    others = list(_others(synthesized))
    pairs = [(other, name) for other in others for name in names if name != other]
    files = [
        [(wavs[other][key], wavs[name][key]) for other, name in pairs]
        for key in synthesized.texts
    ]
    measures: dict[str, dict[str, dict[str, Measures]]] = {
        name: {other: {} for other in others if other != name} for name in names
    }
    for key, found in zip(synthesized.texts, pool.map(measure_files, files)):
        for (other, name), of_pair in zip(pairs, found):
            measures[name][other][key] = of_pair
    errors = {}
    for name in names if transcribe else ():
        transcribed = {
            key: transcribe(path) for key, path in synthesized.wavs[name].items()
        }
        if counts := count_characters(synthesized.texts, transcribed):
            errors[name] = counts
    return replace(synthesized, measures=measures, errors=errors)


def _others(synthesized: SynthesizedSet) -> Iterator[str]:
    """Yield what the systems' speech can be measured against."""
    rates = {
        name: read_wav(next(iter(files.values())))[1]
        for name, files in synthesized.wavs.items()
    }
    rate = rates[synthesized.systems[0].name]
    if rate not in MEL_CEPSTRA:
        logger.warning(
            "no MCD and log-F0 of %s: they are defined at %s Hz, not at %d",
            synthesized.name,
            ", ".join(map(str, MEL_CEPSTRA)),
            rate,
        )
        return
    if synthesized.reference is not None:
        yield synthesized.reference.name
    if rates.get(RECORDINGS) == rate:
        yield RECORDINGS
    elif RECORDINGS in rates:
        logger.warning(
            "%s is not compared with its recordings: these are at %d Hz, not %d",
            synthesized.name,
            rates[RECORDINGS],
            rate,
        )
