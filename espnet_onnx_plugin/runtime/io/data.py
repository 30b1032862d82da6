"""Reading the recipe's data: scp files and the input types of ESPnet's inference."""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError


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


def _read_sound(value: str, always_2d: bool = False) -> Audio:
    import soundfile

    claimed = 0
    reason = ""
    try:
        with soundfile.SoundFile(value) as file:
            rate, claimed = file.samplerate, file.frames
            if claimed >= _UNKNOWN_FRAMES:
                raise RuntimeError("its header does not say how long it is")
            array = file.read(always_2d=always_2d)
        lengths = _wav_seconds(value)
        there = len(array)
    except (RuntimeError, OSError, MemoryError) as e:
        reason = str(e).partition("\n")[0] or type(e).__name__
        lengths = None
        there = claimed
        if 0 < claimed < _UNKNOWN_FRAMES:
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


def _read_columns(value: str) -> Audio:
    files = [_read_sound(file, always_2d=True) for file in value.split()]
    if len({(f.rate, len(f.array)) for f in files}) != 1:
        raise PluginError(f"channels differ in length or sampling rate: {value}")
    return Audio(np.concatenate([f.array for f in files], axis=1), files[0].rate)


def _read_ark(value: str) -> Audio:
    import kaldiio

    try:
        content = kaldiio.load_mat(value)
    except Exception as e:  # kaldiio raises whatever its parser stumbles on
        raise PluginError(f"cannot read {value} as a Kaldi archive: {e}")
    if not isinstance(content, tuple):
        return Audio(content, None)
    first, second = content
    return Audio(first, second) if isinstance(second, int) else Audio(second, first)


def _read_npy(value: str) -> Audio:
    try:
        return Audio(np.load(value), None)
    except (OSError, ValueError) as e:
        raise PluginError(f"cannot read {value} as a numpy file: {e}")


READERS: dict[str, Callable[[str], Audio]] = {
    "sound": _read_sound,
    "multi_columns_sound": _read_columns,
    "kaldi_ark": _read_ark,
    "npy": _read_npy,
}


