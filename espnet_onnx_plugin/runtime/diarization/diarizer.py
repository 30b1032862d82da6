"""A recording, or the bottleneck feature of a mixture, to activities of speakers."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Diarization, Manifest
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session, run

#: Speakers that ESPnet counts at most: ``max_num_spk`` of its ``diar_inference``.
MOST = 15

#: Inputs of the encoder's graph.
BOTTLENECK = "bottleneck_feats"
FEATURES = "feats"

#: Roles of the graphs behind the encoder's, of which there is one.
DECODER = "decoder"
ATTRACTOR = "attractor"


class Speakers(NamedTuple):
    """Logits of the speakers of a recording.

    Attributes:
        active: (frames, speakers), that one is active.
        exist: (attractors,), that there is one more; None: nothing counts them.
    """

    active: np.ndarray
    exist: np.ndarray | None


def diarization_of(manifest: Manifest) -> Diarization:
    """Description of what a model says of who speaks when.

    Raises:
        PluginError: if the manifest has none.
    """
    if manifest.diarization is None:
        raise PluginError(
            "manifest.yaml says nothing of diarization; export the bundle again"
        )
    return manifest.diarization


def counted(exist: np.ndarray) -> int:
    """How many speakers there are: one less than attractors up to the first below 0."""
    below = np.flatnonzero(exist < 0)
    return int(below[0]) if len(below) else len(exist) - 1


class Diarizer:
    """The graphs of a diarization, as ``encode`` and ``decode`` of ESPnet's class.

    Args:
        bundle: where they lie.
        device: where they run.

    Attributes:
        described: the model.
        seconds: that the graphs have taken since it was set to 0.
    """

    def __init__(self, bundle: Bundle, device: Device):
        self.described = diarization_of(bundle.manifest)
        roles = bundle.manifest.graphs
        self._frontend = None
        if "frontend" in roles:
            self._frontend = Session(bundle, "frontend", device)
        self._encoder = Session(bundle, "encoder", device)
        self._speakers = Session(
            bundle, DECODER if DECODER in roles else ATTRACTOR, device
        )
        self.seconds = 0.0

    def __call__(
        self,
        speech: np.ndarray,
        num_spk: int | None = None,
        others: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> np.ndarray:
        """Logits (frames, speakers) that a speaker is active.

        Args:
            speech: (samples,), or (frames, dim) where features are read.
            num_spk: how many; None: they are counted.
            others: what the encoder reads besides.
        """
        made = self.speakers(speech, num_spk, others)
        if num_spk is None and made.exist is not None:
            num_spk = counted(made.exist)
        return made.active[:, :num_spk]

    def speakers(
        self,
        speech: np.ndarray,
        num_spk: int | None = None,
        others: Mapping[str, np.ndarray] = MappingProxyType({}),
    ) -> Speakers:
        """Logits of that many speakers and one more, or of all that could be counted;
        see :meth:`__call__`.
        """
        start = time.perf_counter()
        pool = {**others, FEATURES: self._features(speech)}
        encoder_out = run(self._encoder, pool)["encoder_out"]
        wanted = self._speakers.graph.inputs
        pool = {"encoder_out": encoder_out}
        if "dec_input" in wanted:
            _, size = wanted["dec_input"].axes
            attractors = (MOST if num_spk is None else num_spk) + 1
            pool["dec_input"] = np.zeros((attractors, int(size)), np.float32)
        made = run(self._speakers, pool)
        self.seconds += time.perf_counter() - start
        return Speakers(made["predictions"], made.get("att_prob"))

    def _features(self, speech: np.ndarray) -> np.ndarray:
        if self._frontend is None:
            return speech
        lengths = np.array([len(speech)])
        pool = {"speech": speech[None], "speech_lengths": lengths}
        return run(self._frontend, pool)["feats"][0]
