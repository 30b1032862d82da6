"""Features frame by frame: Tacotron 2 and Transformer TTS."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle.search import Frames
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.features import Graphs, Synthesized
from espnet_onnx_plugin.runtime.synthesis.model_inputs import ModelInputs
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise


class Step(NamedTuple):
    """Outputs of one step of the decoder.

    Attributes:
        frames: (reduction_factor, dim).
        prob: of the end, at each frame (reduction_factor,).
        att_w: attention to the text (symbols,), or (layers, heads, symbols).
    """

    frames: np.ndarray
    prob: np.ndarray
    att_w: np.ndarray


class _Decoder:
    """The decoder on one text, step after step.

    Args:
        session: its graph.
        encoded: outputs of the encoder.

    Attributes:
        symbols: of the text.
    """

    def __init__(self, session: Session, encoded: Mapping[str, np.ndarray]):
        self._session, self._inputs = session, session.graph.inputs
        # Every step reads all of these; states may begin with what the encoder says.
        self._memory = {n: encoded[n] for n in self._inputs if n in encoded}
        self._states = session.initial_states(self._memory)
        self._states.update({n: encoded[n] for n in self._states if n in encoded})
        # What reads the text has an axis of its symbols.
        name, value = next(iter(self._memory.items()))
        self.symbols = value.shape[self._inputs[name].axes.index("symbols")]

    def step(
        self, keep: np.ndarray | None = None, blocked: np.ndarray | None = None
    ) -> Step:
        """Make the next frames.

        Args:
            keep: dropout of the prenet, where it has one.
            blocked: symbols (symbols,) that must not be attended to.
        """
        feeds = dict(self._memory)
        if "blocked" in self._inputs:
            free = np.zeros(self.symbols, bool)
            feeds["blocked"] = free if blocked is None else blocked
        if keep is not None:
            feeds["keep"] = keep
        outputs, self._states = self._session.step(feeds, self._states)
        return Step(**outputs)

    def force(self, frame: np.ndarray) -> None:
        """Let the next step follow another frame (dim,) than its own last one."""
        self._states["prev_out"] = frame


class FrameByFrame:
    """A model that makes frame after frame.

    Args:
        graphs: encoder, decoder and postnet.
        search: of the manifest.
    """

    def __init__(self, graphs: Graphs, search: Frames):
        self._search = search
        self._encoder, self._decoder = graphs["encoder"], graphs["decoder"]
        self._postnet = graphs["postnet"]

    def features(
        self, inputs: ModelInputs, options: TtsOptions, noise: Noise
    ) -> Synthesized:
        """Make the features of one utterance."""
        noise.skip(self._search.unused_draws["encoder"])
        decoder = _Decoder(self._decoder, run(self._encoder, inputs.tensors))
        if options.use_teacher_forcing:
            steps = list(self._forced(decoder, inputs.tensors["feats"], noise))
            prob = None
        else:
            steps = list(self._free(decoder, options, noise))
            prob = np.concatenate([step.prob for step in steps])
        frames = np.concatenate([step.frames for step in steps])
        return Synthesized(
            **run(self._postnet, {"frames": frames}),
            att_w=np.stack([step.att_w for step in steps], axis=-2),
            prob=prob,
        )

    def _free(
        self, decoder: _Decoder, options: TtsOptions, noise: Noise
    ) -> Iterator[Step]:
        """Steps that follow their own frames, up to the one that ends the text."""
        factor = self._search.reduction_factor
        # Of Transformer TTS the limits count steps, of Tacotron 2 frames.
        unit, per = (1, factor) if self._search.limits_steps else (factor, 1)
        shortest = int(decoder.symbols * options.minlenratio / per)
        longest = int(decoder.symbols * options.maxlenratio / per)
        attended = 0
        for count in itertools.count(1):
            blocked = None
            if options.use_att_constraint:
                blocked = outside_window(decoder.symbols, attended, options)
            step = decoder.step(self._keep(count, noise), blocked)
            yield step
            attended = int(step.att_w.argmax())
            ends = (step.prob >= options.threshold).any() or count * unit >= longest
            if ends and count * unit >= shortest:
                return

    def _forced(
        self, decoder: _Decoder, feats: np.ndarray, noise: Noise
    ) -> Iterator[Step]:
        """Steps of teacher forcing, each of which follows a frame of speech."""
        factor = self._search.reduction_factor
        teacher = feats[factor - 1 :: factor]
        if not len(teacher):
            raise PluginError(
                f"speech of {len(feats)} frames is too short to teach a model that "
                f"makes {factor} at once"
            )
        # ESPnet drops units of all the frames at once here, where it sees all of them.
        keep = self._decoder.graph.inputs.get("keep")
        at_once = keep is not None and "history" in keep.axes
        kept = self._keep(len(teacher), noise) if at_once else None
        noise.skip(self._search.unused_draws["decoder"])
        for count, frame in enumerate(teacher, 1):
            drawn = self._keep(count, noise) if kept is None else kept[:, :count]
            yield decoder.step(drawn)
            decoder.force(frame)

    def _keep(self, frames: int, noise: Noise) -> np.ndarray | None:
        """Dropout of the prenet's layers, drawn layer after layer; None: it has none.

        Args:
            frames: of those so far, where the units of all of them are dropped anew.
            noise: what is drawn from.
        """
        tensor = self._decoder.graph.inputs.get("keep")
        if tensor is None:
            return None
        layers, *shape = (frames if a == "history" else int(a) for a in tensor.axes)
        rate = self._search.dropout
        return np.stack([noise.keep(rate, *shape) for _ in range(layers)])


def outside_window(symbols: int, attended: int, options: TtsOptions) -> np.ndarray:
    """Symbols (symbols,) outside of the window of ESPnet's attention constraint."""
    blocked = np.zeros(symbols, bool)
    first = attended - options.backward_window
    last = attended + options.forward_window
    blocked[: max(first, 0)] = True
    if last < symbols:
        blocked[last:] = True
    return blocked
