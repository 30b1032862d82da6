"""Spoken language identification: ``espnet2.bin.s2t_inference_language``."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from espnet_onnx_plugin.bundle.search import Prompted
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.long_form import one_window
from espnet_onnx_plugin.runtime.recognition.options import LanguageOptions
from espnet_onnx_plugin.runtime.recognition.results import Language, NBest
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.language import LanguageSearch


class Speech2Language(SpeechModel[LanguageOptions, Prompted, NBest[Language]]):
    """Tell the language of speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: see :class:`LanguageOptions`.
    """

    task = "s2t"
    kind = Prompted
    options_class = LanguageOptions

    def _build_search(self) -> LanguageSearch:
        options, converter = self._options, self.converter
        first = converter.token2id(options.first_lang_sym)
        last = converter.token2id(options.last_lang_sym)
        languages = len(converter.token_list[first : last + 1])
        if not 1 <= options.nbest <= languages:
            raise PluginError(
                f"nbest {options.nbest} must lie between 1 and the {languages} "
                f"languages from {options.first_lang_sym} to {options.last_lang_sym}"
            )
        decoder = open_scorer(self.bundle, "decoder", self.device)
        return LanguageSearch(decoder, self._described.sos, first, last)

    def prepare(self, speech: np.ndarray) -> np.ndarray:
        """Make the graphs' input of an utterance: as many samples as in training.

        Args:
            speech: (samples,) or (samples, channels).
        """
        return one_window(speech, self.speech, self._described)

    def __call__(self, speech: np.ndarray) -> NBest[Language]:
        """Tell the language of one utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate.

        Returns:
            ``nbest`` pairs of a language's symbol and its probability, best first.
        """
        return super().__call__(speech)

    def _results(self, stages: Sequence[Stage]) -> list[NBest[Language]]:
        [stage] = stages
        names = self.converter.token_list
        return [
            NBest(Language(names[h.yseq[0]], h.score) for h in found[: self.nbest])
            for found in stage.hypotheses
        ]

    def placeholder(self) -> NBest[Language]:
        """No language; all speech is as long as in training."""
        return NBest()
