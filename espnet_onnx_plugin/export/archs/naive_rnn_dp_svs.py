"""``svs: naive_rnn_dp``: naive RNN with durations that it predicts."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.export.archs.naive_rnn_svs import SMALL as NAIVE_RNN
from espnet_onnx_plugin.export.layers.durations import FeatureDecoder, ScoreEncoder
from espnet_onnx_plugin.export.layers.recurrent import RecurrentStack
from espnet_onnx_plugin.export.layers.score_rnns import ScoreRnns
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import ScoreReads, TTSModules


class _Encoder(ScoreEncoder):
    """Notes to hidden states and durations."""

    def __init__(self, svs: torch.nn.Module, duration: str):
        super().__init__(svs, ("label", "midi", duration))
        self.rnns = ScoreRnns(svs)

    def hidden(self, *ids: torch.Tensor) -> torch.Tensor:
        """(1, symbols) each -> (1, symbols, dim)."""
        return self.rnns(*ids)


class _Decoder(FeatureDecoder):
    """Hidden states, spread over the frames, to features."""

    def __init__(self, svs, encoder, normalize):
        super().__init__(svs, encoder, normalize)
        self.decoder = RecurrentStack(svs.decoder)

    def decode(self, hs: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, frames * reduction_factor, odim)."""
        return F.leaky_relu(self.feat_out(self.decoder(hs)).view(1, -1, self.odim))


def wrap(
    svs: torch.nn.Module,
    normalize: torch.nn.Module | None,
    duration: str = "duration_ruled_phn",
) -> TTSModules:
    """``espnet2.svs.naive_rnn.naive_rnn_dp.NaiveRNNDP``.

    Args:
        svs: the model.
        normalize: ESPnet's ``GlobalMVN``, or None.
        duration: the duration that it reads of each phone.
    """
    encoder = _Encoder(svs, duration)
    counts = encoder.rnns.ids.values()
    return TTSModules(
        {"encoder": encoder, "decoder": _Decoder(svs, encoder, normalize)},
        Durations(rounding="round", teacher_forcing=("singing",)),
        score=ScoreReads(dict(zip(("label", "midi", duration), counts))),
    )


SMALL = dict(NAIVE_RNN, duration_predictor_layers=2, duration_predictor_chans=8)

register(
    Arch(
        role="svs",
        name="naive_rnn_dp",
        wrap=wrap,
        tiny={
            "add": dict(SMALL, spks=3),
            "cat": dict(
                SMALL,
                midi_embed_integration_type="cat",
                eprenet_conv_layers=0,
                postnet_layers=0,
                dbidirectional=False,
                ebidirectional=False,
                reduction_factor=2,
                langs=2,
                spk_embed_dim=5,
                spk_embed_integration_type="concat",
            ),
        },
    )
)
