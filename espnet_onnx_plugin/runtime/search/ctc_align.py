"""Times of the tokens and words of a hypothesis, by the CTC."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.runtime.text.converter import SPACE

#: A byte of a character that is no token, as sentencepiece calls such tokens.
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")

#: Characters that are words without blanks around them: ideographs, kana, signs of
#: bopomofo, and the punctuation between them.
_ALONE = (
    "\u3001-\u3030\u303c-\u312f\u31a0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff9f"
    "\U00020000-\U0003ffff"
)
_UNIT = re.compile(f"(?P<alone>[{_ALONE}])|[^{_ALONE}]+")


class Span(NamedTuple):
    """A token or word and its time in seconds."""

    text: str
    start: float
    end: float


def forced_align(
    log_probs: np.ndarray, token_int: Sequence[int], blank: int
) -> np.ndarray | None:
    """The most probable CTC path through a token sequence (Viterbi).

    The path runs through ``blank a blank b blank``; a blank between two different
    tokens may be left out (Graves et al. 2006, section 4.1).

    Args:
        log_probs: (frames, vocabulary) log probabilities of the CTC.
        token_int: the tokens.
        blank: id of the blank.

    Returns:
        (tokens, 2) int64, first frame of each token and the one behind its last; None
        where the tokens do not fit into the frames.
    """
    tokens = np.asarray(token_int, np.int64)
    states = np.full(2 * len(tokens) + 1, blank)
    states[1::2] = tokens
    emitted = log_probs[:, states].astype(np.float64)
    cannot_skip = np.full(len(states), -np.inf)
    cannot_skip[3::2][tokens[1:] != tokens[:-1]] = 0.0
    padded = np.full(len(states) + 2, -np.inf)
    score, one_back, two_back = padded[2:], padded[1:-1], padded[:-2]
    score[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # how many states back the path came from
    for frame in range(1, len(emitted)):
        skipped = two_back + cannot_skip
        best = np.maximum(score, one_back)
        steps[frame] = one_back > score
        steps[frame, skipped > best] = 2
        np.maximum(best, skipped, out=best)
        np.add(best, emitted[frame], out=score)
    state = len(states) - 1
    if len(states) > 1 and score[-2] > score[-1]:
        state -= 1
    if not np.isfinite(score[state]):
        return None
    spans = np.zeros((len(tokens), 2), np.int64)
    for frame in range(len(emitted) - 1, -1, -1):
        token, is_token = divmod(state, 2)
        if is_token:
            spans[token, 0] = frame
            spans[token, 1] = max(spans[token, 1], frame + 1)
        state -= int(steps[frame, state])
    return spans


def words(tokens: Sequence[Span], token_type: str | None) -> list[Span]:
    """The words that tokens make up, from the first one's start to the last one's end.

    Chinese and Japanese, which are written without blanks, have a word for each
    character; those of one token divide its time evenly.

    Args:
        tokens: in order.
        token_type: as in the bundle: bpe and char make words of several tokens.
    """
    if token_type not in ("bpe", "char"):
        return list(tokens)
    found: list[Span] = []
    inside = False
    for text, start, end in _characters(tokens) if token_type == "bpe" else tokens:
        if token_type == "bpe":
            inside &= not text.startswith("▁")
            text = text.lstrip("▁")
        if text == SPACE or not text.strip():
            inside = False
            continue
        edges = np.linspace(start, end, len(text) + 1).tolist()
        for unit in _UNIT.finditer(text):
            word = Span(unit[0], edges[unit.start()], edges[unit.end()])
            alone = unit["alone"] is not None
            if inside and not alone:
                before = found.pop()
                word = Span(before.text + word.text, before.start, word.end)
            found.append(word)
            inside = not alone
    return found


def _characters(tokens: Sequence[Span]) -> Iterator[Span]:
    """Tokens, the bytes among them joined into the characters that they make up.

    What is no UTF-8 becomes the character for that, as in sentencepiece.
    """
    for is_byte, run in groupby(tokens, key=lambda t: bool(_BYTE.fullmatch(t.text))):
        if not is_byte:
            yield from run
            continue
        spans = list(run)
        content = bytes(int(span.text[3:5], 16) for span in spans)
        first = 0
        while first < len(content):
            text, size = "�", 1
            for more in range(1, 5):
                with contextlib.suppress(UnicodeDecodeError):
                    text, size = content[first : first + more].decode("utf-8"), more
                    break
            last = spans[first + size - 1]
            yield Span(text, spans[first].start, last.end)
            first += size
