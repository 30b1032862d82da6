"""``decoder: rwkv`` of a stand-alone transducer (https://arxiv.org/abs/2305.13048)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.export.layers.stand_alone_prediction import (
    StandAlonePrediction,
)
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register

#: States in ESPnet's order, by whether their size is that of the attention: inputs of
#: the channel and the time mixing, weighted sum of the values, its weights, their
#: largest exponent.
_STATES = {
    "channel": False,
    "time": False,
    "sum": True,
    "weight": True,
    "exponent": True,
}


@contextlib.contextmanager
def kernel_left_out() -> Iterator[None]:
    """Build models without the kernel that ESPnet compiles for their training.

    It needs ninja and a GPU; a step at a time, ESPnet computes in PyTorch.
    """
    from espnet2.asr_transducer.decoder.modules.rwkv import attention

    with replaced(attention, "load_wkv_kernel", lambda context_size: None):
        yield


class RWKVPrediction(StandAlonePrediction):
    """``espnet2.asr_transducer.decoder.rwkv_decoder.RWKVDecoder``.

    ESPnet's last state begins as -1e-30, which is 0 to whatever is added to it.
    """

    def __init__(self, decoder: torch.nn.Module, projection: torch.nn.Linear):
        super().__init__(decoder, projection)
        every = decoder.rescale_every
        if every > 0 and not decoder.rescaled_layers:  # as ESPnet's Speech2Text does
            for i, block in enumerate(decoder.rwkv_blocks):
                block.att.proj_output.weight.data /= 2 ** (i // every)
                block.ffn.proj_value.weight.data /= 2 ** (i // every)
            decoder.rescaled_layers = True
        sizes = {False: decoder.block_size, True: decoder.attention_size}
        self.states = {
            name: State("float32", ("rows", sizes[attends], decoder.num_blocks))
            for name, attends in _STATES.items()
        }

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output of the last block, and the states of every block."""
        # ESPnet writes into the states that it is given.
        given = [state.unsqueeze(1).clone() for state in states]
        x, new = self.reference.inference(tokens[:, None], given)
        return (x.squeeze(1), *(state.squeeze(1) for state in new))


_TINY = dict(block_size=8, linear_size=12, num_blocks=2)

register(
    Arch(
        role="transducer_decoder",
        name="rwkv",
        wrap=RWKVPrediction,
        tiny={
            "plain": _TINY,
            "rescaled": dict(
                _TINY,
                attention_size=6,
                num_blocks=3,
                rescale_every=1,
                normalization_type="rms_norm",
            ),
        },
    )
)
