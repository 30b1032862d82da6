"""``tts: vits``."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.hifigan_generator_vocoder import HiFiGAN
from espnet_onnx_plugin.export.layers.conditions import GlobalCondition, with_time
from espnet_onnx_plugin.export.layers.draws import unused_draws
from espnet_onnx_plugin.export.layers.posterior import Posterior
from espnet_onnx_plugin.export.layers.vocoder import fold_weight_norm
from espnet_onnx_plugin.export.padding import padded_to
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register
from espnet_onnx_plugin.export.tts_module import TTSModule, TTSModules


def inverse_spline(
    inputs: torch.Tensor,
    widths: torch.Tensor,
    heights: torch.Tensor,
    derivatives: torch.Tensor,
    inverse: bool,
    tails: str,
    tail_bound: float,
) -> tuple[torch.Tensor, torch.Tensor]:
    """ESPnet's ``piecewise_rational_quadratic_transform`` in its inverse direction.

    Neural Spline Flows (arXiv:1906.04032), equations 6 to 8. ESPnet's picks the values
    within the bounds by a mask, and so makes tensors whose sizes depend on values; here
    every value takes both ways.

    Args:
        inputs: (...,).
        widths, heights: (..., bins), before they are normalized.
        derivatives: (..., bins - 1), at the inner knots.
        inverse: true.
        tails: linear.
        tail_bound: where the identity begins.

    Returns:
        Outputs (...,), and no logarithm of the determinant: a constant.
    """
    if not inverse or tails != "linear":
        raise PluginError("vits: only inverse splines with linear tails are supported")
    smallest = 1e-3
    bins = widths.size(-1)
    edge = math.log(math.exp(1 - smallest) - 1)
    derivatives = smallest + F.softplus(F.pad(derivatives, (1, 1), value=edge))

    def knots(x: torch.Tensor) -> torch.Tensor:
        shares = smallest + (1 - smallest * bins) * torch.softmax(x, dim=-1)
        inner = 2 * tail_bound * shares.cumsum(dim=-1)[..., :-1] - tail_bound
        return F.pad(F.pad(inner, (1, 0), value=-tail_bound), (0, 1), value=tail_bound)

    x_knots, y_knots = knots(widths), knots(heights)
    x_sizes, y_sizes = x_knots.diff(dim=-1), y_knots.diff(dim=-1)
    inside = inputs.clamp(-tail_bound, tail_bound)
    bin_ = (inside[..., None] >= y_knots[..., :-1]).sum(dim=-1, keepdim=True) - 1

    def of_bin(values: torch.Tensor) -> torch.Tensor:
        return values.gather(-1, bin_)[..., 0]

    left, width = of_bin(x_knots), of_bin(x_sizes)
    height, slope = of_bin(y_sizes), of_bin(y_sizes / x_sizes)
    d0, d1 = of_bin(derivatives), of_bin(derivatives[..., 1:])
    above = inside - of_bin(y_knots)
    bend = d0 + d1 - 2 * slope
    a = above * bend + height * (slope - d0)
    b = height * d0 - above * bend
    c = -slope * above
    root = 2 * c / (-b - torch.sqrt(b.square() - 4 * a * c))
    outputs = root * width + left
    beyond = (inputs < -tail_bound) | (inputs > tail_bound)
    return torch.where(beyond, inputs, outputs), torch.zeros(())


class _Encoder(TTSModule):
    """Text to the prior's mean and scale, and durations before speed and rounding."""

    def __init__(self, generator: torch.nn.Module):
        super().__init__()
        self.generator = generator
        self.unused_draws = unused_draws(generator.text_encoder)
        self.condition = GlobalCondition(generator)
        self.inputs = {
            "text": Tensor("int64", ("tokens",)),
            **self.condition.inputs,
            "noise_dur": Tensor("float32", (2, "tokens")),
            "noise_scale_dur": Tensor("float32", ()),
        }
        width = generator.text_encoder.attention_dim
        self.outputs: dict[str, Tensor] = {
            "mean": Tensor("float32", ("symbols", width)),
            "log_scale": Tensor("float32", ("symbols", width)),
            "duration": Tensor("float32", ("symbols",)),
            **self.condition.outputs,
        }

    def _log_duration(self, x, g, noise) -> torch.Tensor:
        """``StochasticDurationPredictor.forward`` in its inverse direction."""
        from espnet2.gan_tts.vits import flow as flows

        predictor, mask = self.generator.duration_predictor, torch.ones(1, 1, 1)
        x = predictor.pre(x)
        if g is not None:
            x = x + predictor.global_conv(g[..., None])
        x = predictor.proj(predictor.dds(x, mask))
        *steps, _, last = reversed(
            predictor.flows
        )  # one that has no effect is left out
        name = "piecewise_rational_quadratic_transform"
        with replaced(flows, name, inverse_spline):
            z = noise[None]
            for step in (*steps, last):
                z = step(z, mask, g=x, inverse=True)
        return z[0, 0]

    def forward(self, text: torch.Tensor, *others: torch.Tensor):
        """(tokens,), conditions, noise (2, tokens) and its scale -> the outputs."""
        *conditions, noise, scale = others
        length = torch.full((1,), text.size(0), dtype=torch.int64)
        with padded_to(text.size(0)):
            x, mean, log_scale, _ = self.generator.text_encoder(text[None], length)
        g = self.condition(*conditions)
        duration = self._log_duration(x, g, noise * scale).exp()
        outputs = (mean[0].T, log_scale[0].T, duration)
        return outputs if g is None else (*outputs, g[0])


