"""Language models of Hugging Face's hub as decoders that the speech is a prompt for.

As ESPnet's ``HuggingFaceTransformersDecoder`` with ``causal_lm: true``: what the model
reads is a prefix, the encoder output in its size, a postfix, and then the tokens. Keys
and values of the prompt are made once for an utterance.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from espnet_onnx_plugin.bundle import State, Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.steps import (
    TREE_INPUTS,
    StepModule,
    masked,
    node_positions,
    tree_bias,
)

#: The model types whose decoders become graphs.
CAUSAL_TYPES = ("bloom", "gpt_neox", "llama", "mistral", "qwen2")


class _Scorer(torch.nn.Module):
    """ESPnet's decoder as a batch scorer, by its ``forward``.

    Its inference hands the model to transformers' ``generate`` instead, and its own
    ``batch_score`` is for decoders that attend to the encoder output.
    """

    def __init__(self, decoder: torch.nn.Module):
        super().__init__()
        self.decoder = decoder

    def batch_score(
        self, ys: torch.Tensor, states: list[Any], xs: torch.Tensor
    ) -> tuple[torch.Tensor, None]:
        """Log probabilities (N, vocabulary) after prefixes (N, length)."""
        frames, tokens = torch.tensor([xs.shape[1], ys.shape[1]]).expand(len(ys), 2).T
        logits, _ = self.decoder(xs, frames, ys, tokens)
        return torch.log_softmax(logits[:, -1], dim=-1), None


class _Cache:
    """A stand-in for transformers' ``Cache``.

    Args:
        prompt: keys and values of each layer, (utterances, h, prompt, d); empty where
            they are only collected.
        past: those of the nodes, (h, nodes, d).
        kept: (kept,), nodes that stay.

    Attributes:
        made: the keys and values of each layer, of the nodes where there are any.
    """

    is_compileable = False

    def __init__(
        self,
        prompt: Sequence[torch.Tensor] = (),
        past: Sequence[torch.Tensor] = (),
        kept: torch.Tensor | None = None,
    ):
        self._prompt = prompt
        self._past = past
        self._kept = kept
        self.made: list[torch.Tensor] = []

    def get_seq_length(self, layer: int = 0) -> int:
        """How many tokens there are: positions and masks are given, so none."""
        return 0

    def update(
        self, k: torch.Tensor, v: torch.Tensor, layer: int, options: Any = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Add what a layer made, (utterances, h, hypotheses, d).

        Returns:
            Keys and values that it attends to.
        """
        return self._with_past(k), self._with_past(v)

    def _with_past(self, new: torch.Tensor) -> torch.Tensor:
        if self._kept is None:
            self.made.append(new)
            return new
        i = len(self.made)
        rows = new.transpose(0, 1).flatten(1, 2)
        nodes = torch.cat((self._past[i].index_select(1, self._kept), rows), dim=1)
        self.made.append(nodes)
        nodes = nodes.expand(new.size(0), -1, -1, -1)
        return torch.cat((self._prompt[i], nodes), dim=2)


class _Network(torch.nn.Module):
    """The model less embedding and output layer, with positions and masks from here."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network = network
        self.alibi = hasattr(network, "build_alibi_tensor")

    def forward(
        self,
        x: torch.Tensor,
        positions: torch.Tensor,
        key_positions: torch.Tensor,
        bias: torch.Tensor,
        cache: _Cache,
    ) -> torch.Tensor:
        """Run the model.

        Args:
            x: (utterances, tokens, size).
            positions: (utterances, tokens).
            key_positions: (utterances, keys).
            bias: (utterances, 1, tokens, keys), added to the scores of attention.
            cache: of keys and values.
        """
        more = {} if self.alibi else {"position_ids": positions}
        with self._as_exported(key_positions):
            return self.network(
                inputs_embeds=x,
                attention_mask=bias,
                past_key_values=cache,
                use_cache=True,
                return_dict=True,
                **more,
            ).last_hidden_state

    @contextlib.contextmanager
    def _as_exported(self, key_positions: torch.Tensor) -> Iterator[None]:
        """Attention in plain operations, and ALiBi's biases from positions."""
        with contextlib.ExitStack() as stack:
            patch = stack.enter_context
            config, name = self.network.config, "_attn_implementation_internal"
            patch(replaced(config, name, "eager"))
            if self.alibi:
                make = self.network.build_alibi_tensor

                def build(mask: Any, heads: int, dtype: torch.dtype) -> torch.Tensor:
                    slopes = make(torch.ones(1, 2), heads, dtype)[:, 0, 1]
                    alibi = slopes[:, None] * key_positions[:, None].to(dtype)
                    return alibi.flatten(0, 1)[:, None]

                patch(replaced(self.network, "build_alibi_tensor", build))
            yield


