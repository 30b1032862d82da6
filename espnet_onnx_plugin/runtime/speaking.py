"""From text to features: the loops and the arithmetic around the graphs."""

import logging
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from espnet_onnx_plugin.runtime.noise import Noise
from espnet_onnx_plugin.runtime.session import Session

logger = logging.getLogger(__name__)

Arrays = Dict[str, np.ndarray]


def run(session: Session, pool: Mapping[str, Any]) -> Arrays:
    """Run a graph on what it reads of a pool of arrays, and give its outputs."""
    feeds = {name: pool[name] for name in session.graph.inputs}
    return session.run(feeds, session.graph.outputs)


def speak_durations(
    sessions: Mapping[str, Session],
    pool: Arrays,
    search: Mapping[str, Any],
    options: Mapping[str, Any],
    noise: Noise,
    given: Optional[np.ndarray] = None,
) -> Arrays:
    """Synthesize with a model that predicts how long each symbol lasts.

    Args:
        sessions: encoder and decoder.
        pool: what the encoder reads.
        search: of the manifest.
        options: ESPnet's decoding options by name.
        noise: what is drawn.
        given: durations in the place of the predicted ones.

    Returns:
        ESPnet's outputs by name, and what the vocoder reads.
    """
    encoder, decoder = sessions["encoder"].graph, sessions["decoder"].graph
    pool = dict(pool)
    noise.skip(search["idle"]["encoder"])
    if "noise_dur" in encoder.inputs:
        pool["noise_dur"] = noise.normal(1, 2, len(pool["text"]))[0]
        pool["noise_scale_dur"] = np.array(options["noise_scale_dur"], np.float32)
    pool.update(run(sessions["encoder"], pool))
    speed = np.float32(options["speed_control_alpha"])
    duration = pool["duration"]
    if search["rounding"] == "ceil":
        duration = np.ceil(duration * speed)
        if given is not None:
            duration = np.asarray(given, np.float32)
        frames = np.maximum(duration, 0).astype(np.int64)
        if frames.sum() == 0:
            frames[-1] = 1
        index = np.repeat(np.arange(len(frames)), frames)
        path = index[:, None] == np.arange(len(frames))
        pool.update(duration=duration, att_w=path.astype(np.float32))
        pool["symbol_of_frame"] = index
    else:
        if speed != 1.0:
            duration = np.round(duration.astype(np.float32) * speed).astype(np.int64)
        if not duration.any():
            logger.warning("predicted durations are all 0, they count as all 1")
            duration = np.ones_like(duration)
        if speed == 1.0:  # ESPnet gives those before the speed
            pool["duration"] = duration
        pool["symbol_of_frame"] = np.repeat(np.arange(len(duration)), duration)
    noise.skip(search["idle"]["decoder"])
    tensor = decoder.inputs.get("noise")
    if tensor is not None and len(tensor.axes) == 3:
        draws, dim, _ = tensor.axes
        shape = (1, 1, dim, len(pool["symbol_of_frame"]))
        pool["noise"] = np.stack([noise.normal(*shape)[0, 0] for _ in range(draws)])
    elif tensor is not None:
        # ESPnet draws it like a transposed tensor.
        shape = (len(pool["symbol_of_frame"]), tensor.axes[1])
        pool["noise"] = noise.normal(*shape, blocked=False)
        pool["noise_scale"] = np.array(options["noise_scale"], np.float32)
    pool.update(run(sessions["decoder"], pool))
    names = ("feat_gen", "feat_gen_denorm", "duration", "pitch", "energy", "att_w")
    kept = (*names, "feats", "condition")
    return {
        name: pool[name]
        for name in kept
        if name in pool and (name != "feats" or name in decoder.outputs)
    }


