"""Stand-alone transducers: ``espnet2.bin.asr_transducer_inference`` with a bundle."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.bundle.typed import parse
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.options import AsrTransducerOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    NBest,
    Recognized,
)
from espnet_onnx_plugin.runtime.recognition.scoring import open_scorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis
from espnet_onnx_plugin.runtime.search.transducer_networks import GraphNetworks
from espnet_onnx_plugin.runtime.search.transducer_stand_alone import (
    StandAloneConfig,
    StandAloneSearch,
)
from espnet_onnx_plugin.runtime.text.converter import TokenConverter


class Speech2Text(SpeechModel[AsrTransducerOptions, Transducer, NBest[Recognized]]):
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`AsrTransducerOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", beam_size=10)
        >>> hypotheses = speech2text(speech)
        >>> speech2text.hypotheses_to_results(hypotheses)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr_transducer"
    kind = Transducer
    options_class = AsrTransducerOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        vocabulary = len(TokenConverter(bundle).token_list)
        return dict(beam_size=min(beam_size, vocabulary), lm_weight=0.3)

    def _build_search(self) -> StandAloneSearch:
        options, bundle, device = self._options, self.bundle, self.device
        roles = ("decoder", "joint", "joint_memory")
        lm = None
        if "lm" in bundle.manifest.graphs and options.lm_weight:
            lm = open_scorer(bundle, "lm", device)
        return StandAloneSearch(
            parse(StandAloneConfig, options.beam_search_config, "beam_search_config"),
            GraphNetworks(*(Session(bundle, role, device) for role in roles)),
            self._described,
            options.beam_size,
            self.converter.token_list,
            lm,
            options.lm_weight,
            options.nbest,
        )

    def __call__(  # type: ignore[override]  # ESPnet's gives the hypotheses alone
        self, speech: np.ndarray
    ) -> list[Hypothesis] | NBest[Recognized]:
        """Recognize one utterance.

        Args:
            speech: (samples,) or (samples, channels) in the model's sampling rate, or
                features (frames, dim) where the model has no frontend.

        Returns:
            Up to ``nbest`` hypotheses, best first, which begin with the blank; with
            ``return_decoded_hyp`` what :meth:`hypotheses_to_results` makes of them.

        Raises:
            TooShortUttError: where ESPnet raises it.
        """
        results = self.recognize(speech)
        if self._options.return_decoded_hyp:
            return results
        return [result.hypothesis for result in results]

    def recognize(self, speech: np.ndarray, **others: Any) -> NBest[Recognized]:
        """Hypotheses of one utterance with their texts and tokens."""
        return self.batch([self.prepare(speech)])[0]

    def hypotheses_to_results(
        self, nbest_hyps: Iterable[Hypothesis]
    ) -> NBest[Recognized]:
        """Texts and tokens of hypotheses, with the name of ESPnet's method."""
        return NBest(
            Recognized.of(self.converter, [i for i in h.yseq if i != 0], h)
            for h in nbest_hyps
        )

    def _results(self, stages: Sequence[Stage]) -> list[NBest[Recognized]]:
        [stage] = stages
        return [self.hypotheses_to_results(found) for found in stage.hypotheses]

    def placeholder(self) -> NBest[Recognized]:
        """The results of an utterance that is too short for the encoder."""
        return NBest([PLACEHOLDER] * self.nbest)
