"""``svs: vits``: VISinger and VISinger 2."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.layers.conditions import GlobalCondition, with_time
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.posterior import Posterior
from espnet_onnx_plugin.export.layers.singing_vocoders import (
    EXCITED,
    excitation_of,
    vocoder_of,
)
from espnet_onnx_plugin.export.layers.vocoder import fold_weight_norm
from espnet_onnx_plugin.export.padding import padded_to
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import ScoreReads, TTSModule, TTSModules
from espnet_onnx_plugin.packages import import_package

#: Settings of ESPnet: what it builds, and the key that names the vocoder.
_GENERATORS = ("visinger", "visinger2")
_VOCODER = "vocoder_generator_type"


class _Encoder(TTSModule):
    """Notes to hidden states of symbols, those of their pitch, and durations."""

    def __init__(self, generator: torch.nn.Module):
        super().__init__()
        self.text_encoder = generator.text_encoder
        self.duration_predictor = generator.duration_predictor
        self.frame_rate = (generator.sample_rate, generator.hop_length)
        self.unused_draws = unused_draws(self.text_encoder)
        self.condition = GlobalCondition(generator)
        self.ids = {
            "label": self.text_encoder.emb_phone.num_embeddings,
            "midi": self.text_encoder.emb_pitch.num_embeddings,
            "duration_syb": 2**31,  # a number, and no id
            "slur": self.text_encoder.emb_slur.num_embeddings,
        }
        self.inputs = {name: Tensor("int64", ("symbols",)) for name in self.ids}
        self.inputs.update(self.condition.inputs)
        width = generator.hidden_channels
        self.outputs: dict[str, Tensor] = {
            "hidden": Tensor("float32", ("symbols", width)),
            "pitch_hidden": Tensor("float32", ("symbols", width)),
            "duration": Tensor("int64", ("symbols",)),
            **self.condition.outputs,
        }

    def forward(self, label: torch.Tensor, *others: torch.Tensor):
        """(symbols,) four times, conditions -> the outputs."""
        midi, duration, slur, *conditions = others
        length = torch.full((1,), label.size(0), dtype=torch.int64)
        notes = (midi[None], duration[None], slur[None])
        with padded_to(label.size(0)):
            x, mask, of_durations, of_pitch = self.text_encoder(
                label[None], length, *notes
            )
        g = self.condition(*conditions)
        of_voice = None if g is None else g[..., None]
        seconds = self.duration_predictor(of_durations, mask, g=of_voice).exp() - 1
        rate, shift = self.frame_rate
        frames = (seconds[0, 0] * rate / shift).clamp(min=1).ceil().long()
        outputs = (x[0].T, of_pitch[0].T, frames)
        return outputs if g is None else (*outputs, g[0])


class _Decoder(TTSModule):
    """Hidden states, spread over the frames, to the latents that the vocoder reads."""

    def __init__(self, generator: torch.nn.Module, encoder: _Encoder):
        super().__init__()
        self.f0_decoder, self.f0_prenet = generator.f0_decoder, generator.f0_prenet
        self.prior_decoder = generator.prior_decoder
        parts = [self.f0_decoder, self.prior_decoder]
        self.mel_decoder = getattr(generator, "mel_decoder", None)
        if self.mel_decoder is not None:
            self.mel_prenet = generator.mel_prenet
            self.energy_prenet = generator.energy_prenet
            parts.append(self.mel_decoder)
        self.flow = generator.flow if generator.use_flow else None
        if self.flow is not None:
            fold_weight_norm(self.flow)
        self.unused_draws = sum(map(unused_draws, parts))
        width = generator.hidden_channels
        self.inputs: Mapping[str, Tensor] = {
            "hidden": encoder.outputs["hidden"],
            "pitch_hidden": encoder.outputs["pitch_hidden"],
            "duration": encoder.outputs["duration"],
            "symbol_of_frame": Tensor("int64", ("frames",)),
            "noise": Tensor("float32", (width, "frames")),
            "noise_scale": Tensor("float32", ()),
            **encoder.condition.outputs,
        }
        self.outputs = {"feats": Tensor("float32", ("frames", width))}
        self.excited = generator.vocoder_generator_type in EXCITED
        if self.excited:
            self.outputs["f0"] = Tensor("float32", ("frames",))

    def forward(self, hidden, pitch_hidden, duration, index, noise, scale, *condition):
        """The inputs, in their order -> (frames, dim), and F0 in Hz (frames,)."""
        g = with_time(condition)
        length = torch.full((1,), index.size(0), dtype=torch.int64)
        first = duration.cumsum(dim=0) - duration
        place = torch.arange(index.size(0)) - first[index]
        # ``LengthRegulator`` with ``use_state_info``
        state = torch.stack((place, duration[index])).float()
        x = torch.cat((hidden[index].T, state))[None]
        pitch = torch.cat((pitch_hidden[index].T, state))[None]
        with padded_to(index.size(0)):
            any_log_f0, _ = self.f0_decoder(x + pitch, length, g=g)
            log_f0 = any_log_f0.clamp(min=0)
            hs = x + self.f0_prenet(log_f0)
            if self.mel_decoder is not None:
                mel, _ = self.mel_decoder(x + self.f0_prenet(any_log_f0), length, g=g)
                energy = mel.mean(dim=1, keepdim=True)
                hs = hs + self.energy_prenet(energy) + self.mel_prenet(mel)
            prior, mask = self.prior_decoder(hs, length, g=g)
        mean, log_scale = prior.chunk(2, dim=1)
        z = mean + noise * log_scale.exp() * scale
        if self.flow is not None:
            z = self.flow(z, mask, g=g, inverse=True)
        if not self.excited:
            return z[0].T
        # 700 (10 ** (mel / 2595) - 1), of mels in units of 500
        f0 = (torch.pow(10, log_f0 * 500 / 2595) - 1) * 700
        return z[0].T, f0[0, 0]


class _Posterior(TTSModule):
    """Speech of teacher forcing to latents for the vocoder."""

    def __init__(self, generator: torch.nn.Module, condition: GlobalCondition):
        super().__init__()
        self.posterior = Posterior(generator)
        self.inputs = {**self.posterior.inputs, **condition.outputs}
        shape = ("frames", self.posterior.width)
        self.outputs = {"latents": Tensor("float32", shape)}

    def forward(self, feats, noise, *condition):
        """The inputs, in their order -> (frames, dim)."""
        return self.posterior(feats, noise, *condition)[0].T


def wrap(svs: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_svs.vits.VITS``."""
    generator = svs.generator
    encoder = _Encoder(generator)
    modules: dict[str, TTSModule] = {
        "encoder": encoder,
        "decoder": _Decoder(generator, encoder),
        "posterior": _Posterior(generator, encoder.condition),
        "vocoder": vocoder_of(generator, encoder.condition.size),
    }
    search = Durations(
        model="VISinger",
        rounding="ceil",
        teacher_forcing=("singing", "pitch"),
        options=("noise_scale", "noise_scale_dur"),
    )
    # ESPnet hands on no features of a postfrontend, which the posterior was trained on.
    aux_channels = generator.posterior_encoder.input_conv.in_channels
    if aux_channels != generator.aux_channels:
        del modules["posterior"]
        search = dataclasses.replace(search, teacher_forcing=())
    return TTSModules(
        modules,
        search,
        vocoder_reads="feats",
        excitation=excitation_of(generator),
        f0_reader=getattr(generator, "dec_harm", None),
        score=ScoreReads(encoder.ids),
    )


