"""``encoder: longformer``: attention to a window of frames around each."""

from __future__ import annotations

import math
from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import refuse_token_ids
from espnet_onnx_plugin.export.padding import padding_kept_out
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


def _attend(
    self: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    mask: torch.Tensor,
) -> torch.Tensor:
    """``LongformerAttention.forward`` without global attention.

    Frames within ``attention_window`` of each other see each other ("Longformer",
    https://arxiv.org/abs/2004.05150, 3.1). In blocks as long as the window, a frame
    finds all of them in its own block and the two beside it.

    Args:
        query, key, value: (B, T, dim)
        mask: (B, 1, T), true at valid frames.

    Returns:
        (B, T, dim); zeros where the mask is false.
    """
    attention, window = self.attention_layer, self.attention_window
    frames = query.size(1)
    blocks = (frames + window - 1) // window
    missing = blocks * window - frames

    def split(x):  # (B, T, n) -> (B, blocks, window, n)
        x = torch.nn.functional.pad(x, (0, 0, 0, missing))
        return x.view(x.size(0), blocks, window, x.size(2))

    def heads(x):  # (B, blocks, places, dim) -> (B, blocks, heads, places, d)
        return x.unflatten(-1, (attention.num_heads, -1)).transpose(2, 3)

    def beside(x):  # (B, blocks, window, n) -> (B, blocks, 3 * window, n)
        x = torch.nn.functional.pad(x, (0, 0, 0, 0, 1, 1))
        return torch.cat((x[:, :-2], x[:, 1:-1], x[:, 2:]), dim=2)

    q = heads(split(attention.query(query))) / math.sqrt(attention.head_dim)
    k, v = (
        heads(beside(split(projection(x))))
        for projection, x in ((attention.key, key), (attention.value, value))
    )
    place = torch.arange(window)[:, None]
    other = torch.arange(3 * window) - window
    near = (place - other).abs() <= window
    valid = beside(split(mask.transpose(1, 2).float()))[:, :, None, :, 0, None] > 0
    seen = near & valid.transpose(-1, -2)
    scores = (q @ k.transpose(-1, -2)).masked_fill(~seen, -10000.0)
    y = (torch.softmax(scores, dim=-1) @ v).transpose(2, 3).flatten(3).flatten(1, 2)
    return y[:, :frames].masked_fill(~mask.transpose(1, 2), 0.0)


class LongformerEncoder(torch.nn.Module):
    """``espnet2.asr.encoder.longformer_encoder.LongformerEncoder``.

    ESPnet pads an utterance to a multiple of twice the widest window, and its search
    reads the padded frames too.
    """

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        refuse_token_ids(encoder)
        self.encoder = encoder
        attentions = [layer.self_attn for layer in encoder.encoders]
        self.attention = type(attentions[0])
        self.multiple = 2 * max(a.attention_window for a in attentions)
        for attention in attentions:
            layer = attention.attention_layer
            mode, dilation = layer.attention_mode, layer.attention_dilation
            if mode not in ("tvm", "sliding_chunks") or dilation != 1:
                raise PluginError(
                    f"encoder 'longformer' with attention_mode {mode} and "
                    f"attention_dilation {dilation} is not supported: only tvm and "
                    "sliding_chunks without dilation are"
                )
            # The same product; TVM's kernel runs on CUDA only, and the export compares
            # with PyTorch on the CPU.
            layer.attention_mode = "sliding_chunks"

    def output_size(self) -> int:
        """Size of the output."""
        return self.encoder.output_size()

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor, ctc: Any = None
    ) -> tuple[Any, torch.Tensor, None]:
        """(B, T, input size), (B,) -> what ESPnet's returns, padded lengths, None."""

        def seen(mask: torch.Tensor) -> torch.Tensor:
            frames = torch.arange(mask.size(2))
            return frames < self._padded(mask.sum(dim=2))[..., None]

        def clear(layer: torch.nn.Module, args: Any) -> Any:
            x, mask = args  # ESPnet pads an utterance with zeros before the layers
            return x.masked_fill(~mask.transpose(1, 2), 0.0), mask

        handle = self.encoder.encoders[0].register_forward_pre_hook(clear)
        windows = replaced(self.attention, "forward", _attend)
        try:
            with padding_kept_out(self.encoder, seen), windows:
                x, lengths, _ = self.encoder(x, lengths, ctc=ctc)
        finally:
            handle.remove()
        return x, self._padded(lengths), None

    def _padded(self, lengths: torch.Tensor) -> torch.Tensor:
        return (lengths + self.multiple - 1) // self.multiple * self.multiple


register(
    Arch(
        role="encoder",
        name="longformer",
        wrap=LongformerEncoder,
        tiny={
            "windows": dict(
                output_size=8,
                attention_heads=2,
                linear_units=12,
                num_blocks=2,
                macaron_style=True,
                cnn_module_kernel=5,
                attention_windows=[2, 4],
                attention_dilation=[1, 1],
                attention_mode="tvm",
            )
        },
        limits="no dilation, no attention_mode sliding_chunks_no_overlap",
    )
)
