"""The task of ``st.sh``: speech translation."""

import dataclasses
import functools
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Dict, List, Mapping, Optional, Tuple

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Graph, Tensor, Text
from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.encoder import PARTS, EncoderGraph, run_encoder
from espnet_onnx_plugin.export.graph import export_encoder
from espnet_onnx_plugin.export.layers.hub_text import WHISPER_TYPES, whisper_converter
from espnet_onnx_plugin.export.parity.audio import shortest_frames
from espnet_onnx_plugin.export.parity.graphs import TOLERANCE, require
from espnet_onnx_plugin.export.patches import padded_to, padding_kept_out
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import StepModule
from espnet_onnx_plugin.export.tasks.recognition import (
    TaskModel,
    refuse_token_type,
    wrap_lm,
    write_text,
)
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import to_numpy
from espnet_onnx_plugin.runtime.recognition.multi_decoder import (
    MD_ENCODER,
    SRC,
    MultiDecoderEncoder,
)

logger = logging.getLogger(__name__)

ASR_DECODER = "extra_asr_decoder"

#: Settings of a decoder of Hugging Face's hub that ESPnet's ``st_inference`` ignores or
#: fails with.
_NOT_OF_HUB = ("causal_lm", "separate_lm_head", "overriding_architecture_config")

#: Numbers of tokens with which the multi-decoder's encoder is compared.
HIDDEN_LENGTHS = (1, 2, 7, 23)


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

    def __init__(self, model: torch.nn.Module, choices: Mapping[str, Optional[str]]):
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
    def outputs(self) -> Dict[str, Tensor]:
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
    ) -> Tuple[torch.Tensor, ...]:
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


class MDEncoderGraph(torch.nn.Module):
    """Hidden states of the ASR sub-decoder to what the target's decoder reads.

    Args:
        model: an ``ESPnetSTModel``.
        choice: what ``config.yaml`` names for md_encoder.
    """

    others: Mapping[str, Tuple[Tensor, torch.Tensor]] = {}

    def __init__(self, model: torch.nn.Module, choice: str):
        super().__init__()
        self.encoder = _second_encoder(MD_ENCODER, choice, model.md_encoder)
        # Without attention to speech too, the search goes by this output alone, and so
        # does the CTC.
        self.alone = not model.use_speech_attn
        self.ctc = getattr(model, "st_ctc", None) if self.alone else None

    @property
    def outputs(self) -> Dict[str, Tensor]:
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
    ) -> Tuple[torch.Tensor, ...]:
        """Encode hidden states (utterances, tokens, dim) and their numbers."""
        x, lengths = run_encoder(self.encoder, hidden, hidden_lens)
        ctc = [] if self.ctc is None else [self.ctc.log_softmax(x)]
        return (x, lengths, *ctc)


