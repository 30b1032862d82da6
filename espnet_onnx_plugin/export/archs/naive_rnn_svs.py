"""``svs: naive_rnn``, which reads a label and a pitch for every frame."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Framewise
from espnet_onnx_plugin.export.layers.conditions import Conditions
from espnet_onnx_plugin.export.layers.generated_features import (
    GeneratedFeatures,
    with_postnet,
)
from espnet_onnx_plugin.export.layers.score_rnns import ScoreRnns
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import ScoreReads, TTSModule, TTSModules


class _Model(TTSModule):
    """All of the model; ESPnet's inference leaves its decoder out."""

    def __init__(self, svs: torch.nn.Module, normalize: torch.nn.Module | None):
        super().__init__()
        self.rnns = ScoreRnns(svs)
        self.conditions = Conditions(svs, svs.odim)
        self.feat_out, self.postnet, self.odim = svs.feat_out, svs.postnet, svs.odim
        self.features = GeneratedFeatures(svs.odim, normalize)
        self.inputs = {
            **{name: Tensor("int64", ("frames",)) for name in self.rnns.ids},
            **self.conditions.inputs,
        }
        self.outputs = self.features.outputs

    def forward(self, label: torch.Tensor, midi: torch.Tensor, *conditions):
        """(frames,) twice, conditions -> features (frames * reduction_factor, odim)."""
        hs = self.conditions(self.rnns(label[None], midi[None]), *conditions)
        before = F.leaky_relu(self.feat_out(hs).view(1, -1, self.odim))
        return tuple(self.features(with_postnet(self, before)[0]))


def wrap(svs: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.svs.naive_rnn.naive_rnn.NaiveRNN``."""
    model = _Model(svs, normalize)
    return TTSModules(
        {"encoder": model},
        Framewise(teacher_forcing=("singing",)),
        score=ScoreReads(model.rnns.ids, "duration_phn"),
    )


SMALL = dict(
    embed_dim=8,
    eprenet_conv_layers=2,
    eprenet_conv_chans=8,
    eprenet_conv_filts=3,
    elayers=2,
    eunits=6,
    dlayers=1,
    dunits=6,
    postnet_layers=2,
    postnet_chans=8,
    postnet_filts=3,
)

register(
    Arch(
        role="svs",
        name="naive_rnn",
        wrap=wrap,
        tiny={
            "add": dict(SMALL),
            "cat": dict(
                SMALL,
                midi_embed_integration_type="cat",
                eprenet_conv_layers=0,
                postnet_layers=0,
                ebidirectional=False,
                reduction_factor=2,
                spks=3,
                langs=2,
                spk_embed_dim=5,
            ),
            "concat": dict(
                SMALL,
                elayers=1,
                use_batch_norm=False,
                spk_embed_dim=5,
                spk_embed_integration_type="concat",
            ),
        },
    )
)
