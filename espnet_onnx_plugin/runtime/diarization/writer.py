"""Result files of a diarization job, as ESPnet lays them out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter, is_of_waves
from espnet_onnx_plugin.runtime.io.writer import check_file_names, written_aside

#: Lists the activities of each recording.
ACTIVITIES = "diarize.scp"

_DIRECTORY = "predictions"


class DiarizationWriter(WaveWriter):
    """Writes ``predictions/KEY.npy``, listed in ``diarize.scp``, and waveforms.

    Use :func:`diarization_writer`, which makes them appear only when they are whole.

    Args:
        work: where it writes.
        final: where that will be.
        speakers: how many lists of waveforms there are; one may be empty.
    """

    done = "diarized"

    def __init__(self, work: Path, final: Path, speakers: int):
        super().__init__(work, final, "wav")
        for number in range(1, speakers + 1):
            self._open(f"spk{number}.scp")

    def activities(self, key: str, probabilities: np.ndarray) -> None:
        """Write (frames, speakers) of a recording."""
        name = Path(_DIRECTORY) / f"{key}.npy"
        (self._work / name).parent.mkdir(exist_ok=True)
        np.save(self._work / name, probabilities)
        self._line(ACTIVITIES, f"{key} {self._final / name}")


def _is_ours(name: str) -> bool:
    return name in (_DIRECTORY, ACTIVITIES) or is_of_waves(name)


@contextlib.contextmanager
def diarization_writer(
    output_dir: str | Path, keys: Iterable[str], speakers: int
) -> Iterator[DiarizationWriter]:
    """A writer whose files lie in ``output_dir`` once the block has ended well.

    Args:
        output_dir: where they will lie.
        keys: the ids of the recordings that will be written.
        speakers: see :class:`DiarizationWriter`.

    Raises:
        PluginError: if an id cannot be the name of a file.
    """
    check_file_names(keys, DiarizationWriter.done)
    final = Path(output_dir).expanduser().resolve()
    with written_aside(final, _is_ours) as work:
        writer = DiarizationWriter(work, final, speakers)
        try:
            yield writer
        finally:
            writer.close()
