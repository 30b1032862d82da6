"""``postdecoder: hugging_face_transformers``: a transcript through a text encoder."""

from __future__ import annotations

from functools import partial

import torch

from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, register, require_package

#: To what length ESPnet cuts a transcript, its two end marks included.
MAX_TOKENS = 128


class PostDecoder(torch.nn.Module):
    """``espnet2.slu.postdecoder.HuggingFaceTransformersPostDecoder``.

    ESPnet pads to :data:`MAX_TOKENS` and cuts the padding off afterwards; here a
    transcript is as long as it is.
    """

    def __init__(self, postdecoder: torch.nn.Module):
        super().__init__()
        self.model = postdecoder.model
        self.out_linear = postdecoder.out_linear

    def forward(
        self, transcript: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, tokens) ids, (B,) -> (B, tokens, dim), (B,)."""
        mask = ~make_pad_mask(lengths, transcript)
        outputs = self.model(
            input_ids=transcript,
            position_ids=torch.arange(transcript.size(1))[None],
            attention_mask=mask.long(),
            token_type_ids=torch.zeros_like(transcript),
        )
        return self.out_linear(outputs.last_hidden_state), lengths


register(
    Arch(
        role="postdecoder",
        name="hugging_face_transformers",
        wrap=PostDecoder,
        tiny={"bert": dict(model_name_or_path="bert", output_size=8)},
        needs=partial(require_package, "transformers"),
    )
)
