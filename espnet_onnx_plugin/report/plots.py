"""Plots of measurements, as PNG. They need matplotlib."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from espnet_onnx_plugin.evaluate.speech_quality import F0_RANGE
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.report.results import (
    BLEU_TYPES,
    ERROR_TYPES,
    Result,
    compared_with,
)

DPI = 150
MARKS = "osD^vXP*"
# Hollow: bundles of one model often fall on one another.
HOLLOW = {"markerfacecolor": "none", "markersize": 9}
# Of a spectrogram: samples, samples, dB from a sine of full scale.
WINDOW = 1024
SHIFT = 256
LEVELS = (-100, -20)


class Point(NamedTuple):
    """A system on a test set: what it errs against its real-time factor."""

    test_set: str
    system: str
    rtf: float
    error: float


class StreamPoint(NamedTuple):
    """A system on a test set: what it errs against the delay of the last word."""

    last_word: float
    quality: float
    chunk: str


def _axes() -> Any:
    # Without pyplot: no display, no state of the process.
    from matplotlib.figure import Figure

    return Figure(layout="constrained").add_subplot()


def _save(figure: Any, path: Path) -> None:
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=DPI)
    write_whole(path, png.getvalue())


def plot_results(output_dir: Path, results: Sequence[Result]) -> list[str]:
    """Write a plot for each error that was measured on test sets that were timed, and
    for each by the latency of streams.

    Returns:
        Names of the files.
    """
    return [
        *_plot_by_rtf(output_dir, results),
        *_plot_by_latency(output_dir, results),
    ]


def _plot_by_rtf(output_dir: Path, results: Sequence[Result]) -> list[str]:
    plots = {
        f"{error_type.lower()}_by_rtf.png": (f"{error_type} %", _rate_of(error_type))
        for error_type in ERROR_TYPES
    }
    plots["si_snr_by_rtf.png"] = ("SI-SNR dB", _si_snr)
    for other in compared_with(results):
        plots[f"mcd_to_{other.lower()}_by_rtf.png"] = (
            f"MCD to {other}, dB",
            _mcd(other),
        )
    names = []
    for name, (label, error_of) in plots.items():
        points = [
            Point(r.test_set, r.system, r.timing.rtf, error)
            for r in results
            if r.timing and (error := error_of(r)) is not None
        ]
        if points:
            names.append(name)
            plot_errors(output_dir / name, points, label)
    return names


def _plot_by_latency(output_dir: Path, results: Sequence[Result]) -> list[str]:
    plots = {f"{name} %": _rate_of(name) for name in ERROR_TYPES}
    plots |= {name: _bleu_of(name) for name in BLEU_TYPES}
    names = []
    for label, quality_of in plots.items():
        lines: dict[tuple[str, str], list[StreamPoint]] = {}
        for r in results:
            quality, streams = quality_of(r), r.streams
            if quality is None or streams is None or streams.last_word is None:
                continue
            point = StreamPoint(streams.last_word, quality, streams.chunk)
            system = f"{r.system}, {streams.frontend}"
            lines.setdefault((r.test_set, system), []).append(point)
        if lines:
            kind = label.removesuffix(" %").lower().replace(" ", "_")
            names.append(f"{kind}_by_latency.png")
            plot_latency(output_dir / names[-1], lines, label)
    return names


def _bleu_of(name: str) -> Callable[[Result], float | None]:
    return lambda r: r.bleu[name].score if name in r.bleu else None


def _rate_of(error_type: str) -> Callable[[Result], float | None]:
    return lambda r: r.errors[error_type].rate if error_type in r.errors else None


def _si_snr(result: Result) -> float | None:
    return result.scores.get("si_snr")


def _mcd(other: str) -> Callable[[Result], float | None]:
    return lambda r: r.distances[other].mcd if other in r.distances else None


def plot_errors(path: Path, points: Sequence[Point], label: str) -> None:
    """Write errors against RTF: a colour for each test set, a mark for a system."""
    style = {"linestyle": "none", **HOLLOW}
    systems = list(dict.fromkeys(point.system for point in points))
    marks = dict(zip(systems, itertools.cycle(MARKS)))
    axes = _axes()
    for system in systems:
        axes.plot([], [], marks[system], color="black", label=system, **style)
    for number, test_set in enumerate(dict.fromkeys(p.test_set for p in points)):
        color = f"C{number}"  # of matplotlib's own cycle
        axes.plot([], [], color=color, label=test_set)
        for point in points:
            if point.test_set == test_set:
                mark = marks[point.system]
                axes.plot(point.rtf, point.error, mark, color=color, **style)
    axes.set_xscale("log")
    axes.set_xlabel("real-time factor")
    axes.set_ylabel(label)
    axes.margins(0.1)
    axes.legend(fontsize="small")
    _save(axes.figure, path)


def plot_latency(
    path: Path, lines: Mapping[tuple[str, str], Sequence[StreamPoint]], label: str
) -> None:
    """Write errors of streams against their latency: a line over the chunk sizes, in
    the test set's colour, with the system's mark.

    Args:
        path: Of the PNG.
        lines: Points by test set and system.
        label: Of the errors.
    """
    axes = _axes()
    colors = {
        name: f"C{i}" for i, name in enumerate(dict.fromkeys(t for t, _ in lines))
    }
    systems = dict.fromkeys(system for _, system in lines)
    marks = dict(zip(systems, itertools.cycle(MARKS)))
    for system, mark in marks.items():
        axes.plot([], [], mark, color="black", label=system, **HOLLOW)
    for test_set, color in colors.items():
        axes.plot([], [], color=color, label=test_set)
    for (test_set, system), points in lines.items():
        x, y, chunks = zip(*sorted(points), strict=True)
        style = f"{marks[system]}-"
        axes.plot(x, y, style, color=colors[test_set], linewidth=0.8, **HOLLOW)
        for place in zip(x, y, chunks) if len(points) > 1 else ():
            axes.annotate(
                place[2],
                place[:2],
                (4, 4),
                textcoords="offset points",
                fontsize="x-small",
            )
    axes.set_xlabel("last word, seconds behind speech (at the marks: chunk, seconds)")
    axes.set_ylabel(label)
    axes.margins(0.1)
    axes.legend(fontsize="small")
    _save(axes.figure, path)


def plot_parts(
    path: Path, panels: Mapping[str, Mapping[str, Mapping[str, float]]]
) -> None:
    """Write stacked bars, a panel with an axis of its own for each setting.

    Args:
        path: Of the PNG.
        panels: Seconds by setting, system and part; all with the same parts.
    """
    from matplotlib.figure import Figure

    bars = [len(systems) for systems in panels.values()]
    figure = Figure((8.0, 0.9 * len(bars) + 0.25 * sum(bars)), layout="constrained")
    grid = figure.subplots(
        len(bars), height_ratios=[n + 1 for n in bars], squeeze=False
    )
    for axes, (setting, systems) in zip(grid[:, 0], panels.items(), strict=True):
        names = list(systems)
        left = [0.0] * len(names)
        for part in systems[names[0]]:
            widths = [systems[name][part] for name in names]
            axes.barh(names, widths, left=left, label=part)
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()  # the first on top
        axes.set_title(setting, fontsize="medium", loc="left")
    axes.set_xlabel("seconds")
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    _save(figure, path)


def plot_rtf(path: Path, lines: Mapping[str, Sequence[tuple[float, float]]]) -> None:
    """Write RTF by audio length.

    Args:
        path: Of the PNG.
        lines: Pairs (seconds of audio, RTF), by the line's name.
    """
    axes = _axes()
    for name, points in lines.items():
        axes.plot(*zip(*sorted(points), strict=True), marker="o", label=name)
    axes.set_yscale("log")
    axes.set_xlabel("seconds of audio")
    axes.set_ylabel("real-time factor")
    axes.legend(fontsize="small")
    _save(axes.figure, path)


def plot_spectrogram(
    path: Path,
    wave: np.ndarray,
    rate: int,
    seconds: float,
    f0: np.ndarray | None = None,
) -> None:
    """Write a spectrogram, on the same scales whatever the waveform.

    Args:
        path: Of the PNG.
        wave: (samples,) int16.
        rate: Sampling rate in Hz.
        seconds: Length of the time axis.
        f0: To be drawn over it: Hz (frames,), 0 where unvoiced, evenly spaced from the
            first sample to the last.
    """
    from matplotlib.figure import Figure

    padded = np.pad(wave / 2**15, WINDOW // 2)
    frames = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::SHIFT]
    window = np.hanning(WINDOW)
    spectra = np.abs(np.fft.rfft(frames * window)).T / (window.sum() / 2)
    figure = Figure((5.0, 2.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(
        20 * np.log10(spectra + 1e-9),
        cmap="magma",
        aspect="auto",
        origin="lower",
        extent=(0, len(wave) / rate, 0, rate / 2000),
        vmin=LEVELS[0],
        vmax=LEVELS[1],
    )
    axes.set_xlim(0, seconds)
    axes.set_xlabel("seconds")
    axes.set_ylabel("kHz")
    figure.colorbar(image, label="dB")
    if f0 is not None:
        pitch = axes.twinx()
        times = np.linspace(0, len(wave) / rate, len(f0))
        pitch.plot(times, np.where(f0 > 0, f0, np.nan), color="cyan", linewidth=1)
        pitch.set_ylim(*F0_RANGE)
        pitch.set_ylabel("F0, Hz")
    _save(figure, path)
