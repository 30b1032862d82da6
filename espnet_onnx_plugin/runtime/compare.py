"""How far a rewritten bundle is from the one it was made from, on the same audio."""

import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.data import Source, usable
from espnet_onnx_plugin.runtime.encoder import Encoded, to_numpy
from espnet_onnx_plugin.runtime.scorers import FullScorer, graph_scorer
from espnet_onnx_plugin.runtime.session import Session
from espnet_onnx_plugin.runtime.text import TokenConverter

logger = logging.getLogger(__name__)

BEAM_SIZE = 5


@dataclass(frozen=True)
class Comparison:
    """Figures of a comparison.

    Attributes:
        utterances: how many were compared.
        audio: ``real`` or ``noise`` (where no audio was given).
        identical: of these, how many got the same tokens.
        differences: by component, the largest difference of an output relative to its
            scale.
    """

    utterances: int
    audio: str
    identical: int
    differences: Dict[str, float]

    def as_dict(self) -> Dict[str, Any]:
        """For the manifest."""
        differences = {
            name: float(np.format_float_scientific(value, 2))
            for name, value in self.differences.items()
        }
        return {**vars(self), "differences": differences}


def noise(speech: Speech) -> Iterator[Tuple[str, np.ndarray]]:
    """Utterances for a check without audio, by what they are called."""
    random = np.random.default_rng(0)
    for factor in (3, 7, 20):
        shape = [speech.min_length * factor]
        shape += [speech.feature_dim] if speech.feature_dim else []
        yield f"noise {shape}", random.standard_normal(shape) * 0.1


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference relative to the reference's largest magnitude.

    Infinite where the shapes differ or a value is not a number.
    """
    if ours.shape != reference.shape:
        return float("inf")
    if reference.size == 0:
        return 0.0
    scale = max(float(np.abs(reference).max()), 1e-20)
    worst = float(np.abs(ours - reference).max()) / scale
    return worst if np.isfinite(worst) else float("inf")


def search_options(bundle: Bundle) -> Dict[str, Any]:
    """Decoding options for a check, such that every graph of the bundle is used."""
    graphs = bundle.manifest.graphs
    ctc_weight = 0.3
    if "decoder" not in graphs:
        ctc_weight = 1.0
    elif "ctc_log_probs" not in graphs["encoder"].outputs:
        ctc_weight = 0.0
    return dict(
        beam_size=min(BEAM_SIZE, len(TokenConverter(bundle).token_list)),
        ctc_weight=ctc_weight,
        lm_weight=0.3,
        ngram_weight=0.0,
        multi_asr=bundle.manifest.speakers is not None,
    )


class _Side:
    """One of the two bundles, opened for search and for single graphs."""

    def __init__(self, bundle: Bundle):
        graphs = bundle.manifest.graphs
        self.speech2text = Speech2Text(bundle, **search_options(bundle))
        device = self.speech2text.device
        self.scorers: Dict[str, FullScorer] = {}
        for role in ("decoder", "lm"):
            if role in graphs:
                memory = None
                if f"{role}_memory" in graphs:
                    memory = Session(bundle, f"{role}_memory", device)
                self.scorers[role] = graph_scorer(Session(bundle, role, device), memory)

    def forced(self, role: str, encoded: Encoded, tokens: List[int]) -> np.ndarray:
        """Scores along a given token sequence, (tokens, vocabulary)."""
        scorer = self.scorers[role]
        state = scorer.start(encoded)
        parents = np.zeros((1, 1), np.int64)
        rows = []
        for token in tokens:
            scores, state = scorer.score(np.array([[token]]), parents, state)
            rows.append(scores[0, 0])
        return np.stack(rows)


def compare(reference: Bundle, other: Bundle, source: Optional[Source]) -> Comparison:
    """Run two bundles on the same audio, on the CPU.

    Args:
        reference: the bundle that counts as right.
        other: with the same graphs.
        source: audio; noise stands in where it is None.
    """
    left, right = _Side(reference), _Side(other)
    speech = reference.manifest.speech
    count = identical = 0
    differences: Dict[str, float] = {}

    def note(component: str, ours: np.ndarray, expected: np.ndarray) -> None:
        figure = difference(ours, expected)
        differences[component] = max(differences.get(component, 0.0), figure)

    for key, audio in noise(speech) if source is None else usable(source, speech):
        logger.info("comparing on %s", key)
        prepared = [left.speech2text.prepare(audio)]
        encoded = left.speech2text.encode(prepared)
        encoded_right = right.speech2text.encode(prepared)
        for name, value in encoded.items():
            if name != "encoder_out_lens":
                note("encoder", to_numpy(encoded_right[name]), to_numpy(value))
        found = left.speech2text.search(encoded)
        for i, best in enumerate(found):  # one, or one for each speaker
            tokens = best[0].yseq[:-1] if best else [reference.manifest.search["sos"]]
            row = encoded.select([i])
            for role in left.scorers:
                # Both get the reference's encoder output: each component on its own.
                note(
                    role,
                    right.forced(role, row, tokens),
                    left.forced(role, row, tokens),
                )
        count += 1
        found_right = right.speech2text.search(encoded_right)
        identical += all(
            [h.yseq for h in best[:1]] == [h.yseq for h in best_right[:1]]
            for best, best_right in zip(found, found_right)
        )
    kind = "noise" if source is None else "real"
    return Comparison(count, kind, identical, differences)