def check(conf: Mapping[str, Any]) -> None:
    """Refuse the settings with which ESPnet's own model cannot be built or sing."""
    kind = conf.get("generator_type", "visinger")
    if kind not in _GENERATORS:
        raise PluginError(
            f"svs 'vits': ESPnet has no generator_type '{kind}', and cannot build the "
            f"model either; it has {' and '.join(_GENERATORS)}"
        )
    generator, name = conf.get("generator_params", {}), conf.get(_VOCODER, "hifigan")
    if "avocodo" in conf.get("discriminator_type", ""):  # ESPnet takes its generator
        name = "avocodo"
    shift = conf.get("mel_loss_params", {}).get("hop_length", 256)
    factor = math.prod(generator.get("decoder_upsample_scales", (8, 8, 2, 2)))
    if name in EXCITED and factor != shift:
        raise PluginError(
            f"svs 'vits': decoder_upsample_scales make {factor} samples of a frame, "
            f"mel_loss_params have a hop_length of {shift}: ESPnet itself cannot sing "
            "so"
        )
    if name == "uhifigan":
        if generator.get("use_avocodo"):
            raise PluginError(
                "svs 'vits': uhifigan with use_avocodo makes several waveforms, of "
                "which ESPnet itself takes none; train it without"
            )
        import_package("parallel_wavegan.layers", "uhifigan", "parallel_wavegan")


SMALL = dict(
    hidden_channels=8,
    segment_size=4,
    text_encoder_attention_heads=2,
    text_encoder_ffn_expand=2,
    text_encoder_blocks=1,
    text_encoder_positionwise_conv_kernel_size=3,
    use_conformer_conv_in_text_encoder=False,
    decoder_channels=8,
    decoder_upsample_scales=[4, 2],
    decoder_upsample_kernel_sizes=[8, 4],
    decoder_resblock_kernel_sizes=[3],
    decoder_resblock_dilations=[[1, 3]],
    posterior_encoder_layers=1,
    flow_flows=-1,
    use_phoneme_predictor=False,
)


def _tiny(generator: str, vocoder: str, **params: Any) -> dict[str, Any]:
    return dict(
        generator_type=generator,
        vocoder_generator_type=vocoder,
        generator_params=dict(SMALL, **params),
        sampling_rate=8000,
        mel_loss_params=dict(
            fs=8000,
            n_fft=64,
            hop_length=8,
            win_length=32,
            window="hann",
            n_mels=10,
            fmin=0,
            fmax=None,
            log_base=None,
        ),
        discriminator_type="hifigan_period_discriminator",
        discriminator_params=dict(period=2, channels=4, downsample_scales=[2]),
    )


_UHIFIGAN = dict(
    decoder_downsample_scales=[2, 4], decoder_downsample_kernel_sizes=[4, 8]
)

register(
    Arch(
        role="svs",
        name="vits",
        wrap=wrap,
        check=check,
        limits="`generator_type: vits_generator` is not in ESPnet itself",
        tiny={
            "visinger2": _tiny("visinger2", "visinger2", n_harmonic=4),
            "voices": _tiny(
                "visinger2",
                "visinger2",
                n_harmonic=4,
                spks=3,
                langs=2,
                global_channels=6,
                use_conformer_conv_in_text_encoder=True,
            ),
            "visinger": _tiny("visinger", "hifigan"),
            "flow": _tiny(
                "visinger",
                "hifigan",
                flow_flows=2,
                flow_layers=2,
                spk_embed_dim=5,
                global_channels=6,
                use_phoneme_predictor=True,
            ),
            "avocodo": _tiny(
                "visinger",
                "avocodo",
                projection_filters=[0, 1],
                projection_kernels=[0, 5],
            ),
            "uhifigan": _tiny("visinger", "uhifigan", **_UHIFIGAN),
            "uhifigan_voices": _tiny(
                "visinger2",
                "uhifigan",
                **_UHIFIGAN,
                expand_f0_method="interpolation",
                spks=3,
                global_channels=6,
            ),
        },
    )
)
