"""``separator: dccrn``: complex convolutions around recurrent layers.

Hu et al., "DCCRN: Deep Complex Convolution Recurrent Network", Interspeech 2020. A
complex convolution is one real one, whose channels are the real and the imaginary
parts.
"""

from __future__ import annotations

from typing import Any

import torch
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, direct
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.registry import Arch, register


def _joined_bias(real: torch.nn.Module, imag: torch.nn.Module) -> torch.Tensor:
    return torch.cat((real.bias - imag.bias, real.bias + imag.bias)).detach()


class _Convolution(torch.nn.Module):
    """``espnet2.enh.layers.complexnn.ComplexConv2d`` as one convolution."""

    def __init__(self, convolution: torch.nn.Module):
        super().__init__()
        real, imag = convolution.real_conv, convolution.imag_conv
        r, i = real.weight.detach(), imag.weight.detach()  # (out, in, ...)
        weight = torch.cat((torch.cat((r, -i), 1), torch.cat((i, r), 1)))
        self.register_buffer("weight", weight)
        self.register_buffer("bias", _joined_bias(real, imag))
        self.stride, self.padding = real.stride, real.padding
        self.past = convolution.padding[1]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, channels, bins, frames) -> the same, where frames see none after them."""
        x = torch.nn.functional.pad(x, (self.past, 0))
        return torch.nn.functional.conv2d(
            x, self.weight, self.bias, self.stride, self.padding
        )


class _Transposed(torch.nn.Module):
    """``espnet2.enh.layers.complexnn.ComplexConvTranspose2d`` as one convolution.

    Its input is what was computed and what was skipped, one behind the other, where
    ESPnet has the real parts of both before the imaginary ones.
    """

    def __init__(self, convolution: torch.nn.Module):
        super().__init__()
        real, imag = convolution.real_conv, convolution.imag_conv
        r, i = real.weight.detach(), imag.weight.detach()  # (in, out, ...)
        weight = torch.cat((torch.cat((r, i), 1), torch.cat((-i, r), 1)))
        parts = weight.chunk(4)
        self.register_buffer("weight", torch.cat([parts[n] for n in (0, 2, 1, 3)]))
        self.register_buffer("bias", _joined_bias(real, imag))
        self.stride, self.padding = real.stride, real.padding
        self.output_padding = real.output_padding

    def forward(self, x: torch.Tensor, skipped: torch.Tensor) -> torch.Tensor:
        """(1, channels, bins, frames), twice, to one of twice the bins."""
        y = torch.nn.functional.conv_transpose2d(
            torch.cat((x, skipped), dim=1),
            self.weight,
            self.bias,
            self.stride,
            self.padding,
            self.output_padding,
        )
        return y[..., 1:]


class _ComplexLSTM(torch.nn.Module):
    """``espnet2.enh.layers.complexnn.NavieComplexLSTM``."""

    def __init__(self, lstm: torch.nn.Module):
        super().__init__()
        self.real, self.imag = map(RecurrentLayer, (lstm.real_lstm, lstm.imag_lstm))
        self.projections = None
        if lstm.projection_dim is not None:
            self.projections = torch.nn.ModuleList((lstm.r_trans, lstm.i_trans))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Real and imaginary parts (frames, 2, dim)."""
        by_real, by_imag = self.real.sequences(x)[0], self.imag.sequences(x)[0]
        parts = by_real[:, 0] - by_imag[:, 1], by_real[:, 1] + by_imag[:, 0]
        if self.projections is not None:
            parts = [layer(part) for layer, part in zip(self.projections, parts)]
        return torch.stack(tuple(parts), dim=1)


class _Layers(torch.nn.Module):
    """LSTMs that know nothing of complex numbers, and a projection."""

    def __init__(self, lstm: torch.nn.LSTM, projection: torch.nn.Linear):
        super().__init__()
        numbers = range(lstm.num_layers)
        self.layers = torch.nn.ModuleList(RecurrentLayer(lstm, n) for n in numbers)
        self.projection = projection

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Real and imaginary parts (frames, 2, dim)."""
        y = x.flatten(1)[:, None]
        for layer in self.layers:
            y, *_ = layer.sequences(y)
        return self.projection(y[:, 0]).view(x.shape)


def _direction(
    real: torch.Tensor, imag: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosine and sine of the angle of complex numbers; that of 0 is 0."""
    scale = torch.maximum(real.abs(), imag.abs())
    zero = scale == 0
    real = torch.where(zero, 1.0, real / torch.where(zero, 1.0, scale))
    imag = torch.where(zero, 0.0, imag / torch.where(zero, 1.0, scale))
    length = torch.sqrt(real**2 + imag**2)
    return real / length, imag / length


