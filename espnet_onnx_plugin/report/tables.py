"""Markdown, LaTeX and CSV tables of results."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.report.results import BLEU_FILES, ERROR_TYPES, TIE, Result

MISSING = "—"
MARKDOWN_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
LATEX_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}
MIB = 2**20
# Layers kept in higher precision that are named; the manifest names all.
KEPT_NAMED = 5


def markdown_escape(text: str) -> str:
    """Return text that Markdown shows as it is, inside a table or outside."""
    return MARKDOWN_SPECIAL.sub(r"\\\1", text)


def latex_escape(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    return "".join(LATEX_SPECIAL.get(character, character) for character in text)


def _columns(results: list[Result]) -> dict[str, Callable[[Result], str]]:
    """Return the tables' columns: header and what stands in a row."""

    def difference(name: str) -> dict[str, Callable[[Result], str]]:
        return {
            f"Δ {name}": lambda r: (
                f"{r.differences[name]:+.2f}" if name in r.differences else MISSING
            )
        }

    def error_columns(error_type: str) -> dict[str, Callable[[Result], str]]:
        return {
            f"{error_type} %": lambda r: (
                f"{r.errors[error_type].rate:.2f}"
                if error_type in r.errors
                else MISSING
            ),
            **difference(error_type),
        }

    def bleu_columns(name: str) -> dict[str, Callable[[Result], str]]:
        return {
            name: lambda r: f"{r.bleu[name].score:.2f}" if name in r.bleu else MISSING,
            **difference(name),
        }

    columns: dict[str, Callable[[Result], str]] = {"system": lambda r: r.system}
    for name in BLEU_FILES:
        if any(name in r.bleu for r in results):
            columns |= bleu_columns(name)
    for error_type in ERROR_TYPES:
        if any(error_type in r.errors for r in results):
            columns |= error_columns(error_type)
    return columns | {
        "utterances": lambda r: str(r.utterances),
        "identical %": lambda r: (
            MISSING
            if r.identical is None
            else f"{100 * r.identical / r.utterances:.2f}"
        ),
        "ties": lambda r: MISSING if r.ties is None else str(r.ties),
        "RTF": lambda r: f"{r.timing.rtf:.3f}" if r.timing else MISSING,
        "speed-up": lambda r: f"{r.speed_up:.2f}x" if r.speed_up else MISSING,
        "model MiB": lambda r: (
            MISSING if r.model_bytes is None else f"{r.model_bytes / MIB:.1f}"
        ),
        "peak memory MiB": lambda r: (
            f"{r.timing.peak_memory_mb:.0f}" if r.timing else MISSING
        ),
    }


