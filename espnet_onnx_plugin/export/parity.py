"""Measured equality of graphs and ESPnet's own modules.

Every component runs on shapes unlike the traced one, with unequal lengths in a batch,
and steps with reordered hypotheses. The figure is max |ONNX - PyTorch| relative to the
output's scale.
"""

from typing import Any, Dict, Iterable, List, Mapping, Sequence, Tuple

import numpy as np
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.runtime.compare import difference
from espnet_onnx_plugin.runtime.session import Session

TOLERANCE = 1e-4

#: Where PyTorch's own rounding moves an output by more than the tolerance, a graph may
#: differ by this much of it: the two round independently.
NOISE_FACTOR = 2.0

#: (number of utterances, length of the longest relative to the shortest allowed one)
SHAPES = ((1, 5.3), (3, 9.7), (2, 31.4))


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
    model: torch.nn.Module, speech: torch.Tensor, lengths: torch.Tensor
) -> Dict[str, np.ndarray]:
    """The encoder graph's outputs, from ESPnet's own ``encode``."""
    with torch.no_grad():
        # A copy: ESPnet normalizes features in place.
        out, out_lengths = model.encode(speech=speech.clone(), speech_lengths=lengths)
        out, intermediate = out if isinstance(out, tuple) else (out, [])
        results = {"encoder_out": out, "encoder_out_lens": out_lengths}
        if model.ctc is not None:
            results["ctc_log_probs"] = model.ctc.log_softmax(out)
        for layer, value in intermediate:
            results[f"interctc_{layer}"] = model.ctc.log_softmax(value)
    return {name: value.numpy() for name, value in results.items()}


def check_encoder(
    model: torch.nn.Module,
    session: Session,
    batches: Iterable[Tuple[str, torch.Tensor, torch.Tensor]],
) -> float:
    """Compare the encoder graph with ``model.encode``.

    Args:
        model: ESPnet's model.
        session: of the encoder graph.
        batches: (description, speech, lengths).

    Returns:
        The largest relative difference of any output.

    Raises:
        PluginError: if one is above the tolerance, and above PyTorch's own rounding.
    """
    worst = 0.0
    for what, speech, lengths in batches:
        reference = encode_reference(model, speech, lengths)
        noise: Dict[str, float] = {}
        feeds = {"speech": speech.numpy(), "speech_lengths": lengths.numpy()}
        ours = session.run(feeds, session.graph.outputs)
        if not np.array_equal(ours["encoder_out_lens"], reference["encoder_out_lens"]):
            require("encoder_out_lens", what, float("inf"))
        for name, value in reference.items():
            figure = difference(ours[name], value)
            if figure > TOLERANCE and not noise:
                noise = rounding_noise(model, speech, lengths, reference)
            if figure > NOISE_FACTOR * noise.get(name, 0.0):
                require(f"encoder ({name})", what, figure)
            worst = max(worst, figure)
    return worst


def rounding_noise(
    model: torch.nn.Module,
    speech: torch.Tensor,
    lengths: torch.Tensor,
    reference: Mapping[str, np.ndarray],
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
    other = encode_reference(model, moved, lengths)
    return {name: difference(other[name], value) for name, value in reference.items()}


def random_batches(
    min_length: int, feature_dim: int
) -> Iterable[Tuple[str, torch.Tensor, torch.Tensor]]:
    """Noise in :data:`SHAPES`, the shorter utterances of a batch cut to other lengths.

    Args:
        min_length: the shortest input that the encoder takes.
        feature_dim: 0 for waveforms.
    """
    generator = torch.Generator().manual_seed(0)
    for utterances, factor in SHAPES:
        longest = int(min_length * factor)
        lengths = torch.linspace(longest, longest * 0.6, utterances).long()
        shape = (utterances, longest, *([feature_dim] if feature_dim else []))
        speech = torch.randn(shape, generator=generator) * 0.1
        for row, length in zip(speech, lengths):
            row[length:] = 0.0
        yield f"noise of lengths {lengths.tolist()}", speech, lengths


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
    constants: Mapping[str, Any] = {}
    if memory is not None:
        lengths = np.array(frames)
        feeds = {"encoder_out": encoder_out, "encoder_out_lens": lengths}
        constants = memory.run(feeds, fetch=())
    first = vocabulary - 1
    references = [
        _Reference(step.reference, torch.from_numpy(encoder_out[i, :length]), first)
        for i, length in enumerate(frames)
    ]
    states = session.initial_states()
    tokens = np.full((count, 1), first)
    local = np.zeros((count, 1), np.int64)
    parents, width = local, 1  # both utterances extend the one initial row
    worst = 0.0
    for number in range(steps):
        ours, states = session.step(
            {"tokens": tokens, "parents": parents, **constants}, states, "log_probs"
        )
        expected = np.concatenate(
            [r.score(t, p) for r, t, p in zip(references, tokens, local)]
        )
        what = f"step {number + 1}, {tokens.shape[1]} hypotheses each"
        worst = max(worst, require(name, what, difference(ours, expected)))
        previous, width = width, 2 + number % 3
        # Token 0 takes part: some language models treat it as padding.
        tokens = random.integers(0, vocabulary, (count, width))
        local = random.integers(0, previous, (count, width))
        parents = local + previous * np.arange(count)[:, None]
    return worst
