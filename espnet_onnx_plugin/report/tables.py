"""Markdown and LaTeX tables of results."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import groupby
from types import MappingProxyType
from urllib.parse import quote

from espnet_onnx_plugin.report.notes import notes
from espnet_onnx_plugin.report.results import (
    BLEU_TYPES,
    DIARIZATION_SCORES,
    ERROR_TYPES,
    SINGING_SCORES,
    SPEECH_SCORES,
    Result,
    agrees_with,
    compared_with,
    scored,
)

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

    def distance_columns(name: str) -> dict[str, Callable[[Result], str]]:
        def cell(result: Result, measure: str, digits: int) -> str:
            value = getattr(result.distances.get(name), measure, None)
            return MISSING if value is None else f"{value:.{digits}f}"

        return {
            f"MCD to {name} dB": lambda r: cell(r, "mcd", 2),
            f"log-F0 RMSE to {name}": lambda r: cell(r, "log_f0_rmse", 3),
        }

    def score_cell(result: Result, name: str) -> str:
        return f"{result.scores[name]:.2f}" if name in result.scores else MISSING

    def agreement_columns() -> dict[str, Callable[[Result], str]]:
        def cell(result: Result, measure: str) -> str:
            value = getattr(result.agreement, measure, None)
            return MISSING if value is None else f"{value:.1f}"

        return {
            f"SNR to {other} dB, {measure}": partial(cell, measure=measure)
            for other in agrees_with(results)
            for measure in ("median", "worst")
        }

    def stream_cell(result: Result, measure: str) -> str:
        value = getattr(result.streams, measure, None)
        return MISSING if value is None else f"{value:.3f}"

    columns: dict[str, Callable[[Result], str]] = {
        "system": lambda r: r.system,
        "front end": lambda r: r.streams.frontend if r.streams else MISSING,
        "chunk s": lambda r: r.streams.chunk if r.streams else MISSING,
    }
    for name in scored(results):
        known = {**SINGING_SCORES, **DIARIZATION_SCORES, **SPEECH_SCORES}
        header = known.get(name, name.upper())
        columns[header] = partial(score_cell, name=name)
    for name in compared_with(results):
        columns |= distance_columns(name)
    for name in BLEU_TYPES:
        if any(name in r.bleu for r in results):
            columns |= bleu_columns(name)
    for error_type in ERROR_TYPES:
        if any(error_type in r.errors for r in results):
            columns |= error_columns(error_type)
    columns |= {
        "utterances": lambda r: str(r.utterances),
        "identical %": lambda r: (
            MISSING
            if r.identical is None
            else f"{100 * r.identical / r.utterances:.2f}"
        ),
        **agreement_columns(),
        "ties": lambda r: MISSING if r.ties is None else str(r.ties),
        "RTF": lambda r: f"{r.timing.rtf:.3f}" if r.timing else MISSING,
        "first partial s": lambda r: stream_cell(r, "first_partial"),
        "last word s": lambda r: stream_cell(r, "last_word"),
        "flicker": lambda r: stream_cell(r, "flicker"),
        "first audio s": lambda r: (
            f"{r.timing.first_audio_seconds:.3f}"
            if r.timing and r.timing.first_audio_seconds is not None
            else MISSING
        ),
        "speed-up": lambda r: f"{r.speed_up:.2f}x" if r.speed_up else MISSING,
        "model MiB": lambda r: (
            MISSING if r.model_bytes is None else f"{r.model_bytes / MIB:.1f}"
        ),
        "peak memory MiB": lambda r: (
            f"{r.timing.peak_memory_mb:.0f}"
            if r.timing and r.timing.peak_memory_mb is not None
            else MISSING
        ),
    }
    return {
        header: cell
        for header, cell in columns.items()
        if any(cell(r) != MISSING for r in results)
    }


def _grouped(
    results: list[Result],
) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield each test set's name, column headers and rows of cells."""
    columns = _columns(results)
    for test_set, rows in groupby(results, key=lambda r: r.test_set):
        cells = [[column(row) for column in columns.values()] for row in rows]
        yield test_set, list(columns), cells


def markdown_table(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a table; all but its first column hold figures."""
    return [
        f"| {' | '.join(headers)} |",
        "|---|" + "---:|" * (len(headers) - 1),
        *(f"| {' | '.join(map(markdown_escape, row))} |" for row in rows),
    ]


def to_markdown(
    title: str,
    facts: Mapping[str, str],
    results: list[Result],
    pages: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """Return a Markdown page: title, facts, a table per test set, notes.

    Args:
        title: Of the page.
        facts: Lines above the tables.
        results: Rows of the tables.
        pages: Links to pages on which a test set can be heard.
    """
    lines = [f"# {markdown_escape(title)}", ""]
    lines += [f"- {name}: {markdown_escape(text)}" for name, text in facts.items()]
    for test_set, headers, rows in _grouped(results):
        lines += ["", f"## {markdown_escape(test_set)}", ""]
        lines += markdown_table(headers, rows)
        if test_set in pages:
            lines += ["", f"[Listen to it]({quote(pages[test_set])})"]
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
