"""Raw figures of results, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence

from espnet_onnx_plugin.report.results import (
    BLEU_TYPES,
    ERROR_TYPES,
    Result,
    agrees_with,
    compared_with,
    scored,
)


def to_csv(results: Iterable[Result]) -> str:
    """Return a CSV of raw figures: counts, bytes and seconds, empty where missing."""
    results = list(results)
    distances = compared_with(results)
    rows = [_csv_row(result, distances) for result in results]
    if any(result.streams for result in results):
        rows = [{**row, **_stream_row(r)} for row, r in zip(rows, results)]
    if names := scored(results):
        rows = [{**row, **_scores_row(r, names)} for row, r in zip(rows, results)]
    if agrees_with(results):
        rows = [{**row, **_agreement_row(r)} for row, r in zip(rows, results)]
    return csv_table(rows)


def csv_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a CSV of rows with the same keys; None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(result: Result, distances: Iterable[str]) -> dict[str, object]:
    row: dict[str, object] = {
        "test_set": result.test_set,
        "system": result.system,
        "utterances": result.utterances,
        "failed": result.failed,
        "identical": result.identical,
        "ties": result.ties,
        "scorers": ", ".join(sorted(result.scorers)),
    }
    for error_type in ERROR_TYPES:
        counts, name = result.errors.get(error_type), error_type.lower()
        row[f"{name}"] = f"{counts.rate:.4f}" if counts else None
        row[f"{name}_words"] = counts.words if counts else None
        row[f"{name}_substitutions"] = counts.substitutions if counts else None
        row[f"{name}_deletions"] = counts.deletions if counts else None
        row[f"{name}_insertions"] = counts.insertions if counts else None
    for name in BLEU_TYPES:
        bleu = result.bleu.get(name)
        key = name.lower().replace(" ", "_").replace(".", "_")
        row[key] = f"{bleu.score:.4f}" if bleu else None
    for other in distances:
        measures, name = result.distances.get(other), other.lower()
        row[f"mcd_to_{name}"] = _decimal(getattr(measures, "mcd", None), 4)
        row[f"log_f0_rmse_to_{name}"] = _decimal(
            getattr(measures, "log_f0_rmse", None), 5
        )
    timing = result.timing
    row["timed_utterances"] = timing.utterances if timing else None
    row["audio_seconds"] = f"{timing.audio_seconds:.3f}" if timing else None
    row["total_seconds"] = f"{timing.total_seconds:.3f}" if timing else None
    first = timing.first_audio_seconds if timing else None
    row["first_audio_seconds"] = _decimal(first, 4)
    row["speed_up"] = f"{result.speed_up:.4f}" if result.speed_up else None
    row["model_bytes"] = result.model_bytes
    row["peak_memory_mb"] = _decimal(timing.peak_memory_mb if timing else None, 1)
    return row


def _stream_row(result: Result) -> dict[str, object]:
    streams = result.streams
    return {
        "front_end": streams.frontend if streams else None,
        "chunk_seconds": f"{streams.chunk_seconds:.4f}" if streams else None,
        "first_partial_seconds": _decimal(getattr(streams, "first_partial", None), 4),
        "last_word_seconds": _decimal(getattr(streams, "last_word", None), 4),
        "words_taken_back": streams.erased if streams else None,
        "words_found": streams.said if streams else None,
    }


def _scores_row(result: Result, names: Iterable[str]) -> dict[str, object]:
    return {name: result.scores.get(name) for name in names}


def _agreement_row(result: Result) -> dict[str, object]:
    return {
        "snr_median": _decimal(getattr(result.agreement, "median", None), 2),
        "snr_worst": _decimal(getattr(result.agreement, "worst", None), 2),
    }


def _decimal(value: float | None, digits: int) -> str | None:
    return None if value is None else f"{value:.{digits}f}"
