"""Reading the recipe's data: scp files and the input types of ESPnet's inference."""

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Mapping, Optional, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class Audio:
    """What lies behind one line of an scp file.

    Attributes:
        array: (samples,), (samples, channels) or (frames, dim).
        rate: sampling rate in Hz, or None where the file does not say.
    """

    array: np.ndarray
    rate: Optional[int]


def _read_sound(value: str, always_2d: bool = False) -> Audio:
    import soundfile

    try:
        array, rate = soundfile.read(value, always_2d=always_2d)
    except (RuntimeError, OSError) as e:
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
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


READERS: Dict[str, Callable[[str], Audio]] = {
    "sound": _read_sound,
    "multi_columns_sound": _read_columns,
    "kaldi_ark": _read_ark,
    "npy": _read_npy,
}


@dataclass(frozen=True)
class Source:
    """ESPnet's ``data_path_and_name_and_type`` less the name: an scp and its type.

    Attributes:
        limit: how many utterances a check takes of it, spread over it; None for all.
        others: what else a check reads, files of text in Kaldi's format by input name.

    Raises:
        PluginError: if the type is not one of :data:`READERS`.
    """

    path: Path
    type: str
    limit: Optional[int] = None
    others: Mapping[str, Path] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.type not in READERS:
            raise PluginError(
                f"data type '{self.type}' is not supported; use one of "
                + ", ".join(READERS)
            )

    @staticmethod
    def parse(value: str, limit: Optional[int] = None) -> "Source":
        """From ``PATH,TYPE``."""
        path, comma, kind = value.rpartition(",")
        if not comma or not path:
            raise PluginError(
                f"'{value}' is not SCP,TYPE, e.g. dump/raw/dev/wav.scp,sound"
            )
        return Source(Path(path), kind, limit)

    def entries(self) -> Dict[str, str]:
        """Utterance id to what follows it in the scp file, in the file's order."""
        return read_scp(self.path)

    def read(self, key: str, value: str) -> Audio:
        """Read one entry.

        Raises:
            PluginError: naming the utterance, if its file is missing, broken or empty.
        """
        if not value:
            raise PluginError(f"{self.path} names no file for utterance '{key}'")
        try:
            audio = READERS[self.type](value)
        except PluginError as e:
            raise PluginError(f"utterance '{key}': {e}")
        if audio.array.size == 0:
            raise PluginError(
                f"utterance '{key}': {value} is empty; remove it from {self.path}"
            )
        return audio


def read_scp(path: Union[str, Path]) -> Dict[str, str]:
    """Read a two-column file; the second column may be missing or hold spaces."""
    entries: Dict[str, str] = {}
    try:
        lines = io.open(path, encoding="utf-8").read().splitlines()
    except (OSError, UnicodeDecodeError) as e:
        raise PluginError(f"cannot read {path}: {e}")
    for line in lines:
        key, _, value = line.strip().partition(" ")
        if not key:
            continue
        if key in entries:
            raise PluginError(f"{path} names utterance '{key}' twice")
        entries[key] = value.strip()
    return entries


def read_keys(path: Union[str, Path]) -> List[str]:
    """The first column of a key file."""
    return list(read_scp(path))


def iterate(
    source: Source, keys: Optional[List[str]] = None
) -> Iterator[Tuple[str, Audio]]:
    """Yield the utterances of a source, those of ``keys`` in their order if given."""
    entries = source.entries()
    for key in entries if keys is None else keys:
        if key not in entries:
            raise PluginError(f"utterance '{key}' is not in {source.path}")
        yield key, source.read(key, entries[key])


def prepare(speech: np.ndarray, expected: Speech) -> np.ndarray:
    """What ESPnet's preprocessor and frontend do to an input before the first layer.

    Args:
        speech: as it was read.
        expected: the bundle's description of its input.

    Returns:
        (samples,) or (frames, dim) float32.

    Raises:
        PluginError: if the shape is not what the model takes.
    """
    if expected.volume_normalize is not None:
        peak = np.abs(speech).max()
        if peak != 0:
            speech = speech * expected.volume_normalize / peak
    if expected.kind == "waveform":
        if speech.ndim == 2:
            average = expected.average_channels
            speech = speech.mean(axis=1) if average else speech[:, 0]
        if speech.ndim != 1:
            raise PluginError(f"a waveform has 1 or 2 axes, this one {speech.ndim}")
    elif speech.ndim != 2 or speech.shape[1] != expected.feature_dim:
        raise PluginError(
            f"the model takes features of shape (frames, {expected.feature_dim}), "
            f"this input is {speech.shape}"
        )
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


def of_utterance(key: str, tables: Mapping[str, Mapping[str, str]]) -> Dict[str, str]:
    """What an utterance has in each of several tables, by the table's name.

    Raises:
        PluginError: if it is missing in one.
    """
    for name, table in tables.items():
        if key not in table:
            raise PluginError(f"utterance '{key}' has no {name}")
    return {name: table[key] for name, table in tables.items()}


def usable(
    source: Source, expected: Speech
) -> Iterator[Tuple[str, np.ndarray, Dict[str, str]]]:
    """Those of a source's utterances that the encoder can take, prepared for it.

    Yields:
        The id, the audio, and by name what else the source has of the utterance.

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
        speech = prepare(audio.array, expected)
        if len(speech) >= expected.min_length:
            count += 1
            yield key, speech, of_utterance(key, tables)
    if count == 0:
        raise PluginError(
            f"{source.path} has no utterance of {expected.min_length} or more "
            "samples or frames, the least that the encoder takes"
        )
