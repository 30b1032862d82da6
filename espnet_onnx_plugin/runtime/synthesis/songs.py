"""Songs: scores, labels and what else belongs to them, from files or made up."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.synthesis.described import score_of, synthesis_of
from espnet_onnx_plugin.runtime.synthesis.inputs import (
    AUDIO,
    WHO,
    Arguments,
    Input,
    Texts,
    made_up_voice,
)
from espnet_onnx_plugin.runtime.synthesis.score import SLUR, Label, Note, Score
from espnet_onnx_plugin.runtime.text.converter import UNKNOWN, TokenConverter

#: Lengths of made-up songs, in notes.
LENGTHS = (3, 9, 20)

#: Frames of the shortest and the longest made-up note, as far as the model knows them.
SHORTEST, LONGEST = 4, 40


class Songs(Texts):
    """Songs of a recipe: ESPnet's ``data_path_and_name_and_type`` of svs_inference.

    Attributes, raises: as of the base class.
    """

    kinds = {
        "text": ("text",),
        "label": ("duration",),
        "score": ("score",),
        "singing": AUDIO,
        "durations": ("text_int",),
        "discrete_token": ("text_int",),
        **WHO,
    }
    required = ("text", "label", "score")
    audio = "singing"
    unread = ("durations",)

    @staticmethod
    def arguments(inputs: dict[str, Input]) -> Arguments:
        """Arguments of the class that sings: label and score are one of them."""
        song = {name: inputs.pop(name) for name in ("label", "score")}
        return {**inputs, "text": song}

    @staticmethod
    def made_up(bundle: Bundle) -> Iterator[tuple[str, Arguments]]:
        """Songs of notes in :data:`LENGTHS`, with labels and descriptions."""
        random = np.random.default_rng(0)
        converter = TokenConverter(bundle)
        phones = [
            token
            for token in converter.token_list
            if token
            and not set(token) & set("_<> ")
            and converter.clean(token) == token
        ]
        read = score_of(bundle.manifest)
        longest = min((LONGEST, *(n - 1 for i, n in read.ids.items() if "dur" in i)))
        shift = read.hop_length / read.fs
        for number, length in enumerate(LENGTHS):
            frames = random.integers(min(SHORTEST, longest), longest + 1, length)
            top = min(read.ids.get("midi", 128), 73)
            song = made_up_song(phones or [UNKNOWN], frames * shift, top, random)
            made = made_up_voice(bundle, number, random)
            if "discrete_token" in synthesis_of(bundle.manifest).reads:
                made["discrete_token"] = random.integers(0, 3, frames.sum())
            yield f"a song of {length} notes", {"text": song, **made}


def made_up_song(
    phones: Sequence[str], lengths: np.ndarray, top: int, random: np.random.Generator
) -> dict[str, Score | Label]:
    """A song with a slur, rests, and notes of one to four phones.

    Args:
        phones: names to choose among.
        lengths: of its notes, in seconds.
        top: above the highest pitch.
        random: what is chosen by.

    Returns:
        score, and a label whose phones last other times than the score says.
    """
    notes: list[Note] = []
    times: list[tuple[float, float]] = []
    names: list[str] = []
    ends = np.cumsum(lengths)
    for number, (end, length) in enumerate(zip(ends, lengths)):
        start = end - length
        slur = number > 0 and number % 3 == 2
        midi = int(random.integers(max(top - 30, 1), top)) if number % 5 else 0
        count = 1 if slur else 1 + (number + int(random.integers(2))) % 4
        sung = names[-1:] if slur else [str(p) for p in random.choice(phones, count)]
        syllable = SLUR if slur else "_".join(sung)
        notes.append(Note(float(start), float(end), syllable, midi, "_".join(sung)))
        parts = start + length * np.cumsum([0, *random.dirichlet(4 * np.ones(count))])
        times += list(zip(parts, parts[1:]))
        names += sung
    return {
        "score": Score(120, notes),
        "label": Label(np.array(times, np.float64), names),
    }
