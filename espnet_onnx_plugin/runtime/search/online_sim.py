"""Simulated streaming: ESPnet's ``BatchBeamSearchOnlineSim``, which ``asr_inference``
takes with ``streaming: true``.

The encoder has read the whole utterance; the search goes through its output as
:mod:`.online` does, block by block, with rules of its own.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import numpy as np

from espnet_onnx_plugin.bundle.search import Blocks
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.values import to_numpy
from espnet_onnx_plugin.runtime.search.beam import again, ranked
from espnet_onnx_plugin.runtime.search.blocks import BlockSearch, Steps
from espnet_onnx_plugin.runtime.search.ctc_prefix import CTCPrefixScorer
from espnet_onnx_plugin.runtime.search.protocol import Hypothesis, Primers
from espnet_onnx_plugin.runtime.search.scorers import FullScorer
from espnet_onnx_plugin.runtime.search.stepper import Running, Searching, Stepper
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig, Expander

logger = logging.getLogger(__name__)


class SimulatedOnlineSearch:
    """Block-synchronous search over a batch of whole utterances.

    Args:
        config: settings of the search.
        scorers: full scorers by name, in ESPnet's order; those of weight 0 are not
            asked.
        blocks: of the encoder; without any, an utterance is one block.
    """

    def __init__(
        self,
        config: BeamSearchConfig,
        scorers: Mapping[str, FullScorer],
        blocks: Blocks,
    ):
        self._config = config
        self._blocks = blocks
        #: The scorers that are asked, by name.
        self.scorers = {k: s for k, s in scorers.items() if config.weights.get(k)}
        self._use_ctc = bool(config.weights.get("ctc"))
        #: Seconds that the newest call spent, by scorer.
        self.seconds: dict[str, float] = {}

    def __call__(
        self, encoded: Encoded, primers: Primers | None = None
    ) -> list[list[Hypothesis]]:
        """Find the best token sequences of each utterance; see ``BeamSearch``."""
        config = self._config
        if primers is None:
            primers = [config.primer or (config.sos,)] * encoded.utterances
        stepper = Stepper(self.scorers)
        self.seconds = stepper.seconds
        searches = [
            partial(self._utterance, encoded.select([i]), primer)
            for i, primer in enumerate(primers)
        ]
        results = stepper.run([search(config.minlenratio) for search in searches])
        for i, (search, ended) in enumerate(zip(searches, results)):
            alone = partial(_alone, stepper, search)
            results[i] = ranked(config, ended or again(alone, config.minlenratio))
        return results

    def _utterance(
        self, encoded: Encoded, primer: Sequence[int], minlenratio: float
    ) -> Searching[list[Hypothesis]]:
        """Search through one utterance: all hypotheses that ended."""
        blocks = self._blocks
        frames = int(encoded.lengths[0])
        steps = Steps.of(self._config, frames, minlenratio, len(primer))
        logger.info("decoder input length: %d", frames)
        logger.info("max output length: %d", steps.maxlen)
        logger.info("min output length: %d", steps.minlen)
        end = blocks.block_size - blocks.look_ahead if blocks.hop_size else frames
        search: BlockSearch | None = None
        while search is None or not search.finished:
            size = min(end, frames)
            expander = self._expander(encoded, size)
            first = expander.start(primer, self.scorers)
            search = search or BlockSearch(Running(first))
            out = to_numpy(encoded["encoder_out"])[:, :size]
            part = Encoded(encoder_out=out, encoder_out_lens=np.array([size]))
            search = yield from search.lengthened(expander.ctc, first).through(
                part, end >= frames, expander, steps
            )
            self.seconds["ctc"] += expander.ctc_seconds
            if not search.finished:
                # ESPnet goes to the end where no whole block would be left behind.
                left = end + blocks.hop_size + blocks.look_ahead < frames
                end = end + blocks.hop_size if left else frames
                search = search.rewound()
        return list(search.ended)

    def _expander(self, encoded: Encoded, frames: int) -> Expander:
        """The expander of hypotheses on the first frames."""
        config, ctc = self._config, None
        start = time.perf_counter()
        if self._use_ctc:
            ctc = CTCPrefixScorer(
                encoded.of(0, "ctc_log_probs")[:frames],
                config.blank,
                config.eos,
                config.ctc_window_margin,
            )
        self.seconds["ctc"] += time.perf_counter() - start
        return Expander(config, ctc)


def _alone(
    stepper: Stepper,
    search: Callable[[float], Searching[list[Hypothesis]]],
    minlenratio: float,
) -> list[list[Hypothesis]]:
    return stepper.run([search(minlenratio)])
