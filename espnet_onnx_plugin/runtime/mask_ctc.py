"""Mask-CTC (Higuchi et al. 2020): ESPnet's ``MaskCTCInference`` to the token.

The greedy result of the CTC, in which tokens of low probability are masked, is filled
by a decoder of whole sequences in a few passes, the surest tokens first.
"""

import logging
import time
from itertools import groupby
from typing import Any, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import MaskCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded, pad, to_numpy
from espnet_onnx_plugin.runtime.core.session import Session, Value
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel, Stage
from espnet_onnx_plugin.runtime.recognition.options import MaskCTCOptions
from espnet_onnx_plugin.runtime.search.scorers import Primers
from espnet_onnx_plugin.runtime.search.utterance import Hypothesis

logger = logging.getLogger(__name__)


def greedy(log_probs: np.ndarray, blank: int) -> Tuple[np.ndarray, np.ndarray]:
    """The CTC's greedy result.

    Args:
        log_probs: (frames, vocabulary).

    Returns:
        Tokens (tokens,), and of each the largest probability of its frames.
    """
    probabilities = np.exp(log_probs)
    best = probabilities.argmax(axis=-1)
    highest = np.take_along_axis(probabilities, best[:, None], axis=-1)[:, 0]
    tokens, confidences = [], []
    for token, frames in groupby(range(len(best)), key=best.__getitem__):
        if token != blank:
            tokens.append(token)
            confidences.append(max(highest[i] for i in frames))
    return np.array(tokens, np.int64), np.array(confidences, np.float64)


class _Filling:
    """A sequence with masks, and how many of them a pass fills.

    Attributes:
        tokens: (tokens,) int64.
        passes: how many passes are left.
    """

    def __init__(self, tokens: np.ndarray, unsure: np.ndarray, mask: int, most: int):
        self.tokens = np.where(unsure, mask, tokens)
        self._mask = mask
        count = int(unsure.sum())
        self.passes = min(count, most) if most > 0 else count
        self._each = count // max(self.passes, 1)

    def fill(self, scores: np.ndarray) -> None:
        """Take the surest tokens, in the last pass all, of scores (tokens, V)."""
        self.passes -= 1
        masks = np.flatnonzero(self.tokens == self._mask)
        best = scores[masks].argmax(axis=-1)
        if self.passes:
            highest = scores[masks, best]
            surest = np.argsort(-highest, kind="stable")[: self._each]
            masks, best = masks[surest], best[surest]
        self.tokens[masks] = best


