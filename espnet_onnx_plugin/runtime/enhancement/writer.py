"""Result files of an enhancement job, as ESPnet lays them out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.writer import (
    FAILED,
    JobWriter,
    check_file_names,
    written_aside,
)


class WaveWriter(JobWriter):
    """Writes ``wavs/N/KEY.wav`` and lists them in ``spkN.scp``.

    Use :func:`wave_writer`, which makes them appear only when they are whole.

    Args:
        work: where it writes.
        final: where that will be.
        audio_format: of the files: wav, flac, or another one of soundfile's.
    """

    done = "enhanced"

    def __init__(self, work: Path, final: Path, audio_format: str):
        super().__init__(work)
        self._final, self._format = final, audio_format

    def utterance(self, key: str, waves: Sequence[np.ndarray], rate: int) -> None:
        """Write what was made of a mixture.

        Args:
            key: its id.
            waves: (samples,) of each speaker.
            rate: samples a second.
        """
        import soundfile

        for number, wave in enumerate(waves, 1):
            name = Path("wavs") / str(number) / f"{key}.{self._format}"
            path = self._work / name
            path.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(path, wave, rate)
            self._line(f"spk{number}.scp", f"{key} {self._final / name}")


def is_of_waves(name: str) -> bool:
    """Whether a writer of waveforms makes files of this name."""
    return name in ("wavs", FAILED) or (name.startswith("spk") and name.endswith("scp"))


@contextlib.contextmanager
def wave_writer(
    output_dir: str | Path, keys: Iterable[str], audio_format: str = "wav"
) -> Iterator[WaveWriter]:
    """A writer whose files lie in ``output_dir`` once the block has ended well.

    Args:
        output_dir: where they will lie.
        keys: the ids of the utterances that will be written.
        audio_format: see :class:`WaveWriter`.

    Raises:
        PluginError: if an id cannot be the name of a file, or there is no such format.
    """
    import soundfile

    if audio_format.upper() not in soundfile.available_formats():
        known = ", ".join(name.lower() for name in soundfile.available_formats())
        raise PluginError(f"output_format '{audio_format}' is none of {known}")
    check_file_names(keys, WaveWriter.done)
    final = Path(output_dir).expanduser().resolve()
    with written_aside(final, is_of_waves) as work:
        writer = WaveWriter(work, final, audio_format)
        try:
            yield writer
        finally:
            writer.close()
