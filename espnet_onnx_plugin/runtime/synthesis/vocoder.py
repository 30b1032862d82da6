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
from espnet_onnx_plugin.runtime.synthesis.excitation import excite
from espnet_onnx_plugin.runtime.synthesis.griffin_lim import GriffinLim
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: Frames of which a waveform is made at once. A longer one would need more memory (of
#: HiFi-GAN 0.4 MiB a frame) and would be no faster.
LONGEST = 384

#: The same where lengths are to be few: so short that most utterances are longer.
FEW_LENGTHS = 128


@dataclasses.dataclass(frozen=True)
class VocoderInputs:
    """A waveform to be; None: the vocoder does not read it.

    Attributes:
        feats: (frames, dim), or discrete tokens.
        condition: vector for the whole utterance (dim,).
        f0: fundamental frequency in Hz (frames,).
    """

    feats: np.ndarray
    condition: np.ndarray | None = None
    f0: np.ndarray | None = None


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
        self._excitation = synthesis.excitation
        self._block = features_of(bundle.manifest).block or 1
        self._few_lengths = bool(device.buckets)

    def __call__(self, inputs: VocoderInputs, noise: Noise) -> np.ndarray:
        """Make a waveform.

        Args:
            inputs: of the utterance.
            noise: what is drawn.

        Returns:
            (samples,), float32.
        """
        chunk = FEW_LENGTHS if self._few_lengths else LONGEST
        return np.concatenate(list(self.stream(inputs, noise, chunk)))

    def stream(
        self, inputs: VocoderInputs, noise: Noise, chunk: int
    ) -> Iterator[np.ndarray]:
        """Make a waveform in pieces; each graph run sees its frames and their context.

        Args:
            inputs, noise: as of :meth:`__call__`.
            chunk: frames of a piece.
        """
        frames = len(inputs.feats)
        by_frame = {"feats": inputs.feats, **self._source(inputs, noise)}
        whole = {} if inputs.condition is None else {"condition": inputs.condition}
        if self._context is None:
            yield run(self._session, {**by_frame, **whole})["wav"]
            return
        for first in range(0, frames, chunk):
            last = min(first + chunk, frames)
            begin, end = self._seen(first, last, frames, chunk)
            part = {name: value[begin:end] for name, value in by_frame.items()}
            wav = run(self._session, {**part, **whole})["wav"]
            yield wav[(first - begin) * self._factor : (last - begin) * self._factor]

    def _seen(self, first: int, last: int, frames: int, chunk: int) -> tuple[int, int]:
        """The first frame and the end of what a run sees to make some of its frames.

        Where lengths are to be few, every run of a longer utterance sees as many:
        onnxruntime's convolutions keep what they planned for the newest length alone,
        and HiFi-GAN has 78 of them.
        """
        assert self._context is not None
        before, after = self._context
        if not self._few_lengths:
            return max(first - before, 0), min(last + after, frames)
        width = min(before + chunk + after, frames)
        begin = min(max(first - before, 0), frames - width)
        return begin, begin + width

    def _source(self, inputs: VocoderInputs, noise: Noise) -> dict[str, np.ndarray]:
        """Noise or sines that the graph reads."""
        if self._excitation is not None and inputs.f0 is not None:
            sines = excite(inputs.f0, self._excitation, self._factor, noise)
            return {"excitation": sines}
        if "f0" in self._session.graph.inputs and inputs.f0 is not None:
            return {"f0": inputs.f0}
        tensor = self._session.graph.inputs.get("noise")
        if tensor is None:
            return {}
        frames = len(inputs.feats)
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

    def __call__(self, inputs: VocoderInputs, noise: Noise) -> np.ndarray:
        """(frames, dim) -> (samples,), float32."""
        return self._griffin_lim(inputs.feats, noise.seed)

    def stream(
        self, inputs: VocoderInputs, noise: Noise, chunk: int
    ) -> Iterator[np.ndarray]:
        """The whole as one piece: every sample depends on every frame."""
        yield self(inputs, noise)


def open_vocoder(bundle: Bundle, device: Device) -> Vocoder | GriffinLimVocoder | None:
    """The vocoder of a bundle, or Griffin-Lim; None: it makes features alone."""
    if "vocoder" in bundle.manifest.graphs:
        return Vocoder(bundle, device)
    settings = synthesis_of(bundle.manifest).griffin_lim
    return None if settings is None else GriffinLimVocoder(GriffinLim(settings))
