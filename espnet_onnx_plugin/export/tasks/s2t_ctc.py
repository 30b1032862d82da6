"""The CTC models of ``s2t.sh`` (OWSM-CTC): their encoder reads a prompt too."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Tensor
from espnet_onnx_plugin.bundle.search import PromptedCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.encoder import EncoderModule
from espnet_onnx_plugin.export.padding import padded_to, padding_kept_out
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import DecoderModule
from espnet_onnx_plugin.export.tasks.recognition import RecognitionExporter
from espnet_onnx_plugin.export.tasks.s2t import preprocessing, segment, special_tokens
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Utterance

ENCODER = "e_branchformer_ctc"

#: Feature frames of an encoder frame, by ``input_layer``: those that ESPnet's long-form
#: decoding knows.
_SUBSAMPLING = {"conv2d1": 1, "conv2d2": 2, "conv2d": 4, "conv2d6": 6, "conv2d8": 8}


class PromptedEncoderGraph(EncoderModule):
    """``ESPnetS2TCTCModel.encode`` less frontend, and the CTC of its output.

    Args:
        model: an ``ESPnetS2TCTCModel``.
        normalize: the choice in ``config.yaml``, or None.
        promptencoder: the choice in ``config.yaml``.
    """

    def __init__(self, model: torch.nn.Module, normalize: str | None, promptencoder):
        super().__init__()
        self.normalize = None
        if model.normalize is not None:
            self.normalize = find("normalize", normalize).wrap(model.normalize)
        self.prompt_encoder = find("encoder", promptencoder).wrap(model.prompt_encoder)
        self.encoder = model.encoder
        self.ctc = model.ctc
        self.embed = model.embed
        self.pos_enc = model.pos_enc
        self.embed_proj = model.embed_proj
        self.prompt_proj = model.prompt_proj

    @property
    def outputs(self) -> dict[str, Tensor]:
        """The outputs by name, in order."""
        rows = ("utterances", "frames")
        return {
            "encoder_out": Tensor("float32", (*rows, self.output_size())),
            "encoder_out_lens": Tensor("int64", ("utterances",)),
            "ctc_log_probs": Tensor("float32", (*rows, self.ctc.ctc_lo.out_features)),
        }

    others = {
        "text_prev": Tensor("int64", ("utterances", "tokens")),
        "text_prev_lengths": Tensor("int64", ("utterances",)),
        "prefix": Tensor("int64", ("utterances", 2)),
    }
    sizes = {"tokens": 5}

    def output_size(self) -> int:
        """Size of the output's vectors."""
        return self.encoder.output_size()

    def forward(
        self,
        feats: torch.Tensor,
        feats_lengths: torch.Tensor,
        text_prev: torch.Tensor,
        text_prev_lengths: torch.Tensor,
        prefix: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode a batch.

        Args:
            feats: (utterances, frames, dim) float32.
            feats_lengths: (utterances,) int64.
            text_prev: (utterances, tokens) int64, the text before.
            text_prev_lengths: (utterances,) int64.
            prefix: (utterances, 2) int64, language and task.

        Returns:
            Encoder output, its lengths, and log probabilities of the CTC.
        """
        memory = self.pos_enc(self.embed(text_prev))
        with padded_to(text_prev.size(1)), padding_kept_out(self.prompt_encoder):
            memory, *_ = self.prompt_encoder(memory, text_prev_lengths)
        positions = torch.arange(text_prev.size(1))
        memory_mask = (positions[None] < text_prev_lengths[:, None])[:, None]
        x, lengths = feats, feats_lengths
        if self.normalize is not None:
            x, lengths = self.normalize(x, lengths)
        with padded_to(x.size(1)), padding_kept_out(self.encoder):
            x, lengths, _ = self.encoder(
                x,
                lengths,
                ctc=self.ctc,
                prefix_embeds=self.embed_proj(self.embed(prefix)),
                memory=self.prompt_proj(memory),
                memory_mask=memory_mask,
            )
        x = x[0] if isinstance(x, tuple) else x  # intermediate layers are for training
        return x, lengths, self.ctc.log_softmax(x)


class S2TCTCExporter(RecognitionExporter):
    """An ``ESPnetS2TCTCModel``."""

    espnet_task = ("espnet2.tasks.s2t_ctc", "S2TTask")
    models = ("espnet_ctc",)

    def roles(self, config: Mapping[str, Any]) -> list[str]:
        """Keys that choose an architecture; this task's encoder is no other's."""
        return ["frontend", "normalize"]

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Refuse also another encoder than the one that reads a prompt."""
        super().refuse(config)
        if config.get("encoder", ENCODER) != ENCODER:
            raise PluginError(
                f"encoder '{config['encoder']}' is not supported in a model of task "
                f"s2t_ctc (supported: {ENCODER}), which ESPnet's own cannot be either: "
                "it gives the encoder a prompt"
            )
        find("encoder", config.get("promptencoder", "transformer"))

    def wrap_encoder(self) -> PromptedEncoderGraph:
        """The encoder graph with the prompt's encoder."""
        return PromptedEncoderGraph(
            self.model, self.args.normalize, self.args.promptencoder
        )

    def wrap_decoders(self) -> dict[str, DecoderModule]:
        """No decoders: the CTC decodes."""
        return {}

    @property
    def search(self) -> PromptedCTC:
        """Settings of the CTC's search, with symbols of the prompt."""
        conf = preprocessing(self.args)
        rate = None
        layer = self.args.encoder_conf.get("input_layer", "conv2d8")
        if self.frontend is not None and layer in _SUBSAMPLING:
            stride = self.frontend.stft.hop_length * _SUBSAMPLING[layer]
            rate = self.speech.sampling_rate / stride
        return PromptedCTC(
            **{**vars(super().search), **special_tokens(self.model)},
            **segment(conf),
            frames_per_second=rate,
        )

    def accompany(self, speech: np.ndarray) -> Utterance:
        """Audio with ESPnet's default prompt."""
        tokens = list(self.model.token_list)
        prefix = [
            tokens.index(symbol) if symbol in tokens else self.model.na
            for symbol in ("<nolang>", "<asr>")
        ]
        prompt = dict(text_prev=np.array([self.model.na]), prefix=np.array(prefix))
        return Accompanied(speech, prompt)

    def encode(self, utterance: Accompanied) -> dict[str, np.ndarray]:
        """Outputs of the encoder graph, from ESPnet's own ``encode``."""
        speech, prompt = torch.from_numpy(utterance.speech), {}
        for name, ids in utterance.others.items():
            prompt[name] = torch.from_numpy(ids)[None]
            prompt[f"{name}_lengths"] = torch.tensor([len(ids)])
        with torch.no_grad():
            out, lengths = self.model.encode(
                speech=speech[None].clone(),
                speech_lengths=torch.tensor([len(speech)]),
                **prompt,
            )
            out = out[0] if isinstance(out, tuple) else out
            scores = self.model.ctc.log_softmax(out)
        return dict(
            encoder_out=out.numpy(),
            encoder_out_lens=lengths.numpy(),
            ctc_log_probs=scores.numpy(),
        )
