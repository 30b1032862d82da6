"""How far a rewritten bundle is from the one it was made from, on the same audio."""

import logging
from dataclasses import dataclass
from typing import Any, Dict, Iterator, List, Optional, Sequence, Set, Tuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.runtime.core.encoder import LENS, to_numpy
from espnet_onnx_plugin.runtime.io.data import Source, usable
from espnet_onnx_plugin.tasks import door_of, open_model

logger = logging.getLogger(__name__)

BEAM_SIZE = 5

#: The largest difference of a waveform, relative to its scale: a vocoder magnifies
#: what the features differ by.
WAVEFORM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class Comparison:
    """Figures of a comparison.

    Attributes:
        utterances: how many were compared.
        audio: ``real`` or ``noise`` (where no audio was given).
        identical: of these, how many got the same tokens.
        differences: by component, the largest difference of an output relative to its
            scale.
        not_compared: roles of the graphs that nothing used.
    """

    utterances: int
    audio: str
    identical: int
    differences: Dict[str, float]
    not_compared: Sequence[str] = ()

    def as_dict(self) -> Dict[str, Any]:
        """For the manifest."""
        differences = {
            name: float(np.format_float_scientific(value, 2))
            for name, value in self.differences.items()
        }
        lists = {"not_compared": list(self.not_compared)} if self.not_compared else {}
        figures = {k: v for k, v in vars(self).items() if k != "not_compared"}
        return {**figures, "differences": differences, **lists}


def noise(speech: Speech) -> Iterator[Tuple[str, np.ndarray, Dict[str, str]]]:
    """Utterances for a check without audio, as :func:`.data.usable` gives real ones."""
    random = np.random.default_rng(0)
    for factor in (3, 7, 20):
        shape = [speech.min_length * factor]
        shape += [speech.feature_dim] if speech.feature_dim else []
        yield f"noise {shape}", random.standard_normal(shape) * 0.1, {}


def difference(ours: np.ndarray, reference: np.ndarray) -> float:
    """Largest difference relative to the reference's largest finite magnitude.

    Infinite where the shapes differ, a value is not a number, or one is infinite and
    the other is not.
    """
    if ours.shape != reference.shape:
        return float("inf")
    finite = np.isfinite(reference)
    if not np.array_equal(ours[~finite], reference[~finite]):
        return float("inf")
    if not finite.any():
        return 0.0
    ours, reference = ours[finite], reference[finite]
    scale = max(float(np.abs(reference).max()), 1e-20)
    worst = float(np.abs(ours - reference).max()) / scale
    return worst if np.isfinite(worst) else float("inf")


def search_options(bundle: Bundle) -> Dict[str, Any]:
    """Decoding options for a check, such that every graph of the bundle is used."""
    return door_of(bundle).load().check_options(bundle, BEAM_SIZE)


def not_used(bundle: Bundle, used: Set[str]) -> List[str]:
    """Roles of the graphs whose files are not among those that were used."""
    graphs = bundle.manifest.graphs
    return [role for role, graph in graphs.items() if graph.file.name not in used]


def compare(reference: Bundle, other: Bundle, source: Optional[Source]) -> Comparison:
    """Run two bundles on the same audio, on the CPU.

    Args:
        reference: the bundle that counts as right.
        other: with the same graphs.
        source: audio; noise stands in where it is None.
    """
    used: Set[str] = set()
    left, right = (
        open_model(b, session={"watch": watch}, **search_options(b))
        for b, watch in (
            (reference, lambda graph, feeds: used.add(graph.file.name)),
            (other, None),
        )
    )
    speech = reference.manifest.speech
    count = identical = 0
    differences: Dict[str, float] = {}

    def note(component: str, ours: np.ndarray, expected: np.ndarray) -> None:
        figure = difference(ours, expected)
        differences[component] = max(differences.get(component, 0.0), figure)

    utterances = noise(speech) if source is None else usable(source, speech)
    for key, audio, others in utterances:
        logger.info("comparing on %s", key)
        prepared = [left.prepare(audio, **others)]
        same = True
        sides = (side.stages(side.encode(prepared)) for side in (right, left))
        for ours, expected in zip(*sides, strict=True):
            for role, made in expected.made.items():
                for name, value in made.items():
                    if not name.endswith(LENS):
                        note(role, to_numpy(ours.made[role][name]), to_numpy(value))
            # One, or one for each speaker.
            pairs = zip(ours.hypotheses, expected.hypotheses, strict=True)
            for i, (made, best) in enumerate(pairs):
                found = [h.yseq for h in made[:1]]
                same &= [h.yseq for h in best[:1]] == found
                tokens = best[0].yseq[:-1] if best else [0]
                tokens = tokens[
                    : getattr(reference.manifest.search, "max_tokens", None)
                ]
                encoded = expected.encoded.select([i])
                for name, role in expected.roles.items():
                    if name in expected.search.scorers:
                        # Both get what the reference's encoder made: each component on
                        # its own.
                        forced = (
                            stage.search.scorers[name].along(encoded, tokens)
                            for stage in (ours, expected)
                        )
                        note(role, *forced)
        count += 1
        identical += same
    kind = "noise" if source is None else "real"
    left_out = not_used(reference, used)
    return Comparison(count, kind, identical, differences, left_out)
