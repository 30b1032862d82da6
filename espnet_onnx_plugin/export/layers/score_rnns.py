"""Recurrent layers over labels, pitches and durations: ESPnet's naive RNNs."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

from espnet_onnx_plugin.export.layers.recurrent import RecurrentStack

#: ESPnet's names of an input's embedding and recurrent layers.
_LAYERS = {
    "label": ("encoder_input_layer", "encoder"),
    "midi": ("midi_encoder_input_layer", "midi_encoder"),
    "duration": ("duration_encoder_input_layer", "duration_encoder"),
}


class ScoreRnns(torch.nn.Module):
    """An embedding and recurrent layers for each input, and what joins them.

    Args:
        svs: ``espnet2.svs.naive_rnn``'s ``NaiveRNN`` or ``NaiveRNNDP``.

    Attributes:
        ids: how many ids there are of label and midi, and of a duration where it is
            read.
    """

    def __init__(self, svs: torch.nn.Module):
        super().__init__()
        self.embeds, self.rnns = torch.nn.ModuleList(), torch.nn.ModuleList()
        self.ids: Mapping[str, int] = {}
        for name, (embed, rnn) in _LAYERS.items():
            if hasattr(svs, rnn):
                layer = getattr(svs, embed)
                self.embeds.append(layer)
                self.rnns.append(RecurrentStack(getattr(svs, rnn)))
                self.ids = {**self.ids, name: _ids(layer)}
        self.adds = svs.midi_embed_integration_type == "add"
        self.midi_projection = svs.midi_projection

    def forward(self, *ids: torch.Tensor) -> torch.Tensor:
        """(1, symbols) each -> (1, symbols, dim)."""
        hs = [rnn(embed(x)) for embed, rnn, x in zip(self.embeds, self.rnns, ids)]
        joined = sum(hs[1:], hs[0]) if self.adds else torch.cat(hs, dim=-1)
        return F.leaky_relu(self.midi_projection(joined))


def _ids(layer: torch.nn.Module) -> int:
    """How many ids an embedding has, alone or in front of convolutions."""
    embedding = layer if isinstance(layer, torch.nn.Embedding) else layer[0].embed
    return embedding.num_embeddings
