"""When the tokens and words of a hypothesis were spoken, by the CTC."""

from typing import List, NamedTuple, Optional, Sequence

import numpy as np

from espnet_onnx_plugin.runtime.text import SPACE


class Span(NamedTuple):
    """A token or word and its time in seconds."""

    text: str
    start: float
    end: float


def align(
    log_probs: np.ndarray, token_int: Sequence[int], blank: int
) -> Optional[np.ndarray]:
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
    can_skip = np.zeros(len(states), bool)
    can_skip[3::2] = tokens[1:] != tokens[:-1]
    score = np.full(len(states), -np.inf)
    score[:2] = emitted[0, :2]
    steps = np.zeros(emitted.shape, np.int8)  # how many states back the path came from
    for frame in range(1, len(emitted)):
        stay = score
        one = np.concatenate(([-np.inf], score[:-1]))
        two = np.concatenate(([-np.inf] * 2, score[:-2]))[: len(score)]
        ways = np.stack((stay, one, np.where(can_skip, two, -np.inf)))
        steps[frame] = ways.argmax(axis=0)
        score = ways.max(axis=0) + emitted[frame]
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
        state -= steps[frame, state]
    return spans


def words(tokens: Sequence[Span], token_type: Optional[str]) -> List[Span]:
    """The words that tokens make up, from the first one's start to the last one's end.

    Args:
        tokens: in order.
        token_type: as in the bundle: bpe and char make words of several tokens.
    """
    if token_type not in ("bpe", "char"):
        return list(tokens)
    found: List[Span] = []
    inside = False
    for text, start, end in tokens:
        if token_type == "bpe":
            inside &= not text.startswith("▁")
            text = text.lstrip("▁")
        if text in ("", SPACE):
            inside = False
            continue
        if inside:
            text, start = found[-1].text + text, found.pop().start
        found.append(Span(text, start, end))
        inside = True
    return found
