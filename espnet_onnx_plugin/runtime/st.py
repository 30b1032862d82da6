"""Speech translation with a bundle: the counterpart of ``espnet2.bin.st_inference``.

A multi-decoder model recognizes first, in a search of its own. What the recognizing
decoder knew of each token of the best transcript is encoded, and the translating
decoder reads that, besides the speech or in its place.
"""

import dataclasses
import time
from collections import Counter
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded, Encoder, pad
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.options import StOptions as DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import PLACEHOLDER, Lines, Result
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.generate import NOT_ASKED_FOR
from espnet_onnx_plugin.runtime.search.greedy import GreedySearch
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, Primers
from espnet_onnx_plugin.runtime.search.utterance import Hypothesis

#: Begins the names of encoder outputs that recognition reads.
SRC = "asr_"

MD_ENCODER = "md_encoder"

#: Roles of the graphs of recognition by what they are to its search.
_SRC_ROLES = {"decoder": "extra_asr_decoder", "lm": "src_lm"}

#: As a translation's, with the decoder's hidden states (tokens, dim).
Recognition = Tuple[Optional[str], List[str], List[int], Hypothesis, np.ndarray]
Results = Union[List[Result], Tuple[List[Result], List[Recognition]]]


def recognizing_side(bundle: Bundle) -> Bundle:
    """A multi-decoder model's bundle as the one of its recognition."""
    manifest = bundle.manifest
    graphs = {"encoder": manifest.graphs["encoder"]}
    for role, name in _SRC_ROLES.items():
        for suffix in ("", "_memory"):
            if name + suffix in manifest.graphs:
                graphs[role + suffix] = manifest.graphs[name + suffix]
    manifest = dataclasses.replace(
        manifest,
        graphs=graphs,
        text=manifest.src_text,
        ngram=manifest.src_ngram,
        search=manifest.search.recognition,
    )
    return Bundle(bundle.path, manifest)


class MultiDecoderEncoder:
    """The graph that encodes the hidden states of recognition.

    Args:
        bundle: where it lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self._session = Session(bundle, MD_ENCODER, device)
        #: Seconds that the newest call spent.
        self.seconds = 0.0

    def __call__(self, hidden: Sequence[np.ndarray]) -> Encoded:
        """Encode the hidden states (tokens, dim) of each utterance."""
        start = time.perf_counter()
        if self._session.graph.batches:
            encoded = self.encode_together(hidden)
        else:
            encoded = Encoded.stack([self.encode_together([one]) for one in hidden])
        self.seconds = time.perf_counter() - start
        return encoded

    def encode_together(self, hidden: Sequence[np.ndarray]) -> Encoded:
        """Encode a batch in one call, whatever the manifest says of batches."""
        lengths = np.array([len(one) for one in hidden])
        feeds = {"hidden": pad(hidden), "hidden_lens": lengths}
        return Encoded(self._session.run(feeds, self._session.graph.outputs))


class _Translation(SpeechModel):
    """What the searches of both languages have in common."""

    task = "st"

    def _pre_beam(self, scorers: Mapping[str, FullScorer]) -> bool:
        # ESPnet's keeps the tokens that all full scorers together like best, whatever
        # the weight of the CTC. Where it has none, they all tie and it keeps any; here
        # the CTC scores them all.
        return any(name != "length_bonus" for name in scorers)


class Recognizer(_Translation):
    """The first search of a multi-decoder model.

    Args:
        bundle: what :func:`recognizing_side` gave.
        encoder: of the model.
        arguments: as of :class:`.model.SpeechModel`.
    """

    return_hs = True

    def __init__(self, bundle: Bundle, encoder: Encoder, *args: Any, **options: Any):
        self._shared_encoder = encoder
        super().__init__(bundle, *args, **options)
        if "decoder" not in self.search.scorers:
            raise PluginError(
                "asr_ctc_weight 1.0 leaves out the ASR sub-decoder, whose hidden "
                "states translation reads; set it below 1"
            )

    def _open_encoder(self) -> Encoder:
        return self._shared_encoder

    @property
    def _has_ctc(self) -> bool:
        return True

    def stage(self, encoded: Encoded) -> Stage:
        """Search over the outputs of the model's encoder."""
        own = {k[len(SRC) :]: v for k, v in encoded.items() if k.startswith(SRC)}
        source = Encoded({**encoded, **own})
        hypotheses = self.search(source)
        if not all(hypotheses):
            raise PluginError(
                "recognition found no transcript: asr_minlenratio asks for more tokens "
                "than the utterance has frames"
            )
        made = {"encoder": encoded}
        return Stage(made, _SRC_ROLES, self.search, source, hypotheses)

    def recognition(self, hypothesis: Hypothesis) -> Recognition:
        """A hypothesis as ESPnet returns it."""
        search = self.bundle.manifest.search
        left_out = {search.blank, search.sos, search.eos}
        token_int = [i for i in hypothesis.yseq if i not in left_out]
        token = self.converter.ids2tokens(token_int)
        text = self.converter.tokens2text(token)
        return text, token, token_int, hypothesis, np.stack(hypothesis.hs)


