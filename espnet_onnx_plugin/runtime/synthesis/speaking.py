"""From text to features: the loops and the arithmetic around the graphs."""

import logging
from typing import Any, Dict, List, Mapping, Optional

import numpy as np

from espnet_onnx_plugin.bundle import Graph
from espnet_onnx_plugin.bundle.search import Durations, Frames
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.teacher_forcing import (
    align,
    checked_durations,
    path_of,
    taught_variances,
)
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

logger = logging.getLogger(__name__)

Arrays = Dict[str, np.ndarray]


def speak_durations(
    sessions: Mapping[str, Session],
    pool: Arrays,
    search: Durations,
    options: Mapping[str, Any],
    noise: Noise,
    given: Optional[np.ndarray] = None,
    gives_zeros: bool = False,
) -> Arrays:
    """Synthesize with a model that predicts how long each symbol lasts.

    Args:
        sessions: encoder and decoder, and what a taught model needs.
        pool: what the encoder reads, and what a taught model is taught by.
        search: of the manifest.
        options: ESPnet's decoding options by name.
        noise: what is drawn.
        given: durations in the place of the predicted ones.
        gives_zeros: give predicted durations as they are where all are 0.

    Returns:
        ESPnet's outputs by name, and what the vocoder reads.
    """
    encoder, decoder = sessions["encoder"].graph, sessions["decoder"].graph
    taught = options["use_teacher_forcing"]
    pool = dict(pool)
    noise.skip(search.idle["encoder"])
    if "noise_dur" in encoder.inputs:
        shape = (2, len(pool["text"]))
        predicted = given is None and not taught  # else ESPnet draws nothing for them
        noise_dur = noise.normal(1, *shape)[0] if predicted else np.zeros(shape)
        pool["noise_dur"] = noise_dur.astype(np.float32)
        pool["noise_scale_dur"] = np.array(options["noise_scale_dur"], np.float32)
    pool.update(run(sessions["encoder"], pool))
    made = dict(pool)
    if taught and "alignment" in sessions:
        width, _ = sessions["alignment"].graph.inputs["noise"].axes
        pool["noise"] = noise.normal(1, width, len(pool["feats"]))[0]
        made.update(align(run(sessions["alignment"], pool)))
    else:
        duration = pool["duration"]
        speed = np.float32(options["speed_control_alpha"])
        if taught:
            frames = checked_durations(given, len(duration))
            pool.update(taught_variances(sessions, pool, search, frames))
            made["duration"] = pool["log_duration"]  # which is what ESPnet gives
        elif search.rounding == "ceil":
            duration = np.ceil(duration * speed)
            if given is not None:
                duration = checked_durations(given, len(duration)).astype(np.float32)
            frames = duration.astype(np.int64)
            made["duration"] = duration
            made["att_w"] = path_of(
                np.repeat(np.arange(len(frames)), frames), len(frames)
            )
        else:
            frames = duration
            if speed != 1.0:
                scaled = frames.astype(np.float32) * speed
                frames = np.round(scaled).astype(np.int64)
            if not frames.any():
                logger.warning("predicted durations are all 0, they count as all 1")
                frames = np.ones_like(frames)
            if speed == 1.0:  # ESPnet gives those before the speed
                pool["duration"] = frames
                if not gives_zeros:
                    made["duration"] = frames
        pool["symbol_of_frame"] = np.repeat(np.arange(len(frames)), frames)
        noise.skip(search.idle["decoder"])
        pool.update(_decoder_noise(decoder, pool, options, noise))
        made.update(run(sessions["decoder"], pool))
    names = ["feat_gen", "feat_gen_denorm", "duration", "att_w", "condition"]
    names += ["feats"] if "feats" in decoder.outputs else ["pitch", "energy"]
    return {name: made[name] for name in names if name in made}


def _decoder_noise(decoder: Graph, pool, options, noise: Noise) -> Arrays:
    """The noise that a decoder reads, and its scale."""
    tensor = decoder.inputs.get("noise")
    frames = len(pool["symbol_of_frame"])
    if tensor is None:
        return {}
    if len(tensor.axes) == 3:
        draws, dim, _ = tensor.axes
        drawn = [noise.normal(1, 1, dim, frames)[0, 0] for _ in range(draws)]
        return {"noise": np.stack(drawn)}
    # ESPnet draws it like a transposed tensor.
    return {
        "noise": noise.normal(frames, tensor.axes[1], blocked=False),
        "noise_scale": np.array(options["noise_scale"], np.float32),
    }


def speak_frames(
    sessions: Mapping[str, Session],
    pool: Arrays,
    search: Frames,
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
    noise.skip(search.idle["encoder"])
    memory = {**pool, **run(sessions["encoder"], pool)}
    decoder = sessions["decoder"]
    # Of these every step reads all; states may begin with what the encoder says.
    reads = {name: memory[name] for name in decoder.graph.inputs if name in memory}
    states = decoder.initial_states(reads)
    states.update({name: memory[name] for name in states if name in memory})
    factor = search.reduction_factor
    # What reads the text has an axis of its symbols.
    first = next(iter(reads))
    symbols = reads[first].shape[decoder.graph.inputs[first].axes.index("symbols")]
    # Of Transformer TTS the limits count steps, of Tacotron 2 frames.
    unit, per = (1, factor) if search.limits_steps else (factor, 1)
    shortest, longest = (
        int(symbols * options[f"{end}lenratio"] / per) for end in ("min", "max")
    )
    frames, probs, weights = [], [], []
    attended = 0
    taught = None if teacher is None else teacher[factor - 1 :: factor]
    if taught is not None and not len(taught):
        raise PluginError(
            f"speech of {len(teacher)} frames is too short to teach a model that makes "
            f"{factor} at once"
        )
    keep = decoder.graph.inputs.get("keep")
    kept = None
    if taught is not None:
        if keep is not None and "history" in keep.axes:
            kept = _keep(noise, search.dropout, keep.axes, len(taught))
        noise.skip(search.idle["decoder"])
    step = 0
    while True:
        feeds = dict(reads)
        if "blocked" in decoder.graph.inputs:
            feeds["blocked"] = _blocked(symbols, attended, options, taught is None)
        if kept is not None:
            feeds["keep"] = kept[:, : step + 1]
        elif keep is not None:
            feeds["keep"] = _keep(noise, search.dropout, keep.axes, step + 1)
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