class _Decoder(TTSModule):
    """Mean and scale of every frame, and noise, to what the vocoder reads."""

    def __init__(self, generator: torch.nn.Module, encoder: _Encoder):
        super().__init__()
        fold_weight_norm(generator.flow)
        self.flow = generator.flow
        outputs = dict(encoder.outputs)
        del outputs["duration"]
        _, width = outputs["mean"].axes
        self.inputs = {
            "mean": outputs.pop("mean"),
            "log_scale": outputs.pop("log_scale"),
            "symbol_of_frame": Tensor("int64", ("frames",)),
            "noise": Tensor("float32", ("frames", width)),
            "noise_scale": Tensor("float32", ()),
            **outputs,
        }
        self.outputs = {"feats": Tensor("float32", ("frames", width))}

    def forward(self, mean, log_scale, index, noise, scale, *condition):
        """The inputs, in their order -> (frames, dim)."""
        z = mean[index] + noise * torch.exp(log_scale[index]) * scale
        g = with_time(condition)
        z = self.flow(z.T[None], torch.ones(1, 1, 1), g=g, inverse=True)
        return z[0].T


class _Alignment(TTSModule):
    """Speech of teacher forcing to latents for the vocoder.

    The likelihood of each frame under each symbol tells which symbol it belongs to.
    """

    def __init__(self, generator: torch.nn.Module, encoder: _Encoder):
        super().__init__()
        self.posterior, self.flow = Posterior(generator), generator.flow
        outputs = dict(encoder.outputs)
        del outputs["duration"]
        _, width = outputs["mean"].axes
        self.inputs = {**self.posterior.inputs, **outputs}
        self.outputs = {
            "latents": Tensor("float32", ("frames", width)),
            "likelihood": Tensor("float32", ("frames", "symbols")),
        }

    def forward(self, feats, noise, mean, log_scale, *condition):
        """The inputs, in their order -> (frames, dim), logarithms (frames, symbols)."""
        latents = self.posterior(feats, noise, *condition)
        z = self.flow(latents, torch.ones(1, 1, 1), g=with_time(condition))[0].T
        precision = torch.exp(-2 * log_scale)
        of_symbol = -0.5 * math.log(2 * math.pi) - log_scale
        of_symbol = of_symbol - 0.5 * mean.square() * precision
        likelihood = (
            of_symbol.sum(dim=1)
            - 0.5 * z.square() @ precision.T
            + z @ (mean * precision).T
        )
        return latents[0].T, likelihood


def wrap(tts: torch.nn.Module, normalize: torch.nn.Module | None) -> TTSModules:
    """``espnet2.gan_tts.vits.VITS``."""
    generator = tts.generator
    encoder = _Encoder(generator)
    decoder = _Decoder(generator, encoder)
    _, width = encoder.outputs["mean"].axes
    vocoder = HiFiGAN(generator.decoder, width, condition=encoder.condition.size)
    search = Durations(
        rounding="ceil",
        teacher_forcing=("speech",),
        options=("speed_control_alpha", "noise_scale", "noise_scale_dur"),
    )
    modules = {
        "encoder": encoder,
        "decoder": decoder,
        "alignment": _Alignment(generator, encoder),
        "vocoder": vocoder,
    }
    return TTSModules(modules, search, vocoder_reads="feats")


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
    flow_flows=2,
    flow_layers=2,
    stochastic_duration_predictor_flows=2,
    stochastic_duration_predictor_dds_conv_layers=2,
)
_DISCRIMINATOR = dict(
    discriminator_type="hifigan_period_discriminator",
    discriminator_params=dict(period=2, channels=4, downsample_scales=[2]),
)

register(
    Arch(
        role="tts",
        name="vits",
        wrap=wrap,
        tiny={
            "one_speaker": dict(generator_params=SMALL, **_DISCRIMINATOR),
            "speakers_and_languages": dict(
                generator_params=dict(
                    SMALL,
                    spks=3,
                    langs=2,
                    global_channels=6,
                    use_conformer_conv_in_text_encoder=True,
                    use_only_mean_in_flow=False,
                ),
                **_DISCRIMINATOR,
            ),
            "speaker_embedding": dict(
                generator_params=dict(SMALL, spk_embed_dim=5, global_channels=6),
                **_DISCRIMINATOR,
            ),
        },
    )
)
