"""The recipe's data: the utterances of scp files, read one after the other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.audio import READERS, Audio
from espnet_onnx_plugin.runtime.io.lists import (
    named,
    of_utterance,
    read_scp,
    some,
    spread,
)
from espnet_onnx_plugin.runtime.io.speech import check_rate, prepare


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
        return some(self.path, read_scp(self.path))

    def read(self, key: str, value: str, dtype: str = "float64") -> Audio:
        """Read one entry; ``dtype`` as of a :class:`~.audio.Reader`.

        Raises:
            PluginError: naming the utterance, if its file is missing, broken or empty.
        """
        if not value:
            raise PluginError(f"{self.path} names no file for utterance '{key}'")
        with named(key):
            audio = READERS[self.type](value, dtype)
        if audio.array.dtype.kind in "iu":
            # An archive's integers are taken as they are, in ESPnet too: that is how
            # a model has seen them in training.
            audio = Audio(audio.array.astype(np.float32), audio.rate)
        if audio.array.size == 0:
            raise PluginError(
                f"utterance '{key}': {value} is empty; remove it from {self.path}"
            )
        return audio


def iterate(
    source: Source, keys: list[str] | None = None
) -> Iterator[tuple[str, Audio]]:
    """Yield the utterances of a source, those of ``keys`` in their order if given.

    Raises:
        PluginError: before the first one, if the source lacks one of the keys.
    """
    for key, audio in attempts(source, keys):
        if isinstance(audio, PluginError):
            raise audio
        yield key, audio


def attempts(
    source: Source, keys: list[str] | None = None, dtype: str = "float64"
) -> Iterator[tuple[str, Audio | PluginError]]:
    """Yield the utterances of a source as :func:`iterate`, or why one cannot be read.

    Args:
        source: the utterances.
        keys: of them; default: all.
        dtype: see :class:`~.audio.Reader`.

    Raises:
        PluginError: before the first one, if the source lacks one of the keys.
    """
    entries = source.entries()
    keys = list(entries) if keys is None else keys
    if missing := [key for key in keys if key not in entries]:
        others = f" and {len(missing) - 1} more are" if missing[1:] else " is"
        raise PluginError(f"utterance '{missing[0]}'{others} not in {source.path}")
    for key in keys:
        try:
            yield key, source.read(key, entries[key], dtype)
        except PluginError as e:
            yield key, e


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
    keys = spread(list(source.entries()), source.limit)
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