class Speech2Text(_Translation):
    """Translate speech; a drop-in for the class of that name in ESPnet's
    ``st_inference``.

    Args and errors are those of
    :class:`.model.SpeechModel`, with the options of
    :class:`DecodeOptions`.

    Examples:
        >>> speech2text = Speech2Text("exp/st_train/onnx/int8", beam_size=10)
        >>> speech2text(speech)
        [(text, token, token_int, hypothesis), ...]

        A multi-decoder model also gives what it recognized, all hypotheses:

        >>> results, recognized = speech2text(speech)
        >>> recognized
        [(text, token, token_int, hypothesis, hidden_states), ...]
    """

    options_class = DecodeOptions

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._recognizer: Optional[Recognizer] = None
        if MD_ENCODER in self.bundle.manifest.graphs:
            self._recognizer = self._build_recognizer()
            self._md_encoder = MultiDecoderEncoder(self.bundle, self.device)

    def _build_recognizer(self) -> Recognizer:
        device = dict(vars(self.device))
        provider, threads = device.pop("provider"), device.pop("threads")
        side = recognizing_side(self.bundle)
        options = self._options.recognition
        try:
            return Recognizer(side, self._encoder, provider, threads, device, **options)
        except PluginError as e:
            raise PluginError(f"recognition (options asr_*): {e}")

    def _build_search(self) -> Union[BeamSearch, GreedySearch]:
        if not self._options.ctc_greedy:
            hub = self.bundle.manifest.search.hugging_face_decoder
            if hub and not self._options.hugging_face_decoder:
                raise PluginError(NOT_ASKED_FOR)
            return super()._build_search()
        if not self._has_ctc:
            raise PluginError("the model has no CTC: set ctc_greedy to false")
        return GreedySearch(self.bundle.manifest.search)

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        options = SpeechModel.check_options(bundle, beam_size)
        if bundle.manifest.search.hugging_face_decoder:
            options["hugging_face_decoder"] = True
        if MD_ENCODER in bundle.manifest.graphs:
            side = recognizing_side(bundle)
            source = SpeechModel.check_options(side, beam_size)
            source["ctc_weight"] = 0.3
            options.update((f"asr_{name}", value) for name, value in source.items())
        return options

    def stages(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> Iterator[Stage]:
        """Run the searches of a call, in order; ``primers`` are none of them's."""
        read = Encoded({k: v for k, v in encoded.items() if not k.startswith(SRC)})
        made = {"encoder": encoded}
        if self._recognizer is not None:
            stage = self._recognizer.stage(encoded)
            yield stage
            best = [np.stack(ended[0].hs) for ended in stage.hypotheses]
            made = {MD_ENCODER: self._md_encoder(best)}
            read.update(made[MD_ENCODER])
        roles = {"decoder": "decoder", "lm": "lm"}
        # Greedy search goes by the speech encoder's CTC, whatever the decoder reads.
        read = encoded if self._options.ctc_greedy else read
        yield Stage(made, roles, self.search, read, self.search(read))

    def _recognize(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> List[Results]:
        *recognized, stage = self.stages(encoded)
        results: List[Results] = [self._nbest(ended) for ended in stage.hypotheses]
        if self._recognizer is None:
            return results
        recognition = self._recognizer.recognition
        [stage] = recognized
        return [
            (translations, [recognition(hypothesis) for hypothesis in ended])
            for translations, ended in zip(results, stage.hypotheses)
        ]

    def _seconds(self) -> Dict[str, float]:
        seconds = Counter(self._encoder.seconds)
        seconds.update(self.search.seconds)
        if self._recognizer is not None:
            seconds.update(self._recognizer.search.seconds)
            seconds["encoder"] += self._md_encoder.seconds
        return dict(seconds)

    def placeholder(self) -> Results:
        """See :class:`.model.SpeechModel`.

        ESPnet has no recognition of such an utterance, and writes that of the one
        before it.
        """
        results = super().placeholder()
        if self._recognizer is None:
            return results
        return results, [(*PLACEHOLDER, np.zeros((0, 0), np.float32))]

    def files(self, results: Results) -> Dict[str, Lines]:
        """See :class:`.model.SpeechModel`."""
        results, recognized = results if isinstance(results, tuple) else (results, [])
        files = super().files(results)
        for n, (*result, _) in enumerate(recognized[: self._options.asr_nbest], 1):
            for name, line in self.lines(tuple(result)).items():
                files[f"{n}asr_best_recog/asr_{name}"] = line
        return files
