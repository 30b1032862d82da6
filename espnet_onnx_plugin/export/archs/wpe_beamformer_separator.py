"""``separator: wpe_beamformer``: masks by recurrent layers, then WPE and a beamformer.

The graphs estimate masks; the filters are the runtime's, in double precision as in
ESPnet.
"""

from __future__ import annotations

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.enhancement import Beamforming, Wpe
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.rnn_encoder import recurrent_layers
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.registry import Arch, register

_ACTIVATIONS = {
    "sigmoid": torch.sigmoid,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "crelu": lambda x: torch.clamp(x, min=0, max=1),
}

#: Types of which ESPnet computes a reference, and does not use it.
_WITHOUT_REFERENCE = ("lcmv", "lcmp", "wlcmp", "gev", "gev_ban")


class MaskEstimator(GraphModule):
    """``espnet2.enh.layers.mask_estimator.MaskEstimator``, each channel by itself.

    Args:
        estimator: ESPnet's.
        floor: the least that a mask is, or None.
        normalized: whether masks are divided by their sum over the frames.
    """

    def __init__(
        self,
        estimator: torch.nn.Module,
        floor: float | None = None,
        normalized: bool = False,
    ):
        super().__init__()
        self.layers = recurrent_layers(estimator.brnn)
        self.linears = estimator.linears
        self.activation = _ACTIVATIONS[estimator.nonlinear]
        self.floor, self.normalized = floor, normalized
        bins = self.linears[0].out_features
        axes = ("channels", "frames", bins)
        self.inputs = {"magnitude": Tensor("float32", axes)}
        self.outputs = {"masks": Tensor("float32", (len(self.linears), *axes))}
        self.sizes = dict(channels=3, frames=53)

    def forward(self, magnitude: torch.Tensor) -> torch.Tensor:
        x, lengths = magnitude, torch.full_like(magnitude[:, 0, 0], 0).long()
        lengths = lengths + magnitude.size(1)
        for layer in self.layers:
            x, lengths = layer(x, lengths)
        masks = torch.stack([self.activation(linear(x)) for linear in self.linears])
        if self.floor is not None:
            masks = masks.clamp(min=self.floor)
        if self.normalized:
            masks = masks / masks.sum(dim=2, keepdim=True)
        return masks


class AttentionReference(GraphModule):
    """``espnet2.enh.layers.dnn_beamformer.AttentionReference``, behind its features."""

    def __init__(self, reference: torch.nn.Module):
        super().__init__()
        self.reference = reference
        bins = reference.mlp_psd.in_features
        self.inputs = {"features": Tensor("float32", ("channels", bins))}
        self.outputs = {"weights": Tensor("float32", ("channels",))}
        self.sizes = dict(channels=3)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        hidden = torch.tanh(self.reference.mlp_psd(features))
        return torch.softmax(2.0 * self.reference.gvec(hidden)[:, 0], dim=-1)


def _described(separator: torch.nn.Module) -> Beamforming:
    beamformer, wpe = separator.beamformer, separator.wpe
    return Beamforming(
        type=beamformer.beamformer_type,
        noise_mask=beamformer.use_noise_mask,
        wpe=wpe and Wpe(taps=wpe.taps, delay=wpe.delay, iterations=wpe.iterations),
        iterations=beamformer.rtf_iterations,
        taps=beamformer.btaps,
        delay=beamformer.bdelay,
        loading=float(beamformer.diag_eps) if beamformer.diagonal_loading else None,
        torchaudio=beamformer.bf_func.__name__.endswith("_th"),
    )


def _check(separator: torch.nn.Module) -> None:
    """Refuse settings of which ESPnet makes no waveform of one channel."""
    if not separator.use_beamformer:
        raise PluginError(
            "separator wpe_beamformer without use_beamformer is not supported: it "
            "makes waveforms of several channels"
        )
    if separator.wpe is not None and separator.wpe.nmask > 1:
        raise PluginError(
            "separator wpe_beamformer with multi_source_wpe false is not supported: "
            "ESPnet itself cannot combine it with a beamformer of several speakers"
        )
    kind = separator.beamformer.beamformer_type
    several = ("lcmv", "lcmp", "wlcmp", "mvdr_tfs", "mvdr_tfs_souden")
    if separator.num_spk == 1 and kind in several:
        raise PluginError(
            f"beamformer_type {kind} with one speaker is not supported: ESPnet itself "
            "cannot run it"
        )


def wrap(separator: torch.nn.Module, ends: Ends) -> EnhModules:
    """Mask estimators as graphs, and everything else as settings."""
    _check(separator)
    stft = ends.analysis
    if stft is None or ends.synthesis is None:
        raise PluginError("separator wpe_beamformer needs encoder and decoder stft")
    wpe, beamformer = separator.wpe, separator.beamformer
    kind = beamformer.beamformer_type

    def floor(part: torch.nn.Module) -> float | None:
        return part.flooring_thres if part.mask_flooring else None

    modules = {"masks": MaskEstimator(beamformer.mask, floor(beamformer))}
    if beamformer.ref is not None and kind not in _WITHOUT_REFERENCE:
        modules["reference"] = AttentionReference(beamformer.ref)
    frames = 1
    if wpe is not None:
        frames = wpe.delay + wpe.taps
        if wpe.use_dnn_mask:
            modules["dereverberation_masks"] = MaskEstimator(
                wpe.mask_est, floor(wpe), wpe.normalization
            )
    if kind.startswith("wpd"):
        frames = max(frames, beamformer.bdelay + beamformer.btaps + 1)
    edge = 0 if stft.center else stft.n_fft
    return EnhModules(
        modules,
        ends,
        channels=None,
        method=_described(separator),
        min_length=(frames - 1) * stft.hop_length + edge,
    )


_MASKS = dict(ends="stft", blayers=2, bunits=5, bprojs=6)
_WPE = dict(use_wpe=True, wlayers=1, wunits=5, wprojs=6, taps=2)

register(
    Arch(
        role="separator",
        name="wpe_beamformer",
        wrap=wrap,
        tiny={
            "souden": dict(_MASKS, ref_channel=1),
            "attention": dict(_MASKS, num_spk=2, badim=7, beamformer_type="mvdr"),
            "wpe": dict(
                _MASKS,
                **_WPE,
                ref_channel=0,
                beamformer_type="wpd_souden",
                use_noise_mask=False,
                wnormalization=True,
                mask_flooring=True,
                bnonlinear="crelu",
                wnonlinear="relu",
                bnet_type="gru",
            ),
            "unmasked": dict(
                _MASKS,
                **_WPE,
                use_dnn_mask_for_wpe=False,
                beamformer_type="wmpdr",
                badim=7,
                bnet_type="lstmp",
                bnonlinear="tanh",
                diagonal_loading=False,
            ),
            "constrained": dict(
                _MASKS,
                num_spk=2,
                ref_channel=0,
                beamformer_type="lcmp",
                bnet_type="bgrup",
            ),
        },
        limits="use_beamformer; multi_source_wpe where there are several speakers",
    )
)
