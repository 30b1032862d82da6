"""Measurements as data: one system's, and those of several side by side."""

from __future__ import annotations

import dataclasses
import difflib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarking.settings import KINDS, REFERENCE, BaseSetting, Decode, Run

from espnet_onnx_plugin.report.results import TIE


@dataclass(frozen=True)
class Agreement:
    """How many utterances get the reference's hypothesis.

    Attributes:
        identical: The same tokens.
        ties: Other tokens whose score is the reference's, to 1e-3.
        different: The rest.
        equal_tokens: Share of tokens that are the reference's (matching blocks).
    """

    identical: int
    ties: int
    different: int
    equal_tokens: float


@dataclass(frozen=True)
class Distance:
    """How far waveforms are from the reference's.

    Attributes:
        difference: The largest, relative to the reference's scale; None where they are
            not of the same length.
        mcd: Mel-cepstral distortion in dB, the mean over the utterances; None where it
            is not defined, or nothing is spoken.
        si_snr: Scale-invariant signal-to-noise ratio in dB, the mean over the
            waveforms; None where something is spoken.
    """

    difference: float | None
    mcd: float | None = None
    si_snr: float | None = None


@dataclass(frozen=True)
class Measurement:
    """Cost of one setting for one system.

    Attributes:
        system: pytorch, or the bundle's variant.
        model_bytes: Size of the model's files.
        audio_seconds: Length of all utterances.
        starts: Seconds from starting the process to its first result, each start.
        runs: By run and utterance.
        distance: Of the waveforms; None where none are made, and for the reference.
    """

    system: str
    model_bytes: int
    audio_seconds: float
    starts: Sequence[float]
    runs: Sequence[Sequence[Run]]
    distance: Distance | None = None

    @property
    def seconds(self) -> list[float]:
        """Return what each run took."""
        return [sum(one.seconds for one in run) for run in self.runs]

    @property
    def median(self) -> float:
        """Return the median run's seconds."""
        return statistics.median(self.seconds)

    @property
    def rtf(self) -> float:
        """Return the real-time factor of the median."""
        return self.median / self.audio_seconds

    def part(self, *names: str) -> float:
        """Return the median of the seconds of some parts together."""
        return statistics.median(
            sum(one.parts[name] for one in run for name in names) for run in self.runs
        )

    @property
    def encoder(self) -> float:
        """Return the median of frontend and encoder: waveform to CTC posteriors."""
        return self.part("frontend", "encoder")

    @property
    def vocoder(self) -> float:
        """Return the median of the vocoder alone."""
        return self.part("vocoder")

    @property
    def first_audio(self) -> float:
        """Return the median seconds to the first audio, a mean over the utterances."""
        return statistics.median(
            statistics.mean(one.first_audio_seconds for one in run) for run in self.runs
        )

    def delay(self, quantile: float) -> float:
        """Return a quantile of the delays of parts, the streams' last ones apart."""
        delays = [s for run in self.runs for one in run for s in one.delays]
        return float(np.quantile(delays or [0.0], quantile))

    @property
    def last_delay(self) -> float:
        """Return the median delay of the streams' last parts."""
        return statistics.median(
            s for run in self.runs for one in run for s in one.last_delays
        )

    @property
    def parts(self) -> dict[str, float]:
        """Return the parts of the median run; they sum to its seconds."""
        run = self.runs[self.seconds.index(statistics.median_low(self.seconds))]
        return {part: sum(one.parts[part] for one in run) for part in run[0].PARTS}

    @property
    def start(self) -> float:
        """Return the median of the starts."""
        return statistics.median(self.starts)

    @property
    def peak_memory_mb(self) -> float:
        """Return the process's peak resident set, MiB."""
        return max(one.peak_memory_mb for run in self.runs for one in run)

    def agreement(self, reference: Measurement) -> Agreement:
        """Compare hypotheses; an utterance counts as the worst of its runs."""
        kinds = [0, 0, 0]
        shares = []
        decodes = zip(
            zip(*self.runs, strict=True), zip(*reference.runs, strict=True), strict=True
        )
        for ours, theirs in decodes:
            pairs = list(zip(ours, theirs, strict=True))
            kinds[max(_kind(a, b) for a, b in pairs)] += 1
            shares += [_equal_tokens(a.tokens, b.tokens) for a, b in pairs]
        return Agreement(*kinds, equal_tokens=statistics.mean(shares))


def _kind(ours: Decode, theirs: Decode) -> int:
    if ours.tokens == theirs.tokens:
        return 0
    return 1 if abs(ours.score - theirs.score) <= TIE else 2


def _equal_tokens(ours: Sequence[int], theirs: Sequence[int]) -> float:
    return difflib.SequenceMatcher(None, ours, theirs, autojunk=False).ratio()


@dataclass(frozen=True)
class Outcome:
    """A setting and what all of its systems took.

    Attributes:
        date: When it was measured.
        references: Transcripts of the utterances, None for noise.
    """

    setting: BaseSetting
    date: str
    references: Sequence[str] | None
    measurements: Sequence[Measurement]

    @property
    def reference(self) -> Measurement | None:
        """Return what the others are compared with, None where it did not take part."""
        return next((m for m in self.measurements if m.system == REFERENCE), None)

    def agreement(self, measurement: Measurement) -> Agreement | None:
        """Compare with the reference's hypotheses.

        Returns:
            None for the reference itself, and where none are made.
        """
        if self.reference is None or measurement is self.reference:
            return None
        if not issubclass(self.setting.RUN, Decode):
            return None
        return measurement.agreement(self.reference)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return {**dataclasses.asdict(self), "kind": type(self.setting).__name__}

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Outcome:
        """Return what :meth:`to_json` was called on."""
        setting, cls = content["setting"], KINDS[content["kind"]]
        return Outcome(
            setting=cls(**{**setting, "variants": tuple(setting["variants"])}),
            date=content["date"],
            references=content["references"],
            measurements=[
                Measurement(
                    **{
                        **m,
                        "runs": [[cls.RUN(**one) for one in r] for r in m["runs"]],
                        "distance": m["distance"] and Distance(**m["distance"]),
                    }
                )
                for m in content["measurements"]
            ],
        )
