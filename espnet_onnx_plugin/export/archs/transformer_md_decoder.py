"""``decoder: transformer_md``: the decoder of multi-decoder translation models."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from espnet_onnx_plugin.export.archs.transformer_decoder import (
    CrossMemory,
    Part,
    TransformerDecoderStep,
    cross_part,
)
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import StepModule


class TwoMemories(torch.nn.Module):
    """Keys and values of the recognized text and of the speech, for every layer."""

    def __init__(self, layers: torch.nn.ModuleList):
        super().__init__()
        self.text = CrossMemory(
            [layer.src_attn for layer in layers], "text", "frames_of_text"
        )
        self.speech = CrossMemory([layer.sequential_attn for layer in layers], "speech")

    def forward(
        self,
        md_out: torch.Tensor,
        md_out_lens: torch.Tensor,
        encoder_out: torch.Tensor,
        encoder_out_lens: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        text = self.text(md_out, md_out_lens)
        return (*text, *self.speech(encoder_out, encoder_out_lens))


class TransformerMDDecoderStep(TransformerDecoderStep):
    """``espnet2.asr.decoder.transformer_decoder.TransformerMDDecoder``, one token.

    Its layers attend to the encoded speech, then to the encoded hidden states of
    recognition.
    """

    def __init__(self, decoder: torch.nn.Module):
        super().__init__(decoder)
        self.hidden_size = None  # ESPnet's batch_score does not return it
        self.memory = TwoMemories(self.layers)
        self.reads = {"md_out": "frames_of_text", "encoder_out": "frames"}
        speech = self.memory.speech.tensors
        self.memory_tensors = {**self.memory.text.tensors, **speech}

    def crossings(
        self, index: int, rows: Sequence[int], memory: Sequence[torch.Tensor]
    ) -> dict[str, Part]:
        """A layer's attentions to the text that was recognized, and to speech."""
        layer, half = self.layers[index], len(memory) // 2
        return {
            "cross": cross_part(layer.src_attn, rows, index, memory[:half]),
            "sequential": cross_part(layer.sequential_attn, rows, index, memory[half:]),
        }


def wrap(decoder: torch.nn.Module) -> StepModule:
    """The step of a decoder with or without attention to speech."""
    if decoder.use_speech_attn:
        return TransformerMDDecoderStep(decoder)
    step = TransformerDecoderStep(decoder)
    step.hidden_size = None
    return step


_TINY = dict(attention_heads=2, linear_units=12, num_blocks=2)

register(
    Arch(
        role="decoder",
        name="transformer_md",
        wrap=wrap,
        tiny={
            "speech": _TINY,
            "speech_post_norm": dict(_TINY, normalize_before=False, concat_after=True),
        },
        limits="only in task st, with md_encoder",
    )
)
