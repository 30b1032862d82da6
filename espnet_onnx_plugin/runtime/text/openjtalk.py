"""Japanese phonemes and accents, by pyopenjtalk.

Source: ``espnet2/text/phoneme_tokenizer.py``. Its labels are the full-context labels of
HTS: for a phoneme the name (p3), in its accent phrase the mora's distance from the
accent (a1) and place from the start and from the end (a2, a3), and the phrase's accent
(f2).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.packages import import_package

_NAME = re.compile(r"-(.*?)\+")
_PLACE = re.compile(r"/A:(-?\d+)\+(\d+)\+(\d+)/.*/F:\d+_(\d+)")
_QUESTION = re.compile(r"/E:[^/]*!1_")

#: Phonemes that an accent phrase can end on.
_MORA_ENDS = {*"aeiouN", "cl"}


class OpenJTalk(Protocol):
    """The functions of the module pyopenjtalk that are called."""

    def extract_fullcontext(self, text: str) -> list[str]:
        """Full-context labels of HTS."""

    def g2p(self, text: str, kana: bool) -> str:
        """Phonemes with spaces between them, or kana."""


class _Place(NamedTuple):
    """Place of a phoneme in its accent phrase."""

    from_accent: int
    from_start: int
    from_end: int
    accent: int


class _Label(NamedTuple):
    name: str
    place: _Place | None
    question: bool


def _labels(openjtalk: OpenJTalk, text: str) -> list[_Label]:
    labels = []
    for label in openjtalk.extract_fullcontext(text):
        place = _PLACE.search(label)
        labels.append(
            _Label(
                _NAME.findall(label)[0],
                _Place(*map(int, place.groups())) if place else None,
                _QUESTION.search(label) is not None,
            )
        )
    return labels


def _phonemes(openjtalk: OpenJTalk, text: str) -> list[str]:
    return openjtalk.g2p(text, kana=False).split(" ")


def _kana(openjtalk: OpenJTalk, text: str) -> list[str]:
    return list(openjtalk.g2p(text, kana=True))


def _accent(openjtalk: OpenJTalk, text: str) -> list[str]:
    return [t for t in _accent_with_pause(openjtalk, text) if t != "pau"]


def _accent_with_pause(openjtalk: OpenJTalk, text: str) -> list[str]:
    tokens = []
    for name, place, _ in _labels(openjtalk, text):
        if name == "pau":
            tokens.append(name)
        elif place is not None:
            tokens += [name, str(place.accent), str(place.from_accent)]
    return tokens


def _prosody(openjtalk: OpenJTalk, text: str) -> list[str]:
    """Phonemes with marks: ``^`` start, ``$`` or ``?`` end, ``_`` pause, ``#`` end of
    an accent phrase, ``[`` and ``]`` where the pitch rises and falls.

    After https://doi.org/10.1587/transinf.2020EDP7104.
    """
    return list(_marked(_labels(openjtalk, text)))


def _marked(labels: list[_Label]) -> Iterator[str]:
    for i, (name, place, question) in enumerate(labels):
        if name == "sil":
            yield "^" if i == 0 else "?" if question else "$"
        elif name == "pau":
            yield "_"
        else:
            # A capital is a vowel without voice, but for N.
            name = name.lower() if name in set("AEIOU") else name
            yield name
            if place is None:
                continue
            following = labels[i + 1].place
            start = following.from_start if following else None
            if place.from_end == 1 and start == 1 and name in _MORA_ENDS:
                yield "#"
            elif place.from_accent == 0 and start == place.from_start + 1:
                yield "]"
            elif place.from_start == 1 and start == 2:
                yield "["


OPENJTALK: dict[str, Callable[[OpenJTalk, str], list[str]]] = {
    "pyopenjtalk": _phonemes,
    "pyopenjtalk_kana": _kana,
    "pyopenjtalk_accent": _accent,
    "pyopenjtalk_accent_with_pause": _accent_with_pause,
    "pyopenjtalk_prosody": _prosody,
}


def make_openjtalk(g2p: str) -> Callable[[str], list[str]]:
    """A function from text to tokens.

    Args:
        g2p: of :data:`OPENJTALK`.

    Raises:
        PluginError: if pyopenjtalk is missing, or, where the function is called, its
            dictionary, which it downloads once.
    """
    openjtalk = import_package("pyopenjtalk", f"g2p '{g2p}'", "pyopenjtalk")

    def tokens(text: str) -> list[str]:
        try:
            return OPENJTALK[g2p](openjtalk, text)
        except OSError as e:
            raise PluginError(
                f"pyopenjtalk could not download its dictionary ({e}): set "
                "OPEN_JTALK_DICT_DIR to a directory that has it"
            )

    return tokens