def _grouped(
    results: list[Result],
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield each test set's name, column headers and rows of cells."""
    columns = _columns(results)
    for test_set, rows in groupby(results, key=lambda r: r.test_set):
        cells = [[column(row) for column in columns.values()] for row in rows]
        yield test_set, list(columns), cells


def notes(results: list[Result]) -> Iterator[str]:
    """Yield what a reader of the figures has to know about them."""
    scorers = sorted(frozenset().union(*(r.scorers for r in results)))
    if scorers:
        yield f"Error rates from the raw counts of: {', '.join(scorers)}."
    if any(r.speakers > 1 for r in results):
        yield (
            "Several speakers: error rates are those of each utterance's best "
            "assignment to the references; identical and tied is what is so for every "
            "speaker."
        )
    signatures = {
        f"{name}: {bleu.signature}" for r in results for name, bleu in r.bleu.items()
    }
    if signatures:
        yield f"By sacrebleu, {'; '.join(sorted(signatures))}."
        if scorers:
            yield "Error rates are those of the recognition in the source language."
    if any(r.identical is not None for r in results):
        yield (
            "Identical: share of utterances with the same token_int as PyTorch's. "
            f"Ties: others that score as PyTorch's, to {TIE:g}."
        )
    samples = dict.fromkeys(
        f"{r.test_set} {r.timing.utterances}" for r in results if r.timing
    )
    if samples:
        yield (
            "RTF (decoding time over the audio's length), speed-up and peak memory: "
            "each system decodes the same sample of a test set in one process, one "
            f"system after the other (utterances: {', '.join(samples)})."
        )
    for system, figures in {r.system: r.quantization for r in results}.items():
        if figures is not None:
            yield f"{system}: {_quantization(figures)}"


def _quantization(figures: Mapping[str, Any]) -> str:
    """Return how a quantized model stands to its budget, and what that took."""
    if figures["budget"] is None:
        parts = ["no budget was measured, for there was no validation set"]
    else:
        parts = [f"validation set, {figures['utterances']} utterances"]
        budget = figures["budget"]
        if "wer" in figures:
            parts.append(
                f"WER {figures['wer_fp32']:.2f} % in fp32, {figures['wer']:.2f} % here "
                f"(budget {budget['max_wer_increase']:+.2f})"
            )
        parts.append(
            f"{100 * figures['token_agreement']:.2f} % of fp32's tokens (budget "
            f"{100 * budget['min_token_agreement']:.2f} %)"
        )
    kept = [
        f"{len(layers)} layers in {form} ({', '.join(layers[:KEPT_NAMED])}"
        f"{', ...' * (len(layers) > KEPT_NAMED)})"
        for form, layers in figures["kept"].items()
    ]
    parts.append(f"kept: {' and '.join(kept)}" if kept else "no layer kept back")
    if figures["slower"]:
        parts.append(
            "slower than fp32 on the machine that made it "
            f"({figures['speed_ratio']:.2f}x)"
        )
    return "; ".join(parts) + "."


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; all but its first column hold figures."""
    return [
        f"| {' | '.join(headers)} |",
        "|---|" + "---:|" * (len(headers) - 1),
        *(f"| {' | '.join(map(markdown_escape, row))} |" for row in rows),
    ]


def to_markdown(title: str, facts: Mapping[str, str], results: list[Result]) -> str:
    """Return a Markdown page: title, facts, a table per test set, notes."""
    lines = [f"# {markdown_escape(title)}", ""]
    lines += [f"- {name}: {markdown_escape(text)}" for name, text in facts.items()]
    for test_set, headers, rows in _grouped(results):
        lines += ["", f"## {markdown_escape(test_set)}", ""]
        lines += markdown_table(headers, rows)
    lines += ["", *(f"- {markdown_escape(note)}" for note in notes(results))]
    return "\n".join(lines) + "\n"


def to_latex(title: str, facts: Mapping[str, str], results: list[Result]) -> str:
    """Return a LaTeX table (package booktabs), a group of rows per test set."""
    body: list[str] = []
    width = 0
    for test_set, headers, rows in _grouped(results):
        width = len(headers)
        if not body:
            cells = (latex_escape(h).replace("Δ", r"$\Delta$") for h in headers)
            body += [r"\toprule", " & ".join(cells) + r" \\"]
        body.append(r"\midrule")
        body.append(rf"\multicolumn{{{width}}}{{l}}{{{latex_escape(test_set)}}} \\")
        for row in rows:
            cells = (latex_escape(cell).replace(MISSING, "---") for cell in row)
            body.append(" & ".join(cells) + r" \\")
    caption = " ".join(
        [f"{title}.", *(f"{k}: {v}." for k, v in facts.items()), *notes(results)]
    )
    lines = [
        "% Needs \\usepackage{booktabs}",
        r"\begin{table}[t]",
        r"\centering",
        rf"\caption{{{latex_escape(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (width - 1)}}}",
        *body,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def to_csv(results: Iterable[Result]) -> str:
    """Return a CSV of raw figures: counts, bytes and seconds, empty where missing."""
    return csv_table([_csv_row(result) for result in results])


def csv_table(rows: Sequence[Mapping[str, object]]) -> str:
    """Return a CSV of rows with the same keys; None is empty."""
    out = io.StringIO()
    writer = csv.DictWriter(out, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _csv_row(result: Result) -> dict[str, object]:
    row: dict[str, object] = {
        "test_set": result.test_set,
        "system": result.system,
        "utterances": result.utterances,
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
    for name in BLEU_FILES:
        bleu = result.bleu.get(name)
        key = name.lower().replace(" ", "_").replace(".", "_")
        row[key] = f"{bleu.score:.4f}" if bleu else None
    timing = result.timing
    row["timed_utterances"] = timing.utterances if timing else None
    row["audio_seconds"] = f"{timing.audio_seconds:.3f}" if timing else None
    row["total_seconds"] = f"{timing.total_seconds:.3f}" if timing else None
    row["speed_up"] = f"{result.speed_up:.4f}" if result.speed_up else None
    row["model_bytes"] = result.model_bytes
    row["peak_memory_mb"] = f"{timing.peak_memory_mb:.1f}" if timing else None
    return row


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a file aside and rename it, so that no half of it is ever seen."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        data = content.encode("utf-8") if isinstance(content, str) else content
        aside.write_bytes(data)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
