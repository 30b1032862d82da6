"""Measured equality of graphs and ESPnet's own modules.

Every component runs on shapes unlike the traced one, and steps with reordered
hypotheses of several utterances of unequal lengths. PyTorch gets one utterance at a
time, as in ESPnet's inference. The figure is max |ONNX - PyTorch| relative to the
output's scale.
"""

import copy
import math
from dataclasses import replace
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.runtime.core.encoder import (
    LENS,
    Accompanied,
    Encoded,
    Encoder,
    Utterance,
    to_numpy,
)
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.search.scorers import GraphScorer

#: One utterance to the encoder graph's outputs by name.
Encode = Callable[[Utterance], Dict[str, np.ndarray]]

TOLERANCE = 1e-4

#: Where PyTorch's own rounding moves an output by more than the tolerance, a graph may
#: differ by this much of it: the two round independently.
NOISE_FACTOR = 2.0

#: Lengths of noise relative to the shortest one that the encoder takes.
LENGTHS = (1.0, 5.3, 9.7, 7.1, 31.4)


class Parity(NamedTuple):
    """Result of comparing a model with PyTorch.

    Attributes:
        figures: the largest relative difference by component.
        skipped: cases that could not be compared, each with the reason.
    """

    figures: Dict[str, float]
    skipped: Sequence[str] = ()


def require(
    component: str, what: str, worst: float, tolerance: float = TOLERANCE
) -> float:
    """Pass a difference on.

    Raises:
        PluginError: if it is above the tolerance.
    """
    if not worst <= tolerance:
        raise PluginError(
            f"parity check failed: {component} differs from PyTorch by {worst:.2e} "
            f"(allowed {tolerance:.0e}) on {what}; nothing was written"
        )
    return worst


def check_encoder(
    encode: Encode,
    encoder: Encoder,
    utterances: Iterable[Tuple[str, Utterance]],
) -> float:
    """Compare frontend and encoder graph with ESPnet's encoding.

    Args:
        encode: gives the graph's outputs for one utterance, from ESPnet's own modules.
        encoder: the graphs.
        utterances: (description, utterance).

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance, and above PyTorch's own rounding, or
            there is no utterance.
    """
    worst = None
    for what, utterance in utterances:
        reference = encode(utterance)
        rounding: Dict[str, float] = {}
        ours = encoder([utterance])
        if not np.array_equal(ours.lengths, reference["encoder_out_lens"]):
            require("encoder_out_lens", what, float("inf"))
        for name, value in reference.items():
            figure = difference(to_numpy(ours[name]), value)
            if figure > TOLERANCE and not rounding:
                rounding = rounding_noise(encode, utterance, reference)
            # A model that gives no numbers is as far from itself as any graph.
            allowed = NOISE_FACTOR * rounding.get(name, 0.0)
            if figure > allowed or not math.isfinite(allowed):
                require(f"encoder ({name})", what, figure)
            worst = max(worst or 0.0, figure)
    if worst is None:
        raise PluginError("parity check failed: no utterance to compare the encoder on")
    return worst


def encodes_batches(encoder: Encoder, utterances: Sequence[Utterance]) -> bool:
    """Whether utterances of unequal lengths get the same results together as alone."""
    feats = encoder.features(utterances)
    together = encoder.encode_together(feats)
    for i, one in enumerate(feats):
        alone = encoder.encode_together([one])
        rows = alone.utterances  # one, or one for each speaker
        ours = together.select(range(i * rows, (i + 1) * rows))
        if not all(
            difference(to_numpy(ours[name]), to_numpy(value)) <= TOLERANCE
            for name, value in alone.items()
        ):
            return False
    return True


def rounding_noise(
    encode: Encode, utterance: Utterance, reference: Mapping[str, np.ndarray]
) -> Dict[str, float]:
    """How far PyTorch moves from itself when its input moves by a float's last digit.

    The logarithm of an almost empty Mel band magnifies the rounding of the Fourier
    transform, in PyTorch as much as here; no graph can be nearer to PyTorch than that.

    Returns:
        The relative difference by output.
    """
    alone = not isinstance(utterance, Accompanied)
    speech = utterance if alone else utterance.speech
    signs = np.random.default_rng(0).choice([-1, 1], speech.shape)
    moved = (speech * (1 + signs * np.finfo(np.float32).eps)).astype(np.float32)
    other = encode(moved if alone else replace(utterance, speech=moved))
    return {name: difference(other[name], value) for name, value in reference.items()}


def noise(speech: Speech) -> Iterator[Tuple[str, np.ndarray]]:
    """Utterances of noise with descriptions, in :data:`LENGTHS`."""
    random = np.random.default_rng(0)
    for factor in LENGTHS:
        shape = [int(speech.min_length * factor)]
        shape += [speech.feature_dim] if speech.feature_dim else []
        array = random.standard_normal(shape).astype(np.float32) * np.float32(0.1)
        yield f"noise of length {len(array)}", array


