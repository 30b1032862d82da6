"""Search of transducers over a batch of utterances: ESPnet's to the token.

The algorithms know one utterance each and no network (``transducer_greedy.py``,
``transducer_beams.py``, ``transducer_steps.py``); here their requests are united and
answered by the graphs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers, Scorer
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Picked
from espnet_onnx_plugin.runtime.search.side_by_side import side_by_side
from espnet_onnx_plugin.runtime.search.transducer_beams import (
    alignment_length_synchronous,
    default,
    time_synchronous,
)
from espnet_onnx_plugin.runtime.search.transducer_greedy import (
    greedy,
    multi_blank_greedy,
)
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import (
    Asking,
    Lattice,
    Partial,
    Prefix,
    Request,
    Rules,
    TransducerConfig,
)
from espnet_onnx_plugin.runtime.search.transducer_networks import (
    JointScorer,
    Networks,
    PredictionScorer,
)
from espnet_onnx_plugin.runtime.search.transducer_steps import (
    modified_adaptive_expansion,
    n_step_constrained,
)

logger = logging.getLogger(__name__)

#: A beam search, which goes on from given hypotheses through given frames.
Beam = Callable[[Rules, Lattice, Sequence[Partial], range], Asking[list[Partial]]]

#: Beam searches by name.
BEAMS: Mapping[str, Beam] = {
    "default": default,
    "tsd": time_synchronous,
    "alsd": alignment_length_synchronous,
    "nsc": n_step_constrained,
    "maes": modified_adaptive_expansion,
}

#: Frames that greedy search scores at once: 0.185 s for 10 s of speech with 55 labels,
#: of 5000, on one core; as much by 4, 0.22 s by 16, 0.37 s one by one.
GREEDY_AHEAD = 8

#: Frames that a beam search scores a hypothesis at. With a beam of 5 the same speech
#: takes 0.99 s by the default search and 0.43 s by maes; 1.07 and 0.50 s by 2 frames,
#: 1.36 and 0.61 s one by one, 1.17 and 0.42 s by 8.
BEAM_AHEAD = 4


class TransducerSearch:
    """Search over a batch of utterances.

    Args:
        config: settings of the search.
        networks: prediction and joint network.
        symbols: the manifest's description.
        beam_size: hypotheses that are kept; with no more than one the search is greedy.
        tokens: the vocabulary.
        lm: a language model, which a greedy search does not ask.
        lm_weight: of its scores.

    Raises:
        PluginError: if the settings and the vocabulary do not fit.
    """

    #: The beam searches by name, and their arithmetic.
    beams: Mapping[str, Beam] = BEAMS
    rules_class = Rules

    def __init__(
        self,
        config: TransducerConfig,
        networks: Networks,
        symbols: Transducer,
        beam_size: int,
        tokens: Sequence[str],
        lm: FullScorer | None = None,
        lm_weight: float = 0.1,
    ):
        self.config = config
        self.greedy = self._is_greedy(beam_size)
        if config.search_type == "maes" and not self.greedy:
            if len(tokens) < beam_size + config.expansion_beta:
                raise PluginError(
                    f"beam_size {beam_size} and expansion_beta {config.expansion_beta} "
                    f"are more than the vocabulary's {len(tokens)} tokens, which "
                    "ESPnet's maes cannot take either; use less"
                )
        self._networks = networks
        self._symbols = symbols
        self._tokens = tokens
        #: The language model that is asked; None: there is none.
        self.lm = None if self.greedy else lm
        weight = None if self.lm is None else lm_weight
        self._rules = self.rules_class(config, min(beam_size, len(tokens)), weight)
        #: The scorers that are asked, by name.
        self.scorers: dict[str, Scorer] = {
            "decoder": PredictionScorer(networks),
            "joint": JointScorer(networks),
        }
        if self.lm is not None:
            self.scorers["lm"] = self.lm
        #: Seconds that the newest call spent, by part.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the best label sequences of each utterance.

        Args:
            encoded: the encoder's outputs.
            primers: ignored; hypotheses begin with the blank.

        Returns:
            For each utterance up to ``nbest`` hypotheses, best first.
        """
        self.seconds = {"decoder": 0.0, "lm": 0.0}
        begun = [[start] for start in self.starts(encoded)]
        found = self.through(encoded, begun)
        results = [hypotheses(self.result(partials)) for partials in found]
        for frames, [best, *_] in zip(encoded.lengths, results):
            self._log_best(int(frames), best)
        return results

    def starts(self, encoded: Encoded) -> list[Partial]:
        """The hypothesis that each utterance begins with."""
        state = None
        if self.lm is not None:
            first = [[self._lm_start]] * encoded.utterances
            state = self.lm.start(encoded, first)
        return [self._start(state, i) for i in range(encoded.utterances)]

    def through(
        self, encoded: Encoded, begun: Sequence[Sequence[Partial]]
    ) -> list[list[Partial]]:
        """Go on from hypotheses of each utterance through all of its frames.

        Returns:
            All that the search has then, in ESPnet's order.
        """
        start = time.perf_counter()
        projected = self._project(encoded)
        self.seconds["decoder"] += time.perf_counter() - start
        lengths = encoded.lengths.tolist()
        projected = [own[:frames] for own, frames in zip(projected, lengths)]
        searches = [self._steps(b, range(f)) for b, f in zip(begun, lengths)]
        return side_by_side(searches, partial(self._answers, projected))

    def result(self, partials: Sequence[Partial]) -> Sequence[Partial]:
        """The result of what the search has behind the last frame."""
        alsd = self.config.search_type == "alsd"  # which ranks itself
        return partials if self.greedy or alsd else self._rules.ranked(partials)

    def _project(self, encoded: Encoded) -> Sequence[np.ndarray]:
        """The joint network's projection of each utterance, (frames, joint)."""
        if self._networks.batches:
            return list(self._networks.project(encoded))
        ones = [encoded.select([i]) for i in range(encoded.utterances)]
        return [self._networks.project(one)[0] for one in ones]

    def _log_best(self, frames: int, best: Hypothesis) -> None:
        """The lines that ESPnet logs of an utterance and its result."""
        logger.info("encoder output length: %d", frames)
        logger.info("total log probability: %.2f", best.score)
        logger.info("normalized log probability: %.2f", best.score / len(best.yseq))
        text = "".join(self._tokens[i] for i in best.yseq[1:])
        logger.info("best hypo: %s\n", text)

    def _is_greedy(self, beam_size: int) -> bool:
        """Whether the search keeps one hypothesis and no other way."""
        return beam_size <= 1 or self.config.search_type == "mbg"

    @property
    def _lm_start(self) -> int:
        """The label that the language model reads first."""
        # The other searches feed it the last label, which is the blank at first.
        default = self.config.search_type == "default"
        return self._symbols.sos if default else self._symbols.blank

    def _start(self, state: object, utterance: int) -> Partial:
        """The hypothesis that an utterance begins with."""
        blank = self._symbols.blank
        if self.config.search_type == "mbg" and self._symbols.multi_blank_indices:
            blank = self._symbols.multi_blank_indices[-1]
        labels = Prefix(None, blank)
        if self.lm is None:
            return Partial(0.0, labels)
        nothing = Prefix(None, self._lm_start)
        nothing.state = Picked(state, utterance, 0)
        return Partial(0.0, labels, nothing.then(self._lm_start))

    def _steps(self, begun: Sequence[Partial], frames: range) -> Asking[list[Partial]]:
        """The search over an utterance, from given hypotheses on."""
        config, symbols = self.config, self._symbols
        if config.search_type == "mbg":
            durations = dict(
                zip(symbols.multi_blank_indices, symbols.multi_blank_durations)
            )
            durations = durations or {symbols.blank: 1}
            steps = multi_blank_greedy(begun[0], frames, durations, GREEDY_AHEAD)
            return [(yield from steps)]
        if self.greedy:
            return [(yield from greedy(begun[0], frames, symbols.blank, GREEDY_AHEAD))]
        search = self.beams[config.search_type]
        return (yield from search(self._rules, Lattice(BEAM_AHEAD), begun, frames))

    def _answers(
        self, projected: Sequence[np.ndarray], requests: Mapping[int, Request]
    ) -> dict[int, Sequence[np.ndarray]]:
        """Answer requests, by utterance.

        Args:
            projected: (frames, joint) of each utterance.
            requests: of those that are searched on.
        """
        asked = [request.lm for request in requests.values() if request.lm]
        if asked and self.lm is not None:
            start = time.perf_counter()
            self._read(self.lm, asked)
            self.seconds["lm"] += time.perf_counter() - start
        start = time.perf_counter()
        batches = (
            [list(requests)] if self._networks.batches else [[i] for i in requests]
        )
        answers: dict[int, Sequence[np.ndarray]] = {}
        for batch in batches:
            blocks = self._score(projected, {i: requests[i] for i in batch})
            for i in batch:
                count = len(requests[i].cells)
                answers[i], blocks = blocks[:count], blocks[count:]
        self.seconds["decoder"] += time.perf_counter() - start
        return answers

    def _score(
        self, projected: Sequence[np.ndarray], requests: Mapping[int, Request]
    ) -> Sequence[np.ndarray]:
        """Scores of the joint network for all cells of requests, in one call."""
        cells = [
            (prefix, frame, projected[i])
            for i, request in requests.items()
            for prefix, frame in request.cells
        ]
        if not cells:
            return []
        prefixes = dict.fromkeys(prefix for prefix, *_ in cells)
        self._predict([prefix for prefix in prefixes if prefix.output is None])
        left = [len(own) - frame for _, frame, own in cells]
        ahead = min(max(request.ahead for request in requests.values()), max(left))
        frames = np.empty((len(cells), ahead, cells[0][2].shape[1]), np.float32)
        for row, (_, frame, own) in zip(frames, cells):
            some = own[frame : frame + ahead]
            row[: len(some)] = some
            row[len(some) :] = some[-1]  # it changes no range of an activation
        predicted = np.stack([prefix.known() for prefix, *_ in cells])
        log_probs = self._networks.join(frames, predicted)
        return [block[:frames] for block, frames in zip(log_probs, left)]

    def _predict(self, prefixes: Sequence[Prefix]) -> None:
        """Run the prediction network on label sequences, given those before them."""
        if len(prefixes) > 1 and not self._networks.batches:
            for prefix in prefixes:
                self._predict([prefix])
            return
        if not prefixes:
            return
        start = (self._networks.start(), 0)
        before = [start if p.before is None else p.before.state for p in prefixes]
        states = {
            name: np.stack([states[name][row] for states, row in before])
            for name in start[0]
        }
        labels = np.array([prefix.label for prefix in prefixes])
        predicted, new = self._networks.predict(labels, states)
        for row, prefix in enumerate(prefixes):
            prefix.output, prefix.state = predicted[row], (new, row)

    def _read(self, lm: FullScorer, asked: Sequence[Sequence[Prefix]]) -> None:
        """Ask the language model for the next label of sequences, by utterance."""
        width = max(map(len, asked))
        rows = [[*some, *[some[0]] * (width - len(some))] for some in asked]
        before = [[p.before.state for p in some if p.before] for some in rows]
        tokens = np.array([[prefix.label for prefix in some] for some in rows])
        parents = np.broadcast_to(np.arange(width), tokens.shape)
        scores, state = lm.score(tokens, parents, lm.join(before))
        for i, some in enumerate(asked):
            for j, prefix in enumerate(some):
                prefix.output, prefix.state = scores[i, j], Picked(state, i, j)


def hypotheses(partials: Sequence[Partial]) -> list[Hypothesis]:
    """Labels and scores of what a search has."""
    return [Hypothesis(p.labels.labels(), p.score) for p in partials]
