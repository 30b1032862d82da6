"""``encoder: vgg_rnn``: convolutions and poolings, then LSTM or GRU."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.archs.rnn_encoder import RNNEncoder
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register


class VGGRNNEncoder(RNNEncoder):
    """``espnet2.asr.encoder.vgg_rnn_encoder.VGGRNNEncoder``.

    Behind the end of an utterance every layer sees zeros, as it does when the utterance
    is alone: what is pooled is never negative, so that zeros do not change a maximum.
    """

    def __init__(self, encoder: torch.nn.Module):
        super().__init__(encoder)
        self.vgg = encoder.enc[0]

    def forward(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, None]:
        """Encode (batch, frames, dim), as ESPnet's encoder; there is no state."""
        vgg = self.vgg
        x = x.unflatten(2, (vgg.in_channel, -1)).transpose(1, 2)
        for convolutions in ((vgg.conv1_1, vgg.conv1_2), (vgg.conv2_1, vgg.conv2_2)):
            valid = ~make_pad_mask(lengths, maxlen=x.size(2))
            valid = valid[:, None, :, None].to(x.dtype)
            for convolution in convolutions:
                x = torch.relu(convolution(x * valid))
            x = torch.nn.functional.max_pool2d(x * valid, 2, stride=2, ceil_mode=True)
            lengths = (lengths + 1) // 2
        return super().forward(x.transpose(1, 2).flatten(2), lengths)


register(
    Arch(
        role="encoder",
        name="vgg_rnn",
        wrap=VGGRNNEncoder,
        tiny={
            "projections": dict(hidden_size=6, output_size=8, num_layers=2),
            "gru": dict(
                rnn_type="gru",
                bidirectional=False,
                use_projection=False,
                hidden_size=6,
                output_size=8,
                num_layers=1,
                in_channel=2,
            ),
        },
    )
)
