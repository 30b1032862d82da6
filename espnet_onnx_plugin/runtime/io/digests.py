"""Digests of what utterances are made of, by which results are known to be current."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from espnet_onnx_plugin.bundle import sha256
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.lists import read_scp, spread

#: Bytes of an utterance's digest: no two that differ share one of 16 by accident.
SIZE = 16


class InputDigests:
    """Digests of the inputs of utterances, by content: audio, texts, embeddings.

    Args:
        data: path and type of each list, as ESPnet's commands take them.

    Raises:
        PluginError: if a list cannot be read.
    """

    def __init__(self, data: Iterable[tuple[str | Path, str]]):
        self._tables = [(kind, read_scp(path)) for path, kind in data]

    def of(self, key: str) -> str | None:
        """Digest of an utterance; None where an input cannot be read."""
        digest = hashlib.blake2b(digest_size=SIZE)
        try:
            for kind, table in self._tables:
                value = table.get(key)
                parts = ["none"] if value is None else _content(kind, value)
                digest.update(f"{kind} {len(parts)} {' '.join(parts)}\n".encode())
        except (OSError, PluginError):
            return None
        return digest.hexdigest()

    def of_all(self, limit: int | None = None) -> str:
        """Digest of the utterances of the first list, or of ``limit`` of them."""
        digest = hashlib.blake2b(digest_size=SIZE)
        for key in spread(list(self._tables[0][1]), limit):
            digest.update(f"{key} {self.of(key)}\n".encode())
        return digest.hexdigest()


def _content(kind: str, value: str) -> list[str]:
    """Digests, or words, for which a line of a list stands."""
    if _is_file(value):
        return [sha256(Path(value))]
    words = value.split()
    if kind in READERS and not all(map(_is_file, words)):  # an archive, or a pipe
        audio = READERS[kind](value)
        array = hashlib.blake2b(audio.array.tobytes(), digest_size=SIZE).hexdigest()
        return [array, str(audio.array.dtype), str(audio.array.shape), str(audio.rate)]
    return [sha256(Path(word)) if _is_file(word) else word for word in words]


def _is_file(name: str) -> bool:
    try:
        return Path(name).is_file()
    except (OSError, ValueError):  # a text that is too long for a name, or no name
        return False
