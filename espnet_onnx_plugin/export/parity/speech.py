"""What is checked and measured of the graphs of a model that reads speech."""

from typing import TYPE_CHECKING, Dict, Optional

import numpy as np

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.parity import graphs as parity
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.io.data import Source, usable

if TYPE_CHECKING:
    from espnet_onnx_plugin.export.tasks.recognition import TaskModel


def frame_shift(encoder: Encoder, speech: Speech, frames: int = 4) -> Optional[float]:
    """How much longer an input is for one more frame of the encoder's output.

    Args:
        encoder: whose lengths are measured.
        speech: what its input has to be.
        frames: how many frames it is measured over.

    Returns:
        Samples or frames of the input; None where a longer input gives no more frames.
    """

    def encoded(length: int) -> int:
        shape = [length, speech.feature_dim] if speech.feature_dim else [length]
        return int(encoder([np.zeros(shape, np.float32)]).lengths[0])

    def shortest(wanted: int, low: int) -> Optional[int]:
        high = 2 * low
        while encoded(high) < wanted:
            low, high = high, 2 * high
            if high > 64 * first:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if encoded(middle) >= wanted else (middle, high)
        return high

    first = 8 * speech.min_length
    known = encoded(first)
    start, end = shortest(known + 1, first), shortest(known + 1 + frames, first)
    return None if start is None or end is None else (end - start) / frames


def check_speech_model(
    model: "TaskModel", bundle: Bundle, device: Device, source: Optional[Source]
) -> Dict[str, float]:
    """Compare frontend, encoder and steps with PyTorch.

    Args:
        model: the model that the bundle was made from.
        bundle: the graphs.
        device: what they run on.
        source: real audio for the encoder, besides noise.

    Returns:
        The largest relative difference by component.

    Raises:
        PluginError: if one is above the tolerance.
    """
    speech = bundle.manifest.speech
    encoder = Encoder(bundle, device)
    figures = {"encoder": parity.check_encoder(model.encode, encoder, model.noise())}
    if source is not None:
        figures["encoder_on_real_audio"] = parity.check_encoder(
            model.encode,
            encoder,
            ((key, model.accompany(array)) for key, array, _ in usable(source, speech)),
        )
    for role, step in model.steps.items():
        if role not in bundle.manifest.graphs:
            raise PluginError(f"{bundle.path} has no {role}; export it with one")
        memory = None
        if step.memory is not None:
            memory = Session(bundle, f"{role}_memory", device)
        session = Session(bundle, role, device)
        dim, vocabulary = model.sizes(role)
        whole = isinstance(step, SequenceModule)
        check = parity.check_sequence if whole else parity.check_step
        figures[role] = check(step, session, memory, dim, vocabulary, role)
    return figures
