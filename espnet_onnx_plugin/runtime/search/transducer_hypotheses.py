"""Hypotheses of transducer searches, and what a search asks the networks about them.

A search over one utterance is a generator: it yields a :class:`Request` and is sent the
answer, so that the requests of several utterances can be answered together.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import numpy as np

from espnet_onnx_plugin.errors import PluginError

SearchType = Literal["default", "tsd", "alsd", "nsc", "maes", "mbg"]


@dataclass(frozen=True)
class TransducerConfig:
    """Settings with the names of ESPnet's ``transducer_conf``.

    Attributes:
        search_type: ``default`` (Graves, https://arxiv.org/abs/1211.3711), ``tsd`` and
            ``alsd`` (time- and alignment-length-synchronous,
            https://ieeexplore.ieee.org/document/9053040), ``nsc`` (N-step constrained,
            https://arxiv.org/abs/2002.03577), ``maes`` (modified adaptive expansion,
            https://ieeexplore.ieee.org/document/9250505), or ``mbg`` (greedy with
            blanks of several frames, https://arxiv.org/abs/2211.03541).
        max_sym_exp: rounds of expansions in a frame, of tsd.
        u_max: most labels of a hypothesis, of alsd.
        nstep: expansions in a frame, of nsc and maes, which makes at least two.
        prefix_alpha: how much longer than its prefix a hypothesis may be to get the
            prefix's score too, of nsc and maes.
        expansion_gamma: how far behind a hypothesis' best label others may be, of maes.
        expansion_beta: labels that are looked at besides as many as the beam, of maes.
        score_norm: whether hypotheses are ranked by the score per label.
        score_norm_during: whether they compete by it too, in default, tsd and alsd.
        nbest: hypotheses in the result.
    """

    search_type: SearchType = "default"
    max_sym_exp: int = 2
    u_max: int = 50
    nstep: int = 1
    prefix_alpha: int = 1
    expansion_gamma: float = 2.3
    expansion_beta: int = 2
    score_norm: bool = True
    score_norm_during: bool = False
    nbest: int = 1

    def __post_init__(self) -> None:
        least = dict(
            max_sym_exp=1, u_max=0, nstep=1, prefix_alpha=0, expansion_beta=0, nbest=1
        )
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise PluginError(
                    f"{name} {getattr(self, name)} must be {bound} or more"
                )
        if self.expansion_gamma < 0:
            raise PluginError(
                f"expansion_gamma {self.expansion_gamma} must not be negative"
            )


class Prefix:
    """A label sequence, as its last label behind the sequence before it.

    It is made once in an utterance, so that two are equal if they are the same object.

    Attributes:
        before: the sequence without its last label; None: of the start.
        label: the last one.
        length: number of labels.
        output: once it is asked for, what the network gives behind the sequence:
            (joint,) of the prediction network, (vocabulary,) of a language model.
        state: the network's, to go on from.
    """

    __slots__ = ("before", "label", "length", "output", "state", "_longer")

    def __init__(self, before: Prefix | None, label: int):
        self.before = before
        self.label = label
        self.length: int = 1 if before is None else before.length + 1
        self.output: np.ndarray | None = None
        self.state: Any = None
        self._longer: dict[int, Prefix] = {}

    def then(self, label: int) -> Prefix:
        """The sequence with one label more."""
        longer = self._longer.get(label)
        if longer is None:
            longer = self._longer[label] = Prefix(self, label)
        return longer

    def known(self) -> np.ndarray:
        """The ``output``.

        Raises:
            ValueError: if nobody has asked for it.
        """
        if self.output is None:
            raise ValueError("the network has not read the label sequence")
        return self.output

    def labels(self) -> list[int]:
        """All labels, the first of them the start's."""
        labels, prefix = [self.label], self.before
        while prefix is not None:
            labels.append(prefix.label)
            prefix = prefix.before
        return labels[::-1]


@dataclass(eq=False, slots=True)
class Partial:
    """A hypothesis that a search goes on with.

    Attributes:
        score: the total.
        labels: its labels, the start first.
        lm: what the language model has read; None without one.
        lm_past: what the language model goes on from, where that is not ``lm``.
    """

    score: float
    labels: Prefix
    lm: Prefix | None = None
    lm_past: Prefix | None = None

    def lm_scores(self) -> np.ndarray:
        """The language model's of the next label, (vocabulary,)."""
        if self.lm is None:
            raise ValueError("there is no language model")
        return self.lm.known()


class Request(NamedTuple):
    """Question of a search; the answer is the joint network's scores.

    Attributes:
        cells: label sequences and the frame of each; answered with log probabilities
            (cells, frames, vocabulary) of up to ``ahead`` frames from that one on.
        ahead: how many.
        lm: label sequences whose ``output`` is asked of the language model.
    """

    cells: Sequence[tuple[Prefix, int]]
    ahead: int
    lm: Sequence[Prefix]


R = TypeVar("R")

#: Steps of a search, which end with its result.
Asking = Generator[Request, Sequence[np.ndarray], R]


@dataclass
class Lattice:
    """Scores of the joint network for an utterance, by label sequence and frame.

    Attributes:
        ahead: frames that are computed of a label sequence at once.
    """

    ahead: int
    _blocks: dict[Prefix, tuple[int, np.ndarray]] = field(default_factory=dict)

    def rows(
        self,
        cells: Sequence[tuple[Prefix, int]],
        lm: Iterable[Prefix | None] = (),
        likely: Iterable[tuple[Prefix, int]] = (),
    ) -> Asking[np.ndarray]:
        """Log probabilities of the next label.

        Args:
            cells: label sequences and the frame of each.
            lm: label sequences that the language model has to know.
            likely: cells that are computed too if others have to be: a matrix product
                of a few rows takes little longer than that of one.

        Returns:
            (cells, vocabulary) float32.
        """
        unread = [p for p in dict.fromkeys(lm) if p is not None and p.output is None]
        asked = [cell for cell in dict.fromkeys(cells) if not self.knows(*cell)]
        if asked:
            more = (cell for cell in likely if not self.knows(*cell))
            asked = list(dict.fromkeys((*asked, *more)))
            now = min(frame for _, frame in cells)
            self._blocks = {
                prefix: (first, block)
                for prefix, (first, block) in self._blocks.items()
                if first + len(block) > now
            }
        if asked or unread:
            answer = yield Request(asked, self.ahead, unread)
            for (prefix, frame), block in zip(asked, answer):
                self._blocks[prefix] = frame, block
        found = []
        for prefix, frame in cells:
            first, block = self._blocks[prefix]
            found.append(block[frame - first])
        return np.stack(found)

    def knows(self, prefix: Prefix, frame: int) -> bool:
        """Whether a cell's scores are known."""
        first, block = self._blocks.get(prefix, (frame, ()))
        return first <= frame < first + len(block)


@dataclass(frozen=True)
class Rules:
    """Settings of the search of a model, and its arithmetic.

    Attributes:
        config: the settings.
        beam: hypotheses that are kept.
        lm_weight: None: there is no language model.
    """

    config: TransducerConfig
    beam: int
    lm_weight: float | None = None

    @property
    def single(self) -> bool:
        """Whether scores with the language model's are summed in float32.

        As in ESPnet: there they are tensors, but in nsc and maes.
        """
        synchronous = self.config.search_type in ("default", "tsd", "alsd")
        return self.lm_weight is not None and synchronous

    def rounded(self, score: float, length: int) -> float:
        """A sum or quotient in the precision of a hypothesis of so many labels."""
        return float(np.float32(score)) if self.single and length > 1 else score

    def per_label(self, partial: Partial) -> float:
        """Score per label, of which the start counts as one, as in ESPnet."""
        length = partial.labels.length
        return self.rounded(partial.score / length, length)

    def rank(self, partial: Partial) -> float:
        """The figure by which hypotheses compete."""
        during = self.config.score_norm_during
        return self.per_label(partial) if during else partial.score

    def kept(self, partial: Partial, blank: float) -> Partial:
        """A hypothesis behind a blank."""
        score = self.rounded(partial.score + blank, partial.labels.length)
        return Partial(score, partial.labels, partial.lm)

    def expanded(
        self, partials: Sequence[Partial], rows: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Hypotheses' best continuations by a label that is no blank.

        Args:
            partials: the hypotheses.
            rows: (hypotheses, vocabulary) scores of their next label.

        Returns:
            Total scores float64 and labels, each (hypotheses, up to ``beam``), best
            label first.
        """
        log_probs, labels = top(rows[:, 1:], min(self.beam, rows.shape[1] - 1))
        labels = labels + 1
        scores = np.array([p.score for p in partials])[:, None] + log_probs
        if self.lm_weight is not None:
            lm = np.array([p.lm_scores()[row] for p, row in zip(partials, labels)])
            if not self.single:
                return scores + self.lm_weight * lm.astype(np.float64), labels
            # The sum of two float32 is the same by way of float64.
            weighted = np.float32(self.lm_weight) * lm
            scores = (scores.astype(np.float32) + weighted).astype(np.float64)
        return scores, labels

    def longer(self, partial: Partial, label: int, score: float) -> Partial:
        """A hypothesis with one label more."""
        lm = partial.lm and partial.lm.then(label)
        return Partial(score, partial.labels.then(label), lm)

    def ranked(self, partials: Sequence[Partial]) -> list[Partial]:
        """The result: ``nbest`` hypotheses, best first."""
        key = self.per_label if self.config.score_norm else _score
        return sorted(partials, key=key, reverse=True)[: self.config.nbest]

    def together(self, partials: Sequence[Partial]) -> Sequence[Partial]:
        """Hypotheses that the language model is asked about at once."""
        return partials

    def best(self, partials: Sequence[Partial]) -> list[Partial]:
        """The best hypotheses, as many as the beam has."""
        return sorted(partials, key=self.rank, reverse=True)[: self.beam]


def _score(partial: Partial) -> float:
    return partial.score


def top(scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The largest of each row, best first; equal ones by index.

    Returns:
        Values and indices, each (rows, count).
    """
    picked = np.argpartition(scores, -count, axis=1)[:, -count:]
    picked.sort(axis=1)
    rows = np.arange(len(scores))[:, None]  # take_along_axis takes 20 us more
    values = scores[rows, picked]
    order = np.argsort(-values, axis=1, kind="stable")
    return values[rows, order], picked[rows, order]
