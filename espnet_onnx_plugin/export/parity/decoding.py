"""Measured equality of the graphs of decoders and language models and ESPnet's modules.

Steps run with reordered hypotheses of several utterances of unequal lengths. PyTorch
gets one utterance at a time, as in ESPnet's inference.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.tolerance import require
from espnet_onnx_plugin.export.parity.transducers import check_joint, check_prediction
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.steps import DecoderModule, StepModule
from espnet_onnx_plugin.export.transducers import JointModule, PredictionModule
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import LENS, Encoded
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.search.graph_scorer import GraphScorer


def check_decoder(
    decoder: DecoderModule,
    bundle: Bundle,
    role: str,
    device: Device,
    dim: int,
    vocabulary: int,
) -> float:
    """Compare the graphs of a decoder or language model with ESPnet's module.

    Args:
        decoder: the module that was exported.
        bundle: the graphs.
        role: of the graph; that of its memory is ``<role>_memory``.
        device: what they run on.
        dim: size of the encoder's output.
        vocabulary: number of tokens.

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if it is above the tolerance.
    """
    if role not in bundle.manifest.graphs:
        raise PluginError(f"{bundle.path} has no {role}; export it with one")
    memory = None
    if decoder.memory is not None:
        memory = Session(bundle, f"{role}_memory", device)
    session = Session(bundle, role, device)
    if isinstance(decoder, PredictionModule):
        return check_prediction(decoder, session, vocabulary, role)
    if isinstance(decoder, JointModule):
        return check_joint(decoder, session, memory, dim, role)
    whole = isinstance(decoder, SequenceModule)
    check = check_sequence if whole else check_step
    return check(decoder, session, memory, dim, vocabulary, role)


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
        self._states: list[Any] | None = [init(memory[0])]

    @torch.no_grad()
    def score(self, tokens: np.ndarray, parents: np.ndarray) -> list[np.ndarray]:
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
    memory: Session | None,
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
