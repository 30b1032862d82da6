"""Encoder graphs of translation models, also of those that recognize first."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import (
    PARTS,
    EncoderGraph,
    EncoderModule,
    run_encoder,
)
from espnet_onnx_plugin.export.frontend import shortest_frames
from espnet_onnx_plugin.export.padding import padded_to, padding_kept_out
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.st import MD_ENCODER, SRC


def _second_encoder(role: str, name: str, encoder: torch.nn.Module) -> torch.nn.Module:
    """The wrapped encoder of a role that reads another encoder's or decoder's output.

    Raises:
        PluginError: if some inputs are too short for it.
    """
    if shortest_frames(encoder) > 1:
        raise PluginError(
            f"{role} with an input layer that subsamples is not supported; supported "
            "are those that keep every frame, as null and linear"
        )
    return find(role, name).wrap(encoder)


class STEncoderGraph(EncoderGraph):
    """``ESPnetSTModel.encode`` less frontend and checks, and the CTCs of its outputs.

    Of a multi-decoder model, names that begin with ``asr_`` are what recognition reads,
    where that is not what translation reads.

    Args:
        model: an ``ESPnetSTModel``.
        choices: what ``config.yaml`` names for normalize, preencoder, encoder,
            hier_encoder and postencoder; None where there is none.
    """

    def __init__(self, model: torch.nn.Module, choices: Mapping[str, str | None]):
        parts = {role: getattr(model, role) for role in PARTS}
        ctc = getattr(model, "st_ctc", None)
        super().__init__(SimpleNamespace(**parts, ctc=ctc), dict(choices))
        if self.interctc:
            raise PluginError(
                "interctc_layer_idx is not supported in task st, nor by ESPnet's"
            )
        self.hier_encoder = None
        if model.hier_encoder is not None:
            self.hier_encoder = _second_encoder(
                "hier_encoder", choices["hier_encoder"], model.hier_encoder
            )
        self.asr_ctc = model.ctc if model.use_multidecoder else None

    @property
    def splits(self) -> bool:
        """Whether recognition reads another encoder output than translation."""
        behind = self.hier_encoder or self.postencoder
        return self.asr_ctc is not None and behind is not None

    def output_size(self) -> int:
        """Size of the output's vectors."""
        last = self.postencoder or self.hier_encoder or self.encoder
        return last.output_size()

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        outputs = super().outputs
        frames = ("utterances", "frames_of_asr" if self.splits else "frames")
        if self.splits:
            axes = (*frames, self.encoder.output_size())
            outputs[f"{SRC}encoder_out"] = Tensor("float32", axes)
            outputs[f"{SRC}encoder_out_lens"] = outputs["encoder_out_lens"]
        if self.asr_ctc is not None:
            axes = (*frames, self.asr_ctc.ctc_lo.out_features)
            outputs[f"{SRC}ctc_log_probs"] = Tensor("float32", axes)
        return outputs

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode a batch; see :class:`EncoderGraph`."""
        x, lengths = feats, feats_lengths
        for part in self.parts:
            x, lengths = part(x, lengths)
        x, lengths = run_encoder(self.encoder, x, lengths)
        asr = [x, lengths] if self.splits else []
        if self.asr_ctc is not None:
            asr.append(self.asr_ctc.log_softmax(x))
        if self.hier_encoder is not None:
            x, lengths = run_encoder(self.hier_encoder, x, lengths)
        if self.postencoder is not None:
            with padded_to(x.size(1)), padding_kept_out(self.postencoder):
                x, lengths = self.postencoder(x, lengths)
        ctc = [] if self.ctc is None else [self.ctc.log_softmax(x)]
        return (x, lengths, *ctc, *asr)


class MDEncoderGraph(EncoderModule):
    """Hidden states of the ASR sub-decoder to what the target's decoder reads.

    Args:
        model: an ``ESPnetSTModel``.
        choice: what ``config.yaml`` names for md_encoder.
    """

    names = ("hidden", "hidden_lens")

    def __init__(self, model: torch.nn.Module, choice: str):
        super().__init__()
        self.encoder = _second_encoder(MD_ENCODER, choice, model.md_encoder)
        # Without attention to speech too, the search goes by this output alone, and so
        # does the CTC.
        self.alone = not model.use_speech_attn
        self.ctc = getattr(model, "st_ctc", None) if self.alone else None

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        name = "encoder_out" if self.alone else "md_out"
        frames = ("utterances", "frames")
        outputs = {
            name: Tensor("float32", (*frames, self.encoder.output_size())),
            f"{name}_lens": Tensor("int64", ("utterances",)),
        }
        if self.ctc is not None:
            axes = (*frames, self.ctc.ctc_lo.out_features)
            outputs["ctc_log_probs"] = Tensor("float32", axes)
        return outputs

    def forward(
        self, hidden: torch.Tensor, hidden_lens: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """Encode hidden states (utterances, tokens, dim) and their numbers."""
        x, lengths = run_encoder(self.encoder, hidden, hidden_lens)
        ctc = [] if self.ctc is None else [self.ctc.log_softmax(x)]
        return (x, lengths, *ctc)
