"""Readers of audio and features: the input types of ESPnet's inference."""

from __future__ import annotations

import contextlib
import os
import re
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from espnet_onnx_plugin.errors import PluginError

#: Files that a directory is searched for.
SUFFIXES = (".wav", ".flac", ".ogg", ".opus", ".mp3")


def find_audio(inputs: Sequence[str]) -> list[Path]:
    """The audio files that are named, and those in the directories that are.

    Raises:
        PluginError: if a directory holds none.
    """
    files: list[Path] = []
    for path in map(Path, inputs):
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix.lower() in SUFFIXES)
            if not inside:
                raise PluginError(f"{path} holds no audio ({', '.join(SUFFIXES)})")
            files += inside
        else:
            files.append(path)
    return files


@dataclass(frozen=True)
class Audio:
    """Content of the file that a line of an scp file names.

    Attributes:
        array: (samples,), (samples, channels) or (frames, dim).
        rate: sampling rate in Hz, or None where the file does not say.
    """

    array: np.ndarray
    rate: int | None


#: From here on a count of frames, 36 bits in FLAC, means that it is not known.
_UNKNOWN_FRAMES = 2**36

#: Sizes from here on stand in the WAV headers of programs that write into a pipe and do
#: not know them yet (sox 0x7FFFF000, ffmpeg 0xFFFFFFFF; others 0).
_STREAMED_BYTES = 0x7FFFF000


def _wav_seconds(value: str) -> tuple[float, float] | None:
    """Seconds that a WAV file's header claims, and those that are there.

    libsndfile, as ESPnet reads by it, says nothing where they differ.

    Returns:
        None for other files, and where the header does not know.
    """
    with open(value, "rb") as f:
        head = f.read(12)
        if head[:4] not in (b"RIFF", b"RIFX") or head[8:] != b"WAVE":
            return None
        order = "<" if head[:4] == b"RIFF" else ">"
        block, byte_rate = 0, 0
        while len(chunk := f.read(8)) == 8:
            name, size = struct.unpack(f"{order}4sI", chunk)
            if name == b"data":
                there = os.fstat(f.fileno()).st_size - f.tell()
                known = 0 < size < _STREAMED_BYTES and block and byte_rate
                # Less than a frame is missing where a padding byte was counted.
                if not known or size - there < block:
                    return None
                return size / byte_rate, there / byte_rate
            start = f.tell()
            if name == b"fmt " and len(form := f.read(14)) == 14:
                byte_rate, block = struct.unpack(f"{order}8xIH", form)
            f.seek(start + size + size % 2)
    return None


def _frames_there(value: str) -> int:
    """Frames that can be read of a file that says it has more.

    Behind its end libsndfile fails for good: nearer to it in smaller steps, each time
    from the start.
    """
    import soundfile

    there = 0
    for step in (2**16, 2**8, 1):
        with contextlib.suppress(RuntimeError, OSError):
            with soundfile.SoundFile(value) as file:
                file.read(there)
                while read := len(file.read(step)):
                    there += read
    return there


def _read_sound(value: str, dtype: str = "float64", always_2d: bool = False) -> Audio:
    import soundfile

    claimed = 0
    reason = ""
    try:
        with soundfile.SoundFile(value) as file:
            rate, claimed = file.samplerate, file.frames
            if claimed >= _UNKNOWN_FRAMES:
                raise RuntimeError("its header does not say how long it is")
            array = file.read(dtype=dtype, always_2d=always_2d)
        lengths = _wav_seconds(value)
        there = len(array)
    except (RuntimeError, OSError, MemoryError) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        lengths = None
        there = claimed
        if 0 < claimed < _UNKNOWN_FRAMES:
            with contextlib.suppress(MemoryError):  # all of it is there
                there = _frames_there(value)
    if lengths is None and there < claimed:
        lengths = claimed / rate, there / rate
    if lengths is not None:
        raise PluginError(
            f"{value} is cut off: its header says {lengths[0]:.3f} s, "
            f"{lengths[1]:.3f} s are there; make it again"
        )
    if reason:
        raise PluginError(f"cannot read audio file {value}: {reason}")
    return Audio(array, rate)


def _read_columns(value: str, dtype: str = "float64") -> Audio:
    files = [_read_sound(file, dtype, always_2d=True) for file in value.split()]
    if len({(f.rate, len(f.array)) for f in files}) != 1:
        raise PluginError(f"channels differ in length or sampling rate: {value}")
    return Audio(np.concatenate([f.array for f in files], axis=1), files[0].rate)


def _holds_pickle(value: str) -> bool:
    """Whether kaldiio would unpickle what a line names, which may run code.

    Of a pipe it is not known, which runs what the line says in any case.
    """
    name, _, offset = re.sub(r"\[[^]]*\]$", "", value).rpartition(":")
    if not offset.isdecimal():
        name, offset = value, "0"
    try:
        with open(name, "rb") as file:
            file.seek(int(offset))
            return file.read(3) == b"PKL"
    except (OSError, OverflowError, ValueError):
        return False


def _read_ark(value: str, dtype: str | None = None) -> Audio:
    import kaldiio

    if _holds_pickle(value):
        raise PluginError(f"{value} is a pickle, no array of a Kaldi archive")
    try:
        content = kaldiio.load_mat(value)
    except Exception as e:  # kaldiio raises whatever its parser stumbles on
        reason = " ".join(str(e).split()) or type(e).__name__
        raise PluginError(f"cannot read {value} as a Kaldi archive: {reason}")
    if not isinstance(content, tuple):
        return Audio(content, None)
    first, second = content
    return Audio(first, second) if isinstance(second, int) else Audio(second, first)


def _read_npy(value: str, dtype: str | None = None) -> Audio:
    try:
        content = np.load(value)
    except Exception as e:  # numpy's own, of its parser of headers, of zipfile
        reason = " ".join(str(e).split()) or type(e).__name__
        raise PluginError(f"cannot read {value} as a numpy file: {reason}")
    if not isinstance(content, np.ndarray):
        raise PluginError(
            f"cannot read {value} as a numpy file: it holds several arrays"
        )
    return Audio(content, None)


class Reader(Protocol):
    """Reads what a line of an scp file names."""

    def __call__(self, value: str, dtype: str = ..., /) -> Audio:
        """Read it.

        Args:
            value: the line, less the utterance's id.
            dtype: the samples of sound files are read in: ``float64``, as ESPnet does,
                or ``float32``. Arrays keep the type that they are stored in.
        """


READERS: dict[str, Reader] = {
    "sound": _read_sound,
    "multi_columns_sound": _read_columns,
    "kaldi_ark": _read_ark,
    "npy": _read_npy,
}
