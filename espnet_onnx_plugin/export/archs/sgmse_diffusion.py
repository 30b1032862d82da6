"""``diffusion_model: sgmse``: score-based enhancement in the complex spectrum."""

from __future__ import annotations

import inspect

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.enhancement import Diffusion
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.enh_module import Ends, EnhModules, spectral
from espnet_onnx_plugin.export.graph import GraphModule
from espnet_onnx_plugin.export.layers.score_networks import score_network
from espnet_onnx_plugin.export.registry import Arch, register


class Score(GraphModule):
    """Score of a sample.

    Args:
        net: ESPnet's network.
        bins: how many frequencies there are.
    """

    def __init__(self, net: torch.nn.Module, bins: int):
        super().__init__()
        self.network = score_network(net, bins)
        spectrum = Tensor("float32", ("frames", bins, 2))
        self.inputs = {
            "sample": spectrum,
            "spectrum": spectrum,
            "time": Tensor("float32", (1,)),
        }
        self.outputs = {"score": spectrum}
        self.sizes = dict(frames=101)

    def forward(
        self, sample: torch.Tensor, spectrum: torch.Tensor, time: torch.Tensor
    ) -> torch.Tensor:
        x = torch.stack((sample, spectrum)).transpose(1, 2)
        return -self.network(x[None], time)[0, 0].transpose(0, 1)


def wrap(model: torch.nn.Module, ends: Ends) -> EnhModules:
    """The whole model, which is ``ESPnetDiffusionModel``.

    Raises:
        PluginError: if its diffusion is one that ESPnet's own sampler does not take.
    """
    diffusion, analysis = model.diffusion, spectral(ends).analysis
    chosen = {
        name: parameter.default
        for name, parameter in inspect.signature(diffusion.enhance).parameters.items()
    }
    sampler = (chosen["sampler_type"], chosen["predictor"], chosen["corrector"])
    sde = diffusion.sde
    if sampler != ("pc", "reverse_diffusion", "ald") or not hasattr(sde, "theta"):
        raise PluginError(
            f"sampling {type(sde).__name__} by {', '.join(sampler)} is not supported; "
            "ESPnet's annealed Langevin dynamics take sde 'ouve' alone"
        )
    method = Diffusion(
        theta=sde.theta,
        sigma_min=sde.sigma_min,
        sigma_max=sde.sigma_max,
        steps=chosen["N"],
        corrector_steps=chosen["corrector_steps"],
        snr=chosen["snr"],
        end=diffusion.t_eps,
        normalize=model.normalize,
    )
    assert analysis is not None
    module = Score(diffusion.dnn, analysis.bins)
    return EnhModules({"separator": module}, ends, method=method)


_NET = dict(
    nf=8, ch_mult=[1, 2], num_res_blocks=1, image_size=32, attn_resolutions=[16]
)
_DCUNET = dict(embed_dim=8, dcunet_architecture="DCUNet-10")


def _with(score_model: str = "ncsnpp", bins: int = 32, **conf: object) -> dict:
    return dict(
        n_fft=2 * bins - 2, score_model=score_model, sde="ouve", score_model_conf=conf
    )


register(
    Arch(
        role="diffusion",
        name="sgmse",
        wrap=wrap,
        tiny={
            "ncsnpp": _with(**_NET),
            "plain": _with(
                **_NET,
                fir=False,
                resblock_type="ddpm",
                progressive="none",
                progressive_input="none",
                scale_by_sigma=False,
                skip_rescale=False,
                conditional=False,
                centered=False,
                nonlinearity="elu",
            ),
            "residual": _with(
                **_NET,
                fir=False,
                resamp_with_conv=True,
                progressive="residual",
                progressive_input="residual",
                nonlinearity="lrelu",
            ),
            "concatenated": _with(
                **_NET, progressive_combine="cat", nonlinearity="relu", fir=False
            ),
            "dcunet": _with("dcunet", 33, **_DCUNET),
            "dcunet-complex": _with(
                "dcunet",
                33,
                **_DCUNET,
                dcunet_norm_type="CbN",
                dcunet_time_embedding="ds",
                dcunet_time_embedding_complex=True,
                dcunet_temb_layers_local=2,
                dcunet_fix_length="trim",
                dcunet_activation="leaky_relu",
            ),
        },
    )
)
