"""Tables and plots of a benchmark."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from benchmarking.measurement import Agreement, Distance, Measurement, Outcome
from benchmarking.settings import Decode, Separation, StreamDecode, Synthesis

from espnet_onnx_plugin.evaluate.error_rate import count_errors
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.report.figures import csv_table
from espnet_onnx_plugin.report.plots import (
    Point,
    plot_errors,
    plot_parts,
    plot_rtf,
)
from espnet_onnx_plugin.report.results import TIE
from espnet_onnx_plugin.report.tables import (
    MIB,
    MISSING,
    markdown_escape,
    markdown_table,
)

NOTES = (
    "Systems take turns on the same {inputs}, each in a process of its own with the "
    "same number of threads; the first round is not counted. Median: of the runs over "
    "them; spread: fastest to slowest. In brackets: PyTorch's time over this one's, "
    "or the share of PyTorch's.",
    "Start: from starting the process to its first {result}, median.",
    "Peak memory: VmHWM of the process at the end.",
)
NOTES_OF_DECODE = (
    "Encoder: from the waveform to the encoder's output and the CTC's posteriors.",
    f"Tie: another hypothesis than PyTorch's that scores as PyTorch's, to {TIE:g}.",
)
NOTES_OF = {
    Decode: NOTES_OF_DECODE,
    StreamDecode: (
        *NOTES_OF_DECODE,
        "Delay: seconds from the end of a part of a stream until it is recognized, "
        "median and 95th percentile; last word: of a stream's last part, median. Parts "
        "of several streams end at the same time, PyTorch takes them one by one.",
    ),
    Synthesis: (
        "First audio: from the text to what can be played, a mean over the texts; the "
        "whole in PyTorch, the first 50 frames of a bundle's stream.",
        "Difference: the largest of a sample from PyTorch's, relative to the largest "
        "of PyTorch's samples; MCD: mel-cepstral distortion from PyTorch's.",
    ),
    Separation: (
        "Difference: the largest of a sample from PyTorch's, relative to the largest "
        "of PyTorch's samples; SI-SNR: scale-invariant signal-to-noise ratio, where "
        "PyTorch's waveform is the signal.",
    ),
}

#: Inputs and results of a run that decodes nothing.
WORDS_OF = {Synthesis: ("text", "waveform"), Separation: ("mixture", "waveform")}

#: Headers of the distance of waveforms.
DISTANCES_OF = {
    Synthesis: ["difference", "MCD dB"],
    Separation: ["difference", "SI-SNR dB"],
}

#: Quantiles of the delays.
DELAYS = (0.5, 0.95)


def write_report(
    output_dir: Path, title: str, facts: Mapping[str, str], outcomes: Sequence[Outcome]
) -> None:
    """Write RESULTS.md, results.csv and plots.

    Args:
        output_dir: Of the files.
        title: Of the page.
        facts: Lines above the tables.
        outcomes: All settings, in the order of the tables.
    """
    plots = list(_plots(output_dir, outcomes))
    lines = [f"# {markdown_escape(title)}", ""]
    lines += [f"- {name}: {markdown_escape(text)}" for name, text in facts.items()]
    for heading, table in (
        ("Speed", _speed(outcomes)),
        ("Time by part, seconds of the median run", _parts(outcomes)),
        ("Growth with the length of the audio", _growth(outcomes)),
    ):
        if table:
            lines += ["", f"## {heading}", "", *table]
    for name in plots:
        lines += ["", f"![{name}]({name})"]
    kind = outcomes[0].setting.RUN
    words = WORDS_OF.get(kind, ("audio", "hypothesis"))
    notes = [note.format(inputs=words[0], result=words[1]) for note in NOTES]
    notes += NOTES_OF[kind]
    lines += ["", *(f"- {markdown_escape(note)}" for note in notes)]
    write_whole(output_dir / "results.csv", csv_table(list(_csv_rows(outcomes))))
    write_whole(output_dir / "RESULTS.md", "\n".join(lines) + "\n")


def _error_rate(outcome: Outcome, measurement: Measurement) -> float | None:
    if outcome.references is None:
        return None
    hypotheses = [(decode.text or "").split() for decode in measurement.runs[0]]
    references = [reference.split() for reference in outcome.references]
    counts = count_errors(references, hypotheses)
    return counts.rate if counts.words else None


def describe_agreement(agreement: Agreement | None) -> str:
    """Return what the tables say of hypotheses, e.g. ``identical``."""
    if agreement is None:
        return MISSING
    counts = {
        "identical": agreement.identical,
        "tie": agreement.ties,
        "different": agreement.different,
    }
    kinds = [name for name, count in counts.items() if count]
    if sum(counts.values()) > 1:
        kinds = [f"{counts[name]} {name}" for name in kinds]
    text = ", ".join(kinds)
    if agreement.identical < sum(counts.values()):
        text += f" ({100 * agreement.equal_tokens:.1f} % of tokens equal)"
    return text


def describe_distance(distance: Distance | None) -> str:
    """Return what is printed of waveforms, e.g. ``difference 1.2e-06, MCD 0.00 dB``."""
    measure = "MCD" if distance is None or distance.si_snr is None else "SI-SNR"
    far, near = _distance_cells(distance)
    return f"difference {far}, {measure} {near} dB"


def _distance_cells(distance: Distance | None) -> list[str]:
    """Cells of the difference, and of the one measure that there is besides."""
    if distance is None:
        return [MISSING, MISSING]
    measure = distance.mcd if distance.si_snr is None else distance.si_snr
    return [
        MISSING if figure is None else format(figure, form)
        for figure, form in zip((distance.difference, measure), (".1e", ".2f"))
    ]


def _speed(outcomes: Sequence[Outcome]) -> list[str]:
    with_errors = any(outcome.references is not None for outcome in outcomes)
    kind = outcomes[0].setting.RUN
    streams = kind is StreamDecode
    # Of each kind, the parts that are worth a column.
    parts = {Synthesis: ("first_audio", "vocoder"), Separation: ()}
    parts = parts.get(kind, ("encoder",))
    headers = ["setting", "system", "median s", "spread s", "speed-up", "RTF"]
    headers += ["delay s", "95 % s", "last word s"] if streams else []
    headers += [f"{part.replace('_', ' ')} s" for part in parts]
    headers += ["peak memory MiB", "start s", "model MiB"]
    headers += DISTANCES_OF.get(kind, ["hypotheses"])
    rows = []
    for outcome in outcomes:
        base = outcome.reference
        for m in outcome.measurements:
            other = base if m is not base else None
            row = [
                outcome.setting.name,
                m.system,
                f"{m.median:.3f}",
                f"{min(m.seconds):.3f}-{max(m.seconds):.3f}",
                f"{other.median / m.median:.2f}x" if other else MISSING,
                f"{m.rtf:.3f}",
                *([f"{m.delay(q):.3f}" for q in DELAYS] if streams else []),
                *([_times(m, other, "last_delay")] if streams else []),
                *(_times(m, other, part) for part in parts),
                f"{m.peak_memory_mb:.0f}" + _share(m, other, "peak_memory_mb"),
                f"{m.start:.2f}" + _share(m, other, "start"),
                f"{m.model_bytes / MIB:.1f}" + _share(m, other, "model_bytes"),
            ]
            if kind in DISTANCES_OF:
                row += _distance_cells(m.distance)
            else:
                row.append(describe_agreement(outcome.agreement(m)))
            if with_errors:
                rate = _error_rate(outcome, m)
                row.append(MISSING if rate is None else f"{rate:.2f}")
            rows.append(row)
    return markdown_table([*headers, *(["WER %"] if with_errors else [])], rows)


def _times(ours: Measurement, theirs: Measurement | None, figure: str) -> str:
    seconds = getattr(ours, figure)
    text = f"{seconds:.3f}"
    return text + (f" ({getattr(theirs, figure) / seconds:.2f}x)" if theirs else "")


def _share(ours: Measurement, theirs: Measurement | None, figure: str) -> str:
    if theirs is None:
        return ""
    return f" ({100 * getattr(ours, figure) / getattr(theirs, figure):.0f} %)"


def _parts(outcomes: Sequence[Outcome]) -> list[str]:
    rows = [
        [outcome.setting.name, m.system]
        + [f"{seconds:.3f}" for seconds in m.parts.values()]
        + [f"{sum(m.parts.values()):.3f}"]
        for outcome in outcomes
        for m in outcome.measurements
    ]
    parts = outcomes[0].setting.RUN.PARTS
    return markdown_table(["setting", "system", *parts, "total"], rows)


def _by_length(
    outcomes: Sequence[Outcome],
) -> Iterator[tuple[str, dict[str, dict[float, Measurement]]]]:
    """Yield settings that differ in the audio's length: name, system, length.

    Only systems that were measured at all lengths.
    """
    groups: dict[str, list[Outcome]] = {}
    for outcome in outcomes:
        if outcome.setting.audio_seconds is not None:
            groups.setdefault(outcome.setting.but_for_length, []).append(outcome)
    for group in groups.values():
        group.sort(key=lambda outcome: outcome.setting.audio_seconds)
        if len(group) > 1:
            systems: dict[str, dict[float, Measurement]] = {}
            for outcome in group:
                for m in outcome.measurements:
                    by_length = systems.setdefault(m.system, {})
                    by_length[outcome.setting.audio_seconds] = m
            whole = {k: v for k, v in systems.items() if len(v) == len(group)}
            if whole:
                yield group[0].setting.search_name, whole


def _growth(outcomes: Sequence[Outcome]) -> list[str]:
    lines: list[str] = []
    for name, systems in _by_length(outcomes):
        lengths = list(next(iter(systems.values())))
        rows = [
            [name, system]
            + [
                f"{by_length[x].median / by_length[lengths[0]].median:.2f}"
                for x in lengths
            ]
            for system, by_length in systems.items()
        ]
        headers = [f"{x:g} s" for x in lengths]
        lines += ["", *markdown_table(["setting", "system", *headers], rows)]
    return lines[1:]


def _csv_rows(outcomes: Sequence[Outcome]) -> Iterator[dict[str, object]]:
    for outcome in outcomes:
        setting = outcome.setting
        for m in outcome.measurements:
            base = outcome.reference
            yield {
                "setting": setting.name,
                "system": m.system,
                "audio_seconds": f"{m.audio_seconds:.3f}",
                **{name: getattr(setting, name) for name in setting.OPTIONS},
                "threads": setting.threads,
                "runs": len(m.runs),
                "median_seconds": f"{m.median:.6f}",
                "min_seconds": f"{min(m.seconds):.6f}",
                "max_seconds": f"{max(m.seconds):.6f}",
                "speed_up": f"{base.median / m.median:.4f}" if base else None,
                **{f"{part}_seconds": f"{s:.6f}" for part, s in m.parts.items()},
                "start_seconds": f"{m.start:.3f}",
                "peak_memory_mb": f"{m.peak_memory_mb:.1f}",
                "model_bytes": m.model_bytes,
                **(
                    _csv_of_decode(outcome, m)
                    if issubclass(setting.RUN, Decode)
                    else {}
                ),
                **(_csv_of_synthesis(m) if setting.RUN is Synthesis else {}),
                **(_csv_of_distance(m) if setting.RUN in DISTANCES_OF else {}),
                **(_csv_of_streams(m) if setting.RUN is StreamDecode else {}),
            }


def _csv_of_decode(outcome: Outcome, m: Measurement) -> dict[str, object]:
    agreement, rate = outcome.agreement(m), _error_rate(outcome, m)
    return {
        "frontend_and_encoder_median_seconds": f"{m.encoder:.6f}",
        "identical": agreement.identical if agreement else None,
        "ties": agreement.ties if agreement else None,
        "different": agreement.different if agreement else None,
        "equal_tokens": f"{agreement.equal_tokens:.4f}" if agreement else None,
        "wer": None if rate is None else f"{rate:.4f}",
    }


def _csv_of_streams(m: Measurement) -> dict[str, object]:
    return {
        **{f"delay_{100 * q:g}_percent_seconds": f"{m.delay(q):.6f}" for q in DELAYS},
        "last_word_median_seconds": f"{m.last_delay:.6f}",
    }


def _csv_of_synthesis(m: Measurement) -> dict[str, object]:
    return {
        "first_audio_median_seconds": f"{m.first_audio:.6f}",
        "vocoder_median_seconds": f"{m.vocoder:.6f}",
    }


def _csv_of_distance(m: Measurement) -> dict[str, object]:
    return {
        name: None if value is None else f"{value:.3e}"
        for name in ("difference", "mcd", "si_snr")
        for value in [getattr(m.distance, name, None)]
    }


def _plots(output_dir: Path, outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Write the plots that the outcomes give and yield their names."""
    panels = {
        outcome.setting.name: {m.system: m.parts for m in outcome.measurements}
        for outcome in outcomes
    }
    plot_parts(output_dir / "time_by_part.png", panels)
    yield "time_by_part.png"
    lines = {
        f"{system}, {name}": [(x, m.rtf) for x, m in by_length.items()]
        for name, systems in _by_length(outcomes)
        for system, by_length in systems.items()
    }
    if lines:
        plot_rtf(output_dir / "rtf_by_length.png", lines)
        yield "rtf_by_length.png"
    points = [
        Point(outcome.setting.name, m.system, m.rtf, rate)
        for outcome in outcomes
        for m in outcome.measurements
        if (rate := _error_rate(outcome, m)) is not None
    ]
    if points:
        plot_errors(output_dir / "wer_by_rtf.png", points, "WER %")
        yield "wer_by_rtf.png"
