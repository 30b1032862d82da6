"""Speech to text with a bundle: the counterpart of ``espnet2.bin.asr_inference``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import LabelSynchronous, Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Utterance
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.enhancement.enhancer import Enhancer
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.options import AsrOptions
from espnet_onnx_plugin.runtime.recognition.prompts import whisper_primer
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    NBest,
    OfSpeakers,
    Recognized,
    WithIntermediate,
    recognized,
    timed,
    with_intermediate,
)
from espnet_onnx_plugin.runtime.recognition.transducers import build_transducer
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.generate import (
    NOT_ASKED_FOR,
    GenerateConfig,
    HubSearch,
)
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.online_sim import SimulatedOnlineSearch
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Search
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.time_sync import TimeSyncSearch, check_time_sync
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig

logger = logging.getLogger(__name__)

Results = NBest[Recognized] | WithIntermediate | OfSpeakers


class Speech2Text(SpeechModel[AsrOptions, LabelSynchronous | Transducer, Results]):
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`AsrOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", beam_size=10)
        >>> speech2text(speech)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr"
    joint_task: str | None = "enh_asr"
    kind = (LabelSynchronous, Transducer)
    other_kind = (
        "is a Mask-CTC model, which has no beam search: use asr_inference_maskctc"
    )
    options_class: type[AsrOptions] = AsrOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        search = bundle.manifest.search
        if isinstance(search, LabelSynchronous) and search.generate is not None:
            conf = dict(max_new_tokens=20, do_sample=False)
            return dict(hugging_face_decoder=True, hugging_face_decoder_conf=conf)
        checked = SpeechModel.check_options(bundle, beam_size)
        manifest = bundle.manifest
        by_encoder = manifest.speakers is not None and manifest.enhancement is None
        return {**checked, "multi_asr": by_encoder}

    @property
    def of_speakers(self) -> bool:
        """Whether results of each speaker are asked for."""
        return self._options.multi_asr or self._options.enh_s2t_task

    def _open(self) -> None:
        super()._open()
        self._enhancer: Enhancer | None = None
        if self._options.enh_s2t_task:
            self._enhancer = Enhancer(self.bundle, self.device)

    def prepare(self, speech: np.ndarray) -> Utterance:
        """Make the graphs' input of an utterance, see :meth:`.SpeechModel.prepare`."""
        speech = self._checked(speech)
        return speech if self._enhancer is None else self._enhancer.check(speech)

    def enhance(self, utterances: Sequence[Utterance]) -> Sequence[Utterance]:
        """Speech of each speaker, as ``encode`` of ESPnet's ``ESPnetEnhS2TModel``.

        Unlike :class:`~.enh.SeparateSpeech` that leaves the variance as it is.
        """
        if self._enhancer is None:
            return utterances
        mixtures = [one for one in utterances if isinstance(one, np.ndarray)]
        return [wave for mixture in mixtures for wave in self._enhancer(mixture)]

    def _build_search(self) -> Search:
        options, described = self._options, self._described
        if isinstance(described, Transducer):
            tokens = self.converter.token_list
            return build_transducer(
                self.bundle, self.device, described, options, tokens
            )
        if described.generate is not None:
            if options.hugging_face_decoder:
                config = GenerateConfig(**vars(described.generate))
                config = config.overridden(options.hugging_face_decoder_conf)
                logger.info("HubSearch implementation is selected.")
                return HubSearch(
                    config, open_scorer(self.bundle, "decoder", self.device)
                )
            if options.weights["decoder"] or options.time_sync:
                raise PluginError(NOT_ASKED_FOR)
        if options.time_sync:
            check_time_sync(described, self._has_ctc)
        builder = self._builder(described, options)
        margin = options.ctc_window_margin
        if margin is None:
            margin = conventions(self.bundle.manifest.espnet).ctc_window_margin
        scorers = builder.scorers(replays=not (options.time_sync or options.streaming))
        return builder.build(
            self._kind_of_search(scorers, described),
            scorers,
            pre_beam=options.ctc_weight != 1.0,
            primer=self._primer(described),
            ctc_window_margin=margin,
        )

    def _kind_of_search(
        self, scorers: Collection[str], described: LabelSynchronous
    ) -> Callable[[BeamSearchConfig, Mapping[str, FullScorer]], Search]:
        """The class of the search that the options ask for, with its own arguments."""
        if self._options.time_sync:
            return TimeSyncSearch
        # As in ESPnet, scorers of single hypotheses are not for streaming.
        if not self._options.streaming or set(scorers).intersection(described.single):
            return BeamSearch
        if described.blocks is None:
            raise PluginError(
                f"{self.bundle.path} does not tell the blocks of its encoder, which "
                "streaming goes by: export the bundle again, or set streaming to false"
            )
        return partial(SimulatedOnlineSearch, blocks=described.blocks)

    def _primer(self, described: LabelSynchronous) -> Sequence[int] | None:
        """Tokens that hypotheses begin with; None: the start symbol."""
        options, primer = self._options, described.primer
        if primer is None or self.converter.hub is None:
            return primer
        return whisper_primer(
            primer,
            self.converter.hub,
            options.lang_prompt_token,
            options.nlp_prompt_token,
            options.lid_prompt,
        )

    def _results(self, stages: Sequence[Stage]) -> list[Results]:
        [stage] = stages
        found = [
            self._found(stage, i, hypotheses[: self.nbest])
            for i, hypotheses in enumerate(stage.hypotheses)
        ]
        speakers = self.bundle.manifest.speakers
        if speakers is None:
            return [*found]
        firsts = range(0, len(found), speakers)
        return [OfSpeakers(found[first : first + speakers]) for first in firsts]

    def _found(
        self, stage: Stage, utterance: int, hypotheses: Sequence[Hypothesis]
    ) -> NBest[Recognized] | WithIntermediate:
        """Results of the hypotheses for an utterance, or for one of its speakers."""
        encoded, described = stage.encoded, self._described
        ended = not isinstance(described, Transducer)
        nbest = recognized(self.converter, hypotheses, ended)
        if self._options.ctm:
            manifest = self.bundle.manifest
            nbest = NBest(
                timed(result, encoded, utterance, manifest, described.blank)
                for result in nbest
            )
        if self._options.enh_s2t_task:
            return nbest  # ESPnet leaves out what intermediate CTCs give
        return with_intermediate(nbest, encoded, utterance, described, self.converter)

    def placeholder(self) -> Results:
        """The results of an utterance that is too short for the encoder."""
        nbest = NBest([PLACEHOLDER] * self.nbest)
        speakers = self.bundle.manifest.speakers
        return nbest if speakers is None else OfSpeakers([nbest] * speakers)
