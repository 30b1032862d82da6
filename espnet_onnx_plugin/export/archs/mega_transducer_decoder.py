"""``decoder: mega`` of a stand-alone transducer (https://arxiv.org/abs/2209.10655)."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch

from espnet_onnx_plugin.bundle import State
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.stand_alone_prediction import (
    StandAlonePrediction,
)
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


def _simple_bias(self: torch.nn.Module, length: int) -> torch.Tensor:
    """Last row (1, length) of ESPnet's matrix, which is the same along diagonals."""
    table = self.relative_position_bias[: self.max_positions].flip(0)
    return table.index_select(0, length - 1 - torch.arange(length))[None]


def _rotary_bias(self: torch.nn.Module, length: int) -> torch.Tensor:
    """Last row (1, length) of ESPnet's matrix."""
    half = self.size // 2
    rates = torch.exp(torch.arange(half) * -(math.log(10000) / half))

    def rotated(x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = positions[:, None] * rates
        x1, x2 = x.chunk(2, dim=-1)
        sin, cos = angles.sin(), angles.cos()
        return torch.cat((x1 * cos - x2 * sin, x2 * cos + x1 * sin), dim=-1)

    positions = torch.arange(length)
    last = rotated(self.alpha, positions[-1:])
    return last @ rotated(self.beta, positions).T


@contextlib.contextmanager
def _traceable() -> Iterator[None]:
    """Keep no coefficients of a trace, and make positions for any length."""
    from espnet2.asr_transducer.decoder.modules.mega import (
        multi_head_damped_ema,
        positional_bias,
    )

    average = multi_head_damped_ema.MultiHeadDampedEMA
    simple = positional_bias.RelativePositionBias
    rotary = positional_bias.RotaryRelativePositionBias
    compute = average.compute_ema_coefficients
    with (
        replaced(average, "get_ema_coefficients", compute),
        replaced(simple, "forward", _simple_bias),
        replaced(rotary, "forward", _rotary_bias),
    ):
        yield


class MEGAPrediction(StandAlonePrediction):
    """``espnet2.asr_transducer.decoder.mega_decoder.MEGADecoder``.

    As in ESPnet's search, the attention also sees a key and a value of zeros before the
    first label's. Keys of zeros that ESPnet puts before those of shorter sequences of a
    batch are seen as well: label sequences have to be asked one at a time.
    """

    def __init__(self, decoder: torch.nn.Module, projection: torch.nn.Linear):
        if decoder.chunk_size > 0:
            raise PluginError(
                f"decoder 'mega' with chunk_size {decoder.chunk_size} is not "
                "supported: only -1, attention to all labels"
            )
        super().__init__(decoder, projection)
        size, heads = decoder.mega_ema_size, decoder.mega_ema_num_heads
        for i in range(decoder.num_blocks):
            self.states |= {
                f"average_{i}": State("float32", ("rows", size, heads)),
                f"k_{i}": State("float32", ("rows", "nodes", decoder.mega_att_k_size)),
                f"v_{i}": State("float32", ("rows", "nodes", decoder.mega_att_v_size)),
            }

    def predict(
        self, tokens: torch.Tensor, *states: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Output of the last block, and the states of every block."""

        def begun(past: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(past, (0, 0, 1, 0))

        given = [
            dict(ema_state=average, prev_key=begun(k), prev_value=begun(v))
            for average, k, v in zip(*(states[i::3] for i in range(3)))
        ]
        with _traceable():
            x, new = self.reference.inference(tokens[:, None], given)
        after = []
        for state in new:
            keys, values = state["prev_key"], state["prev_value"]
            after += [state["ema_state"], keys[:, 1:], values[:, 1:]]
        return (x.squeeze(1), *after)


_TINY = dict(block_size=8, linear_size=12, qk_size=6, v_size=10, num_heads=2)

register(
    Arch(
        role="transducer_decoder",
        name="mega",
        wrap=MEGAPrediction,
        tiny={
            "simple": dict(_TINY, num_blocks=2, max_positions=50),
            "rotary": dict(
                _TINY,
                num_blocks=1,
                rel_pos_bias_type="rotary",
                normalization_type="scale_norm",
                activation_type="relu",
            ),
        },
        limits="chunk_size -1; search_type default: ESPnet's batches change results",
    )
)
