"""OpenAI's Whisper, as ESPnet's frontend, encoder and decoder of that name wrap it."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from espnet_onnx_plugin.export.archs.default_frontend import RealStft
from espnet_onnx_plugin.export.layers.attention import Attention, attend_valid
from espnet_onnx_plugin.export.padding import make_pad_mask


def attention_of(module: torch.nn.Module) -> Attention:
    """A ``whisper.model.MultiHeadAttention`` under ESPnet's names."""
    return Attention(module.n_head, module.query, module.key, module.value, module.out)


class WhisperLogMel(torch.nn.Module):
    """Waveform to log-mel of one utterance at a time, as ESPnet's ``whisper`` modules.

    Args:
        module: ESPnet's frontend or encoder.
    """

    sampling_rate = 16000

    def __init__(self, module: torch.nn.Module):
        super().__init__()
        self.stft = RealStft(
            SimpleNamespace(
                n_fft=module.n_fft,
                win_length=module.win_length,
                hop_length=module.hop_length,
                window="hann",
                center=True,
                normalized=False,
                onesided=True,
            )
        )
        filters = module.mel_filters(torch.device("cpu"), module.n_mels)
        self.register_buffer("filters", filters.T.clone())
        #: Samples that every utterance is padded or cut to, or None.
        self.samples: int | None = None
        if getattr(module, "do_pad_trim", False):
            self.samples = module.pad_samples
            self.frames = self.samples // module.hop_length

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        if self.samples is not None:
            return 1
        # The reflection at the edges needs more samples than it adds.
        return max(frames * self.stft.hop_length, self.stft.pad + 1)

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, n_mels), (B,)."""
        if self.samples is not None:
            speech = torch.nn.functional.pad(speech, (0, self.samples))
            speech = speech[:, : self.samples]
            lengths = torch.full_like(lengths, self.samples)
        power, lengths = self.stft(speech, lengths)
        power = power[:, :-1]  # Whisper leaves the last frame out
        log_mel = torch.matmul(power, self.filters).clamp(min=1e-10).log10()
        floor = log_mel.amax(dim=(1, 2), keepdim=True) - 8.0
        return (torch.maximum(log_mel, floor) + 4.0) / 4.0, lengths - 1


class WhisperEncoder(torch.nn.Module):
    """``whisper.model.AudioEncoder`` as ESPnet runs it: of any length, dropout aside.

    What goes beyond the positions that Whisper knows is cut off. Unlike in Whisper, the
    padding of a batch is kept out of convolutions and attention.
    """

    def __init__(self, encoder: torch.nn.Module):
        super().__init__()
        self.encoder = encoder
        self.attentions = torch.nn.ModuleList(
            attention_of(block.attn) for block in encoder.blocks
        )

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return self.encoder.ln_post.normalized_shape[-1]

    def forward(
        self, feats: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, frames, n_mels), (B,) -> (B, (frames + 1) / 2, size), (B,)."""
        encoder = self.encoder
        padding = make_pad_mask(lengths, feats[..., 0])[:, None]
        x = torch.nn.functional.gelu(encoder.conv1(feats.transpose(1, 2)))
        x = torch.nn.functional.gelu(encoder.conv2(x.masked_fill(padding, 0.0)))
        positions = encoder.positional_embedding
        frames = torch.sym_min(x.size(2), positions.size(0))
        x = x.transpose(1, 2)[:, :frames] + positions[:frames]
        lengths = torch.div(lengths + 1, 2, rounding_mode="floor")
        lengths = lengths.clamp(max=positions.size(0))
        valid = ~make_pad_mask(lengths, x[..., 0])[:, None, None]
        for block, attention in zip(encoder.blocks, self.attentions):
            x = x + attend_valid(attention, block.attn_ln(x), valid)
            x = x + block.mlp(block.mlp_ln(x))
        return encoder.ln_post(x), lengths
