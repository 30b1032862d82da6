"""``decoder: linear_decoder``: one class for the whole utterance."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.steps import RECURRENT_INPUTS, StepModule


class _Classes(torch.nn.Module):
    """Log probabilities of the classes, once for each utterance."""

    def __init__(self, decoder: torch.nn.Module):
        super().__init__()
        self.decoder = decoder

    def forward(
        self, encoder_out: torch.Tensor, encoder_out_lens: torch.Tensor
    ) -> tuple[torch.Tensor]:
        scores = self.decoder(encoder_out, encoder_out_lens)
        return (torch.log_softmax(scores, dim=-1),)


class LinearDecoderStep(StepModule):
    """``espnet2.asr.decoder.linear_decoder.LinearDecoder``.

    Its scores do not depend on the tokens before. The classes are all tokens but blank,
    unknown and sos/eos, which get minus infinity.
    """

    def __init__(self, decoder: torch.nn.Module):
        super().__init__(decoder, {"tokens": RECURRENT_INPUTS["tokens"]})
        self.memory = _Classes(decoder)
        axes = ("utterances", decoder.output_dim)
        self.memory_tensors = {"class_log_probs": Tensor("float32", axes)}

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Score the next token of every hypothesis."""
        tokens, classes = tensors
        scores = torch.nn.functional.pad(classes, (2, 1), value=-torch.inf)
        return (scores[:, None].expand(-1, tokens.size(1), -1).flatten(0, 1),)


register(
    Arch(
        role="decoder",
        name="linear_decoder",
        wrap=LinearDecoderStep,
        tiny={
            "mean": dict(pooling="mean", dropout=0.1),
            "max": dict(pooling="max"),
        },
    )
)
