"""``separator: dc_crn``: densely connected convolutions around grouped LSTMs."""

from __future__ import annotations

from typing import Any

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModule, EnhModules
from espnet_onnx_plugin.export.layers.recurrent import RecurrentLayer
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


class GroupedLSTM(torch.nn.Module):
    """``espnet2.enh.layers.dc_crn.GLSTM`` of one mixture."""

    def __init__(self, glstm: torch.nn.Module):
        super().__init__()
        self.rearrange, self.norms = glstm.rearrange, glstm.ln
        self.layers = torch.nn.ModuleList(
            torch.nn.ModuleList(map(RecurrentLayer, groups))
            for groups in glstm.lstm_list
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(1, channels, frames, dim) -> the same shape."""
        y = x.permute(2, 0, 1, 3).flatten(2)
        for number, (layer, norm) in enumerate(zip(self.layers, self.norms)):
            if self.rearrange and number > 0:
                y = y.unflatten(-1, (len(layer), -1)).transpose(-1, -2).flatten(-2)
            parts = y.chunk(len(layer), dim=-1)
            parts = [one.sequences(part)[0] for one, part in zip(layer, parts)]
            if number == 0:  # ESPnet has the groups in turns here
                y = torch.stack(parts, dim=-1).flatten(-2)
            else:
                y = torch.cat(parts, dim=-1)
            y = norm(y)
        return y.unflatten(-1, (x.size(1), -1)).permute(1, 2, 0, 3)


class DenseSeparator(torch.nn.Module):
    """``espnet2.enh.separator.dc_crn_separator.DC_CRNSeparator`` of one mixture."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.num_spk = separator.num_spk
        self.separator = separator
        self.glstm = GroupedLSTM(separator.dc_crn.glstm)

    def forward(self, features: Any, lengths: torch.Tensor) -> tuple[list[Any]]:
        """Features (1, frames, bins) of each speaker, as of ESPnet's separator."""
        with replaced(self.separator.dc_crn.glstm, "forward", self.glstm.forward):
            masked, *_ = self.separator(features, lengths)
        return (masked,)


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """The graph of the separator."""
    if ends.analysis is None or ends.synthesis is None:
        raise PluginError("separator dc_crn needs encoder and decoder stft")
    block = separator.dc_crn.conv_enc[0]
    channels = block.conv[0][0].in_channels // 2
    if channels > 1 and separator.mode == "masking":
        raise PluginError(
            "separator dc_crn of several channels with mode masking is not supported: "
            "it makes waveforms of several channels; mapping makes one of each speaker"
        )
    module = EnhModule(DenseSeparator(separator), ends, channels)
    return EnhModules({"separator": module}, ends, channels)


_SMALL = dict(ends="stft", enc_hid_channels=2, enc_layers=2)

register(
    Arch(
        role="separator",
        name="dc_crn",
        wrap=wrap,
        tiny={
            "mapping": dict(
                _SMALL,
                input_channels=[6, 4, 4],
                num_spk=1,
                mode="mapping",
                glstm_bidirectional=True,
                ref_channel=1,
            ),
            "masking": dict(
                _SMALL,
                input_channels=[2, 4, 6],
                predict_noise=True,
                glstm_layers=3,
                glstm_rearrange=True,
            ),
        },
        limits="several channels with mode mapping",
    )
)
