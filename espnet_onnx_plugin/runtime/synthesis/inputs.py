"""Inputs of models that speak or sing, from a recipe's files or made up."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.audio import READERS
from espnet_onnx_plugin.runtime.io.lists import read_scp, spread
from espnet_onnx_plugin.runtime.synthesis.described import synthesis_of
from espnet_onnx_plugin.runtime.synthesis.score import (
    Label,
    Score,
    read_label,
    read_score,
)
from espnet_onnx_plugin.runtime.text.converter import read_tokens

#: One input of an utterance; only a text is a string.
Input = str | np.ndarray | Score | Label

#: Arguments of the class that speaks or sings, by name.
Arguments = dict[str, Any]

#: Types that ESPnet's recipes give to audio.
AUDIO = ("sound", "kaldi_ark", "multi_columns_sound", "npy")

#: Speaker and language by name, with the types that ESPnet's recipes give them.
WHO = {
    "spembs": ("kaldi_ark", "npy"),
    "sids": ("text_int",),
    "lids": ("text_int",),
}

_PARSERS: Mapping[str, Callable[[str], Input]] = {
    "score": read_score,
    "duration": read_label,
}

#: Lengths of made-up texts, in tokens.
LENGTHS = (4, 17, 41)


def _read(kind: str, value: str) -> Input:
    """One entry of a file of one of ESPnet's types."""
    if kind == "text":
        return value
    if kind in _PARSERS:
        return _PARSERS[kind](value)
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
        kinds: inputs by name, with the types that ESPnet's recipes give them.
        required: those that have to be given; the first names the utterances.
        audio: the one that ESPnet leaves out where the model does not read it.
        unread: those that recipes give and ESPnet does not read.

    Raises:
        PluginError: if a name or a type is not one that ESPnet's recipes give, or one
            that is required is not given.
    """

    data: Sequence[tuple[str, str, str]]
    limit: int | None = None

    kinds: ClassVar[Mapping[str, Sequence[str]]] = {
        "text": ("text", "text_int"),
        "speech": AUDIO,
        "durations": ("text_int",),
        **WHO,
    }
    required: ClassVar[Sequence[str]] = ("text",)
    audio: ClassVar[str] = "speech"
    unread: ClassVar[Sequence[str]] = ()

    def __post_init__(self) -> None:
        for path, name, kind in self.data:
            if kind not in self.kinds.get(name, ()):
                known = "; ".join(f"{n}: {', '.join(k)}" for n, k in self.kinds.items())
                raise PluginError(
                    f"--data_path_and_name_and_type {path},{name},{kind} is not "
                    f"supported; names and their types: {known}"
                )
        names = [name for _, name, _ in self.data]
        if set(self.required) - set(names) or len(set(names)) < len(names):
            raise PluginError(
                f"--data_path_and_name_and_type has to name one "
                f"{' and one '.join(self.required)}, and other inputs once, not "
                f"{', '.join(names)}"
            )

    def read(self, speech: bool) -> OpenTexts:
        """Open the files.

        Args:
            speech: whether the model reads speech; ESPnet leaves it out where not.
        """
        left_out = self.unread if speech else (*self.unread, self.audio)
        data = [entry for entry in self.data if entry[1] not in left_out]
        tables = {name: read_scp(path) for path, name, _ in data}
        kinds = {name: kind for _, name, kind in data}
        return OpenTexts(tables, kinds, self.limit, self.arguments)

    @staticmethod
    def arguments(inputs: dict[str, Input]) -> Arguments:
        """Arguments of the class that speaks, of the inputs of an utterance."""
        return inputs

    @staticmethod
    def made_up(bundle: Bundle) -> Iterator[tuple[str, Arguments]]:
        """Texts as token ids and what else a model reads, with descriptions."""
        random = np.random.default_rng(0)
        manifest = bundle.manifest
        vocabulary = len(read_tokens(bundle.file(manifest.tokens.token_list)))
        for number, length in enumerate(LENGTHS):
            # The first and the last are padding and the end.
            inputs = {"text": random.integers(1, vocabulary - 1, length)}
            inputs.update(made_up_voice(bundle, number, random))
            speech = manifest.speech
            if speech is not None and "speech" in synthesis_of(manifest).reads:
                samples = speech.min_length * (2 + length)
                noise = random.standard_normal(samples) * 0.1
                inputs["speech"] = noise.astype(np.float32)
            yield f"a text of {length} tokens", inputs


@dataclass(frozen=True)
class OpenTexts:
    """Inputs of utterances.

    Attributes:
        tables: what the files hold, by input and utterance.
        kinds: types of the inputs.
        limit, arguments: as of :class:`Texts`.
    """

    tables: Mapping[str, Mapping[str, str]]
    kinds: Mapping[str, str]
    limit: int | None
    arguments: Callable[[dict[str, Input]], Arguments]

    @property
    def keys(self) -> list[str]:
        """Utterances, in the order of the texts."""
        return spread(list(self.tables["text"]), self.limit)

    def of(self, key: str) -> Arguments:
        """Inputs of an utterance, as arguments by name.

        Raises:
            PluginError: if one is missing or cannot be read.
        """
        for name, table in self.tables.items():
            if key not in table:
                raise PluginError(f"there is no {name}")
        return self.arguments(
            {
                name: _read(self.kinds[name], table[key])
                for name, table in self.tables.items()
            }
        )


@contextlib.contextmanager
def named(key: str) -> Iterator[None]:
    """Name the utterance in what is wrong with it."""
    try:
        yield
    except (PluginError, RuntimeError) as e:
        raise PluginError(f"utterance '{key}': {e}")


def made_up_voice(
    bundle: Bundle, number: int, random: np.random.Generator
) -> dict[str, np.ndarray]:
    """Speaker and language of a made-up utterance, where the model reads them."""
    reads = bundle.manifest.graphs["encoder"].inputs
    made: dict[str, np.ndarray] = {}
    if "spembs" in reads:
        shape = [int(axis) for axis in reads["spembs"].axes]
        made["spembs"] = random.standard_normal(shape).astype(np.float32)
    for name in ("sids", "lids"):
        if name in reads:
            made[name] = np.array([number % 2])
    return made
