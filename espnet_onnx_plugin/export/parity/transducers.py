"""Measured equality of a transducer's graphs and ESPnet's modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.parity.tolerance import require
from espnet_onnx_plugin.export.transducers import JointModule, PredictionModule
from espnet_onnx_plugin.runtime.core.runner import Value
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.core.values import to_numpy


def check_prediction(
    network: PredictionModule,
    session: Session,
    vocabulary: int,
    name: str,
    rows: Sequence[int] = (1, 3, 2, 7, 4, 1),
) -> float:
    """Compare a prediction network's graph with ESPnet's over several steps.

    Labels, and which row of the step before each row extends, are drawn at random.
    ESPnet gets one row at a time.

    Args:
        network: the module that was exported.
        session: of its graph.
        vocabulary: number of tokens.
        name: of the component, for the message.
        rows: of each step.

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if it is above the tolerance.
    """
    random = np.random.default_rng(0)
    decoder = network.reference
    ours: Mapping[str, Value] = session.initial_states({})
    theirs = [decoder.init_state(1)]
    worst = 0.0
    for number, count in enumerate(rows):
        parents = random.integers(0, len(theirs), count)
        # The blank takes part, which every sequence begins with.
        tokens = random.integers(0, vocabulary, count) if number else np.zeros(1, int)
        states = {key: to_numpy(value)[parents] for key, value in ours.items()}
        outputs, ours = session.step({"tokens": tokens}, states)
        expected, after = [], []
        for token, parent in zip(tokens, parents, strict=True):
            with torch.no_grad():
                predicted, state = network.score_reference(int(token), theirs[parent])
                expected.append(network.projection(predicted).numpy())
            after.append(state)
        theirs = after
        figure = difference(outputs["predicted"], np.stack(expected))
        worst = max(worst, require(name, f"step {number + 1}, {count} rows", figure))
    return worst


def check_joint(
    joint: JointModule,
    session: Session,
    memory: Session,
    dim: int,
    name: str,
    shapes: Sequence[tuple[int, int]] = ((1, 1), (4, 1), (1, 9), (3, 11)),
) -> float:
    """Compare the graphs of a joint network with ESPnet's.

    Args:
        joint: the module that was exported.
        session, memory: of its graphs.
        dim: size of the encoder's output.
        name: of the component, for the message.
        shapes: rows, and frames of each, that are scored at once.

    Returns:
        The largest relative difference.

    Raises:
        PluginError: if it is above the tolerance.
    """
    random = np.random.default_rng(0)
    reference = joint.reference
    worst = 0.0
    for rows, frames in shapes:
        shape = (rows, frames, dim)
        encoder_out = random.standard_normal(shape).astype(np.float32)
        lengths = random.integers(1, frames + 1, rows)
        feeds = {"encoder_out": encoder_out, "encoder_out_lens": lengths}
        projected = memory.run(feeds, fetch=())["projected"]
        size = (rows, reference.lin_dec.in_features)
        predicted = torch.from_numpy(random.standard_normal(size).astype(np.float32))
        with torch.no_grad():
            given = reference.lin_dec(predicted).numpy()
            scores = reference(torch.from_numpy(encoder_out), predicted[:, None])
            expected = torch.log_softmax(scores, dim=-1).numpy()
        feeds = {"projected": projected, "predicted": given}
        ours = session.run(feeds, ["log_probs"])["log_probs"]
        figure = difference(ours, expected)
        what = f"{rows} rows of {frames} frames"
        worst = max(worst, require(name, what, figure))
    return worst
