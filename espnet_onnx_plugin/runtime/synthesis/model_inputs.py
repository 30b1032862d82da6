"""Inputs of one utterance or song, checked against what the model can read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from espnet_onnx_plugin.bundle import Manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.synthesis.described import synthesis_of

#: Numbers as a caller gives them.
Given = np.ndarray | Sequence[float] | float | None


@dataclass(frozen=True)
class ModelInputs:
    """Inputs of one utterance; None: the model does not need it.

    Attributes:
        text: token ids (tokens,); None where a score takes its place.
        score: inputs that are made of a score, by name, each (phones,) or (frames,).
        sids, lids: ids of speaker and language (1,).
        spembs: the speaker's embedding (dim,).
        speech: (samples,), for the style or for teacher forcing.
        feats: its features (frames, dim), normalized.
        discrete_token: of the singing (frames * layers,), for teacher forcing.
        durations: frames of each symbol, as they were given.
    """

    text: np.ndarray | None = None
    score: Mapping[str, np.ndarray] = field(default_factory=dict)
    sids: np.ndarray | None = None
    lids: np.ndarray | None = None
    spembs: np.ndarray | None = None
    speech: np.ndarray | None = None
    feats: np.ndarray | None = None
    discrete_token: np.ndarray | None = None
    durations: Given = None

    @property
    def tensors(self) -> Mapping[str, np.ndarray]:
        """Inputs that graphs read, by name."""
        others = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in ("durations", "score")
        }
        return {**self.score, **others}

    def __len__(self) -> int:
        """How many tokens the text has, or rows what is made of the score."""
        return len(next(iter(self.score.values())) if self.text is None else self.text)


def whole_numbers(name: str, value: Given) -> np.ndarray:
    """Integers (n,) of what was given as ``name``.

    Raises:
        PluginError: if it is something else.
    """
    array = np.asarray(value).reshape(-1)
    whole = array.dtype.kind in "iuf" and (array == np.trunc(array)).all()
    if not whole or not np.isfinite(array).all():
        raise PluginError(f"{name} has to be integers, not {value}")
    return array.astype(np.int64)


def finite(name: str, value: Given) -> np.ndarray:
    """Float32 of what was given as ``name``.

    Raises:
        PluginError: if NaN or infinity is among it.
    """
    array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        raise PluginError(f"{name} holds NaN or infinity; make it again")
    return array


def token_ids(value: Given, vocabulary: int) -> np.ndarray:
    """Token ids (tokens,).

    Raises:
        PluginError: if there is none, or one that is not in the vocabulary.
    """
    ids = whole_numbers("text", value)
    if not len(ids):
        raise PluginError("the text has no token; give one that has")
    last = vocabulary - 1
    for strange in ids[(ids < 0) | (ids > last)][:1]:
        raise PluginError(f"text has token id {strange}, not one from 0 to {last}")
    return ids


def condition(manifest: Manifest, name: str, value: Given) -> np.ndarray:
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
    synthesis = synthesis_of(manifest)
    known = synthesis.speakers if name == "sids" else synthesis.languages
    ids = whole_numbers(name, value)
    if len(ids) != 1 or ids[0] < 0 or known is not None and ids[0] >= known:
        wanted = "0 or above" if known is None else f"from 0 to {known - 1}"
        given = " ".join(map(str, ids))
        raise PluginError(f"{name} has to be one id {wanted}, not '{given}'")
    return ids
