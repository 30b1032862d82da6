"""From features to the waveform: a graph, whole or in pieces, or Griffin-Lim."""

import dataclasses
import math
from typing import Dict, Iterator, Optional, Union

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.synthesis.griffin_lim import GriffinLim
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: Frames of which a waveform is made at once. A longer one would need more memory (of
#: HiFi-GAN 0.4 MiB a frame) and would be no faster.
LONGEST = 384


class Vocoder:
    """The vocoder's graph of a bundle.

    Args:
        bundle: where it lies.
        device: where it runs.
    """

    def __init__(self, bundle: Bundle, device: Device):
        # Its tensors are larger than any other graph's.
        device = dataclasses.replace(device, shared=False)
        self._session = Session(bundle, "vocoder", device)
        synthesis = bundle.manifest.synthesis
        self._factor = synthesis.frame_shift
        self._context = synthesis.vocoder_context
        self._block = bundle.manifest.search.block

    @staticmethod
    def open(
        bundle: Bundle, device: Device
    ) -> "Optional[Union[Vocoder, GriffinLimVocoder]]":
        """What makes the waveforms of a bundle, or None."""
        if "vocoder" in bundle.manifest.graphs:
            return Vocoder(bundle, device)
        settings = bundle.manifest.synthesis.griffin_lim
        return None if settings is None else GriffinLimVocoder(GriffinLim(settings))

    def __call__(
        self, feats: np.ndarray, noise: Noise, condition: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """Make a waveform.

        Args:
            feats: (frames, dim).
            noise: what is drawn.
            condition: vector for the whole utterance, where the graph reads one.

        Returns:
            (samples,), float32.
        """
        return np.concatenate(list(self.stream(feats, noise, condition, LONGEST)))

    def stream(
        self,
        feats: np.ndarray,
        noise: Noise,
        condition: Optional[np.ndarray],
        chunk: int,
    ) -> Iterator[np.ndarray]:
        """Make a waveform in pieces; each graph run sees its frames and their context.

        Args:
            feats, noise, condition: as of :meth:`__call__`.
            chunk: frames of a piece.
        """
        drawn = self._drawn(len(feats), noise)
        if self._context is None:
            yield self._run(feats, drawn, condition)
            return
        before, after = self._context
        for first in range(0, len(feats), chunk):
            last = min(first + chunk, len(feats))
            begin, end = max(first - before, 0), min(last + after, len(feats))
            part = {name: value[begin:end] for name, value in drawn.items()}
            wav = self._run(feats[begin:end], part, condition)
            yield wav[(first - begin) * self._factor : (last - begin) * self._factor]

    def _drawn(self, frames: int, noise: Noise) -> Dict[str, np.ndarray]:
        """The noise that the graph reads."""
        tensor = self._session.graph.inputs.get("noise")
        if tensor is None:
            return {}
        sizes = {"frames": frames, "blocks": math.ceil(frames / self._block)}
        return {"noise": noise.normal(*(sizes.get(a, a) for a in tensor.axes))}

    def _run(self, feats, drawn, condition) -> np.ndarray:
        feeds = {"feats": feats, **drawn}
        if "condition" in self._session.graph.inputs:
            feeds["condition"] = condition
        return self._session.run(feeds, ["wav"])["wav"]


class GriffinLimVocoder:
    """Griffin-Lim in the place of a graph.

    Args:
        griffin_lim: it.
    """

    def __init__(self, griffin_lim: GriffinLim):
        self._griffin_lim = griffin_lim

    def __call__(
        self, feats: np.ndarray, noise: Noise, condition: Optional[np.ndarray] = None
    ) -> np.ndarray:
        """(frames, dim) -> (samples,), float32."""
        return self._griffin_lim(feats, noise.seed)

    def stream(self, feats, noise, condition, chunk: int) -> Iterator[np.ndarray]:
        """The whole as one piece: every sample depends on every frame."""
        yield self(feats, noise)
