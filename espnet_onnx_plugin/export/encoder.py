"""The encoder graph: features in, encoder output and CTC scores out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.padding import padded_to, padding_kept_out
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.runtime.core.encoder import INTERCTC, LENS

#: What the encoder graph may hold, in the order of ESPnet's ``encode``.
PARTS = ("normalize", "preencoder", "encoder", "postencoder")


def refuse_token_ids(encoder: torch.nn.Module) -> torch.nn.Module:
    """Return an encoder unchanged, unless its input layer looks up token ids."""
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
) -> tuple[Any, torch.Tensor]:
    """Encode a batch so that each utterance gets the result that it gets alone.

    Returns:
        What the encoder gives for ``x``, and its lengths.
    """
    with padded_to(x.size(1)), padding_kept_out(encoder):
        x, lengths, _ = encoder(x, lengths, **more)
    return x, lengths


class EncoderModule(torch.nn.Module):
    """An encoder, and what follows it, as a graph.

    Attributes:
        names: of the input that has frames, and of the numbers of its frames.
        others: inputs besides.
        sizes: of their axes while the module is traced.
        trace_frames: frames that an example needs to reach all of the encoder: a size
            that is 1 in the example would be 1 in the graph.
    """

    names = ("feats", "feats_lengths")
    others: Mapping[str, Tensor] = {}
    sizes: Mapping[str, int] = {}
    trace_frames = 1

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        raise NotImplementedError

    def output_size(self) -> int:
        """Size of the output's vectors."""
        raise NotImplementedError

    def graph_spec(self, frames: int, shape: Sequence[int]) -> GraphSpec:
        """The graph.

        Args:
            frames: how many it is traced with.
            shape: of a frame.
        """
        frames_name, lengths_name = self.names
        inputs = {
            frames_name: Tensor("float32", ("utterances", "frames_in", *shape)),
            lengths_name: Tensor("int64", ("utterances",)),
            **self.others,
        }
        sizes = {**self.sizes, "frames_in": frames}
        return GraphSpec(self, inputs, self.outputs, sizes=sizes)


class EncoderGraph(EncoderModule):
    """``ESPnetASRModel.encode`` less frontend and checks, and the CTC of its output.

    An utterance of a batch gets the result that it gets alone, where the encoder allows
    it: ESPnet's own batches let the padding into subsampling and convolutions.

    Args:
        model: an ``ESPnetASRModel``.
        choices: what ``config.yaml`` names for each of :data:`PARTS`; None where there
            is none.
    """

    def __init__(self, model: torch.nn.Module, choices: dict[str, str | None]):
        super().__init__()
        wrapped = {
            role: find(role, choices[role]).wrap(getattr(model, role))
            for role in PARTS
            if getattr(model, role, None) is not None
        }
        self.postencoder = wrapped.pop("postencoder", None)
        self.encoder = wrapped.pop("encoder")
        self.parts = torch.nn.ModuleList(wrapped.values())
        self.ctc = model.ctc
        self.interctc: list[int] = list(
            getattr(model.encoder, "interctc_layer_idx", [])
        )
        conditioned = getattr(model.encoder, "interctc_use_conditioning", False)
        #: Whether frames are cut off at each intermediate CTC.
        self.trims = getattr(model.encoder, "ctc_trim", False)
        self.reads_ctc = conditioned or self.trims
        #: Number of speakers that the encoder tells apart; None: it has no such axis.
        self.speakers: int | None = getattr(model.encoder, "num_inf", None)
        if self.interctc and self.ctc is None:
            raise PluginError("interctc_layer_idx without a CTC is not supported")
        if self.postencoder is not None and (self.interctc or self.speakers):
            raise PluginError(
                f"postencoder '{choices['postencoder']}' with interctc_layer_idx or "
                "with several speakers is not supported"
            )

    @property
    def trace_frames(self) -> int:
        """Frames that ESPnet's encoder asks for."""
        return getattr(self.encoder, "trace_frames", 1)

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return (self.postencoder or self.encoder).output_size()

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        rows = ("utterances",)
        if self.speakers is not None:
            rows = ("utterances", self.speakers)
        outputs = {
            "encoder_out": Tensor("float32", (*rows, "frames", self.output_size())),
            "encoder_out_lens": Tensor("int64", rows),
        }
        if self.ctc is not None:
            size = self.ctc.ctc_lo.out_features
            outputs["ctc_log_probs"] = Tensor("float32", (*rows, "frames", size))
            for layer in self.interctc:
                name, frames = f"{INTERCTC}{layer}", "frames"
                if self.trims:
                    frames = f"frames_{layer}"
                    outputs[f"{name}{LENS}"] = outputs["encoder_out_lens"]
                outputs[name] = Tensor("float32", (*rows, frames, size))
        return outputs

    def forward(
        self, feats: torch.Tensor, feats_lengths: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
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
    ) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """Features to encoder output, its lengths, and what intermediate CTCs give."""
        for part in self.parts:
            x, lengths = part(x, lengths)
        conditions = {"ctc": self.ctc} if self.reads_ctc else {}
        with self._untrimmed() as untrimmed:
            x, lengths = run_encoder(self.encoder, x, lengths, **conditions)
        x, outs = x if isinstance(x, tuple) else (x, [])
        intermediate = []
        for layer, out in outs:
            intermediate += untrimmed.get(layer, [])
            intermediate.append(self.ctc.log_softmax(out))
        if self.postencoder is not None:
            with padded_to(x.size(1)), padding_kept_out(self.postencoder):
                x, lengths = self.postencoder(x, lengths)
        return x, lengths, intermediate

    @contextlib.contextmanager
    def _untrimmed(self) -> Iterator[dict[int, list[torch.Tensor]]]:
        """Collect by layer, where frames are cut off, the lengths before that."""
        lengths: dict[int, list[torch.Tensor]] = {}

        def take(number: int, output: Any) -> None:
            lengths[number] = [output[1].sum(dim=(1, 2))]  # (x, mask (B, 1, T))

        with contextlib.ExitStack() as stack:
            for number in self.interctc if self.trims else []:
                layer = self.encoder.encoders[number - 1]
                handle = layer.register_forward_hook(
                    lambda _, __, output, number=number: take(number, output)
                )
                stack.callback(handle.remove)
            yield lengths

    def with_ctc(
        self, x: torch.Tensor, lengths: torch.Tensor, intermediate: list[torch.Tensor]
    ) -> tuple[torch.Tensor, ...]:
        """The outputs of the graph."""
        results = [x, lengths]
        if self.ctc is not None:
            results.append(self._log_softmax(x))
        return (*results, *intermediate)

    def _log_softmax(self, x: torch.Tensor) -> torch.Tensor:
        if self.speakers is None:
            return self.ctc.log_softmax(x)
        rows = [self.ctc.log_softmax(row) for row in x.unbind(dim=1)]
        return torch.stack(rows, dim=1)
