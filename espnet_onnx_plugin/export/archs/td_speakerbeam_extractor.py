"""``extractor: td_speakerbeam``: convolutions that are told whom to extract."""

from __future__ import annotations

import torch
from torch_complex.tensor import ComplexTensor

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.enhancement import Enrollment
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.separation import global_norms, magnitude
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import Arch, register


def _size(extractor: torch.nn.Module) -> int:
    """Size of the embeddings that the extractor reads."""
    net = extractor.auxiliary_net
    return net.out_channels if extractor.use_spk_emb else net.out_channel


class SpokenEnrollment(GraphModule):
    """Embedding of a waveform, or of features of one, as the extractor reads it.

    Args:
        extractor: ESPnet's.
        ends: those whose encoder reads the waveform.
        size: of features; None: it is a waveform.
    """

    sizes = dict(samples=2111, frames=53)

    def __init__(self, extractor: torch.nn.Module, ends: Ends, size: int | None):
        super().__init__()
        self.net, self.ends, self.size = extractor.auxiliary_net, ends, size
        self.inputs = ends.inputs(1)
        if size is not None:
            self.inputs = {"features": Tensor("float32", ("frames", size))}
        self.outputs = {"embedding": Tensor("float32", (_size(extractor),))}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        features = x[None] if self.size else magnitude(self.ends.features(x)[0])
        return self.net(features.transpose(1, 2))[0, 0].mean(dim=-1)


class GivenEnrollment(GraphModule):
    """Embedding as the extractor reads it, of one that another model has made."""

    def __init__(self, extractor: torch.nn.Module):
        super().__init__()
        self.net = extractor.auxiliary_net
        self.inputs = {"features": Tensor("float32", (self.net.in_channels,))}
        self.outputs = {"embedding": Tensor("float32", (_size(extractor),))}

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x[None, :, None])[0, :, 0]


class Extraction(GraphModule):
    """``TDSpeakerBeamExtractor`` between its ends, for several speakers at once.

    Layers before the one that is told whom to extract run once for all of them.
    """

    sizes = dict(samples=2111, frames=53, speakers=3)

    def __init__(self, extractor: torch.nn.Module, ends: Ends):
        super().__init__()
        self.tcn, self.ends = extractor.tcn, ends
        embeddings = Tensor("float32", ("speakers", _size(extractor)))
        self.inputs = {**ends.inputs(1), "embeddings": embeddings}
        self.outputs = ends.outputs("speakers")

    def forward(self, x: torch.Tensor, embeddings: torch.Tensor) -> torch.Tensor:
        features, _ = self.ends.features(x)
        layer, speakers = self.tcn.adapt_layer, embeddings.size(0)
        forward = layer.forward

        def adapt(main, enroll):
            # ESPnet asks for the exact type of a tensor, which a traced one has not.
            if not isinstance(main, tuple):
                return adapt((main,), (enroll,))[0]
            return forward(tuple(m.expand(speakers, -1, -1) for m in main), enroll)

        with replaced(layer, "forward", adapt), global_norms():
            mask = self.tcn(magnitude(features).transpose(1, 2), embeddings)
        mask = mask.transpose(1, 2).expand(speakers, -1, -1)
        if isinstance(features, ComplexTensor):
            made = ComplexTensor(features.real * mask, features.imag * mask)
        else:
            made = features * mask
        return self.ends.estimates([made], x)


def wrap(extractor: torch.nn.Module, ends: Ends, share_encoder: bool) -> EnhModules:
    """Graphs of an enrollment and of a mixture.

    Args:
        extractor: ESPnet's.
        ends: what stands around it.
        share_encoder: whether the encoder of mixtures reads enrollments too.
    """
    if extractor.use_spk_emb and share_encoder:
        raise PluginError(
            "extractor td_speakerbeam with use_spk_emb needs share_encoder false: a "
            "speaker embedding is no waveform"
        )
    net = extractor.auxiliary_net
    if extractor.use_spk_emb:
        enrollment = Enrollment(reads="embedding", size=net.in_channels)
        module: GraphModule = GivenEnrollment(extractor)
    elif share_encoder:
        enrollment = Enrollment(reads="waveform", min_length=ends.min_length)
        module = SpokenEnrollment(extractor, ends, None)
    else:
        size = net.network[1].in_channels
        enrollment = Enrollment(reads="features", size=size)
        module = SpokenEnrollment(extractor, ends, size)
    modules = {"enrollment": module, "separator": Extraction(extractor, ends)}
    return EnhModules(modules, ends, enrollment=enrollment)


_SMALL = dict(
    layer=2,
    stack=2,
    bottleneck_dim=6,
    hidden_dim=10,
    skip_dim=6,
    kernel=3,
    i_adapt_layer=1,
    adapt_enroll_dim=6,
)

register(
    Arch(
        role="extractor",
        name="td_speakerbeam",
        wrap=wrap,
        tiny={
            "mul": dict(_SMALL),
            "spectrum": dict(
                _SMALL,
                ends="stft",
                adapt_layer_type="muladd",
                adapt_enroll_dim=12,
                norm_type="cLN",
                causal=True,
                pre_nonlinear="linear",
                nonlinear="sigmoid",
                i_adapt_layer=0,
            ),
            "given": dict(
                _SMALL,
                share_encoder=False,
                use_spk_emb=True,
                spk_emb_dim=5,
                adapt_layer_type="concat",
                norm_type="BN",
                nonlinear="tanh",
            ),
            "features": dict(
                _SMALL,
                share_encoder=False,
                skip_dim=None,
                pre_nonlinear="tanh",
                nonlinear="linear",
            ),
        },
    )
)