class Model(TaskModel):
    """An ``ESPnetSTModel``.

    Recognition is part of it where the model decodes twice (``md_encoder``). What other
    models have for the source language served their training, and is left out.
    """

    espnet_task = ("espnet2.tasks.st", "STTask")

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
            self.steps["src_lm"] = wrap_lm(
                checkpoints.src_lm_train_config,
                checkpoints.src_lm_file,
                list(self.model.src_token_list),
                checkpoints.train_config,
            )

    def roles(self, config: Mapping[str, Any]) -> List[str]:
        """See :class:`TaskModel`."""
        roles = ["frontend", *PARTS, "hier_encoder", MD_ENCODER]
        if (config.get("model_conf") or {}).get("st_mtlalpha") != 1.0:
            roles.append("decoder")  # ESPnet leaves it out of one that is all CTC
        if config.get(MD_ENCODER) is not None:
            roles.append(ASR_DECODER)
        return roles

    def refuse(self, config: Mapping[str, Any]) -> None:
        """See :class:`TaskModel`."""
        decoder, conf = config.get("decoder"), config.get("decoder_conf") or {}
        if decoder == "transducer":
            raise PluginError(
                "decoder 'transducer' is not supported in task st, where it takes a "
                "search of its own; train with another, as transformer"
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
        """See :class:`TaskModel`."""
        return STEncoderGraph(self.model, vars(self.args))

    def wrap_decoders(self) -> Dict[str, StepModule]:
        """See :class:`TaskModel`."""
        steps = {}
        if getattr(self.model, "decoder", None) is not None:
            arch = find("decoder", self.args.decoder)
            steps["decoder"] = arch.wrap(self.model.decoder).eval()
        if self.model.use_multidecoder:
            arch = find(ASR_DECODER, self.args.extra_asr_decoder)
            step = arch.wrap(self.model.extra_asr_decoder).eval()
            steps[ASR_DECODER] = step.returning_hidden()
        elif self.model.use_speech_attn:
            raise PluginError(
                "a decoder with use_speech_attn needs an md_encoder, which this model "
                "lacks; ESPnet cannot decode with it either"
            )
        return steps

    def sizes(self, role: str) -> Tuple[int, int]:
        """See :class:`TaskModel`."""
        if role in (ASR_DECODER, "src_lm"):
            dim = self.encoder.encoder.output_size()
            return dim, len(self.model.src_token_list)
        return super().sizes(role)

    @property
    def search(self) -> LabelSynchronous:
        """See :class:`TaskModel`."""
        search = super().search
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
        """See :class:`TaskModel`."""
        conf = getattr(self.args, "preprocessor_conf", None) or {}
        _, language = conf.get("whisper_language") or (None, None)
        task = conf.get("whisper_task") or "translate"
        return whisper_converter(self.args.bpemodel, language, task)

    def write_texts(self, work: Path) -> Dict[str, Text]:
        """See :class:`TaskModel`."""
        texts = super().write_texts(work)
        if self.model.use_multidecoder:
            args, tokens = self.args, list(self.model.src_token_list)
            texts["src_text"] = write_text(
                tokens, args.src_token_type, args.src_bpemodel, work, "src_"
            )
        return texts

    def export(self, work: Path) -> Dict[str, Graph]:
        """See :class:`TaskModel`."""
        graphs = super().export(work)
        if self.md_encoder is not None:
            logger.info("exporting the %s", MD_ENCODER)
            size = self.steps[ASR_DECODER].hidden_size
            generator = torch.Generator().manual_seed(1)
            example = (
                torch.randn((2, 9, size), generator=generator),
                torch.tensor([9, 7]),
            )
            graphs[MD_ENCODER] = export_encoder(
                self.md_encoder,
                example,
                work / f"{MD_ENCODER}.onnx",
                ("hidden", "hidden_lens"),
            )
        return graphs

    def encode(self, utterance: np.ndarray) -> Dict[str, np.ndarray]:
        """See :class:`TaskModel`."""
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

    def check_others(self, bundle: Bundle) -> Dict[str, float]:
        """See :class:`TaskModel`."""
        if self.md_encoder is None:
            return {}
        encoder = MultiDecoderEncoder(bundle, Device())
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

    def mixed(self, bundle: Bundle) -> List[str]:
        """See :class:`TaskModel`."""
        mixed = super().mixed(bundle)
        if self.md_encoder is not None:
            encoder = MultiDecoderEncoder(bundle, Device())
            together = encoder.encode_together(self._hidden())
            for i, hidden in enumerate(self._hidden()):
                for name, alone in encoder.encode_together([hidden]).items():
                    if alone.ndim > 1:
                        ours = together[name][i : i + 1, : alone.shape[1]]
                        if difference(ours, alone) > TOLERANCE:
                            return [*mixed, MD_ENCODER]
        return mixed

    def _hidden(self) -> List[np.ndarray]:
        """Noise in the place of hidden states."""
        random = np.random.default_rng(0)
        size = self.steps[ASR_DECODER].hidden_size
        shapes = [(length, size) for length in HIDDEN_LENGTHS]
        return [random.standard_normal(shape).astype(np.float32) for shape in shapes]
