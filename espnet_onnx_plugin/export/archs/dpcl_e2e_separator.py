"""``separator: dpcl_e2e``: deep clustering, whose masks a second network refines."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle.enhancement import SoftKMeans
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.layers.clustering import clustered
from espnet_onnx_plugin.export.layers.separation import Stack
from espnet_onnx_plugin.export.registry import Arch, register


class _Refinement(torch.nn.Module):
    """The second network of ``DPCLE2ESeparator``."""

    def __init__(self, separator: torch.nn.Module):
        super().__init__()
        self.rnn, self.linear = Stack(separator.enh_blstm), separator.enh_linear
        self.num_spk, self.clusters = separator.num_spk, separator.num_outputs

    def forward(self, x: torch.Tensor, masks: torch.Tensor) -> torch.Tensor:
        """Masks (outputs, frames, bins) of x (frames, bins) and those of clusters."""
        parts = torch.cat([x * mask for mask in masks] + [x], dim=1)
        z = self.linear(self.rnn(parts)[0]).unflatten(1, (-1, self.clusters))
        return torch.softmax(z, dim=2).permute(2, 0, 1)[: self.num_spk]


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """``espnet2.enh.separator.dpcl_e2e_separator.DPCLE2ESeparator``."""
    method = SoftKMeans(
        clusters=separator.num_outputs,
        alpha=float(separator.alpha),
        max_iteration=separator.max_iteration,
        threshold=float(separator.threshold),
    )
    return clustered(separator, ends, method, _Refinement(separator))


_SMALL = dict(unit=6, emb_D=5, ends="stft")

register(
    Arch(
        role="separator",
        name="dpcl_e2e",
        wrap=wrap,
        tiny={
            "spectrum": dict(_SMALL),
            "noise": dict(
                _SMALL,
                ends="conv",
                rnn_type="gru",
                predict_noise=True,
                alpha=1,
                threshold=1e-9,
                max_iteration=3,
            ),
        },
    )
)
