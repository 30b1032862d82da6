"""Spoken language identification: ``espnet2.bin.s2t_inference_language``."""

import time
from typing import Dict, List, Optional, Tuple

import numpy as np

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.recognition.options import LanguageOptions
from espnet_onnx_plugin.runtime.recognition.results import Lines
from espnet_onnx_plugin.runtime.s2t import Speech2Text
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Primers, graph_scorer

#: A language's symbol and its probability among the languages.
Language = Tuple[str, float]


class LanguageSearch:
    """The decoder's first step, over the languages alone.

    Args:
        decoder: scorer of the decoder.
        sos: the start symbol.
        first: id of the first language.
        names: of the languages.
    """

    def __init__(self, decoder: FullScorer, sos: int, first: int, names: List[str]):
        self._decoder = decoder
        self._sos = sos
        self._first = first
        self._names = names
        #: Seconds that the newest call spent, by scorer.
        self.seconds: Dict[str, float] = {}

    def __call__(self, encoded: Encoded) -> List[List[Language]]:
        """The languages of each utterance, most probable first."""
        begin = time.perf_counter()
        state = self._decoder.start(encoded, [[self._sos]] * encoded.utterances)
        tokens = np.full((encoded.utterances, 1), self._sos)
        scores, _ = self._decoder.score(tokens, np.zeros_like(tokens), state)
        self.seconds = {"decoder": time.perf_counter() - begin}
        scores = scores[:, 0, self._first : self._first + len(self._names)]
        odds = np.exp(scores - scores.max(axis=1, keepdims=True))
        return [
            [(self._names[i], float(row[i])) for i in np.argsort(-row, kind="stable")]
            for row in odds / odds.sum(axis=1, keepdims=True)
        ]


class Speech2Language(Speech2Text):
    """Tell the language of speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: see :class:`LanguageOptions`.
    """

    options_class = LanguageOptions

    def _build_search(self) -> LanguageSearch:
        options, ids = self._options, self.bundle.manifest.search
        first = self.converter.token2id(options.first_lang_sym)
        last = self.converter.token2id(options.last_lang_sym)
        names = self.converter.token_list[first : last + 1]
        if not 1 <= options.nbest <= len(names):
            raise PluginError(
                f"nbest {options.nbest} must lie between 1 and the {len(names)} "
                f"languages from {options.first_lang_sym} to {options.last_lang_sym}"
            )
        memory = Session(self.bundle, "decoder_memory", self.device)
        step = Session(self.bundle, "decoder", self.device)
        return LanguageSearch(graph_scorer(step, memory), ids.sos, first, names)

    def __call__(self, speech: np.ndarray) -> List[Language]:  # type: ignore[override]
        """Tell the language of one utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate.

        Returns:
            ``nbest`` pairs of a language's symbol and its probability, best first.
        """
        return self.batch([self.prepare(speech)])[0]

    def _result(self, language: Language) -> Language:  # type: ignore[override]
        return language

    def _recognize(  # type: ignore[override]
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> List[List[Language]]:
        return [self._nbest(languages) for languages in self.search(encoded)]

    def lines(self, language: Language) -> Dict[str, Lines]:  # type: ignore[override]
        """See :class:`.model.SpeechModel`."""
        name, probability = language
        return {"score": str(probability), "text": name}
