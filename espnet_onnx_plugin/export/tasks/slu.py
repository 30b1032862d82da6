"""The task of ``slu.sh``: spoken language understanding."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Tensor, Text, Transcript, describe_file
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.hugging_face_transformers_postdecoder import (
    MAX_TOKENS,
)
from espnet_onnx_plugin.export.encoder import EncoderGraph
from espnet_onnx_plugin.export.padding import padded_to, padding_kept_out
from espnet_onnx_plugin.export.parity.encoding import encode_reference
from espnet_onnx_plugin.export.patches import replaced
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.tasks.recognition import RecognitionExporter
from espnet_onnx_plugin.export.tasks.texts import write_text
from espnet_onnx_plugin.runtime.core.encoder import Accompanied, Utterance


class DeliberationGraph(EncoderGraph):
    """The encoder graph of a model that reads a transcript, too.

    Audio and transcript are encoded, joined one behind the other, and encoded together.

    Args:
        model: an ``ESPnetSLUModel`` with a postdecoder.
        choices: what ``config.yaml`` names for each role.
    """

    others = {
        "transcript": Tensor("int64", ("utterances", "transcript_tokens")),
        "transcript_lengths": Tensor("int64", ("utterances",)),
    }
    sizes = {"transcript_tokens": 7}

    def __init__(self, model: torch.nn.Module, choices: dict[str, str | None]):
        super().__init__(model, choices)
        arch = find("postdecoder", choices["postdecoder"])
        self.postdecoder = arch.wrap(model.postdecoder)
        self.deliberation = None
        if model.deliberationencoder is not None:
            arch = find("deliberationencoder", choices["deliberationencoder"])
            self.deliberation = arch.wrap(model.deliberationencoder)

    def output_size(self) -> int:
        """Size of a frame of the output."""
        if self.deliberation is not None:
            return self.deliberation.output_size()
        return self.postdecoder.out_linear.out_features

    def forward(
        self,
        feats: torch.Tensor,
        feats_lengths: torch.Tensor,
        transcript: torch.Tensor,
        transcript_lengths: torch.Tensor,
    ) -> tuple[torch.Tensor, ...]:
        """Encode a batch; see :class:`EncoderGraph`.

        Args:
            feats: (utterances, frames, dim) float32.
            feats_lengths: (utterances,) int64.
            transcript: (utterances, tokens) int64, of the text encoder.
            transcript_lengths: (utterances,) int64.
        """
        x, lengths, intermediate = self.encode(feats, feats_lengths)
        read, read_lengths = self.postdecoder(transcript, transcript_lengths)
        # Each transcript begins behind the last frame of its own utterance.
        both = torch.cat((x, read), dim=1)
        place = torch.arange(both.size(1))[None]
        behind = place >= lengths[:, None]
        place = torch.where(behind, place - lengths[:, None] + x.size(1), place)
        place = torch.clamp(place, max=both.size(1) - 1)
        x = both.gather(1, place[..., None].expand(both.shape))
        lengths = lengths + read_lengths
        if self.deliberation is not None:
            with padded_to(x.size(1)), padding_kept_out(self.deliberation):
                x, lengths = self.deliberation(x, lengths)
        return self.with_ctc(x, lengths, intermediate)


class SLUExporter(RecognitionExporter):
    """An ``ESPnetSLUModel``."""

    espnet_task = ("espnet2.tasks.slu", "SLUTask")

    def roles(self, config: Mapping[str, Any]) -> list[str]:
        """Keys of a training configuration that choose an architecture."""
        return [*super().roles(config), "postdecoder", "deliberationencoder"]

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Refuse also models that classify."""
        if (config.get("model_conf") or {}).get("superb_setup"):
            raise PluginError(
                "model_conf superb_setup: true is not supported: it classifies chunks "
                "of a recording and has no search"
            )
        super().refuse(config)

    def wrap_encoder(self) -> EncoderGraph:
        """The encoder graph, which may read a transcript too."""
        if self.model.postdecoder is None:
            return super().wrap_encoder()
        return DeliberationGraph(self.model, vars(self.args))

    def write_texts(self, work: Path) -> dict[str, Text]:
        """Write tokens and tokenizers, also those of the transcript."""
        texts = super().write_texts(work)
        if self.model.postdecoder is not None:
            words = list(self.model.transcript_token_list)
            text = write_text(words, "word", None, work, "transcript_")
            tokenizer = self.model.postdecoder.tokenizer
            path = work / "transcript_tokenizer.json"
            tokenizer.backend_tokenizer.save(str(path))
            first, last = tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
            texts["transcript"] = Transcript(
                text.token_type,
                text.token_list,
                tokenizer=describe_file(path),
                first=first,
                last=last,
                max_tokens=MAX_TOKENS,
            )
        return texts

    def accompany(self, speech: np.ndarray) -> Utterance:
        """Audio with a transcript of up to ten words, if the model reads one."""
        if self.model.postdecoder is None:
            return speech
        random = np.random.default_rng(len(speech))
        vocabulary = len(self.model.transcript_token_list)
        words = random.integers(0, vocabulary, random.integers(11))
        return Accompanied(speech, {"transcript": self._read(words)})

    def _read(self, transcript: np.ndarray) -> np.ndarray:
        """Word ids of a transcript to ids of the text encoder, as ESPnet does it."""
        words = " ".join(self.model.transcript_token_list[i] for i in transcript)
        features = self.model.postdecoder.convert_examples_to_features(
            [words], MAX_TOKENS
        )
        (ids,), (length,) = features[0], features[-1]
        return np.array(ids[:length])

    def encode(self, utterance: Utterance) -> dict[str, np.ndarray]:
        """Outputs of the encoder graph, from ESPnet's own ``encode``."""
        if not isinstance(utterance, Accompanied):
            return super().encode(utterance)
        # The tokens are given here, ESPnet makes them of words.
        ids = utterance.others["transcript"]
        padded = [
            [*values, *[0] * (MAX_TOKENS - len(ids))] for values in (ids, ids * 0 + 1)
        ]
        features = (
            [padded[0]],
            [padded[1]],
            [[0] * MAX_TOKENS],
            [[*range(MAX_TOKENS)]],
            [len(ids)],
        )
        with replaced(
            self.model.postdecoder,
            "convert_examples_to_features",
            lambda *_: features,
        ):
            return encode_reference(
                self.model,
                utterance.speech,
                transcript_pad=torch.zeros(1, 1, dtype=torch.int64),
                transcript_pad_lens=torch.tensor([1]),
            )
