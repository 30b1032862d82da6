"""Result files of a synthesis job, as ESPnet lays them out."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.runtime.io.writer import (
    FAILED,
    JobWriter,
    check_file_names,
    written_aside,
)

logger = logging.getLogger(__name__)

#: Directories of a job's output.
_DIRECTORIES = (
    "wav",
    "norm",
    "denorm",
    "speech_shape",
    "durations",
    "focus_rates",
    "att_ws",
    "probs",
)


class SpeechWriter(JobWriter):
    """Writes ``wav/KEY.wav`` and what else ESPnet's commands write.

    A directory is made when there is something to put into it. Use
    :func:`speech_writer`, which makes them appear only when they are whole.

    Args:
        work: where it writes.
        final: where that will be.
        lists_waves: whether to write ``wav/wav.scp``.
    """

    done = "spoken"

    def __init__(self, work: Path, final: Path, lists_waves: bool):
        super().__init__(work)
        self._final = final
        self._lists_waves = lists_waves

    def _features(self, name: str, key: str, feats: np.ndarray) -> None:
        self._line(f"{name}/feats.scp", f"{key} {self._final / name / key}.npy")
        np.save(self._work / name / f"{key}.npy", feats)

    def utterance(self, key: str, made: Mapping[str, Any], rate: int | None) -> None:
        """Write what was made of an utterance.

        Args:
            key: its id.
            made: ESPnet's outputs by name.
            rate: sampling rate of the waveform in Hz.
        """
        if "feat_gen" in made:
            self._features("norm", key, made["feat_gen"])
            shape = ",".join(map(str, made["feat_gen"].shape))
            self._line("speech_shape/speech_shape", f"{key} {shape}")
        if "feat_gen_denorm" in made:
            self._features("denorm", key, made["feat_gen_denorm"])
        if "duration" in made:
            frames = " ".join(map(str, made["duration"].astype(np.int64)))
            self._line("durations/durations", f"{key} {frames}")
        if "focus_rate" in made:
            line = f"{key} {float(made['focus_rate']):.5f}"
            self._line("focus_rates/focus_rates", line)
        if "att_w" in made:
            self._plot("att_ws", key, _plot_attention, made["att_w"])
        if "prob" in made:
            self._plot("probs", key, _plot_stop, made["prob"])
        if "wav" in made:
            import soundfile

            path = self._work / "wav" / f"{key}.wav"
            path.parent.mkdir(exist_ok=True)
            soundfile.write(path, made["wav"], rate, "PCM_16")
            if self._lists_waves:
                listed = self._final.absolute() / "wav" / path.name
                self._line("wav/wav.scp", f"{key} {listed}")

    def _plot(
        self, name: str, key: str, plot: Callable[..., Any], values: np.ndarray
    ) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            logger.warning("%s is not drawn: pip install matplotlib", name)
            return
        path = self._work / name / f"{key}.png"
        path.parent.mkdir(exist_ok=True)
        figure = plot(Figure, key, values)
        figure.savefig(path)


def _plot_attention(figure_class: type, key: str, weights: np.ndarray) -> Any:
    """Attention (frames, symbols), or (layers, heads, frames, symbols)."""
    from matplotlib.ticker import MaxNLocator

    weights = weights.reshape(1, 1, *weights.shape) if weights.ndim == 2 else weights
    rows, columns = weights.shape[:2]
    figure = figure_class(
        figsize=(6.4 * min(columns, 2.5), 4.8 * min(rows, 2.5)), layout="constrained"
    )
    figure.suptitle(key, parse_math=False)
    for row, of_layer in zip(figure.subplots(rows, columns, squeeze=False), weights):
        for axes, of_head in zip(row, of_layer):
            axes.imshow(of_head, aspect="auto")
            axes.set(xlabel="Input", ylabel="Output")
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def _plot_stop(figure_class: type, key: str, prob: np.ndarray) -> Any:
    """Probability (frames,) that the utterance ends."""
    figure = figure_class(layout="constrained")
    axes = figure.add_subplot()
    axes.plot(prob)
    axes.set_title(key, parse_math=False)
    axes.set(xlabel="Output", ylabel="Stop probability", ylim=(0, 1))
    axes.grid(which="both")
    return figure


@contextlib.contextmanager
def speech_writer(
    output_dir: str | Path, keys: Iterable[str], lists_waves: bool = False
) -> Iterator[SpeechWriter]:
    """A writer whose files lie in ``output_dir`` once the block has ended well.

    Args:
        output_dir: where they will lie.
        keys: the ids of the utterances that will be written.
        lists_waves: whether to write ``wav/wav.scp``.

    Raises:
        PluginError: if an id cannot be the name of a file.
    """
    check_file_names(keys, SpeechWriter.done)
    with written_aside(output_dir, lambda n: n in (*_DIRECTORIES, FAILED)) as work:
        writer = SpeechWriter(work, Path(output_dir), lists_waves)
        try:
            yield writer
        finally:
            writer.close()