@dataclass(frozen=True)
class Source:
    """ESPnet's ``data_path_and_name_and_type`` less the name: an scp and its type.

    Attributes:
        limit: how many utterances a check takes, spread over the file; None for all.
        others: the other inputs of a check, files of text in Kaldi's format by name.

    Raises:
        PluginError: if the type is not one of :data:`READERS`.
    """

    path: Path
    type: str
    limit: int | None = None
    others: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type not in READERS:
            raise PluginError(
                f"data type '{self.type}' is not supported; use one of "
                + ", ".join(READERS)
            )

    @staticmethod
    def parse(value: str, limit: int | None = None) -> Source:
        """From ``PATH,TYPE``."""
        path, comma, kind = value.rpartition(",")
        if not comma or not path:
            raise PluginError(
                f"'{value}' is not SCP,TYPE, e.g. dump/raw/dev/wav.scp,sound"
            )
        return Source(Path(path), kind, limit)

    def entries(self) -> dict[str, str]:
        """Utterance id to what follows it in the scp file, in the file's order.

        Raises:
            PluginError: if the file cannot be read or names no utterance.
        """
        return _some(self.path, read_scp(self.path))

    def read(self, key: str, value: str) -> Audio:
        """Read one entry.

        Raises:
            PluginError: naming the utterance, if its file is missing, broken or empty.
        """
        if not value:
            raise PluginError(f"{self.path} names no file for utterance '{key}'")
        with named(key):
            audio = READERS[self.type](value)
        if audio.array.dtype.kind in "iu":
            # An archive's integers are taken as they are, in ESPnet too: that is how
            # a model has seen them in training.
            audio = Audio(audio.array.astype(np.float32), audio.rate)
        if audio.array.size == 0:
            raise PluginError(
                f"utterance '{key}': {value} is empty; remove it from {self.path}"
            )
        return audio


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Name the utterance in errors.

    Raises:
        PluginError: as the block does.
    """
    try:
        yield
    except PluginError as e:
        raise PluginError(f"utterance '{key}': {e}")


def read_lines(path: str | Path) -> list[str]:
    """Read a text file in UTF-8.

    Lines end at a newline and nowhere else, for a text may hold what Unicode calls a
    line separator; the last one may go without. A byte order mark is dropped.

    Raises:
        PluginError: if the file cannot be read.
    """
    try:
        lines = Path(path).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as e:
        raise PluginError(f"cannot read {path}: {e}")
    return lines if lines[-1] else lines[:-1]


def read_scp(path: str | Path) -> dict[str, str]:
    """Read a file of lines ``KEY VALUE``, Kaldi's format of nearly everything.

    As in ESPnet the value begins behind the first blanks, spaces or tabs, and may be
    missing or hold blanks. Empty lines are left out.

    Raises:
        PluginError: if the file cannot be read or has two lines of one key.
    """
    entries: dict[str, str] = {}
    for number, line in enumerate(read_lines(path), 1):
        key, *value = line.split(maxsplit=1) or [""]
        if not key:
            continue
        if key in entries:
            raise PluginError(f"{path}:{number} names utterance '{key}' twice")
        entries[key] = value[0].rstrip() if value else ""
    return entries


def read_keys(path: str | Path) -> list[str]:
    """The first column of a key file.

    Raises:
        PluginError: if the file cannot be read or names no utterance.
    """
    return list(_some(path, read_scp(path)))


def _some(path: str | Path, entries: dict[str, str]) -> dict[str, str]:
    if not entries:
        raise PluginError(f"{path} names no utterance: prepare the data again")
    return entries


def iterate(
    source: Source, keys: list[str] | None = None
) -> Iterator[tuple[str, Audio]]:
    """Yield the utterances of a source, those of ``keys`` in their order if given.

    Raises:
        PluginError: before the first one, if the source lacks one of the keys.
    """
    entries = source.entries()
    keys = list(entries) if keys is None else keys
    if missing := [key for key in keys if key not in entries]:
        others = f" and {len(missing) - 1} more are" if missing[1:] else " is"
        raise PluginError(f"utterance '{missing[0]}'{others} not in {source.path}")
    for key in keys:
        yield key, source.read(key, entries[key])


def check_values(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """Refuse an input that no decoder can make anything of.

    Args:
        speech: as a user gives it.
        expected: the bundle's description of its input.

    Returns:
        ``speech`` as an array.

    Raises:
        PluginError: naming a shape or a type and the one that is expected, or the
            second of a value that is not a number.
    """
    speech = np.asarray(speech)
    if expected.kind != "waveform":
        shape = f"(frames, {expected.feature_dim})"
        wrong = speech.ndim != 2 or speech.shape[1] != expected.feature_dim
    else:
        shape = "(samples,) or (samples, channels)"
        wrong = speech.ndim not in (1, 2)
        if speech.ndim == 2:
            # Channels first. What is too short either way is left to ESPnet's answer.
            samples, channels = speech.shape
            wrong = channels > samples and channels >= expected.min_length
    if wrong:
        raise PluginError(
            f"the model takes input of shape {shape}, this one is {speech.shape}"
        )
    if speech.dtype.kind != "f":
        raise PluginError(
            f"the model takes numbers of type float, this input is of {speech.dtype}: "
            "scale integers as soundfile.read does, int16 by 1 / 32768"
        )
    with np.errstate(over="ignore"):
        finite = np.isfinite(speech.astype(np.float32))
    if not finite.all():
        row = int(np.flatnonzero(~finite.reshape(len(speech), -1).all(axis=1))[0])
        value = speech[row][~finite[row]][0] if speech.ndim == 2 else speech[row]
        raise PluginError(
            f"the input is {value} at {expected.seconds(row):.3f} s, which is no "
            "number that a model can take"
        )
    return speech


def prepare(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """An input as ESPnet's preprocessor and frontend hand it to the first layer.

    Args:
        speech: as it was read.
        expected: the bundle's description of its input.

    Returns:
        (samples,) or (frames, dim) float32.

    Raises:
        PluginError: see :func:`check_values`.
    """
    speech = check_values(speech, expected)
    if expected.volume_normalize is not None:
        peak = np.abs(speech).max(initial=0)
        if peak != 0:
            speech = speech * expected.volume_normalize / peak
    if expected.kind == "waveform" and speech.ndim == 2:
        average = expected.average_channels
        speech = speech.mean(axis=1) if average else speech[:, 0]
    return np.ascontiguousarray(speech, dtype=np.float32)


def check_rate(key: str, audio: Audio, expected: Speech) -> None:
    """Refuse audio at another sampling rate than the model's.

    Raises:
        PluginError: naming the utterance and both rates.
    """
    waveform = expected.kind == "waveform"
    if waveform and audio.rate and audio.rate != expected.sampling_rate:
        raise PluginError(
            f"utterance '{key}' is sampled at {audio.rate} Hz, the model takes "
            f"{expected.sampling_rate} Hz; resample the data (--fs of the recipe)"
        )


def of_utterance(key: str, tables: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """An utterance's entries in several tables, by the table's name.

    Raises:
        PluginError: if it is missing in one.
    """
    for name, table in tables.items():
        if key not in table:
            raise PluginError(f"utterance '{key}' has no {name}")
    return {name: table[key] for name, table in tables.items()}


def usable(
    source: Source, expected: Speech
) -> Iterator[tuple[str, np.ndarray, dict[str, str]]]:
    """The utterances of a source that the encoder can take, prepared.

    Yields:
        The id, the audio, and by name the other inputs.

    Raises:
        PluginError: if there is none.
    """
    tables = {name: read_scp(path) for name, path in source.others.items()}
    keys = list(source.entries())
    wanted = len(keys) if source.limit is None else min(source.limit, len(keys))
    keys = [keys[i * len(keys) // wanted] for i in range(wanted)]
    count = 0
    for key, audio in iterate(source, keys):
        check_rate(key, audio, expected)
        with named(key):
            speech = prepare(audio.array, expected)
        if len(speech) >= expected.min_length:
            count += 1
            yield key, speech, of_utterance(key, tables)
    if count == 0:
        raise PluginError(
            f"{source.path} has no utterance of {expected.min_length} or more "
            "samples or frames, the least that the encoder takes"
        )