class _Reference:
    """ESPnet's scorer for the hypotheses of one utterance."""

    def __init__(
        self,
        scorer: torch.nn.Module,
        memory: Sequence[torch.Tensor],
        return_hs: bool,
    ):
        # A copy: some keep what they made of an utterance in the module.
        self._scorer = copy.deepcopy(scorer)
        self._memory = memory
        self._more = {"return_hs": True} if return_hs else {}
        self._prefixes = torch.zeros((1, 0), dtype=torch.int64)
        # Of ESPnet's scorers every one has this; those of a hub's models do not.
        init = getattr(self._scorer, "init_state", lambda memory: None)
        self._states: Optional[List[Any]] = [init(memory[0])]

    @torch.no_grad()
    def score(self, tokens: np.ndarray, parents: np.ndarray) -> List[np.ndarray]:
        """Log probabilities after every hypothesis got its token, and what the output
        layer read if that is returned.
        """
        ids, new = torch.from_numpy(parents), torch.from_numpy(tokens)
        self._prefixes = torch.cat((self._prefixes[ids], new[:, None]), dim=1)
        # Scorers that see the whole prefix at every step have no state.
        states = self._states and [self._states[i] for i in parents]
        if hasattr(self._scorer, "batch_score"):
            memory = [m.expand(len(self._prefixes), *m.shape) for m in self._memory]
            scores, self._states = self._scorer.batch_score(
                self._prefixes, states, *memory, **self._more
            )
            return [part.numpy() for part in (scores if self._more else [scores])]
        # ESPnet's search asks such a scorer for one hypothesis after the other. Copies:
        # coverage attention changes the list that it is given, which is its parent's.
        scored = [
            self._scorer.score(prefix, copy.deepcopy(state), *self._memory)
            for prefix, state in zip(self._prefixes, states, strict=True)
        ]
        self._states = [state for _, state in scored]
        return [np.stack([scores.numpy() for scores, _ in scored])]


def check_step(
    step: StepModule,
    session: Session,
    memory: "Session | None",
    dim: int,
    vocabulary: int,
    name: str,
    frames: Sequence[int] = (19, 11),
    steps: int = 6,
) -> float:
    """Compare a step graph with ESPnet's scorer over several steps.

    Hypotheses of several utterances with unequal encoder lengths run in one graph call;
    ESPnet runs each utterance alone, token by token. Where the step keeps nodes,
    utterances begin with unequal numbers of tokens. Parents are drawn at random at
    every step, and the number of hypotheses varies.

    Args:
        step: the module that was exported.
        session, memory: of its graphs.
        dim: size of the encoder's output.
        vocabulary: number of tokens.
        name: of the component, for the message.
        frames: encoder frames of each utterance; other sequences are a little longer.
        steps: how many steps.

    Returns:
        The largest relative difference.
    """
    random = np.random.default_rng(0)
    count = len(frames)
    encoded = Encoded()
    for i, source in enumerate(step.reads):
        shape = (count, max(frames) + i, dim)
        encoded[source] = random.standard_normal(shape).astype(np.float32)
        encoded[f"{source}{LENS}"] = np.array(frames) + i
    first = vocabulary - 1
    references = [
        _Reference(
            step.reference,
            [
                torch.from_numpy(encoded[source][i, : encoded[source + LENS][i]])
                for source in step.reads
            ],
            step.returns_hidden,
        )
        for i in range(count)
    ]
    scorer = GraphScorer(session, memory)
    parents = np.zeros((count, 1), np.int64)
    # Token 0 takes part: some language models treat it as padding.
    begun = [0, 1, first] if "kept" in step.inputs else []
    primers = [[*begun[: 3 * i], first] for i in range(count)]
    for reference, primer in zip(references, primers, strict=True):
        for token in primer[:-1]:
            reference.score(np.array([token]), parents[0])
    state = scorer.start(encoded, primers)
    tokens = np.full((count, 1), first)
    worst = 0.0
    for number in range(steps):
        ours, state = scorer.score(tokens, parents, state)
        asked = zip(references, tokens, parents, strict=True)
        scored = [r.score(t, p) for r, t, p in asked]
        what = f"step {number + 1}, {tokens.shape[1]} hypotheses each"
        hidden = [scorer.hidden(state)] if step.returns_hidden else []
        theirs = list(map(np.stack, zip(*scored, strict=True)))
        for part, expected in zip([ours, *hidden], theirs, strict=True):
            worst = max(worst, require(name, what, difference(part, expected)))
        previous, width = tokens.shape[1], 2 + number % 3
        tokens = random.integers(0, vocabulary, (count, width))
        parents = random.integers(0, previous, (count, width))
    return worst


def check_sequence(
    decoder: SequenceModule,
    session: Session,
    memory: Session,
    dim: int,
    vocabulary: int,
    name: str,
    frames: Sequence[int] = (19, 11, 23),
    tokens: Sequence[int] = (6, 9, 1),
) -> float:
    """Compare a graph of whole sequences with ESPnet's decoder.

    Utterances of unequal numbers of frames and tokens run in one graph call; ESPnet
    runs each alone.

    Returns:
        The largest relative difference.
    """
    random = np.random.default_rng(0)
    count = len(frames)
    encoder_out = random.standard_normal((count, max(frames), dim)).astype(np.float32)
    ids = random.integers(0, vocabulary, (count, max(tokens)))
    feeds = {"encoder_out": encoder_out, "encoder_out_lens": np.array(frames)}
    feeds = memory.run(feeds, fetch=())
    feeds = {"tokens": ids, "tokens_lens": np.array(tokens), **feeds}
    scores = session.run(feeds, ["scores"])["scores"]
    worst = 0.0
    for i, (length, number) in enumerate(zip(frames, tokens, strict=True)):
        with torch.no_grad():
            expected, _ = decoder.reference(
                torch.from_numpy(encoder_out[i : i + 1, :length]),
                torch.tensor([length]),
                torch.from_numpy(ids[i : i + 1, :number]),
                torch.tensor([number]),
            )
        figure = difference(scores[i, :number], expected[0].numpy())
        worst = max(worst, require(name, f"{number} tokens", figure))
    return worst
