"""``svs: xiaoice``: FastSpeech for scores."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.export.archs import fastspeech_tts
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.durations import FeatureDecoder, ScoreEncoder
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import ScoreReads, TTSModules


class Encoder(ScoreEncoder):
    """Notes to hidden states and durations.

    Args:
        svs: ESPnet's model.
        duration: the duration that it reads of each phone.

    Attributes:
        ids: how many ids the embeddings have, by input.
    """

    def __init__(self, svs: torch.nn.Module, duration: str):
        super().__init__(svs, ("label", "midi", duration))
        layers = ("phone_encode_layer", "midi_encode_layer", "duration_encode_layer")
        self.embeds = torch.nn.ModuleList(getattr(svs, layer) for layer in layers)
        self.encoder = svs.encoder
        self.unused_draws = unused_draws(svs.encoder)
        counts = [embed.num_embeddings for embed in self.embeds]
        self.ids = dict(zip(self.inputs, counts))

    def hidden(self, *ids: torch.Tensor) -> torch.Tensor:
        """(1, symbols) each -> (1, symbols, dim)."""
        label, midi, duration = (embed(x) for embed, x in zip(self.embeds, ids))
        return self.encoder(label + midi + duration, None)[0]


class _Decoder(FeatureDecoder):
    """Hidden states, spread over the frames, to features."""

    def __init__(self, svs, encoder, normalize):
        super().__init__(svs, encoder, normalize)
        self.linear_projection = svs.linear_projection

    def decode(self, hs: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, frames * reduction_factor, odim).

        The logarithm of F0 and whether there is one are for losses alone.
        """
        zs, _ = self.decoder(hs, None)
        outs = self.linear_projection(zs).view(1, -1, self.odim + 2)
        return outs[..., : self.odim]


def wrap(
    svs: torch.nn.Module,
    normalize: torch.nn.Module | None,
    duration: str = "duration_ruled_phn",
) -> TTSModules:
    """``espnet2.svs.xiaoice.XiaoiceSing.XiaoiceSing``; args: as of naive_rnn_dp's."""
    encoder = Encoder(svs, duration)
    return TTSModules(
        {"encoder": encoder, "decoder": _Decoder(svs, encoder, normalize)},
        Durations(rounding="round", teacher_forcing=("singing",)),
        # ESPnet logs the label's durations.
        score=ScoreReads(encoder.ids, needs_labels=True),
    )


SMALL = fastspeech_tts.SMALL

register(
    Arch(
        role="svs",
        name="xiaoice",
        wrap=wrap,
        tiny={
            "transformer": dict(SMALL, positionwise_conv_kernel_size=3, spks=3),
            "conformer": dict(
                SMALL,
                encoder_type="conformer",
                decoder_type="conformer",
                conformer_dec_kernel_size=7,
                reduction_factor=2,
                postnet_layers=0,
                loss_function="FastSpeech1",
                langs=2,
                spk_embed_dim=5,
                spk_embed_integration_type="concat",
            ),
            "latest": dict(
                SMALL,
                encoder_type="conformer",
                conformer_rel_pos_type="latest",
                use_scaled_pos_enc=False,
                spk_embed_dim=5,
            ),
        },
    )
)
