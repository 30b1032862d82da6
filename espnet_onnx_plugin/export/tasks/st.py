"""The task of ``st.sh``: speech translation."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Text
from espnet_onnx_plugin.bundle.search import LabelSynchronous, Search
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.encoder import (
    PARTS,
    EncoderGraph,
)
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.layers.hub_text import WHISPER_TYPES, whisper_converter
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE, require
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import DecoderModule
from espnet_onnx_plugin.export.tasks.recognition import (
    TRANSDUCER,
    RecognitionExporter,
    wrap_lm,
)
from espnet_onnx_plugin.export.tasks.st_encoder import MDEncoderGraph, STEncoderGraph
from espnet_onnx_plugin.export.tasks.texts import refuse_token_type, write_text
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.values import to_numpy
from espnet_onnx_plugin.runtime.recognition.multi_decoder import (
    MD_ENCODER,
    SRC,
    MultiDecoderEncoder,
)

ASR_DECODER = "extra_asr_decoder"

#: Settings of a decoder of Hugging Face's hub that ESPnet's ``st_inference`` ignores or
#: fails with.
_NOT_OF_HUB = ("causal_lm", "separate_lm_head", "overriding_architecture_config")

#: Numbers of tokens with which the multi-decoder's encoder is compared.
HIDDEN_LENGTHS = (1, 2, 7, 23)


def _all_ctc(config: Mapping[str, Any]) -> bool:
    """Whether a model is all CTC: ESPnet builds no decoder then."""
    return (config.get("model_conf") or {}).get("st_mtlalpha") == 1.0


class STExporter(RecognitionExporter):
    """An ``ESPnetSTModel``.

    Recognition is part of it where the model decodes twice (``md_encoder``). What other
    models have for the source language served their training, and is left out.
    """

    espnet_task = ("espnet2.tasks.st", "STTask")
    streams = ("espnet",)

    def __init__(self, checkpoints: Checkpoints):
        super().__init__(checkpoints)
        self.md_encoder = None
        if self.model.use_multidecoder:
            graph = MDEncoderGraph(self.model, self.args.md_encoder)
            self.md_encoder = graph.eval()
        elif checkpoints.src_lm_file or checkpoints.src_ngram_file:
            raise PluginError(
                "models of the source language are for a multi-decoder model: this one "
                "has no md_encoder and would not use them"
            )
        if checkpoints.src_lm_file is not None:
            self.decoders["src_lm"] = wrap_lm(
                checkpoints.src_lm_train_config,
                checkpoints.src_lm_file,
                list(self.model.src_token_list),
                checkpoints.train_config,
            )

    def roles(self, config: Mapping[str, Any]) -> list[str]:
        """Keys of a training configuration that choose an architecture."""
        roles = ["frontend", *PARTS, "hier_encoder", MD_ENCODER]
        if not _all_ctc(config):
            roles.append("decoder")
        if config.get(MD_ENCODER) is not None:
            roles.append(ASR_DECODER)
        return roles

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Refuse also decoders and source texts that translation cannot have."""
        decoder, conf = config.get("decoder"), config.get("decoder_conf") or {}
        if decoder == TRANSDUCER and (config.get(MD_ENCODER) or _all_ctc(config)):
            raise PluginError(
                "decoder 'transducer' is not supported with md_encoder, nor with "
                "st_mtlalpha 1.0, with which ESPnet builds no decoder"
            )
        for name in _NOT_OF_HUB:
            if decoder == "hugging_face_transformers" and conf.get(name):
                raise PluginError(
                    f"decoder 'hugging_face_transformers' with {name} is not supported "
                    "in task st: ESPnet's st_inference cannot decode with it"
                )
        super().refuse(config)
        if config.get(MD_ENCODER) is not None:
            refuse_token_type("src_token_type", config)
            if config.get("src_token_type") in ("hugging_face", *WHISPER_TYPES):
                raise PluginError(
                    f"src_token_type '{config['src_token_type']}' is not supported yet"
                )
            conf = config.get("model_conf") or {}
            if not (conf.get("asr_weight", 0) and 0 < conf.get("mtlalpha", 0) < 1):
                raise PluginError(
                    "md_encoder needs a CTC and a decoder of the source language: set "
                    "asr_weight above 0 and mtlalpha between 0 and 1 in model_conf"
                )

    def wrap_encoder(self) -> EncoderGraph:
        """The encoder graph, with the hierarchical encoder if there is one."""
        return STEncoderGraph(self.model, vars(self.args))

    def wrap_decoders(self) -> dict[str, DecoderModule]:
        """Decoders by role, also that of recognition."""
        decoders = super().wrap_decoders()
        if self.model.use_multidecoder:
            arch = find(ASR_DECODER, self.args.extra_asr_decoder)
            step = arch.wrap(self.model.extra_asr_decoder).eval()
            decoders[ASR_DECODER] = step.returning_hidden()
        elif self.model.use_speech_attn:
            raise PluginError(
                "a decoder with use_speech_attn needs an md_encoder, which this model "
                "lacks; ESPnet cannot decode with it either"
            )
        return decoders

    @property
    def joint_network(self) -> torch.nn.Module | None:
        """ESPnet's module of that name, where the model is a transducer."""
        return getattr(self.model, "st_joint_network", None)

    def sizes(self, role: str) -> tuple[int, int]:
        """Size of the encoder output and of the vocabulary, by the language."""
        if role in (ASR_DECODER, "src_lm"):
            dim = self.encoder.encoder.output_size()
            return dim, len(self.model.src_token_list)
        return super().sizes(role)

    @property
    def search(self) -> Search:
        """Settings of the search, also of the recognition before it."""
        search = super().search
        if not isinstance(search, LabelSynchronous):
            return search
        if search.generate is not None:
            # ESPnet's own search, with the ends of the hub's model.
            hub = self.model.decoder.hf_generate.config
            if hub.eos_token_id != self.model.eos:
                raise PluginError(
                    f"the decoder of Hugging Face's hub ends with token "
                    f"{hub.eos_token_id}, the model with {self.model.eos}: set "
                    "tgt_sym_eos in model_conf to that token"
                )
            search = dataclasses.replace(
                search,
                sos=hub.decoder_start_token_id,
                generate=None,
                hugging_face_decoder=True,
            )
        if self.model.use_multidecoder:
            recognition = LabelSynchronous(
                sos=self.model.src_sos, eos=self.model.src_eos, blank=0
            )
            search = dataclasses.replace(search, recognition=recognition)
        return search

    @functools.cached_property
    def whisper_converter(self) -> Any:
        """ESPnet's own, for the target language."""
        conf = getattr(self.args, "preprocessor_conf", None) or {}
        _, language = conf.get("whisper_language") or (None, None)
        task = conf.get("whisper_task") or "translate"
        return whisper_converter(self.args.bpemodel, language, task)

    def write_texts(self, work: Path) -> dict[str, Text]:
        """Write tokens and tokenizers, also of the source language."""
        texts = super().write_texts(work)
        if self.model.use_multidecoder:
            args, tokens = self.args, list(self.model.src_token_list)
            texts["src_text"] = write_text(
                tokens, args.src_token_type, args.src_bpemodel, work, "src_"
            )
        return texts

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role, also that between the two decoders."""
        specs = super().graph_specs()
        if self.md_encoder is not None:
            shape = (self.decoders[ASR_DECODER].hidden_size,)
            specs[MD_ENCODER] = self.md_encoder.graph_spec(9, shape)
        return specs

    def encode(self, utterance: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the encoder graph, from ESPnet's own ``encode``."""
        lengths = torch.tensor([len(utterance)])
        with torch.no_grad():
            # A copy: ESPnet normalizes features in place.
            speech = torch.from_numpy(utterance.copy())[None]
            x, _, asr_x, _ = self.model.encode(speech, lengths, return_int_enc=True)
            # ESPnet's search takes every frame, whatever the length that the encoder
            # says.
            results = {
                "encoder_out": x,
                "encoder_out_lens": torch.tensor([x.size(1)]),
                f"{SRC}encoder_out": asr_x,
                f"{SRC}encoder_out_lens": torch.tensor([asr_x.size(1)]),
            }
            if self.encoder.ctc is not None:
                results["ctc_log_probs"] = self.model.st_ctc.log_softmax(x)
            if self.encoder.asr_ctc is not None:
                results[f"{SRC}ctc_log_probs"] = self.model.ctc.log_softmax(asr_x)
        return {name: results[name].numpy() for name in self.encoder.outputs}

    def check_others(self, bundle: Bundle, device: Device) -> dict[str, float]:
        """Compare the graph between the two decoders with PyTorch."""
        if self.md_encoder is None:
            return {}
        encoder = MultiDecoderEncoder(bundle, device)
        outputs = bundle.manifest.graphs[MD_ENCODER].outputs
        # Its name says who reads it.
        main = "encoder_out" if "encoder_out" in outputs else "md_out"
        worst = 0.0
        for hidden in self._hidden():
            with torch.no_grad():
                x = torch.from_numpy(hidden)[None]
                out, *_ = self.model.md_encoder(x, torch.tensor([len(hidden)]))
                expected = {main: out}
                if self.md_encoder.ctc is not None:
                    expected["ctc_log_probs"] = self.model.st_ctc.log_softmax(out)
            made = encoder([hidden])
            for name, value in expected.items():
                figure = difference(to_numpy(made[name]), value.numpy())
                what = f"{len(hidden)} tokens ({name})"
                worst = max(worst, require(MD_ENCODER, what, figure))
        return {MD_ENCODER: worst}

    def mixed(self, bundle: Bundle, device: Device) -> list[str]:
        """Roles of the graphs that let the utterances of a batch change each other."""
        mixed = super().mixed(bundle, device)
        if self.md_encoder is not None:
            encoder = MultiDecoderEncoder(bundle, device)
            together = encoder.encode_together(self._hidden())
            for i, hidden in enumerate(self._hidden()):
                for name, alone in encoder.encode_together([hidden]).items():
                    if alone.ndim > 1:
                        ours = together[name][i : i + 1, : alone.shape[1]]
                        if difference(ours, alone) > TOLERANCE:
                            return [*mixed, MD_ENCODER]
        return mixed

    def _hidden(self) -> list[np.ndarray]:
        """Noise in the place of hidden states."""
        random = np.random.default_rng(0)
        size = self.decoders[ASR_DECODER].hidden_size
        shapes = [(length, size) for length in HIDDEN_LENGTHS]
        return [random.standard_normal(shape).astype(np.float32) for shape in shapes]
