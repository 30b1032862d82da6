"""``frontend: fused``: several frontends, projected to one frame rate and joined."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.default_frontend import DefaultFrontend
from espnet_onnx_plugin.export.archs.s3prl_frontend import S3prlFrontend, needs_s3prl
from espnet_onnx_plugin.export.registry import Arch, register


class FusedFrontends(torch.nn.Module):
    """Waveform to features, ESPnet's ``FusedFrontends`` for one utterance at a time.

    A projection makes several frames of one where a frontend is slower than the common
    rate; frames that not every frontend has are dropped.
    """

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        if frontend.align_method != "linear_projection":
            raise PluginError(
                f"frontend 'fused' with align_method '{frontend.align_method}' is not "
                "supported (supported: linear_projection)"
            )
        self.parts = torch.nn.ModuleList(map(_wrap, frontend.frontends))
        rates = sorted({part.sampling_rate for part in self.parts})
        if len(rates) > 1:
            raise PluginError(
                f"frontend 'fused' of frontends at {' and '.join(map(str, rates))} Hz "
                "is not supported"
            )
        self.sampling_rate = rates[0]
        self.projections = frontend.projection_layers
        self.factors = [int(factor) for factor in frontend.factors]

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return max(
            part.shortest(-(-frames // factor))
            for part, factor in zip(self.parts, self.factors)
        )

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, parts * proj_dim), (B,)."""
        feats = []
        for part, project, factor in zip(self.parts, self.projections, self.factors):
            x, _ = part(speech, lengths)
            feats.append(project(x).reshape(x.size(0), x.size(1) * factor, -1))
        shortest = feats[0].size(1)
        for x in feats[1:]:
            shortest = torch.sym_min(shortest, x.size(1))
        joined = torch.cat([x[:, :shortest] for x in feats], dim=-1)
        return joined, torch.ones_like(lengths) * shortest


def _wrap(frontend: torch.nn.Module) -> torch.nn.Module:
    is_s3prl = getattr(frontend, "frontend_type", None) == "s3prl"
    return (S3prlFrontend if is_s3prl else DefaultFrontend)(frontend)


register(
    Arch(
        role="frontend",
        name="fused",
        wrap=FusedFrontends,
        tiny={
            "filterbank_and_hubert": dict(
                frontends=[
                    dict(
                        frontend_type="default",
                        n_mels=10,
                        n_fft=256,
                        win_length=200,
                        hop_length=80,
                    ),
                    dict(
                        frontend_type="s3prl",
                        frontend_conf=dict(upstream="hubert_local"),
                        multilayer_feature=True,
                    ),
                ],
                proj_dim=6,
                fs=16000,
            ),
        },
        limits="of default and s3prl, see there",
        needs=needs_s3prl,
    )
)
