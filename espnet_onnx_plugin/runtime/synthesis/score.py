"""Scores and labels of songs, as singing voice models read them.

Equal to ``espnet2.train.preprocessor.SVSPreprocessor`` and
``espnet2.svs.feats_extract.score_feats_extract``.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle import ScoreInputs
from espnet_onnx_plugin.errors import PluginError

#: Syllable of a note that goes on with the one before.
SLUR = "—"

#: Where each phone of a note ends, in parts of the note, by how many phones it has.
_ENDS: Mapping[int, Sequence[float]] = {
    1: (1,),
    2: (0.25, 1),
    3: (0.1, 0.5, 1),
    4: (0.05, 0.1, 0.5, 1),
}


class Note(NamedTuple):
    """A note of a score.

    Attributes:
        start, end: in seconds.
        syllable: that is sung, or :data:`SLUR`.
        midi: its pitch; 0 is a rest.
        phones: of the syllable, joined by ``_``.
    """

    start: float
    end: float
    syllable: str
    midi: float
    phones: str


class Score(NamedTuple):
    """A score, as ESPnet gives it: its tempo and its notes."""

    tempo: float
    notes: Sequence[Note]


class Label(NamedTuple):
    """Phones of a recording: start and end in seconds (phones, 2), and their names."""

    times: np.ndarray
    phones: Sequence[str]


@dataclass(frozen=True)
class Phones:
    """Inputs of one song by ESPnet's names, a number for each phone.

    Attributes:
        label: token ids.
        midi: pitch.
        duration_phn: frames in the recording; None where there is no label.
        duration_ruled_phn: frames by the score, where a rule divides its notes.
        duration_syb: frames of the phone's note.
        slur: 1 in a note that goes on with the one before, else 0.
        phn_cnt: how many phones each note has, (notes,).
    """

    label: np.ndarray
    midi: np.ndarray
    duration_phn: np.ndarray | None
    duration_ruled_phn: np.ndarray
    duration_syb: np.ndarray
    slur: np.ndarray
    phn_cnt: np.ndarray

    def tensors(self, read: ScoreInputs) -> dict[str, np.ndarray]:
        """Inputs of the encoder, by name.

        Raises:
            PluginError: if one is missing, or an id is not one of the model's.
        """
        if read.needs_labels and self.duration_phn is None:
            raise PluginError(
                "the model reads durations of labels, as in ESPnet; give label too"
            )
        made: dict[str, np.ndarray] = {}
        for name, count in read.ids.items():
            values = getattr(self, name)
            if len(values) != len(self.label):
                raise PluginError(
                    f"{len(values)} numbers of {name} are given for {len(self.label)} "
                    "phones; give one for each"
                )
            for strange in values[(values < 0) | (values >= count)][:1]:
                raise PluginError(
                    f"{name} has {strange}, the model knows 0 to {count - 1}"
                )
            made[name] = values
        if read.repeated_by is None:
            return made
        frames = getattr(self, read.repeated_by)
        phone_of_frame = np.repeat(np.arange(len(frames)), frames)
        if not len(phone_of_frame):
            raise PluginError(
                f"{read.repeated_by} is 0 frames in all; give longer ones"
            )
        return {name: values[phone_of_frame] for name, values in made.items()}


def score_of_song(value: Any) -> Score:
    """The score that a caller gives: a tempo, and notes of five values each.

    Raises:
        PluginError: naming what is something else.
    """
    try:
        tempo, notes = value
        notes = [Note(*note) for note in notes]
    except (TypeError, ValueError):
        raise PluginError(
            "score has to be a tempo and notes of five values: start, end, syllable, "
            "midi and phones"
        )
    for number, note in enumerate(notes, 1):
        times = (note.start, note.end, note.midi)
        if not all(isinstance(v, (int, float, np.number)) for v in times):
            raise PluginError(f"note {number}: start, end and midi have to be numbers")
        if not np.isfinite(times).all() or note.end < note.start:
            raise PluginError(
                f"note {number} from {note.start} to {note.end} s, midi {note.midi}, "
                "is no note; correct the score"
            )
        count = len(str(note.phones).split("_"))
        if count not in _ENDS:
            raise PluginError(
                f"note {number} has {count} phones, {note.phones}: ESPnet divides a "
                f"note among up to {max(_ENDS)}"
            )
    if not notes:
        raise PluginError("the score has no note; give one that has")
    return Score(tempo, notes)


def label_of_song(value: Any) -> Label:
    """The label that a caller gives: times (phones, 2) and names of the phones.

    Raises:
        PluginError: naming what is something else.
    """
    try:
        times, phones = value
        times, phones = np.asarray(times, np.float64), list(phones)
    except (TypeError, ValueError):
        raise PluginError("label has to be times (phones, 2) and as many phones")
    if times.shape != (len(phones), 2) or not np.isfinite(times).all():
        raise PluginError(
            f"label has times of shape {times.shape} for {len(phones)} phones; give a "
            "start and an end for each"
        )
    for number in np.flatnonzero(times[:, 1] < times[:, 0])[:1]:
        start, end = times[number]
        raise PluginError(
            f"phone {number + 1} of the label ends before it starts: {start} to {end} s"
        )
    return Label(times, phones)


def phones_of_song(
    score: Score,
    label: Label | None,
    ids: Callable[[Sequence[str]], Sequence[int]] | np.ndarray,
    read: ScoreInputs,
) -> Phones:
    """Numbers of each phone of a song.

    Args:
        score: its notes.
        label: its phones and when they are sung, or None.
        ids: gives the label's phones as token ids; or where there is no label, the ids
            themselves (phones,).
        read: of the manifest: how long a frame is.

    Raises:
        PluginError: if score and label are not of one song.
    """
    shift = read.hop_length / read.fs
    names: list[str] = []
    columns: dict[str, list[int]] = {
        name: [] for name in ("midi", "duration_ruled_phn", "duration_syb", "slur")
    }
    counts = []
    for note in score.notes:
        # The order of operations is ESPnet's, whose roundings are to be ours.
        seconds = note.end - note.start
        phones = note.phones.split("_")
        counts.append(len(phones))
        before: float = 0
        for name, end in zip(phones, _ENDS[len(phones)]):
            names.append(name)
            columns["midi"].append(int(note.midi))
            ruled = int((end - before) * seconds / shift + 0.5)
            columns["duration_ruled_phn"].append(ruled)
            columns["duration_syb"].append(int(seconds / shift + 0.5))
            columns["slur"].append(int(note.syllable == SLUR))
            before = end
    duration = None
    if label is not None:
        duration = _frames(label, names, shift)
    numbers = ids if isinstance(ids, np.ndarray) else np.array(ids(names), np.int64)
    if len(numbers) != len(names):
        raise PluginError(
            f"the text has {len(numbers)} phones, the score {len(names)}; give "
            "those of one song"
        )
    return Phones(
        label=numbers,
        duration_phn=duration,
        phn_cnt=np.array(counts, np.int64),
        **{name: np.array(values, np.int64) for name, values in columns.items()},
    )


def _frames(label: Label, names: Sequence[str], shift: float) -> np.ndarray:
    """Frames of each phone of a label, which has to have the score's phones."""
    for number, (ours, theirs) in enumerate(zip(label.phones, names), 1):
        if ours != theirs:
            raise PluginError(
                f"phone {number} is '{ours}' in the label and '{theirs}' in the score; "
                "give those of one song"
            )
    if len(label.phones) != len(names):
        raise PluginError(
            f"the label has {len(label.phones)} phones, the score {len(names)}; give "
            "those of one song"
        )
    lengths = label.times[:, 1] - label.times[:, 0]
    return np.array([int(length / shift + 0.5) for length in lengths], np.int64)


def read_score(path: str) -> Score:
    """A score of a recipe: JSON with tempo and note.

    Raises:
        PluginError: if it is something else.
    """
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
        return score_of_song((content["tempo"], content["note"]))
    except OSError as e:
        raise PluginError(f"{path}: {e.strerror}")
    except (ValueError, KeyError, TypeError):
        raise PluginError(
            f"{path} is no score: JSON with tempo and note; make it again"
        )
    except PluginError as e:
        raise PluginError(f"{path}: {e}")


def read_label(line: str) -> Label:
    """A line of a recipe's label, after its key: start, end and phone, repeated.

    Raises:
        PluginError: if it is something else.
    """
    words = line.split()
    try:
        if len(words) % 3:
            raise ValueError
        # ESPnet rounds the seconds to float32.
        times = [
            (np.float32(s), np.float32(e)) for s, e in zip(words[::3], words[1::3])
        ]
    except ValueError:
        raise PluginError(f"label '{line[:40]}' is not start, end and phone, repeated")
    return label_of_song((np.array(times, np.float64).reshape(-1, 2), words[2::3]))
