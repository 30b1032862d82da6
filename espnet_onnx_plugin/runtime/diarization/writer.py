"""Result files of a diarization job, as ESPnet lays them out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from espnet_onnx_plugin.runtime.enhancement.writer import WaveWriter
from espnet_onnx_plugin.runtime.io.job import Job

#: Lists the activities of each recording.
ACTIVITIES = "diarize.scp"

_DIRECTORY = "predictions"


class DiarizationWriter(WaveWriter):
    """Writes ``predictions/KEY.npy``, listed in ``diarize.scp``, and waveforms.

    Args:
        job, work: see :class:`JobWriter`.
        speakers: how many lists of waveforms there are; one may be empty.
    """

    done = "diarized"

    def __init__(self, job: Job, work: Path, speakers: int = 0):
        super().__init__(job, work)
        self.lists = [f"spk{number}.scp" for number in range(1, speakers + 1)]

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether it is the activities, the waveforms or a list of them."""
        return name in (_DIRECTORY, ACTIVITIES) or super().owns(name)

    @classmethod
    def complete(cls, name: str) -> bool:
        """Whether it is the list of activities: a speaker may be in some recordings."""
        return name == ACTIVITIES

    def activities(self, key: str, probabilities: np.ndarray) -> None:
        """Write (frames, speakers) of a recording."""
        path = self._file(f"{_DIRECTORY}/{key}.npy", ACTIVITIES)
        np.save(path, probabilities)
