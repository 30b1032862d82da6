"""Searches of the stand-alone transducer, where they are not those of task asr.

They are ESPnet's of ``espnet2/asr_transducer/beam_search_transducer.py``: with a beam
of one it is no other search, language models begin with the start symbol in all of
them, and maes unites equal hypotheses in place of a prefix search.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.transducer import Beam, TransducerSearch
from espnet_onnx_plugin.runtime.search.transducer_beams import (
    alignment_length_synchronous,
    default,
    recombined,
    time_synchronous,
)
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import (
    Asking,
    Lattice,
    Partial,
    Rules,
    TransducerConfig,
    top,
)
from espnet_onnx_plugin.runtime.search.transducer_networks import Networks


@dataclass(frozen=True)
class StandAloneConfig:
    """Settings with the names of ESPnet's ``beam_search_config``.

    Attributes:
        streaming: whether alsd is refused, which has to know the number of frames.
        nstep: expansions in a frame, of maes.
        search_type, max_sym_exp, u_max, expansion_gamma, expansion_beta, score_norm:
            see :class:`TransducerConfig`.
    """

    search_type: Literal["default", "tsd", "alsd", "maes"] = "default"
    max_sym_exp: int = 3
    u_max: int = 50
    nstep: int = 2
    expansion_gamma: float = 2.3
    expansion_beta: int = 2
    score_norm: bool = False
    streaming: bool = False

    def __post_init__(self) -> None:
        if self.search_type == "tsd" and self.max_sym_exp < 2:
            raise PluginError(
                f"max_sym_exp {self.max_sym_exp} must be 2 or more, as in ESPnet"
            )
        if self.search_type == "alsd" and self.streaming:
            raise PluginError("search_type alsd is not for streaming, in ESPnet either")

    def config(self, nbest: int) -> TransducerConfig:
        """The settings of a search that gives so many hypotheses."""
        settings = {k: v for k, v in vars(self).items() if k != "streaming"}
        return TransducerConfig(**settings, nbest=nbest)


@dataclass(frozen=True)
class StandAloneRules(Rules):
    """Arithmetic of the stand-alone transducer's search."""

    def together(self, partials: Sequence[Partial]) -> Sequence[Partial]:
        """Hypotheses, told what the language model reads when it is asked at once.

        ESPnet pads its batches by blanks behind the start symbol, so that a hypothesis
        without labels reads a blank beside others, and the start symbol alone.
        """
        for partial in partials:
            nothing = partial.lm and partial.lm.before
            if nothing is not None and partial.labels.before is None:
                first = partial.labels if len(partials) > 1 else nothing
                partial.lm = nothing.then(first.label)
        return partials


def modified_adaptive_expansion(
    rules: Rules, lattice: Lattice, begun: Sequence[Partial], frames: Iterable[int]
) -> Asking[list[Partial]]:
    """Extend hypotheses by the labels that are not far behind the best one (maes)."""
    config = rules.config
    kept = list(begun)
    for frame in frames:
        running = kept
        behind: list[Partial] = []
        for _ in range(config.nstep):
            cells = [(p.labels, frame) for p in running]
            rows = yield from lattice.rows(cells, [p.lm for p in running])
            log_probs, labels = top(rows, rules.beam + config.expansion_beta)
            longer = []
            for partial, scores, row in zip(
                running, log_probs.tolist(), labels.tolist()
            ):
                best = partial.score + scores[0]
                for score, label in zip(scores, row):
                    total = partial.score + score
                    if total < best - config.expansion_gamma:
                        continue
                    if label == 0:
                        behind.append(Partial(total, partial.labels, partial.lm))
                        continue
                    if rules.lm_weight is not None and partial.lm is not None:
                        total += rules.lm_weight * float(partial.lm.known()[label])
                    longer.append(rules.longer(partial, label, total))
            running = longer
            if not running:
                break
        if running:
            rows = yield from lattice.rows([(p.labels, frame) for p in running])
            for partial, blank in zip(running, rows[:, 0].tolist()):
                behind.append(
                    Partial(partial.score + blank, partial.labels, partial.lm)
                )
        kept = rules.best(recombined(rules, behind))
    return kept


class StandAloneSearch(TransducerSearch):
    """Search of a stand-alone transducer over a batch of utterances.

    Args:
        config: settings of the search.
        networks, symbols, beam_size, tokens, lm, lm_weight: see
            :class:`TransducerSearch`.
        nbest: hypotheses in the result.

    Raises:
        PluginError: if the settings, the networks and the vocabulary do not fit.
    """

    beams: Mapping[str, Beam] = {
        "default": default,
        "tsd": time_synchronous,
        "alsd": alignment_length_synchronous,
        "maes": modified_adaptive_expansion,
    }
    rules_class = StandAloneRules

    def __init__(
        self,
        config: StandAloneConfig,
        networks: Networks,
        symbols: Transducer,
        beam_size: int,
        tokens: Sequence[str],
        lm: FullScorer | None,
        lm_weight: float,
        nbest: int,
    ):
        if beam_size > len(tokens):
            raise PluginError(
                f"beam_size {beam_size} is more than the vocabulary's {len(tokens)} "
                "tokens, which ESPnet's search cannot take either; use less"
            )
        if config.search_type != "default" and networks.grows:
            raise PluginError(
                f"search_type {config.search_type} is not supported with this decoder, "
                "whose results in ESPnet change with the hypotheses that are asked at "
                "once; use default"
            )
        super().__init__(
            config.config(nbest), networks, symbols, beam_size, tokens, lm, lm_weight
        )

    def _is_greedy(self, beam_size: int) -> bool:
        return False

    @property
    def _lm_start(self) -> int:
        return self._symbols.sos

    def result(self, partials: Sequence[Partial]) -> Sequence[Partial]:
        """The best, as in ESPnet also of alsd without any behind the last frame."""
        return self._rules.ranked(partials)