def speak_frames(
    sessions: Mapping[str, Session],
    pool: Arrays,
    search: Mapping[str, Any],
    options: Mapping[str, Any],
    noise: Noise,
    teacher: Optional[np.ndarray] = None,
) -> Arrays:
    """Synthesize with a model that makes frame after frame.

    Args:
        sessions: encoder, decoder and postnet.
        pool: what the encoder reads.
        search: of the manifest.
        options: ESPnet's decoding options by name.
        noise: what is drawn.
        teacher: features that the decoder is given in the place of its own.

    Returns:
        ESPnet's outputs by name.
    """
    noise.skip(search["idle"]["encoder"])
    memory = {**pool, **run(sessions["encoder"], pool)}
    decoder = sessions["decoder"]
    states = decoder.initial_states(
        {name: memory[name] for name in decoder.graph.inputs if name in memory}
    )
    states.update({name: memory[name] for name in states if name in memory})
    factor = search["reduction_factor"]
    # What reads the text has an axis of its symbols.
    first = next(n for n in decoder.graph.inputs if n in memory)
    symbols = memory[first].shape[decoder.graph.inputs[first].axes.index("symbols")]
    limits = [int(symbols * options[f"{end}lenratio"]) for end in ("min", "max")]
    if search.get("limits_steps"):
        limits = [
            int(symbols * options[f"{end}lenratio"] / factor) for end in ("min", "max")
        ]
    unit = 1 if search.get("limits_steps") else factor
    shortest, longest = limits
    frames, probs, weights = [], [], []
    attended = 0
    taught = None if teacher is None else teacher[factor - 1 :: factor]
    keep = decoder.graph.inputs.get("keep")
    step = 0
    while True:
        feeds = {name: memory[name] for name in decoder.graph.inputs if name in memory}
        if "blocked" in decoder.graph.inputs:
            feeds["blocked"] = _blocked(symbols, attended, options, taught is None)
        if keep is not None:
            feeds["keep"] = _keep(noise, search["dropout"], keep.axes, step + 1)
        outputs, states = decoder.step(feeds, states)
        step += 1
        frames.append(outputs["frames"])
        probs.append(outputs["prob"])
        weights.append(outputs["att_w"])
        attended = int(outputs["att_w"].argmax()) if "blocked" in feeds else 0
        if taught is not None:
            if step == len(taught):
                break
            states["prev_out"] = taught[step - 1]
        elif (outputs["prob"] >= options["threshold"]).any() or step * unit >= longest:
            if step * unit >= shortest:
                break
    made = run(sessions["postnet"], {"frames": np.concatenate(frames)})
    made["att_w"] = np.stack(weights, axis=-2)
    if taught is None:
        made["prob"] = np.concatenate(probs)
    return made


def _keep(noise: Noise, rate: float, axes, rows: int) -> np.ndarray:
    """Dropout of the prenet's layers, drawn layer after layer."""
    layers, *shape = (rows if axis == "history" else axis for axis in axes)
    return np.stack([noise.keep(rate, *shape) for _ in range(layers)])


def _blocked(
    symbols: int, attended: int, options: Mapping[str, Any], free: bool
) -> np.ndarray:
    """Symbols outside of the window that ESPnet's attention constraint leaves."""
    blocked = np.zeros(symbols, bool)
    if options["use_att_constraint"] and free:
        first = attended - options["backward_window"]
        last = attended + options["forward_window"]
        blocked[: max(first, 0)] = True
        if last < symbols:
            blocked[last:] = True
    return blocked


def attention_measures(weights: np.ndarray) -> "tuple[np.ndarray, float]":
    """Durations and focus rate, as ESPnet's ``DurationCalculator`` has them.

    Args:
        weights: (frames, symbols), or (layers, heads, frames, symbols) of which the
            most diagonal head counts.

    Returns:
        Frames of each symbol, and the mean of the largest weights.
    """
    heads: List[np.ndarray] = list(weights.reshape(-1, *weights.shape[-2:]))
    focus = [head.max(axis=-1).mean() for head in heads]
    best = int(np.argmax(focus))
    duration = np.bincount(heads[best].argmax(axis=-1), minlength=weights.shape[-1])
    return duration, float(focus[best])
