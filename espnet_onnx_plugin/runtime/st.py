"""Speech translation with a bundle: the counterpart of ``espnet2.bin.st_inference``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import LabelSynchronous, Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.multi_decoder import (
    MD_ENCODER,
    SRC,
    MultiDecoderEncoder,
    Recognizer,
    pre_beams,
    recognizing_side,
)
from espnet_onnx_plugin.runtime.recognition.options import StOptions
from espnet_onnx_plugin.runtime.recognition.results import (
    PLACEHOLDER,
    Lines,
    NBest,
    Recognized,
    SourceTranscript,
    Translated,
    recognized,
)
from espnet_onnx_plugin.runtime.recognition.transducers import build_transducer
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.generate import NOT_ASKED_FOR
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.protocol import Primers, Search

Results = NBest[Recognized] | Translated


class Speech2Text(SpeechModel[StOptions, LabelSynchronous | Transducer, Results]):
    """Translate speech; a drop-in for the class of that name in ESPnet's
    ``st_inference``.

    Args:
        model_dir, provider, threads, session: see :class:`.engine.SpeechModel`.
        options: ESPnet's decoding options, see :class:`StOptions`.

    Examples:
        >>> speech2text = Speech2Text("exp/st_train/onnx/int8", beam_size=10)
        >>> speech2text(speech)
        [(text, token, token_int, hypothesis), ...]

        A multi-decoder model also gives its transcripts, all hypotheses:

        >>> translations, transcripts = speech2text(speech)
        >>> transcripts
        [(text, token, token_int, hypothesis, hidden_states), ...]
    """

    task = "st"
    kind = (LabelSynchronous, Transducer)
    options_class = StOptions

    def _open(self) -> None:
        super()._open()
        self._recognizer: Recognizer | None = None
        if MD_ENCODER in self.bundle.manifest.graphs:
            given = self._options.recognition
            try:
                self._recognizer = Recognizer(self.bundle, self.device, given)
            except PluginError as e:
                raise PluginError(f"recognition (options asr_*): {e}")
            self._md_encoder = MultiDecoderEncoder(self.bundle, self.device)

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> dict[str, Any]:
        """Decoding options for a check, such that every graph of a bundle is used."""
        options = SpeechModel.check_options(bundle, beam_size)
        search = bundle.manifest.search
        if isinstance(search, LabelSynchronous) and search.hugging_face_decoder:
            options["hugging_face_decoder"] = True
        if MD_ENCODER in bundle.manifest.graphs:
            side = recognizing_side(bundle)
            source = SpeechModel.check_options(side, beam_size)
            source["ctc_weight"] = 0.3
            options.update((f"asr_{name}", value) for name, value in source.items())
        return options

    def _build_search(self) -> Search:
        options, described = self._options, self._described
        if options.ctc_greedy:
            if not self._has_ctc:
                raise PluginError("the model has no CTC: set ctc_greedy to false")
            return GreedySearch(described)
        if isinstance(described, Transducer):
            tokens = self.converter.token_list
            return build_transducer(
                self.bundle, self.device, described, options, tokens
            )
        if described.hugging_face_decoder and not options.hugging_face_decoder:
            raise PluginError(NOT_ASKED_FOR)
        builder = self._builder(described, options)
        scorers = builder.scorers(replays=True)
        return builder.build(BeamSearch, scorers, pre_beam=pre_beams(scorers))

    def stages(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> Iterator[Stage]:
        """Run the searches of a call, in order; primers are ignored."""
        read = Encoded({k: v for k, v in encoded.items() if not k.startswith(SRC)})
        made, seconds = {"encoder": encoded}, {}
        if self._recognizer is not None:
            stage = self._recognizer.stage(encoded)
            yield stage
            best = [np.stack(ended[0].hs) for ended in stage.hypotheses]
            made = {MD_ENCODER: self._md_encoder(best)}
            seconds = {"encoder": self._md_encoder.seconds}
            read.update(made[MD_ENCODER])
        # Greedy search goes by the speech encoder's CTC, whatever the decoder reads.
        read = encoded if self._options.ctc_greedy else read
        [stage] = super().stages(read)
        yield stage._replace(made=made, seconds={**seconds, **stage.seconds})

    def _results(self, stages: Sequence[Stage]) -> list[Results]:
        *before, stage = stages
        # With ctc_greedy too, a transducer's tokens keep the end symbol, as in ESPnet.
        ended = not isinstance(self._described, Transducer)
        translations = [
            recognized(self.converter, hypotheses[: self.nbest], ended)
            for hypotheses in stage.hypotheses
        ]
        if self._recognizer is None:
            return [*translations]
        transcript, [stage] = self._recognizer.transcript, before
        return [
            Translated(best, [transcript(hypothesis) for hypothesis in hypotheses])
            for best, hypotheses in zip(translations, stage.hypotheses)
        ]

    def placeholder(self) -> Results:
        """The results of an utterance that is too short for the encoder.

        ESPnet has no transcript of such an utterance, and writes that of the one
        before it.
        """
        nbest = NBest([PLACEHOLDER] * self.nbest)
        if self._recognizer is None:
            return nbest
        nothing = np.zeros((0, 0), np.float32)
        return Translated(nbest, [SourceTranscript(*PLACEHOLDER, nothing)])

    def files(self, results: Results) -> dict[str, Lines]:
        """Lines for ESPnet's files, by the file's path."""
        if isinstance(results, Translated):
            written = results.transcripts[: self._options.asr_nbest]
            results = results._replace(transcripts=written)
        return results.files()
