"""The scorers of a bundle and the beam search over them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.recognition.options import DecodeOptions
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.ngram_scorer import NgramScorer
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, LengthBonus
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig

logger = logging.getLogger(__name__)

SearchT = TypeVar("SearchT")


def check_times(bundle: Bundle, options: DecodeOptions) -> None:
    """Refuse to tell times where nothing aligns tokens and speech.

    Raises:
        PluginError: if the options ask for them.
    """
    speech = bundle.manifest.speech
    if options.ctm and (speech is None or speech.frame_shift is None):
        raise PluginError("the model has no CTC to align by: leave ctm out")


@dataclass(frozen=True)
class SearchBuilder:
    """Builds the search that a manifest describes and decoding options ask for.

    Attributes:
        bundle: where the graphs lie.
        device: where they run.
        search: the manifest's description.
        options: the decoding options.
        tokens: the vocabulary.
        has_ctc: whether the encoder gives scores of a CTC.

    Raises:
        PluginError: if the options ask for a CTC where there is none.
    """

    bundle: Bundle
    device: Device
    search: LabelSynchronous
    options: DecodeOptions
    tokens: list[str]
    has_ctc: bool

    def __post_init__(self) -> None:
        if not self.has_ctc and self.options.ctc_weight > 0:
            raise PluginError("the model has no CTC: set ctc_weight to 0")
        check_times(self.bundle, self.options)

    def scorers(self, replays: bool = False) -> dict[str, FullScorer]:
        """Open the full scorers that have a weight, in ESPnet's order.

        Args:
            replays: see :func:`.graph_scorer.open_scorer`.
        """
        weights, manifest = self.options.weights, self.bundle.manifest
        scorers: dict[str, FullScorer] = {}
        if weights["decoder"] and "decoder" in manifest.graphs:
            scorers["decoder"] = open_scorer(
                self.bundle, "decoder", self.device, replays
            )
        if weights["length_bonus"]:
            scorers["length_bonus"] = LengthBonus(len(self.tokens))
        if weights["lm"] and "lm" in manifest.graphs:
            scorers["lm"] = open_scorer(self.bundle, "lm", self.device, replays)
        if weights["ngram"] and manifest.ngram is not None:
            path = str(self.bundle.file(manifest.ngram))
            scorers["ngram"] = NgramScorer(path, self.tokens)
        return scorers

    def build(
        self,
        kind: Callable[[BeamSearchConfig, Mapping[str, FullScorer]], SearchT],
        scorers: Mapping[str, FullScorer],
        *,
        pre_beam: bool,
        primer: Sequence[int] | None = None,
        ctc_window_margin: int = 0,
        return_hs: bool = False,
    ) -> SearchT:
        """Build a search over scorers.

        Args:
            kind: makes the search, a class or one with some of its arguments.
            scorers: as :meth:`scorers` gives them.
            primer: default: the manifest's.
            pre_beam, ctc_window_margin, return_hs: see :class:`BeamSearchConfig`.

        Raises:
            PluginError: if the beam is too wide or nothing gives a score.
        """
        options, search = self.options, self.search
        single = bool(set(scorers).intersection(search.single))
        config = BeamSearchConfig(
            beam_size=options.beam_size,
            vocabulary=len(self.tokens),
            sos=search.sos,
            eos=search.eos,
            blank=search.blank,
            weights=options.weights,
            conventions=conventions(self.bundle.manifest.espnet),
            pre_beam=pre_beam,
            maxlenratio=options.maxlenratio,
            minlenratio=options.minlenratio,
            normalize_length=options.normalize_length,
            primer=search.primer if primer is None else primer,
            max_tokens=search.max_tokens,
            return_hs=return_hs,
            end_is_candidate=not single,
            # ESPnet's search of one hypothesis at a time has no window.
            ctc_window_margin=0 if single else ctc_window_margin,
            memory=self.device.memory if self.device.resident else None,
            resident_from=self.device.resident_from,
            cuda_graphs=self.device.cuda_graphs,
            token_list=self.tokens,
        )
        if not any(options.weights[name] for name in (*scorers, "ctc")):
            raise PluginError(
                "no scorer is left: the model has no decoder and ctc_weight is 0"
            )
        built = kind(config, scorers)
        logger.info("%s implementation is selected.", type(built).__name__)
        return built