class MaskCTCSearch:
    """Mask-CTC on a batch of utterances.

    Args:
        bundle: with the graph of a mask decoder.
        device: where it runs.
        options: how many passes and what is masked.
        token_list: for the log.
    """

    def __init__(
        self,
        bundle: Bundle,
        device: Device,
        options: MaskCTCOptions,
        token_list: Sequence[str],
    ):
        self._decoder = Session(bundle, "mask_decoder", device)
        self._memory = Session(bundle, "mask_decoder_memory", device)
        self._ids = bundle.manifest.search
        self._options = options
        self._token_list = token_list
        #: What scores tokens, by role.
        self.scorers = {"mask_decoder": self}
        #: Seconds that the newest call spent, by part.
        self.seconds: Dict[str, float] = {}

    def __call__(self, encoded: Encoded) -> List[List[Hypothesis]]:
        """Find the token sequence of each utterance, in a list of one.

        As ESPnet's, a result has the mask's id in the place of start and end symbol,
        and no score.
        """
        start = time.perf_counter()
        fillings = [self._masked(encoded, i) for i in range(encoded.utterances)]
        masked = time.perf_counter()
        if self._decoder.graph.batches and self._memory.graph.batches:
            self._fill(encoded, fillings)
        else:
            for i, filling in enumerate(fillings):
                self._fill(encoded.select([i]), [filling])
        self.seconds = dict(ctc=masked - start, decoder=time.perf_counter() - masked)
        mask = self._ids.mask
        return [[Hypothesis([mask, *f.tokens.tolist(), mask], 0)] for f in fillings]

    def _masked(self, encoded: Encoded, utterance: int) -> _Filling:
        frames = encoded.lengths[utterance]
        log_probs = to_numpy(encoded["ctc_log_probs"])[utterance, :frames]
        tokens, confidences = greedy(log_probs, self._ids.blank)
        unsure = confidences < self._options.maskctc_threshold_probability
        self._log("ctc", tokens)
        filling = _Filling(
            tokens, unsure, self._ids.mask, self._options.maskctc_n_iterations
        )
        self._log("msk", filling.tokens)
        return filling

    def _fill(self, encoded: Encoded, fillings: Sequence[_Filling]) -> None:
        """Fill every mask; utterances without any more leave the batch."""
        left = [i for i, filling in enumerate(fillings) if filling.passes]
        if not left:
            return
        fillings = [fillings[i] for i in left]
        encoded = encoded.select(left)
        memory = self.project(encoded)
        while fillings:
            scores = self.score([filling.tokens for filling in fillings], memory)
            for filling, rows in zip(fillings, scores):
                filling.fill(rows[: len(filling.tokens)])
                self._log("msk", filling.tokens)
            left = [i for i, filling in enumerate(fillings) if filling.passes]
            if len(left) < len(fillings):
                fillings = [fillings[i] for i in left]
                memory = {name: to_numpy(v)[left] for name, v in memory.items()}

    def project(self, encoded: Encoded) -> Mapping[str, Value]:
        """What :meth:`score` reads of the encoder's output, by name."""
        inputs = {name: encoded[name] for name in self._memory.graph.inputs}
        return self._memory.run(inputs, fetch=())

    def score(
        self, sequences: Sequence[np.ndarray], memory: Mapping[str, Value]
    ) -> np.ndarray:
        """Scores (utterances, tokens, vocabulary) for a sequence of each utterance."""
        lengths = np.array([len(tokens) for tokens in sequences])
        feeds = {"tokens": pad(sequences), "tokens_lens": lengths, **memory}
        return self._decoder.run(feeds, ["scores"])["scores"]

    def along(self, encoded: Encoded, tokens: Sequence[int]) -> np.ndarray:
        """Scores of each token of a sequence, as :meth:`.FullScorer.along`."""
        return self.score([np.array(tokens)], self.project(encoded))[0]

    def _log(self, what: str, tokens: np.ndarray) -> None:
        """The lines that ESPnet logs of a sequence."""
        text = "".join(self._token_list[i] for i in tokens)
        text = text.replace("<mask>", "_").replace("<space>", " ")
        logger.info("%s:%s", what, text)


class Speech2Text(SpeechModel):
    """Recognize speech; ``espnet2.bin.asr_inference_maskctc.Speech2Text``.

    As :class:`.model.SpeechModel`, with the options of
    :class:`MaskCTCOptions`.
    """

    task = "asr"
    options_class: Any = MaskCTCOptions

    def _build_search(self) -> MaskCTCSearch:
        if not isinstance(self.bundle.manifest.search, MaskCTC):
            raise PluginError(
                f"{self.bundle.path} is no Mask-CTC model: use asr_inference"
            )
        tokens = self.converter.token_list
        return MaskCTCSearch(self.bundle, self.device, self._options, tokens)

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        return {}

    def stages(
        self, encoded: Encoded, primers: Optional[Primers] = None
    ) -> Iterator[Stage]:
        """See :class:`.model.SpeechModel`."""
        roles = {role: role for role in self.search.scorers}
        found = self.search(encoded)
        yield Stage({"encoder": encoded}, roles, self.search, encoded, found)

    def _interctc(self, encoded: Encoded, utterance: int) -> Dict[int, List[str]]:
        """None: ESPnet's Mask-CTC leaves them out."""
        return {}
