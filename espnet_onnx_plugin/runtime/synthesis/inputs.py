"""Inputs of text-to-speech models, from a recipe's files or made up."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.lists import read_scp
from espnet_onnx_plugin.runtime.synthesis.described import synthesis_of
from espnet_onnx_plugin.runtime.text.converter import read_tokens

#: One input of an utterance; only a text is a string.
Input = str | np.ndarray

#: Inputs by name, with the types that ESPnet's recipes give them.
_INPUTS = {
    "text": ("text", "text_int"),
    "speech": ("sound", "kaldi_ark", "multi_columns_sound", "npy"),
    "durations": ("text_int",),
    "spembs": ("kaldi_ark", "npy"),
    "sids": ("text_int",),
    "lids": ("text_int",),
}

#: Lengths of made-up texts, in tokens.
LENGTHS = (4, 17, 41)


def _read(kind: str, value: str) -> Input:
    """One entry of a file of one of ESPnet's types."""
    if kind == "text":
        return value
    if kind != "text_int":
        return READERS[kind](value).array
    try:
        return np.array(value.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise PluginError(f"'{value}' is not integers")


@dataclass(frozen=True)
class Texts:
    """Texts, and what else belongs to them: ESPnet's ``data_path_and_name_and_type``.

    Attributes:
        data: (path, name, type) of each input.
        limit: how many utterances a check takes, spread over them; None for all.

    Raises:
        PluginError: if a name or a type is not one that ESPnet's recipes give, or there
            is no text.
    """

    data: Sequence[tuple[str, str, str]]
    limit: int | None = None

    def __post_init__(self) -> None:
        for path, name, kind in self.data:
            if kind not in _INPUTS.get(name, ()):
                known = "; ".join(f"{n}: {', '.join(k)}" for n, k in _INPUTS.items())
                raise PluginError(
                    f"--data_path_and_name_and_type {path},{name},{kind} is not "
                    f"supported; names and their types: {known}"
                )
        names = [name for _, name, _ in self.data]
        if names.count("text") != 1 or len(set(names)) < len(names):
            raise PluginError(
                "--data_path_and_name_and_type has to name one text, and other inputs "
                f"once, not {', '.join(names)}"
            )

    def read(self, speech: bool) -> OpenTexts:
        """Open the files.

        Args:
            speech: whether the model reads speech; ESPnet leaves it out where not.
        """
        data = [entry for entry in self.data if speech or entry[1] != "speech"]
        tables = {name: read_scp(path) for path, name, _ in data}
        return OpenTexts(tables, {name: kind for _, name, kind in data}, self.limit)


@dataclass(frozen=True)
class OpenTexts:
    """Inputs of utterances.

    Attributes:
        tables: what the files hold, by input and utterance.
        kinds: types of the inputs.
        limit: as of :class:`Texts`.
    """

    tables: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, str]
    limit: int | None

    @property
    def keys(self) -> list[str]:
        """Utterances, in the order of the texts."""
        keys = list(self.tables["text"])
        wanted = len(keys) if self.limit is None else min(self.limit, len(keys))
        return [keys[i * len(keys) // wanted] for i in range(wanted)]

    def of(self, key: str) -> dict[str, Input]:
        """The inputs of an utterance, by name.

        Raises:
            PluginError: if one is missing or cannot be read.
        """
        for name, table in self.tables.items():
            if key not in table:
                raise PluginError(f"there is no {name}")
        return {
            name: _read(self.kinds[name], table[key])
            for name, table in self.tables.items()
        }


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Name the utterance in what is wrong with it."""
    try:
        yield
    except (PluginError, RuntimeError) as e:
        raise PluginError(f"utterance '{key}': {e}")


def made_up(bundle: Bundle) -> Iterator[tuple[str, dict[str, np.ndarray]]]:
    """Token ids in :data:`LENGTHS` and what else a model reads, with descriptions."""
    random = np.random.default_rng(0)
    manifest = bundle.manifest
    vocabulary = len(read_tokens(bundle.file(manifest.tokens.token_list)))
    reads = manifest.graphs["encoder"].inputs
    for number, length in enumerate(LENGTHS):
        # The first and the last are padding and the end.
        inputs = {"text": random.integers(1, vocabulary - 1, length)}
        if "spembs" in reads:
            shape = [int(axis) for axis in reads["spembs"].axes]
            inputs["spembs"] = random.standard_normal(shape).astype(np.float32)
        for name in ("sids", "lids"):
            if name in reads:
                inputs[name] = np.array([number % 2])
        speech = manifest.speech
        if speech is not None and "speech" in synthesis_of(manifest).reads:
            samples = speech.min_length * (2 + length)
            noise = random.standard_normal(samples) * 0.1
            inputs["speech"] = noise.astype(np.float32)
        yield f"a text of {length} tokens", inputs


def utterances(
    bundle: Bundle, texts: Texts | None
) -> Iterator[tuple[str, dict[str, Input]]]:
    """Utterances of a check, with ids: those of the texts, or made-up ones."""
    if texts is None:
        for what, made in made_up(bundle):
            yield what, {**made}
        return
    opened = texts.read("speech" in synthesis_of(bundle.manifest).reads)
    for key in opened.keys:
        with named(key):
            inputs = opened.of(key)
        yield key, inputs
