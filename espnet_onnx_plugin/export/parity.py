"""Measured equality of graphs and ESPnet's own modules.

Every component runs on shapes unlike the traced one, and steps with reordered
hypotheses of several utterances of unequal lengths. PyTorch gets one utterance at a
time, as in ESPnet's inference. The figure is max |ONNX - PyTorch| relative to the
output's scale.
"""

from typing import Any, Dict, Iterable, Iterator, List, Mapping, Sequence, Tuple

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.runtime.compare import difference
from espnet_onnx_plugin.runtime.encoder import Encoded, Encoder, to_numpy
from espnet_onnx_plugin.runtime.scorers import GraphScorer
from espnet_onnx_plugin.runtime.session import Session

TOLERANCE = 1e-4

#: Where PyTorch's own rounding moves an output by more than the tolerance, a graph may
#: differ by this much of it: the two round independently.
NOISE_FACTOR = 2.0

#: Lengths of noise relative to the shortest one that the encoder takes.
LENGTHS = (1.0, 5.3, 9.7, 7.1, 31.4)


def require(component: str, what: str, worst: float) -> float:
    """Pass a difference on.

    Raises:
        PluginError: if it is above :data:`TOLERANCE`.
    """
    if worst > TOLERANCE:
        raise PluginError(
            f"parity check failed: {component} differs from PyTorch by {worst:.2e} "
            f"(allowed {TOLERANCE:.0e}) on {what}; nothing was written"
        )
    return worst


def encode_reference(
    model: torch.nn.Module, speech: torch.Tensor
) -> Dict[str, np.ndarray]:
    """The encoder graph's outputs for one utterance, from ESPnet's own ``encode``."""
    lengths = torch.tensor([len(speech)])
    with torch.no_grad():
        # A copy: ESPnet normalizes features in place.
        out, out_lengths = model.encode(
            speech=speech[None].clone(), speech_lengths=lengths
        )
        out, intermediate = out if isinstance(out, tuple) else (out, [])
        # ESPnet's search reads every frame, whatever the length says.
        out_lengths = torch.full_like(out_lengths, out.size(-2))
        if out.dim() == 4:  # several speakers
            out, out_lengths = out.flatten(0, 1), out_lengths.flatten()
        results = {"encoder_out": out, "encoder_out_lens": out_lengths}
        if model.ctc is not None:
            results["ctc_log_probs"] = model.ctc.log_softmax(out)
        for layer, value in intermediate:
            results[f"interctc_{layer}"] = model.ctc.log_softmax(value)
    return {name: value.numpy() for name, value in results.items()}


def check_encoder(
    model: torch.nn.Module,
    encoder: Encoder,
    utterances: Iterable[Tuple[str, np.ndarray]],
) -> float:
    """Compare frontend and encoder graph with ``model.encode``.

    Args:
        model: ESPnet's model.
        encoder: the graphs.
        utterances: (description, audio).

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance, and above PyTorch's own rounding.
    """
    worst = 0.0
    for what, array in utterances:
        speech = torch.from_numpy(array)
        reference = encode_reference(model, speech)
        rounding: Dict[str, float] = {}
        ours = encoder([array])
        if not np.array_equal(ours.lengths, reference["encoder_out_lens"]):
            require("encoder_out_lens", what, float("inf"))
        for name, value in reference.items():
            figure = difference(to_numpy(ours[name]), value)
            if figure > TOLERANCE and not rounding:
                rounding = rounding_noise(model, speech, reference)
            if figure > NOISE_FACTOR * rounding.get(name, 0.0):
                require(f"encoder ({name})", what, figure)
            worst = max(worst, figure)
    return worst


def encodes_batches(encoder: Encoder, speech: Speech) -> bool:
    """Whether utterances of unequal lengths get the same results together as alone."""
    feats = encoder.features([array for _, array in noise(speech)])
    together = encoder.encode_together(feats)
    for i, one in enumerate(feats):
        alone = encoder.encode_together([one])
        rows = alone.utterances
        ours = together.select(range(i * rows, (i + 1) * rows))
        if not all(
            difference(to_numpy(ours[name]), to_numpy(value)) <= TOLERANCE
            for name, value in alone.items()
        ):
            return False
    return True


def rounding_noise(
    model: torch.nn.Module, speech: torch.Tensor, reference: Mapping[str, np.ndarray]
) -> Dict[str, float]:
    """How far PyTorch moves from itself when its input moves by a float's last digit.

    The logarithm of an almost empty Mel band magnifies the rounding of the Fourier
    transform, in PyTorch as much as here; no graph can be nearer to PyTorch than that.

    Returns:
        The relative difference by output.
    """
    generator = torch.Generator().manual_seed(0)
    signs = torch.randint(0, 2, speech.shape, generator=generator) * 2 - 1
    moved = speech * (1 + signs * torch.finfo(torch.float32).eps)
    other = encode_reference(model, moved)
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
    """ESPnet's batch scorer for the hypotheses of one utterance."""

    def __init__(self, scorer: torch.nn.Module, memory: torch.Tensor, first: int):
        self._scorer = scorer
        self._memory = memory
        self._prefixes = torch.full((1, 1), first)
        self._states: List[Any] = [None]

    def score(self, tokens: np.ndarray, parents: np.ndarray) -> np.ndarray:
        """Log probabilities after every hypothesis got its token."""
        if self._states[0] is not None:
            ids = torch.from_numpy(parents)
            new = torch.from_numpy(tokens)[:, None]
            self._prefixes = torch.cat((self._prefixes[ids], new), dim=1)
            self._states = [self._states[i] for i in parents]
        memory = self._memory.expand(len(self._prefixes), *self._memory.shape)
        with torch.no_grad():
            scores, self._states = self._scorer.batch_score(
                self._prefixes, self._states, memory
            )
        return scores.numpy()


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
    """Compare a step graph with ESPnet's ``batch_score`` over several steps.

    Hypotheses of several utterances with unequal encoder lengths run in one graph call;
    ESPnet runs each utterance alone. Parents are drawn at random at every step, and the
    number of hypotheses varies.

    Args:
        step: the module that was exported.
        session, memory: of its graphs.
        dim: size of the encoder's output.
        vocabulary: number of tokens.
        name: of the component, for the message.
        frames: encoder frames of each utterance.
        steps: how many steps.

    Returns:
        The largest relative difference.
    """
    random = np.random.default_rng(0)
    count = len(frames)
    encoder_out = random.standard_normal((count, max(frames), dim)).astype(np.float32)
    first = vocabulary - 1
    references = [
        _Reference(step.reference, torch.from_numpy(encoder_out[i, :length]), first)
        for i, length in enumerate(frames)
    ]
    scorer = GraphScorer(session, memory)
    state = scorer.start(
        Encoded(encoder_out=encoder_out, encoder_out_lens=np.array(frames))
    )
    tokens = np.full((count, 1), first)
    parents = np.zeros((count, 1), np.int64)
    worst = 0.0
    for number in range(steps):
        ours, state = scorer.score(tokens, parents, state)
        expected = np.stack(
            [r.score(t, p) for r, t, p in zip(references, tokens, parents)]
        )
        what = f"step {number + 1}, {tokens.shape[1]} hypotheses each"
        worst = max(worst, require(name, what, difference(ours, expected)))
        previous, width = tokens.shape[1], 2 + number % 3
        # Token 0 takes part: some language models treat it as padding.
        tokens = random.integers(0, vocabulary, (count, width))
        parents = random.integers(0, previous, (count, width))
    return worst
