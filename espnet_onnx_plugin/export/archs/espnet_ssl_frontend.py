"""``frontend: espnet_ssl``: the encoder of a model that ESPnet's SSL task trained."""

from __future__ import annotations

import torch

from espnet_onnx_plugin.export.encoder import run_encoder
from espnet_onnx_plugin.export.frontend import shortest_frames
from espnet_onnx_plugin.export.layers.ssl_layers import weighted_sum
from espnet_onnx_plugin.export.layers.waveform import PlainConvolutions
from espnet_onnx_plugin.export.padding import make_pad_mask
from espnet_onnx_plugin.export.registry import Arch, find, register


class EspnetSslFrontend(torch.nn.Module):
    """Waveform to features, ESPnet's ``ESPnetSSLFrontend`` for one utterance at a time.

    ``use_final_output`` changes nothing, as in ESPnet: the last layer's output is taken
    before the norm behind it.
    """

    def __init__(self, frontend: torch.nn.Module):
        super().__init__()
        model = frontend.upstream
        self.frontend = _wrapped("frontend", model.frontend)
        self.parts = torch.nn.ModuleList(
            _wrapped(role, getattr(model, role))
            for role in ("normalize", "preencoder")
            if getattr(model, role) is not None
        )
        self.encoder = _wrapped("encoder", model.encoder)
        self.plain = PlainConvolutions(self.encoder)
        self.layer = frontend.layer
        self.weights = None
        if frontend.multilayer_feature:
            self.weights = frontend.featurizer.weights
        self.sampling_rate = self.frontend.sampling_rate

    def shortest(self, frames: int) -> int:
        """The fewest samples that give so many frames."""
        return self.frontend.shortest(shortest_frames(self.encoder, frames))

    def forward(
        self, speech: torch.Tensor, lengths: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, samples), (B,) -> features (B, frames, dim), (B,)."""
        x, lengths = self.frontend(speech, lengths)
        for part in self.parts:
            x, lengths = part(x, lengths)
        padding = make_pad_mask(lengths, maxlen=x.size(1))
        with self.plain.in_place():
            (_, layers), lengths = run_encoder(
                self.encoder, x, lengths, masks=padding, return_all_hs=True
            )
        if self.weights is None:
            return layers[self.layer], lengths
        return weighted_sum(self.weights, layers), lengths


def _wrapped(role: str, module: torch.nn.Module) -> torch.nn.Module:
    """A part of ESPnet's SSL model, as it is wrapped where another model has it."""
    import espnet2.tasks.ssl as ssl

    choices = getattr(ssl, f"{role}_choices").classes
    [name] = [name for name, cls in choices.items() if type(module) is cls]
    return find(role, name).wrap(module)


register(
    Arch(
        role="frontend",
        name="espnet_ssl",
        wrap=EspnetSslFrontend,
        tiny={
            "hubert_weighted_sum": dict(
                frontend_conf=dict(path_or_url="espnet_hubert"), multilayer_feature=True
            ),
            "conformer_layer": dict(
                frontend_conf=dict(path_or_url="espnet_conformer"), layer=0
            ),
        },
        limits="the SSL model's frontend, normalize, preencoder and encoder as in this "
        "table",
    )
)