class DCCRNSeparator(torch.nn.Module):
    """``espnet2.enh.separator.dccrn_separator.DCCRNSeparator`` of one mixture."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.num_spk, self.mode = separator.num_spk, separator.masking_mode
        self.encoder = torch.nn.ModuleList(
            torch.nn.Sequential(_Convolution(convolution), *others)
            for convolution, *others in separator.encoder
        )
        if separator.use_clstm:
            self.recurrent = torch.nn.Sequential(*map(_ComplexLSTM, separator.enhance))
        else:
            self.recurrent = _Layers(separator.enhance, separator.tranform)
        self.decoder = torch.nn.ModuleList(_Transposed(d[0]) for d in separator.decoder)
        self.behind = torch.nn.ModuleList(
            torch.nn.Sequential(*list(layers)[1:]) for layers in separator.decoder
        )

    def forward(self, features: Any, lengths: torch.Tensor) -> tuple[list[Any]]:
        """Features (1, frames, bins) of each speaker, as of ESPnet's separator."""
        real, imag = features.real.transpose(1, 2), features.imag.transpose(1, 2)
        x = torch.stack((real, imag), dim=1)[:, :, 1:]
        skipped = []
        for layer in self.encoder:
            x = layer(x)
            skipped.append(x)
        rows = x[0].unflatten(0, (2, -1)).permute(3, 0, 1, 2).flatten(2)
        rows = self.recurrent(rows)  # (frames, 2, channels // 2 * bins)
        x = rows.unflatten(2, (-1, x.size(2))).permute(1, 2, 3, 0).flatten(0, 1)[None]
        for layer, behind in zip(self.decoder, self.behind):
            x = behind(layer(x, skipped.pop()))
        masks = torch.nn.functional.pad(x, (0, 0, 1, 0)).unflatten(1, (-1, 2))
        masked = []
        for speaker in range(self.num_spk):
            # ESPnet masks what it has masked for the speaker before.
            real, imag = self._masked(real, imag, *masks[:, speaker].unbind(1))
            masked.append(ComplexTensor(real.transpose(1, 2), imag.transpose(1, 2)))
        return (masked,)

    def _masked(
        self,
        real: torch.Tensor,
        imag: torch.Tensor,
        mask_real: torch.Tensor,
        mask_imag: torch.Tensor,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """A spectrum (1, bins, frames) times a mask, as the mode says."""
        if self.mode == "R":
            return real * mask_real, imag * mask_imag
        if self.mode == "E":
            magnitude = torch.sqrt(real**2 + imag**2 + 1e-8)
            magnitude = magnitude * torch.tanh(torch.sqrt(mask_real**2 + mask_imag**2))
            real, imag = _direction(real, imag)
            mask_real, mask_imag = _direction(mask_real, mask_imag)
            real, imag = real * magnitude, imag * magnitude
        return real * mask_real - imag * mask_imag, real * mask_imag + imag * mask_real


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    if ends.analysis is None or ends.synthesis is None:
        raise PluginError("separator dccrn needs encoder and decoder stft")
    return direct(DCCRNSeparator(separator), ends)


_SMALL = dict(ends="stft", rnn_units=6, kernel_num=[4, 6])

register(
    Arch(
        role="separator",
        name="dccrn",
        wrap=wrap,
        tiny={
            "complex": dict(_SMALL),
            "real": dict(
                _SMALL,
                num_spk=2,
                use_clstm=False,
                bidirectional=True,
                use_cbn=True,
                use_noise_mask=True,
                masking_mode="C",
            ),
            "parts": dict(
                _SMALL, num_spk=2, rnn_layer=1, bidirectional=True, masking_mode="R"
            ),
            "several": dict(_SMALL, num_spk=2, use_cbn=True),
        },
    )
)
