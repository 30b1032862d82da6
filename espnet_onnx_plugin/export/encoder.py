"""The encoder graph: features in, encoder output and CTC scores out."""

from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.patches import padded_to, padding_kept_out
from espnet_onnx_plugin.export.registry import find

#: What the encoder graph holds before the encoder, in the order of ESPnet's ``encode``.
PARTS = ("normalize", "preencoder")


def refuse_token_ids(encoder: torch.nn.Module) -> torch.nn.Module:
    """Return an encoder as it is, unless its input layer looks up token ids."""
    embed = getattr(encoder, "embed", None)
    if isinstance(embed, torch.nn.Sequential) and len(embed):
        if isinstance(embed[0], torch.nn.Embedding):
            raise PluginError(
                "encoder input_layer 'embed' is not supported: it takes token ids, "
                "which ESPnet's own asr_inference cannot feed it either"
            )
    return encoder


def run_encoder(
    encoder: torch.nn.Module, x: torch.Tensor, lengths: torch.Tensor, **more: Any
) -> Tuple[Any, torch.Tensor]:
    """Encode a batch so that each utterance gets the result that it gets alone.

    Returns:
        What the encoder gives for ``x``, and its lengths.
    """
    with padded_to(x.size(1)), padding_kept_out(encoder):
        x, lengths, _ = encoder(x, lengths, **more)
    return x, lengths


class EncoderGraph(torch.nn.Module):
    """``ESPnetASRModel.encode`` less frontend and checks, and the CTC of its output.

    An utterance of a batch gets the result that it gets alone, where the encoder allows
    it: ESPnet's own batches let the padding into subsampling and convolutions.

    Args:
        model: an ``ESPnetASRModel``.
        choices: what ``config.yaml`` names for normalize, preencoder, encoder and
            postencoder; None where there is none.
    """

    def __init__(self, model: torch.nn.Module, choices: Dict[str, Optional[str]]):
        super().__init__()
        self.parts = torch.nn.ModuleList(
            find(role, choices[role]).wrap(getattr(model, role))
            for role in PARTS
            if getattr(model, role) is not None
        )
        self.encoder = find("encoder", choices["encoder"]).wrap(model.encoder)
        self.postencoder: Optional[torch.nn.Module] = None
        if getattr(model, "postencoder", None) is not None:
            arch = find("postencoder", choices["postencoder"])
            self.postencoder = arch.wrap(model.postencoder)
        self.ctc = model.ctc
        self.interctc: List[int] = list(
            getattr(model.encoder, "interctc_layer_idx", [])
        )
        self.conditioned = getattr(model.encoder, "interctc_use_conditioning", False)
        if getattr(model.encoder, "ctc_trim", False):
            raise PluginError("encoder with ctc_trim: true is not supported")
        if self.interctc and self.ctc is None:
            raise PluginError("interctc_layer_idx without a CTC is not supported")

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return (self.postencoder or self.encoder).output_size()

    @property
    def outputs(self) -> Dict[str, Tensor]:
        """The outputs by name, in order."""
        outputs = {
            "encoder_out": Tensor(
                "float32", ("utterances", "frames", self.output_size())
            ),
            "encoder_out_lens": Tensor("int64", ("utterances",)),
        }
        if self.ctc is not None:
            axes = ("utterances", "frames", self.ctc.ctc_lo.out_features)
            names = ["ctc_log_probs", *(f"interctc_{layer}" for layer in self.interctc)]
            outputs.update((name, Tensor("float32", axes)) for name in names)
        return outputs

    #: Inputs besides features and their lengths, by name.
    other_inputs: Mapping[str, Tensor] = {}

    def other_examples(self) -> List[torch.Tensor]:
        """Values of :attr:`other_inputs` for two utterances, to trace with."""
        return []

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, ...]:
        """Encode a batch.

        Args:
            feats: (utterances, frames, dim) float32.
            feats_lengths: (utterances,) int64.

        Returns:
            What :attr:`outputs` names: encoder output, its lengths, and log
            probabilities of the CTC and of each intermediate CTC.
        """
        return self.with_ctc(*self.encode(feats, feats_lengths))

    def encode(
        self, x: torch.Tensor, lengths: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, List[torch.Tensor]]:
        """Features to the encoder's output, lengths, and intermediate outputs."""
        for part in self.parts:
            x, lengths = part(x, lengths)
        conditions = {"ctc": self.ctc} if self.conditioned else {}
        x, lengths = run_encoder(self.encoder, x, lengths, **conditions)
        x, intermediate = x if isinstance(x, tuple) else (x, [])
        if self.postencoder is not None:
            with padded_to(x.size(1)), padding_kept_out(self.postencoder):
                x, lengths = self.postencoder(x, lengths)
        return x, lengths, [out for _, out in intermediate]

    def with_ctc(
        self, x: torch.Tensor, lengths: torch.Tensor, intermediate: List[torch.Tensor]
    ) -> Tuple[torch.Tensor, ...]:
        """The outputs of the graph."""
        results = [x, lengths]
        if self.ctc is not None:
            results.append(self.ctc.log_softmax(x))
        results += [self.ctc.log_softmax(out) for out in intermediate]
        return tuple(results)
