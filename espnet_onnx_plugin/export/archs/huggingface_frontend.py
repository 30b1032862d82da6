"""``frontend: huggingface``: w2v-BERT of transformers on the features that it reads."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.hub_text import needs_transformers
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register

#: Samples of a window and between two of them, and of the transform.
_WINDOW, _SHIFT, _N_FFT = 400, 160, 512


class KaldiFilterbank(torch.nn.Module):
    """Kaldi's log Mel filterbank, as transformers' ``SeamlessM4TFeatureExtractor``.

    What is done to a window of samples (16 bit integers, mean taken away, preemphasis,
    the window's shape) is linear and part of the transform's kernel.
    """

    def __init__(self, extractor: Any):
        super().__init__()
        identity = np.eye(_WINDOW)
        emphasis = identity - 0.97 * np.eye(_WINDOW, k=-1)
        emphasis[0, 0] = 1.0 - 0.97
        prepared = 2.0**15 * emphasis @ (identity - 1.0 / _WINDOW)
        kernel = np.fft.rfft(extractor.window[:, None] * prepared, n=_N_FFT, axis=0)
        kernel = np.concatenate((kernel.real, kernel.imag))
        self.register_buffer("kernel", torch.from_numpy(kernel[:, None]).float())
        filters = torch.from_numpy(extractor.mel_filters).float()
        self.register_buffer("filters", filters)

    def forward(self, speech: torch.Tensor) -> torch.Tensor:
        """(B, samples) -> (B, frames, bins)."""
        x = torch.nn.functional.conv1d(speech[:, None], self.kernel, stride=_SHIFT)
        real, imag = x.square().chunk(2, dim=1)
        mel = torch.matmul((real + imag).transpose(1, 2), self.filters)
        return mel.clamp(min=1.192092955078125e-07).log()


class HuggingFaceFrontend(torch.nn.Module):
    """Waveform to features, ``HuggingFaceFrontend``, for one utterance at a time."""

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        config, extractor = frontend.encoder.config, frontend.processor
        if config.model_type != "wav2vec2-bert":
            raise PluginError(
                f"frontend 'huggingface' of model type {config.model_type} is not "
                "supported (supported: wav2vec2-bert): of models that read waveforms "
                "ESPnet takes the number of samples for that of frames, which none of "
                "its encoders can be trained with; use frontend s3prl for them"
            )
        supported = dict(
            add_adapter=False, position_embeddings_type="relative_key", stride=2
        )
        for name, value in supported.items():
            actual = getattr(extractor if name == "stride" else config, name)
            if actual != value:
                raise PluginError(
                    f"frontend 'huggingface' with {name} {actual} is not supported "
                    f"(supported: {value})"
                )
        self.filterbank = KaldiFilterbank(extractor)
        self.model = frontend.encoder
        self.sampling_rate = extractor.sampling_rate

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return _WINDOW + (2 * frames - 1) * _SHIFT

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, dim), (B,)."""
        x = self.filterbank(speech)
        variance = x.var(dim=1, correction=1, keepdim=True)
        x = (x - x.mean(dim=1, keepdim=True)) / (variance + 1e-7).sqrt()
        # Two frames become one; what is left over is masked, and taken away by ESPnet.
        pairs = x.size(1) // 2
        x = x[:, : 2 * pairs].reshape(x.size(0), pairs, 2 * x.size(2))
        x, _ = self.model.feature_projection(x)
        attention = type(self.model.encoder.layers[0].self_attn)
        with replaced(attention, "forward", _attention):
            x = self.model.encoder(x).last_hidden_state
        windows = torch.div(lengths - _WINDOW, _SHIFT, rounding_mode="floor") + 1
        return x, torch.div(windows, 2, rounding_mode="floor")


def _attention(
    self: torch.nn.Module, hidden_states: torch.Tensor, *args: Any, **kwargs: Any
) -> tuple[torch.Tensor, None]:
    """``Wav2Vec2BertSelfAttention`` with ``relative_key`` positions, without a mask.

    A query is multiplied with the vectors of the distances that there are, and not with
    one for each key: transformers' product of that kind fills gigabytes.
    """
    q, k, v = (
        layer(hidden_states)
        .unflatten(-1, (self.num_heads, self.head_size))
        .transpose(1, 2)
        for layer in (self.linear_q, self.linear_k, self.linear_v)
    )
    batch, heads, time, _ = q.shape
    positions = torch.arange(time)
    left, right = self.left_max_position_embeddings, self.right_max_position_embeddings
    distances = (positions[None] - positions[:, None]).clamp(-left, right) + left
    table = torch.matmul(q, self.distance_embedding.weight.T)
    index = (distances + positions[:, None] * (left + right + 1)).flatten()
    bias = table.flatten(2).index_select(2, index).view(batch, heads, time, time)
    scores = (torch.matmul(q, k.transpose(2, 3)) + bias) / self.head_size**0.5
    context = torch.matmul(torch.softmax(scores, dim=-1), v)
    return self.linear_out(context.transpose(1, 2).flatten(2)), None


register(
    Arch(
        role="frontend",
        name="huggingface",
        wrap=HuggingFaceFrontend,
        tiny={
            "w2v_bert": dict(model="w2v_bert", load_pretrained=False),
        },
        limits="model type wav2vec2-bert without an adapter: of others ESPnet takes "
        "the samples for frames, and cannot train with them",
        needs=needs_transformers,
    )
)
