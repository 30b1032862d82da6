"""What a text-to-speech model is given, from a recipe's files or made up."""

import contextlib
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.io.data import READERS, read_scp
from espnet_onnx_plugin.runtime.text.converter import read_tokens

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


def _read(kind: str, value: str) -> Any:
    """One entry of a file of one of ESPnet's types."""
    if kind == "text":
        return value
    if kind != "text_int":
        return READERS[kind](value).array
    try:
        return np.array(value.split(), dtype=np.int64)
    except (ValueError, OverflowError):
        raise PluginError(f"'{value}' is not integers")


def whole_numbers(name: str, value: Any) -> np.ndarray:
    """Integers (n,) of what was given as ``name``.

    Raises:
        PluginError: if it is something else.
    """
    array = np.asarray(value).reshape(-1)
    whole = array.dtype.kind in "iuf" and (array == np.trunc(array)).all()
    if not whole or not np.isfinite(array).all():
        raise PluginError(f"{name} has to be integers, not {value}")
    return array.astype(np.int64)


def finite(name: str, value: Any) -> np.ndarray:
    """Float32 of what was given as ``name``.

    Raises:
        PluginError: if NaN or infinity is among it.
    """
    array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        raise PluginError(f"{name} holds NaN or infinity; make it again")
    return array


def condition(manifest: Manifest, name: str, value: Any) -> np.ndarray:
    """A speaker's or a language's id (1,), or a speaker's embedding (dim,).

    Args:
        manifest: of the model that reads it.
        name: sids, lids or spembs.
        value: what was given.

    Raises:
        PluginError: if the model knows no such speaker or language, or cannot read the
            embedding.
    """
    if name == "spembs":
        (size,) = manifest.graphs["encoder"].inputs[name].axes
        embedding = finite(name, value).reshape(-1)
        if len(embedding) != size:
            raise PluginError(
                f"spembs of {len(embedding)} numbers: the model takes {size}; extract "
                "them as for its training"
            )
        if not embedding.any():
            raise PluginError("spembs are all 0, which is no speaker; extract them")
        return embedding
    synthesis = manifest.synthesis
    known = synthesis.speakers if name == "sids" else synthesis.languages
    ids = whole_numbers(name, value)
    if len(ids) != 1 or ids[0] < 0 or known is not None and ids[0] >= known:
        wanted = "0 or above" if known is None else f"from 0 to {known - 1}"
        given = " ".join(map(str, ids))
        raise PluginError(f"{name} has to be one id {wanted}, not '{given}'")
    return ids


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

    data: Sequence[Tuple[str, str, str]]
    limit: Optional[int] = None

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

    def read(self, speech: bool) -> "OpenTexts":
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
    limit: Optional[int]

    @property
    def keys(self) -> List[str]:
        """Utterances, in the order of the texts."""
        keys = list(self.tables["text"])
        wanted = len(keys) if self.limit is None else min(self.limit, len(keys))
        return [keys[i * len(keys) // wanted] for i in range(wanted)]

    def of(self, key: str) -> Dict[str, Any]:
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


def made_up(bundle: Bundle) -> Iterator[Tuple[str, Dict[str, np.ndarray]]]:
    """Token ids in :data:`LENGTHS` and what else a model reads, with descriptions."""
    random = np.random.default_rng(0)
    manifest = bundle.manifest
    vocabulary = len(read_tokens(bundle.file(manifest.text.token_list)))
    reads = manifest.graphs["encoder"].inputs
    for number, length in enumerate(LENGTHS):
        # The first and the last are padding and the end.
        inputs = {"text": random.integers(1, vocabulary - 1, length)}
        if "spembs" in reads:
            shape = reads["spembs"].axes
            inputs["spembs"] = random.standard_normal(shape).astype(np.float32)
        for name in ("sids", "lids"):
            if name in reads:
                inputs[name] = np.array([number % 2])
        if "speech" in manifest.synthesis.reads:
            samples = manifest.speech.min_length * (2 + length)
            noise = random.standard_normal(samples) * 0.1
            inputs["speech"] = noise.astype(np.float32)
        yield f"a text of {length} tokens", inputs


def utterances(
    bundle: Bundle, texts: Optional[Texts]
) -> Iterator[Tuple[str, Dict[str, Any]]]:
    """What a check speaks: ids and inputs of the texts, made-up ones without."""
    if texts is None:
        yield from made_up(bundle)
        return
    opened = texts.read("speech" in bundle.manifest.synthesis.reads)
    for key in opened.keys:
        with named(key):
            inputs = opened.of(key)
        yield key, inputs
