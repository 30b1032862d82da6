"""What a benchmark measures, as data: settings, decodes, systems side by side."""

from __future__ import annotations

import dataclasses
import difflib
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.report.results import TIE

# Where the time goes; rest is the total less the others.
PARTS = ("frontend", "encoder", "decoder", "lm", "ctc", "rest")
# What the other systems are compared with.
REFERENCE = "pytorch"
BUNDLES = ("fp32", "optimized", "int8")


@dataclass(frozen=True)
class Setting:
    """One row group of the tables.

    Attributes:
        name: What the tables call it; by default what it holds.
        audio_seconds: Length of the noise that is decoded, None for the test data.
        beam_size, ctc_weight, lm_weight, maxlenratio, minlenratio: ESPnet's decoding
            options. Ratios of -40 and -39 give exactly 40 steps.
        threads: CPU threads of each system.
        repeats: Measured runs over the audio.
        starts: Measured starts of a process.
        variants: The systems.
    """

    name: str = ""
    audio_seconds: float | None = None
    beam_size: int = 10
    ctc_weight: float = 0.3
    lm_weight: float = 0.0
    maxlenratio: float = 0.0
    minlenratio: float = 0.0
    threads: int = 1
    repeats: int = 5
    starts: int = 3
    variants: tuple[str, ...] = (REFERENCE, *BUNDLES)

    def __post_init__(self) -> None:
        for count in ("beam_size", "threads", "repeats", "starts"):
            if getattr(self, count) < 1:
                raise PluginError(f"{count} {getattr(self, count)} must be 1 or more")
        if self.audio_seconds is not None and self.audio_seconds <= 0:
            raise PluginError(f"audio_seconds {self.audio_seconds} must be above 0")
        known = (REFERENCE, *BUNDLES)
        unknown = [name for name in self.variants if name not in known]
        if unknown or not self.variants or len({*self.variants}) < len(self.variants):
            raise PluginError(
                f"variants {', '.join(self.variants)}: some of {', '.join(known)}, "
                "each once"
            )
        if not self.name:
            seconds = self.audio_seconds
            audio = "test data" if seconds is None else f"{seconds:g} s"
            object.__setattr__(self, "name", f"{audio}, {self.search_name}")

    @property
    def search_name(self) -> str:
        """Return what the tables call the search."""
        parts = [
            f"beam {self.beam_size}",
            f"LM {self.lm_weight:g}" if self.lm_weight else "no LM",
            *([f"{self.threads} threads"] if self.threads > 1 else []),
        ]
        return ", ".join(parts)

    @property
    def search_options(self) -> dict[str, Any]:
        """Return ESPnet's decoding options."""
        names = ("beam_size", "ctc_weight", "lm_weight", "maxlenratio", "minlenratio")
        return {name: getattr(self, name) for name in names}

    @property
    def but_for_length(self) -> Setting:
        """Return what settings have in common that differ in the audio's length."""
        return Setting(name="any", threads=self.threads, **self.search_options)


@dataclass(frozen=True)
class Decode:
    """One utterance, decoded once.

    Attributes:
        seconds: From waveform to hypothesis.
        parts: The same by part, see PARTS.
        tokens: token_int of the best hypothesis.
        score: Its score.
        text: Its text, None where the model has no tokenizer.
        peak_memory_mb: The process's peak resident set so far, MiB.
    """

    seconds: float
    parts: Mapping[str, float]
    tokens: tuple[int, ...]
    score: float
    text: str | None
    peak_memory_mb: float


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
class Measurement:
    """What one system took in one setting.

    Attributes:
        system: pytorch, or the bundle's variant.
        model_bytes: Size of the model's files.
        audio_seconds: Length of all utterances.
        starts: Seconds from starting the process to its first hypothesis, each start.
        runs: Decodes by run and utterance.
    """

    system: str
    model_bytes: int
    audio_seconds: float
    starts: Sequence[float]
    runs: Sequence[Sequence[Decode]]

    @property
    def seconds(self) -> list[float]:
        """Return what each run took."""
        return [sum(decode.seconds for decode in run) for run in self.runs]

    @property
    def median(self) -> float:
        """Return the median run's seconds."""
        return statistics.median(self.seconds)

    @property
    def rtf(self) -> float:
        """Return the real-time factor of the median."""
        return self.median / self.audio_seconds

    @property
    def encoder(self) -> float:
        """Return the median of frontend and encoder: waveform to CTC posteriors."""
        return statistics.median(
            sum(d.parts["frontend"] + d.parts["encoder"] for d in run)
            for run in self.runs
        )

    @property
    def parts(self) -> dict[str, float]:
        """Return the parts of the median run; they sum to its seconds."""
        run = self.runs[self.seconds.index(statistics.median_low(self.seconds))]
        return {part: sum(decode.parts[part] for decode in run) for part in PARTS}

    @property
    def start(self) -> float:
        """Return the median of the starts."""
        return statistics.median(self.starts)

    @property
    def peak_memory_mb(self) -> float:
        """Return the process's peak resident set, MiB."""
        return max(decode.peak_memory_mb for run in self.runs for decode in run)

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

    setting: Setting
    date: str
    references: Sequence[str] | None
    measurements: Sequence[Measurement]

    @property
    def reference(self) -> Measurement | None:
        """Return what the others are compared with, None where it did not take part."""
        return next((m for m in self.measurements if m.system == REFERENCE), None)

    def agreement(self, measurement: Measurement) -> Agreement | None:
        """Compare with the reference's hypotheses; None for the reference itself."""
        if self.reference is None or measurement is self.reference:
            return None
        return measurement.agreement(self.reference)

    def to_json(self) -> dict[str, Any]:
        """Return plain data."""
        return dataclasses.asdict(self)

    @staticmethod
    def from_json(content: Mapping[str, Any]) -> Outcome:
        """Return what :meth:`to_json` was called on."""
        setting = content["setting"]
        return Outcome(
            setting=Setting(**{**setting, "variants": tuple(setting["variants"])}),
            date=content["date"],
            references=content["references"],
            measurements=[
                Measurement(
                    **{**m, "runs": [[_decode(d) for d in r] for r in m["runs"]]}
                )
                for m in content["measurements"]
            ],
        )


def _decode(content: Mapping[str, Any]) -> Decode:
    return Decode(**{**content, "tokens": tuple(content["tokens"])})
