"""Mixtures of a recipe's files, prepared as ESPnet's preprocessor prepares them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Enhancement
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.enhancement.enrollment import (
    made_up_enrollment,
    read_enrollment,
)
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.io.lists import read_scp

#: Types that ESPnet's recipes give the inputs, by name.
TYPES: Mapping[str, Sequence[str]] = {
    "speech_mix": ("sound", "multi_columns_sound", "kaldi_ark", "npy"),
    "category": ("text",),
    "fs": ("text_int",),
    "enroll_ref1": ("text",),
}

#: What speakers are enrolled by: the name with the number of each.
_ENROLLED = re.compile(r"enroll_ref[1-9]\d*")

#: Lengths of made-up mixtures in samples, besides the shortest that a model takes.
LENGTHS = (3001, 9000, 16384)


@dataclass(frozen=True)
class Mixture:
    """A mixture and what is known of it.

    Attributes:
        speech_mix: (samples[, channels]).
        fs: its sampling rate where the data say it, else None.
        rate: that of its file, where that says it.
        category: number of its kind, or None.
        enrollments: of each speaker who is to be extracted, by ESPnet's name.
    """

    speech_mix: np.ndarray
    fs: int | None = None
    rate: int | None = None
    category: int | None = None
    enrollments: Mapping[str, np.ndarray] = field(default_factory=dict)

    def arguments(self) -> dict[str, Any]:
        """Arguments of ESPnet's class besides ``fs``: the mixture as a batch of one."""
        given: dict[str, Any] = {"speech_mix": self.speech_mix[None]}
        if self.category is not None:
            given["utt2category"] = [self.category]
        return given | {name: one[None] for name, one in self.enrollments.items()}


class Mixtures:
    """Mixtures and what else belongs to them: ESPnet's ``data_path_and_name_and_type``.

    Args:
        data: (path, name, type) of each input.

    Raises:
        PluginError: if a name or a type is not one that ESPnet's recipes give, or there
            are no mixtures.
    """

    types = TYPES

    def __init__(self, data: Sequence[tuple[str, str, str]]):
        for path, name, kind in data:
            if kind not in self._types_of(name):
                known = "; ".join(f"{n}: {', '.join(k)}" for n, k in self.types.items())
                raise PluginError(
                    f"--data_path_and_name_and_type {path},{name},{kind} is not "
                    f"supported; names and their types: {known}"
                )
        names = [name for _, name, _ in data]
        if "speech_mix" not in names or len(set(names)) < len(names):
            raise PluginError(
                "--data_path_and_name_and_type has to name one speech_mix, and other "
                f"inputs once, not {', '.join(names)}"
            )
        paths = {name: (path, kind) for path, name, kind in data}
        path, kind = paths.pop("speech_mix")
        self.source = Source(Path(path), kind)
        self.entries = self.source.entries()
        self.tables = {name: read_scp(path) for name, (path, _) in paths.items()}

    def _types_of(self, name: str) -> Sequence[str]:
        return self.types.get(_ENROLLED.sub("enroll_ref1", name), ())

    def check(self, keys: Sequence[str]) -> None:
        """Refuse utterances of which there is no mixture.

        Raises:
            PluginError: naming the first.
        """
        for key in keys:
            if key not in self.entries:
                raise PluginError(f"utterance '{key}' is not in {self.source.path}")

    def require(self, described: Enhancement) -> None:
        """Refuse inputs that do not enroll as many speakers as a model extracts.

        Raises:
            PluginError: saying how many.
        """
        number = len([name for name in self.tables if _ENROLLED.fullmatch(name)])
        wanted = 0 if described.enrollment is None else described.outputs
        if number != wanted:
            raise PluginError(
                f"the model extracts {wanted} enrolled speaker(s), and "
                f"--data_path_and_name_and_type enrolls {number}: as many enroll_refN "
                "are needed"
            )

    @property
    def keys(self) -> list[str]:
        """Utterances, in the order of the mixtures."""
        return list(self.entries)

    def of(self, key: str, described: Enhancement) -> Mixture:
        """The mixture of an utterance, as the preprocessor hands it to the model.

        Args:
            key: its id.
            described: the model.

        Raises:
            PluginError: if something is missing or cannot be read.
        """
        given = {}
        for name, table in self.tables.items():
            if key not in table:
                raise PluginError(f"there is no {name}")
            given[name] = table[key]
        audio = self.source.read(key, self.entries[key], described.dtype)
        mix = prepared(audio.array, described)
        category = _category(given.get("category"), mix, described)
        enrollments = {
            name: read_enrollment(value, described.enrollment)
            for name, value in given.items()
            if _ENROLLED.fullmatch(name) and described.enrollment is not None
        }
        rate = _rate(given.get("fs"))
        return Mixture(mix, rate, audio.rate, category, enrollments)


def prepared(mix: np.ndarray, described: Enhancement) -> np.ndarray:
    """A mixture as ``espnet2.train.preprocessor.EnhPreprocessor`` hands it on."""
    if described.single_channel and mix.ndim == 2:
        mix = mix[:, 0]
    if described.volume_normalize is not None:
        peak = np.abs(mix).max()
        if peak:
            mix = mix * described.volume_normalize / peak
    return mix


def _rate(value: str | None) -> int | None:
    if value is None:
        return None
    if not re.fullmatch(r"[1-9][0-9]{2,6}", value):
        raise PluginError(f"'{value}' is not a sampling rate")
    return int(value)


def _category(value: str | None, mix: np.ndarray, described: Enhancement) -> int | None:
    """Number of a category, to whose name ESPnet adds the number of channels."""
    if value is None:
        return None
    known = described.named_categories
    if not known:
        raise PluginError(
            "the model was trained without a preprocessor that knows categories: leave "
            "utt2category out"
        )
    if not re.fullmatch(r"\d+ch.*", value):
        value = f"{1 if mix.ndim == 1 else mix.shape[-1]}ch_{value}"
    if value not in known:
        raise PluginError(
            f"category '{value}' is none of those in training: {', '.join(known)}"
        )
    return known.index(value)


def made_up(described: Enhancement) -> Iterator[tuple[str, Mixture]]:
    """Mixtures that the model takes, of several lengths, and words for them.

    Noise whose loudness comes and goes, a little later from channel to channel.
    """
    channels = described.channels or max(3, described.ref_channel + 1)
    for number, length in enumerate((max(described.min_length, 2), *LENGTHS)):
        random = np.random.default_rng(number)
        source = random.standard_normal(length + channels)
        loudness = 0.1 + np.sin(np.arange(length) / 700) ** 2
        rows = [source[i : i + length] for i in range(channels)]
        mix = np.stack(rows, axis=-1) * loudness[:, None]
        mix = 0.1 * (mix + 0.1 * random.standard_normal(mix.shape))
        if described.channels == 1:
            mix = mix[:, 0]
        enrollments = {
            f"enroll_ref{speaker + 1}": made_up_enrollment(described.enrollment, random)
            for speaker in range(described.outputs)
            if described.enrollment is not None
        }
        made = Mixture(mix.astype(np.float32), enrollments=enrollments)
        yield f"a mixture of {length} samples", made
