"""Result files of an enhancement job, as ESPnet lays them out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.writer import JobWriter, check_file_names


class WaveWriter(JobWriter):
    """Writes ``wavs/N/KEY.wav`` and lists them in ``spkN.scp``.

    Args:
        job, work: see :class:`JobWriter`.
        audio_format: of the files: wav, flac, or another one of soundfile's.
    """

    done = "enhanced"

    def __init__(self, job: Job, work: Path, audio_format: str = "wav"):
        super().__init__(job, work)
        self._format = audio_format

    @classmethod
    def check(cls, job: Job, **options: Any) -> None:
        """Refuse ids that cannot be names of files, and an unknown format."""
        import soundfile

        audio_format = options.get("audio_format", "wav")
        if audio_format.upper() not in soundfile.available_formats():
            known = ", ".join(name.lower() for name in soundfile.available_formats())
            raise PluginError(f"output_format '{audio_format}' is none of {known}")
        check_file_names(job.keys, cls.done)

    @classmethod
    def owns(cls, name: str) -> bool:
        """Whether it is the waveforms or a list of them."""
        return name == "wavs" or (name.startswith("spk") and name.endswith("scp"))

    @classmethod
    def lists_in(cls, final: Path, name: str) -> Path:
        """ESPnet lists waveforms with their whole paths."""
        return final.expanduser().resolve()

    @classmethod
    def merged(cls, name: str) -> str | None:
        """Waveforms stay where the jobs have written them; their lists do not."""
        return None if "/" in name else name

    def utterance(self, key: str, waves: Sequence[np.ndarray], rate: int) -> None:
        """Write what was made of a mixture.

        Args:
            key: its id.
            waves: (samples,) of each speaker.
            rate: samples a second.
        """
        import soundfile

        for number, wave in enumerate(waves, 1):
            name = f"wavs/{number}/{key}.{self._format}"
            soundfile.write(self._file(name, f"spk{number}.scp"), wave, rate)
