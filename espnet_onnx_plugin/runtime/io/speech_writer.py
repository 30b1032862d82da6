"""Result files of a synthesis job, as ESPnet lays them out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.writer import JobWriter, check_file_names

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

    Args:
        job, work: see :class:`JobWriter`.
        lists_waves: whether to write ``wav/wav.scp``.
    """

    done = "synthesized"

    def __init__(self, job: Job, work: Path, lists_waves: bool = False):
        super().__init__(job, work)
        if not lists_waves:
            self.left_out = frozenset({"wav/wav.scp"})

    @classmethod
    def check(cls, job: Job, **options: Any) -> None:
        """Refuse ids that cannot be names of files."""
        check_file_names(job.keys, cls.done)

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether it is a directory of results."""
        return name in _DIRECTORIES

    @classmethod
    def lists_in(cls, final: Path, name: str) -> Path:
        """ESPnet lists waveforms with their whole paths."""
        return final.absolute() if name == "wav/wav.scp" else final

    @classmethod
    def merged(cls, name: str) -> str | None:
        """Features stay where the jobs have written them; ESPnet moves the rest."""
        directory, _, file = name.partition("/")
        if directory in ("norm", "denorm"):
            return name if file == "feats.scp" else None
        return name if directory in ("wav", "att_ws", "probs") else file

    def _features(self, name: str, key: str, feats: np.ndarray) -> None:
        np.save(self._file(f"{name}/{key}.npy", f"{name}/feats.scp"), feats)

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
            self._line("speech_shape/speech_shape", shape)
        if "feat_gen_denorm" in made:
            self._features("denorm", key, made["feat_gen_denorm"])
        if "duration" in made:
            frames = " ".join(map(str, made["duration"].astype(np.int64)))
            self._line("durations/durations", frames)
        if "focus_rate" in made:
            self._line("focus_rates/focus_rates", f"{float(made['focus_rate']):.5f}")
        if "att_w" in made:
            self._plot("att_ws", key, _plot_attention, made["att_w"])
        if "prob" in made:
            self._plot("probs", key, _plot_stop, made["prob"])
        if "wav" in made:
            import soundfile

            path = self._file(f"wav/{key}.wav", "wav/wav.scp")
            soundfile.write(path, made["wav"], rate, "PCM_16")

    def _plot(
        self, name: str, key: str, plot: Callable[..., Any], values: np.ndarray
    ) -> None:
        try:
            from matplotlib.figure import Figure
        except ImportError:
            logger.warning("%s is not drawn: pip install matplotlib", name)
            return
        plot(Figure, key, values).savefig(self._file(f"{name}/{key}.png"))


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
