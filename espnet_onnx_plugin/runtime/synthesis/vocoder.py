"""From features to the waveform: a graph, whole or in pieces, or Griffin-Lim."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import numpy as np

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run
from espnet_onnx_plugin.runtime.synthesis.described import features_of, synthesis_of
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
        synthesis = synthesis_of(bundle.manifest)
        if synthesis.frame_shift is None:
            raise PluginError(
                f"{bundle.path} does not say how long a frame of its vocoder lasts; "
                "export it again"
            )
        self._factor = synthesis.frame_shift
        self._context = synthesis.vocoder_context
        self._block = features_of(bundle.manifest).block or 1

    def __call__(
        self, feats: np.ndarray, noise: Noise, condition: np.ndarray | None = None
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
        condition: np.ndarray | None,
        chunk: int,
    ) -> Iterator[np.ndarray]:
        """Make a waveform in pieces; each graph run sees its frames and their context.

        Args:
            feats, noise, condition: as of :meth:`__call__`.
            chunk: frames of a piece.
        """
        by_frame = {"feats": feats, **self._drawn(len(feats), noise)}
        whole = {} if condition is None else {"condition": condition}
        if self._context is None:
            yield run(self._session, {**by_frame, **whole})["wav"]
            return
        before, after = self._context
        for first in range(0, len(feats), chunk):
            last = min(first + chunk, len(feats))
            begin, end = max(first - before, 0), min(last + after, len(feats))
            part = {name: value[begin:end] for name, value in by_frame.items()}
            wav = run(self._session, {**part, **whole})["wav"]
            yield wav[(first - begin) * self._factor : (last - begin) * self._factor]

    def _drawn(self, frames: int, noise: Noise) -> dict[str, np.ndarray]:
        """The noise that the graph reads."""
        tensor = self._session.graph.inputs.get("noise")
        if tensor is None:
            return {}
        sizes = {"frames": frames, "blocks": math.ceil(frames / self._block)}
        shape = [sizes[a] if isinstance(a, str) else a for a in tensor.axes]
        return {"noise": noise.normal(*shape)}


class GriffinLimVocoder:
    """Griffin-Lim in the place of a graph.

    Args:
        griffin_lim: made with the settings of the features.
    """

    def __init__(self, griffin_lim: GriffinLim):
        self._griffin_lim = griffin_lim

    def __call__(
        self, feats: np.ndarray, noise: Noise, condition: np.ndarray | None = None
    ) -> np.ndarray:
        """(frames, dim) -> (samples,), float32."""
        return self._griffin_lim(feats, noise.seed)

    def stream(
        self,
        feats: np.ndarray,
        noise: Noise,
        condition: np.ndarray | None,
        chunk: int,
    ) -> Iterator[np.ndarray]:
        """The whole as one piece: every sample depends on every frame."""
        yield self(feats, noise)


def open_vocoder(bundle: Bundle, device: Device) -> Vocoder | GriffinLimVocoder | None:
    """The vocoder of a bundle, or Griffin-Lim; None: it makes features alone."""
    if "vocoder" in bundle.manifest.graphs:
        return Vocoder(bundle, device)
    settings = synthesis_of(bundle.manifest).griffin_lim
    return None if settings is None else GriffinLimVocoder(GriffinLim(settings))
