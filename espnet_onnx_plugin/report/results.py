"""Results as data: one row of the tables per test set and system."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.bundle import MANIFEST, read_manifest, sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.evaluate.speech_quality import Measures
from espnet_onnx_plugin.report.bleu import Bleu
from espnet_onnx_plugin.report.streams import Streams
from espnet_onnx_plugin.report.timing import Timing
from espnet_onnx_plugin.runtime.io.recipe_decode import MARK, changed, read_mark

# Error rates by the names that the tables have for them.
ERROR_TYPES = ("WER", "CER", "TER")
# BLEU by name: with case and punctuation, which recipes with "tgt_case tc" have, and
# without.
BLEU_TYPES = ("BLEU", "BLEU lc.rm")
# Scores of singing, by their name in the files of ESPnet's scoring stage: what the
# tables call them.
SINGING_SCORES = {
    "semitone_acc": "semitone accuracy %",
    "vuv_error": "V/UV error %",
}
# Likewise of diarization, and how near it is to the reference's.
DIARIZATION_SCORES = {
    "der": "DER %",
    "activities": "same activities %",
}
# Likewise of enhanced speech. STOI is in percent there.
SPEECH_SCORES = {
    "si_snr": "SI-SNR dB",
    "sdr": "SDR dB",
    "sir": "SIR dB",
    "sar": "SAR dB",
    "stoi": "STOI %",
    "estoi": "ESTOI %",
    "pesq": "PESQ",
    "pesq_wb": "PESQ-WB",
    "pesq_nb": "PESQ-NB",
    "ovrl": "DNSMOS OVRL",
    "sig": "DNSMOS SIG",
    "bak": "DNSMOS BAK",
    "p808_mos": "DNSMOS P.808",
}
# Hypotheses whose scores are no further apart are equally good.
TIE = 1e-3


# Stands for the name of a test set.
TEST_SET = "{test_set}"


@dataclass(frozen=True)
class System:
    """A model to compare.

    Attributes:
        name: What the tables call it.
        decode_dir: Holds one directory for each test set; or the directory of a test
            set, with ``{test_set}`` in the place of its name.
        model_paths: Files and directories that make up the model.
    """

    name: str
    decode_dir: Path
    model_paths: tuple[Path, ...] = ()

    def directory(self, test_set: str) -> Path:
        """Return the decode directory of a test set."""
        if TEST_SET in str(self.decode_dir):
            return Path(str(self.decode_dir).replace(TEST_SET, test_set))
        return self.decode_dir / test_set

    def check_decode(self, test_set: str) -> None:
        """Refuse a decode of a bundle that is not whole, or is another bundle's.

        Raises:
            PluginError: saying so.
        """
        bundles = [path for path in self.model_paths if (path / MANIFEST).is_file()]
        if not bundles:
            return  # PyTorch's
        directory = self.directory(test_set)
        mark = read_mark(directory)
        if mark is None:
            problem = f"is no whole decode: it has no {MARK}"
        elif mark["facts"]["bundle"] != sha256(bundles[0] / MANIFEST):
            problem = f"was decoded with another model than {bundles[0]} holds now"
        elif files := changed(directory, mark):
            problem = f"has another {files[0]} than the decode has written"
        else:
            return
        raise PluginError(f"{directory} {problem}; run stage 16 again")

    def failed(self, test_set: str) -> frozenset[str]:
        """Return the utterances of a test set that have no result, as was allowed."""
        mark = read_mark(self.directory(test_set))
        return frozenset(mark["failed"] if mark else ())

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
                return read_manifest(path).checks.get("quantize")
        return None


@dataclass(frozen=True)
class Agreement:
    """How near waveforms are to another system's, by the signal-to-noise ratio in dB.

    Attributes:
        other: The other's name.
        median, worst: Over all utterances and speakers.
    """

    other: str
    median: float
    worst: float


@dataclass(frozen=True)
class Result:
    """One row of the report.

    Attributes:
        test_set: Name of the test set.
        system: Name of the system.
        utterances: Number of utterances decoded.
        failed: Number of those that have no result, as was allowed.
        errors: Counts by error type ("WER", "CER", "TER"), of those that were scored.
        scorers: What counted the errors.
        bleu: BLEU by name ("BLEU", "BLEU lc.rm"), of those that were scored.
        differences: Error rate or BLEU less the reference's, by name.
        speakers: Hypotheses of each utterance, one for each speaker.
        identical: Utterances with the same token_int as the reference's, of every
            speaker.
        ties: Those of the others whose scores are the reference's, to 1e-3.
        measured: Number of the utterances whose synthesized speech was measured.
        distances: How far its waveforms are from others, by the name of those.
        scores: Means over the test set, by ESPnet's own scoring and by its names
            (:data:`SPEECH_SCORES`, :data:`SINGING_SCORES`, :data:`DIARIZATION_SCORES`).
        agreement: With the reference's waveforms, of a system that enhances.
        timing: Over the sample that was timed, None where none was.
        streams: How the words came, None where nothing was decoded as a stream.
        speed_up: The reference's real-time factor over this system's, None where it was
            not timed on the same sample.
        model_bytes: Size of the model's files.
        quantization: What the quantization measured, as the manifest has it.
    """

    test_set: str
    system: str
    utterances: int
    failed: int = 0
    errors: Mapping[str, ErrorCounts] = field(default_factory=dict)
    scorers: frozenset[str] = frozenset()
    bleu: Mapping[str, Bleu] = field(default_factory=dict)
    differences: Mapping[str, float] = field(default_factory=dict)
    speakers: int = 1
    identical: int | None = None
    ties: int | None = None
    measured: int = 0
    distances: Mapping[str, Measures] = field(default_factory=dict)
    scores: Mapping[str, float] = field(default_factory=dict)
    agreement: Agreement | None = None
    timing: Timing | None = None
    streams: Streams | None = None
    speed_up: float | None = None
    model_bytes: int | None = None
    quantization: Mapping[str, Any] | None = None


def compared_with(results: Iterable[Result]) -> list[str]:
    """Return what speech was measured against."""
    return list(max((r.distances for r in results), key=len, default={}))


def agrees_with(results: Iterable[Result]) -> list[str]:
    """Return the systems whose waveforms those of others were held against."""
    agreements = [r.agreement for r in results]
    return list(dict.fromkeys(a.other for a in agreements if a is not None))


def scored(results: Iterable[Result]) -> list[str]:
    """Return the names of the scores, in the tables' order."""
    names = {name for r in results for name in r.scores}
    known = [*SINGING_SCORES, *DIARIZATION_SCORES, *SPEECH_SCORES]
    return [*(n for n in known if n in names), *sorted(names - {*known})]


def check_same_keys(
    base_directory: Path,
    base: Collection[str],
    other_directory: Path,
    other: Collection[str],
    failed: Collection[str] = (),
) -> None:
    """Refuse two decodes of other utterances, but for those that one may lack.

    Raises:
        PluginError: naming some.
    """
    missing = sorted({*base} - {*other} - {*failed})
    extra = sorted({*other} - {*base} - {*failed})
    parts = [
        f"{what} {len(keys)} ({', '.join(keys[:3])}{', ...' * (len(keys) > 3)})"
        for what, keys in (("lacks", missing), ("adds", extra))
        if keys
    ]
    if parts:
        raise PluginError(
            f"{other_directory}: other utterances than {base_directory}: "
            f"{' and '.join(parts)}: decode it again"
        )


def _size(path: Path) -> int:
    if path.is_dir():
        return sum(p.stat().st_size for p in path.rglob("*") if p.is_file())
    return path.stat().st_size
