"""``decoder: transformer``."""

from typing import Dict, Tuple

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    attend,
    cache_states,
    encode_position,
    masked,
    normed,
    self_attention_step,
    split_heads,
    tree_bias,
)


class CrossMemory(torch.nn.Module):
    """Keys and values of the encoder output for every layer, and the padding's bias."""

    def __init__(self, layers: torch.nn.ModuleList):
        super().__init__()
        self.attentions = torch.nn.ModuleList(layer.src_attn for layer in layers)

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        valid = ~make_pad_mask(encoder_out_lens, encoder_out[..., 0])
        tensors = [masked(valid)[:, None, None]]
        for attention in self.attentions:
            k = split_heads(attention, attention.linear_k(encoder_out))
            tensors.append(normed(attention, "k_norm", k))
            tensors.append(split_heads(attention, attention.linear_v(encoder_out)))
        return tuple(tensors)


def cross_tensors(layers: torch.nn.ModuleList) -> Dict[str, Tensor]:
    """What :class:`CrossMemory` gives, by name."""
    tensors = {"memory_bias": Tensor("float32", ("utterances", 1, 1, "frames"))}
    for i, layer in enumerate(layers):
        axes = ("utterances", layer.src_attn.h, "frames", layer.src_attn.d_k)
        tensors[f"memory_k_{i}"] = Tensor("float32", axes)
        tensors[f"memory_v_{i}"] = Tensor("float32", axes)
    return tensors


class TransformerDecoderStep(StepModule):
    """``espnet2.asr.decoder.transformer_decoder.TransformerDecoder``, one token."""

    def __init__(self, decoder: torch.nn.Module):
        if not isinstance(decoder.embed[0], torch.nn.Embedding):
            raise PluginError(
                "decoder 'transformer' with input_layer other than embed is not "
                "supported: a search feeds token ids"
            )
        if decoder.output_layer is None:
            raise PluginError(
                "decoder 'transformer' with use_output_layer: false is not supported: "
                "it scores no tokens"
            )
        super().__init__(decoder, TREE_INPUTS)
        self.layers = decoder.decoders
        self.memory = CrossMemory(self.layers)
        self.states = cache_states([layer.self_attn for layer in self.layers])
        self.memory_tensors = cross_tensors(self.layers)

    def forward(self, *tensors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        inputs, (memory_bias, *memory), past = self.split(tensors)
        tokens, positions, kept, visible = inputs
        embedding, pos_enc = self.reference.embed
        x = encode_position(pos_enc, embedding(tokens.flatten()), positions.flatten())
        bias = tree_bias(visible)
        states = []
        for i, layer in enumerate(self.layers):
            of_layer = slice(2 * i, 2 * i + 2)
            x, *kv = self._self_attention(layer, x, kept, bias, *past[of_layer])
            states += kv
            x = self._cross_attention(layer, x, tokens, *memory[of_layer], memory_bias)
            residual = x
            x = layer.norm3(x) if layer.normalize_before else x
            x = residual + layer.feed_forward(x)
            x = x if layer.normalize_before else layer.norm3(x)
        if self.reference.normalize_before:
            x = self.reference.after_norm(x)
        scores = torch.log_softmax(self.reference.output_layer(x), dim=-1)
        return (scores, *states)

    @staticmethod
    def _self_attention(layer, x, kept, bias, past_k, past_v):
        residual = x
        x = layer.norm1(x) if layer.normalize_before else x
        y, k, v = self_attention_step(layer.self_attn, x, kept, bias, past_k, past_v)
        if layer.concat_after:
            y = layer.concat_linear1(torch.cat((x, y), dim=-1))
        x = residual + y
        return x if layer.normalize_before else layer.norm1(x), k, v

    @staticmethod
    def _cross_attention(layer, x, tokens, k, v, bias):
        residual = x
        x = layer.norm2(x) if layer.normalize_before else x
        attention = layer.src_attn
        q = attention.linear_q(x).view(*tokens.shape, -1)
        q = normed(attention, "q_norm", split_heads(attention, q))
        y = attend(attention, q, k, v, bias).flatten(0, 1)
        if layer.concat_after:
            y = layer.concat_linear2(torch.cat((x, y), dim=-1))
        x = residual + y
        return x if layer.normalize_before else layer.norm2(x)


register(
    Arch(
        role="decoder",
        name="transformer",
        wrap=TransformerDecoderStep,
        tiny={
            "pre_norm": dict(attention_heads=2, linear_units=20, num_blocks=2),
            "post_norm": dict(
                attention_heads=2,
                linear_units=20,
                num_blocks=2,
                normalize_before=False,
                concat_after=True,
            ),
        },
        limits="input_layer embed",
    )
)