class _Prompt(torch.nn.Module):
    """Encoder output to the keys and values of the prompt."""

    def __init__(self, decoder: torch.nn.Module, network: _Network):
        super().__init__()
        self.network = network
        self.linear_in = decoder.linear_in
        # As in ESPnet they are embedded before the model is trained.
        self.register_buffer("prefix", decoder.prefix)
        self.register_buffer("postfix", decoder.postfix)

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        count, frames, _ = encoder_out.shape
        x = [
            self.prefix.expand(count, -1, -1),
            self.linear_in(encoder_out),
            self.postfix.expand(count, -1, -1),
        ]
        x = torch.cat(x, dim=1)
        end = self.prefix.size(1) + encoder_out_lens
        last = end + self.postfix.size(1) - 1
        order = torch.arange(x.size(1))
        # The postfix follows an utterance's own frames, padding comes behind.
        skipped = torch.where(
            order < end[:, None], 0, (frames - encoder_out_lens)[:, None]
        )
        index = (order + skipped).clamp(max=x.size(1) - 1)
        x = x.gather(1, index[..., None].expand(-1, -1, x.size(2)))
        positions = order.expand(count, -1)
        cache = _Cache()
        # Nothing looks ahead, so nothing sees the padding.
        bias = masked(order <= order[:, None]).expand(count, 1, -1, -1)
        self.network(x, positions, positions, bias, cache)
        # Scoring begins at the last token of the prompt, which the first step feeds.
        bias = masked(order < last[:, None])[:, None, None]
        return (bias, last, x[torch.arange(count), last], *cache.made)


class CausalDecoderStep(StepModule):
    """``causal_lm: true``, one token.

    Args:
        decoder: ESPnet's.

    Raises:
        PluginError: for a model that is not supported.
    """

    def __init__(self, decoder: torch.nn.Module):
        config = decoder.decoder.config
        if config.model_type not in CAUSAL_TYPES:
            raise PluginError(
                f"decoder 'hugging_face_transformers' with causal_lm: true of model "
                f"type {config.model_type} is not supported; supported: "
                f"{', '.join(CAUSAL_TYPES)}"
            )
        slides = "sliding_attention" in (getattr(config, "layer_types", None) or ())
        if slides or (config.model_type == "mistral" and config.sliding_window):
            raise PluginError(
                "decoder 'hugging_face_transformers' of a model with sliding_window is "
                "not supported; use one that attends to all tokens"
            )
        if decoder.separate_lm_head:
            raise PluginError(
                "decoder 'hugging_face_transformers' with causal_lm and "
                "separate_lm_head is not supported: ESPnet's inference leaves the "
                "trained output layer out"
            )
        super().__init__(_Scorer(decoder), TREE_INPUTS)
        self.network = _Network(decoder.decoder)
        self.embedding = decoder.decoder_word_embeddings
        self.lm_head = decoder.lm_head
        self.memory = _Prompt(decoder, self.network)
        heads = getattr(config, "num_key_value_heads", config.num_attention_heads)
        size = config.hidden_size // config.num_attention_heads
        size = getattr(config, "head_dim", None) or size
        self.memory_tensors = {
            "prompt_bias": Tensor("float32", ("utterances", 1, 1, "prompt")),
            "prompt_position": Tensor("int64", ("utterances",)),
            "prompt_end": Tensor("float32", ("utterances", config.hidden_size)),
        }
        self.states: dict[str, State] = {}
        for i in range(config.num_hidden_layers):
            for kind in ("k", "v"):
                axes = ("utterances", heads, "prompt", size)
                self.memory_tensors[f"prompt_{kind}_{i}"] = Tensor("float32", axes)
                axes = (heads, "nodes", size)
                self.states[f"self_{kind}_{i}"] = State("float32", axes)
        self.states["node_positions"] = State("int64", ("nodes",))

    @property
    def prompt(self) -> int:
        """How many tokens stand around the encoder output."""
        return self.memory.prefix.size(1) + self.memory.postfix.size(1)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        (tokens, positions, kept, visible), memory, past = self.split(tensors)
        prompt_bias, last, end, *prompt = memory
        *past, nodes = past
        begins = (positions == 0)[..., None]
        x = torch.where(begins, end[:, None], self.embedding(tokens))
        positions = positions + last[:, None]
        nodes = node_positions(nodes, kept, positions)
        count, hypotheses = tokens.shape
        order = torch.arange(prompt_bias.size(-1))
        keys = torch.cat((order, nodes)).expand(count, -1)
        bias = tree_bias(visible).view(count, 1, hypotheses, -1)
        bias = torch.cat((prompt_bias.expand(-1, -1, hypotheses, -1), bias), dim=-1)
        cache = _Cache(prompt, past, kept)
        x = self.network(x, positions, keys, bias, cache).flatten(0, 1)
        return (torch.log_softmax(self.lm_head(x), dim=-1), *cache.made, nodes)
