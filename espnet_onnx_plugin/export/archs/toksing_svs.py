"""``svs: toksing``, which makes discrete tokens and the fundamental frequency."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.xiaoice_svs import SMALL as XIAOICE
from espnet_onnx_plugin.export.archs.xiaoice_svs import Encoder
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.durations import FeatureDecoder
from espnet_onnx_plugin.export.layers.generated_features import with_postnet
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import ScoreReads, TTSModules


class _Encoder(Encoder):
    """Notes to hidden states, durations, and what the pitch is made of."""

    def __init__(self, svs: torch.nn.Module, duration: str):
        super().__init__(svs, duration)
        self.proj_pitch = svs.proj_pitch
        tensor = Tensor("float32", ("symbols", svs.proj_pitch.out_features))
        self.outputs = {**self.outputs, "pitch_hidden": tensor}

    def forward(self, *values: torch.Tensor):
        """Ids (symbols,) and conditions -> the outputs."""
        of_pitch = self.proj_pitch(self.embeds[1](values[1]))
        return (*super().forward(*values), of_pitch)


class _FeatureDecoder(FeatureDecoder):
    """Hidden states, spread over the frames, to features."""

    def __init__(self, svs, encoder, normalize):
        super().__init__(svs, encoder, normalize)
        self.feat_out = svs.linear_projection


class _TokenDecoder(_FeatureDecoder):
    """Hidden states, spread over the frames, to tokens and F0."""

    def __init__(self, svs, encoder):
        super().__init__(svs, encoder, None)
        self.f0_predictor, self.lf0_mapping = svs.f0_predictor, svs.lf0_mapping
        self.unused_draws += unused_draws(svs.f0_predictor)
        self.inputs = {
            "hidden": encoder.outputs["hidden"],
            "pitch_hidden": encoder.outputs["pitch_hidden"],
            "symbol_of_frame": Tensor("int64", ("frames",)),
        }
        self.outputs = {
            "feat_gen": Tensor("int64", ("frames_out", 1)),
            "pitch": Tensor("float32", ("frames",)),
            "logits": Tensor("float32", (1, "frames_out", svs.odim)),
        }

    def forward(self, hidden, of_pitch, index):
        """(symbols, dim) twice, (frames,) -> the outputs; F0 is a logarithm, or 0."""
        hs = hidden[None, index]
        f0 = self.log_f0(hs + of_pitch[None, index])
        logits = with_postnet(self, self.decode(hs + self.lf0_mapping(f0)))
        return logits[0].argmax(dim=1, keepdim=True), f0[0, :, 0], logits

    def log_f0(self, hs: torch.Tensor) -> torch.Tensor:
        """(1, frames, dim) -> (1, frames, 1)."""
        predictor = self.f0_predictor
        x = predictor.prenet(hs.transpose(1, 2)).transpose(1, 2)
        x, _ = predictor.decoder(x, None)
        return predictor.proj(x.transpose(1, 2)).transpose(1, 2).clamp(min=0)


def wrap(svs: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.svs.discrete.toksing.TokSing``."""
    if svs.use_discrete_token != svs.predict_pitch:
        raise PluginError(
            "toksing with one of use_discrete_token and predict_pitch cannot sing in "
            "ESPnet either: train it with both, or none"
        )
    if not svs.use_discrete_token:
        encoder = Encoder(svs, "duration_syb")
        modules = {
            "encoder": encoder,
            "decoder": _FeatureDecoder(svs, encoder, normalize),
        }
        search = Durations(rounding="round", teacher_forcing=("singing",))
    else:
        encoder = _Encoder(svs, "duration_syb")
        modules = {"encoder": encoder, "decoder": _TokenDecoder(svs, encoder)}
        forced = ("singing", "pitch", "discrete_token")
        search = Durations(rounding="round", teacher_forcing=forced)
    return TTSModules(modules, search, score=ScoreReads(encoder.ids, needs_labels=True))


_F0 = dict(
    text_encoder_blocks=1,
    text_encoder_positionwise_conv_kernel_size=3,
    use_discrete_token=True,
    predict_pitch=True,
    loss_function="FastSpeech1",
)

register(
    Arch(
        role="svs",
        name="toksing",
        wrap=wrap,
        tiny={
            "tokens": dict(
                XIAOICE,
                **_F0,
                spks=3,
                use_conformer_conv_in_text_encoder=False,
            ),
            "layers": dict(
                XIAOICE,
                **_F0,
                encoder_type="conformer",
                decoder_type="conformer",
                conformer_dec_kernel_size=7,
                postnet_layers=0,
                langs=2,
                spk_embed_dim=5,
            ),
            "features": dict(XIAOICE, spk_embed_dim=5),
        },
        limits="use_discrete_token and predict_pitch together",
    )
)
