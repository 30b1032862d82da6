"""``decoder: rnn``: LSTM or GRU with any attention that ESPnet names."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.recurrent import RecurrentStep
from espnet_onnx_plugin.export.layers.rnn_attention import step_attention
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import RECURRENT_INPUTS, StepModule


class RNNDecoderStep(StepModule):
    """``espnet2.asr.decoder.rnn_decoder.RNNDecoder``, one token."""

    def __init__(self, decoder: torch.nn.Module):
        if decoder.num_encs != 1:
            raise PluginError(
                f"decoder 'rnn' with num_encs {decoder.num_encs} (hierarchical "
                "attention, the han_ options) is not supported, only 1: ESPnet's own "
                "asr_inference has one encoder"
            )
        super().__init__(decoder, RECURRENT_INPUTS)
        dim = decoder.decoder[0].input_size - decoder.dunits
        self.attention = step_attention(decoder.att_list[0], dim)
        self.memory = self.attention.memory
        self.memory_tensors = self.attention.memory_tensors
        self.step = RecurrentStep(*decoder.decoder)
        self.states = {**self.step.states, **self.attention.states}

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        decoder, count = self.reference, len(self.step.states)
        (tokens, parents), memory, states = self.split(tensors)
        past = [state.index_select(0, parents.flatten()) for state in states]
        context, attended = self.attention(
            past[0][:, 0], tokens.shape, memory, past[count:]
        )
        x = torch.cat((decoder.embed(tokens.flatten()), context), dim=1)
        x, *states = self.step(x, past[:count])
        if decoder.context_residual:
            x = torch.cat((x, context), dim=-1)
        scores = torch.log_softmax(decoder.output(x), dim=-1)
        return (scores, *states, *attended)


def _tiny(atype: str, **choices):
    att_conf = dict(atype=atype, adim=6, aheads=2, awin=3, aconv_chans=3, aconv_filts=5)
    return dict(hidden_size=7, att_conf=att_conf, **choices)


register(
    Arch(
        role="decoder",
        name="rnn",
        wrap=RNNDecoderStep,
        tiny={  # the other attentions have a test of their own
            "noatt": _tiny("noatt"),
            "dot_gru": _tiny("dot", rnn_type="gru", num_layers=2),
            "location": _tiny("location", num_layers=2, context_residual=True),
            "location_recurrent": _tiny("location_recurrent"),
            "coverage": _tiny("coverage"),
            "multi_head_multi_res_loc": _tiny("multi_head_multi_res_loc"),
        },
        limits=(
            "num_encs 1; coverage attentions: each hypothesis sums up its own weights, "
            "as in training (in ESPnet's search all share one sum)"
        ),
    )
)
