"""``decoder: hugging_face_transformers``: the decoder of BART or mBART."""

from typing import Any, Dict, List, Tuple

import torch
from torch.nn.functional import embedding

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.transformer_decoder import CrossMemory
from espnet_onnx_plugin.export.attention import hub_attention
from espnet_onnx_plugin.export.hub_text import needs_transformers
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    attend,
    cache_states,
    self_attention_step,
    split_heads,
    tree_bias,
)

#: What of a generation configuration the search knows, see ``runtime.hub_search``.
_KNOWN = (
    "early_stopping",
    "forced_bos_token_id",
    "forced_eos_token_id",
    "length_penalty",
    "max_length",
    "min_length",
    "no_repeat_ngram_size",
)

#: What does not change a result of greedy and beam search.
_WITHOUT_EFFECT = (
    "_from_model_config",
    "bos_token_id",
    "decoder_start_token_id",
    "eos_token_id",
    "num_beams",
    "pad_token_id",
    "transformers_version",
    "use_cache",
)


class _Scorer(torch.nn.Module):
    """ESPnet's ``HuggingFaceTransformersDecoder`` as a batch scorer.

    Its own ``batch_score`` asks for an attribute that its inference never sets; that
    inference hands the decoder to transformers' ``generate`` instead.
    """

    def __init__(self, decoder: torch.nn.Module):
        super().__init__()
        self.decoder = decoder

    def batch_score(
        self, ys: torch.Tensor, states: List[Any], xs: torch.Tensor
    ) -> Tuple[torch.Tensor, None]:
        """Log probabilities (N, vocabulary) after prefixes (N, length)."""
        out = self.decoder.decoder(
            input_ids=ys,
            encoder_hidden_states=self.decoder.linear_in(xs),
            use_cache=False,
            return_dict=True,
        )
        logits = self.decoder.lm_head(out.last_hidden_state[:, -1])
        return torch.log_softmax(logits, dim=-1), None


class _Layer(torch.nn.Module):
    """The two attentions of a decoder layer."""

    def __init__(self, layer: torch.nn.Module):
        super().__init__()
        self.layer = layer
        self.self_attn = hub_attention(layer.self_attn)
        self.src_attn = hub_attention(layer.encoder_attn)


class _Memory(CrossMemory):
    """Keys and values of the encoder output in the decoder's size."""

    def __init__(self, layers: torch.nn.ModuleList, linear_in: torch.nn.Module):
        super().__init__([layer.src_attn for layer in layers])
        self.linear_in = linear_in

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        return super().forward(self.linear_in(encoder_out), encoder_out_lens)


class BartDecoderStep(StepModule):
    """``transformers.BartDecoder`` (norms behind) and ``MBartDecoder`` (norms before).

    Attributes:
        generate: the settings of the search, by the names of transformers'
            ``GenerationConfig``.
    """

    def __init__(self, decoder: torch.nn.Module):
        if decoder.causal_lm:
            raise PluginError(
                "decoder 'hugging_face_transformers' with causal_lm: true is not "
                "supported; supported: decoders of BART and mBART"
            )
        kind = decoder.decoder.config.model_type
        if kind not in ("bart", "mbart"):
            raise PluginError(
                f"decoder 'hugging_face_transformers' of model type {kind} is not "
                "supported; supported: bart, mbart"
            )
        super().__init__(_Scorer(decoder), TREE_INPUTS)
        self.decoder = decoder.decoder
        self.lm_head = decoder.lm_head
        self.before = hasattr(self.decoder, "layer_norm")
        self.layers = torch.nn.ModuleList(_Layer(i) for i in self.decoder.layers)
        self.memory = _Memory(self.layers, decoder.linear_in)
        self.memory_tensors = self.memory.tensors
        self.states = cache_states([layer.self_attn for layer in self.layers])
        self.max_tokens = self.decoder.config.max_position_embeddings
        self.generate = generation_settings(decoder)

    def forward(self, *tensors: torch.Tensor) -> Tuple[torch.Tensor, ...]:
        """See :class:`StepModule`."""
        inputs, (memory_bias, *memory), past = self.split(tensors)
        tokens, positions, kept, visible = inputs
        table = self.decoder.embed_positions
        x = self.decoder.embed_tokens(tokens.flatten())
        x = x + embedding(positions.flatten() + table.offset, table.weight)
        x = self.decoder.layernorm_embedding(x)
        bias = tree_bias(visible)
        states = []
        for i, wrapped in enumerate(self.layers):
            of_layer = slice(2 * i, 2 * i + 2)
            layer = wrapped.layer

            y = self._normed(layer.self_attn_layer_norm, x)
            past_kv = past[of_layer]
            y, *kv = self_attention_step(wrapped.self_attn, y, kept, bias, *past_kv)
            states += kv
            x = self._added(layer.self_attn_layer_norm, x, y)

            attention = wrapped.src_attn
            y = self._normed(layer.encoder_attn_layer_norm, x)
            q = attention.linear_q(y).view(*tokens.shape, -1)
            k, v = memory[of_layer]
            y = attend(attention, split_heads(attention, q), k, v, memory_bias)
            x = self._added(layer.encoder_attn_layer_norm, x, y.flatten(0, 1))

            y = layer.fc1(self._normed(layer.final_layer_norm, x))
            y = layer.fc2(layer.activation_fn(y))
            x = self._added(layer.final_layer_norm, x, y)
        if self.before:
            x = self.decoder.layer_norm(x)
        return (torch.log_softmax(self.lm_head(x), dim=-1), *states)

    def _normed(self, norm: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return norm(x) if self.before else x

    def _added(
        self, norm: torch.nn.Module, x: torch.Tensor, y: torch.Tensor
    ) -> torch.Tensor:
        return x + y if self.before else norm(x + y)


def generation_settings(decoder: torch.nn.Module) -> Dict[str, Any]:
    """What ``generate`` does with the model that ESPnet's inference loads.

    Raises:
        PluginError: naming a setting that the search does not know.
    """
    from transformers import AutoModelForSeq2SeqLM

    model = AutoModelForSeq2SeqLM.from_pretrained(
        decoder.model_name_or_path, **decoder.overriding_architecture_config
    )
    given = model.generation_config
    unknown = set(given.to_diff_dict()) - {*_KNOWN, *_WITHOUT_EFFECT}
    if unknown:
        raise PluginError(
            f"the generation configuration of {decoder.model_name_or_path} sets "
            f"{', '.join(sorted(unknown))}, which the search does not know"
        )
    settings = {name: getattr(given, name) for name in _KNOWN}
    if settings["max_length"] == type(given)().max_length:
        # The default counts new tokens, that is, not the start symbol.
        limit = model.config.max_position_embeddings
        settings["max_length"] = min(settings["max_length"] + 1, limit)
    eos = given.eos_token_id
    return {
        **settings,
        "num_beams": model.config.num_beams,
        "start": model.config.decoder_start_token_id,
        "eos": eos if isinstance(eos, list) else [eos],
    }


register(
    Arch(
        role="decoder",
        name="hugging_face_transformers",
        wrap=BartDecoderStep,
        tiny={"bart": dict(model_name_or_path="facebook/bart-base")},
        limits="model types bart, mbart; decoding with hugging_face_decoder: true",
        needs=needs_transformers,
    )
)
