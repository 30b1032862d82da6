"""Exporters of models that read speech: the modules that they have in common."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import importlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import (
    Bundle,
    Manifest,
    Speech,
    Text,
    describe_file,
)
from espnet_onnx_plugin.bundle.search import (
    Blocks,
    LabelSynchronous,
    Search,
    Transducer,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.block_stream import StreamGraphs, wrap_stream
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build, read_config
from espnet_onnx_plugin.export.encoder import PARTS, EncoderGraph, EncoderModule
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.frontend import (
    audio_specs,
    describe_speech,
    wrap_frontend,
)
from espnet_onnx_plugin.export.graph import GraphSpec
from espnet_onnx_plugin.export.layers.hub_text import (
    WHISPER_TYPES,
    whisper_converter,
    whisper_primer,
    write_hub_tokenizer,
    write_whisper_tokenizer,
)
from espnet_onnx_plugin.export.parity.decoding import check_decoder
from espnet_onnx_plugin.export.parity.encoding import (
    check_encoder,
    encode_reference,
    encodes_batches,
    frame_shift,
    noise,
)
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import DecoderModule, StepModule
from espnet_onnx_plugin.export.tasks.texts import refuse_token_type, write_text
from espnet_onnx_plugin.export.transducers import JointModule
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoder, Utterance
from espnet_onnx_plugin.runtime.io.data import Source, usable

logger = logging.getLogger(__name__)

#: The decoder that comes with a joint network.
TRANSDUCER = "transducer"


class RecognitionExporter:
    """The modules of a trained model whose ESPnet class has ``encode``.

    As it stands, of one that has a CTC and a decoder.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.

    Attributes:
        model: ESPnet's model.
        args: its training arguments.
        frontend: waveform to features, or None.
        encoder: features to what the search reads.
        stream: the encoder of streams, or None.
        decoders: decoders and language models, by role.
    """

    #: Module and class of ESPnet's task.
    espnet_task: tuple[str, str]

    #: Names of ESPnet's model class in ``config.yaml``.
    models: tuple[str, ...] = ("espnet",)

    #: Those of them that ESPnet's inference decodes as streams, too.
    streams: tuple[str, ...] = ()

    def __init__(self, checkpoints: Checkpoints):
        self.refuse(self.read_config(checkpoints.train_config))
        self.model, self.args = self.build(checkpoints)
        self.frontend = wrap_frontend(self.model, self.args)
        self.encoder = self.wrap_encoder().eval()
        self.stream = self.wrap_stream()
        self.decoders: dict[str, DecoderModule] = self.wrap_decoders()
        if checkpoints.lm_file is not None:
            self.decoders["lm"] = wrap_lm(
                checkpoints.lm_train_config,
                checkpoints.lm_file,
                list(self.model.token_list),
                checkpoints.train_config,
            )

    def read_config(self, path: Path) -> Mapping[str, Any]:
        """Training configuration of the model that recognizes speech."""
        return read_config(path)

    def build(
        self, checkpoints: Checkpoints
    ) -> tuple[torch.nn.Module, argparse.Namespace]:
        """The model, with its weights, and its training arguments."""
        module, name = self.espnet_task
        task = getattr(importlib.import_module(module), name)
        return build(task, checkpoints.train_config, checkpoints.model_file)

    def roles(self, config: Mapping[str, Any]) -> list[str]:
        """Keys of a training configuration that choose an architecture."""
        roles = ["frontend", *PARTS]
        all_ctc = (config.get("model_conf") or {}).get("ctc_weight") == 1.0
        if not all_ctc or config.get("decoder") == TRANSDUCER:
            roles.append("decoder")  # ESPnet leaves others out of one that is all CTC
        return roles

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Name what this version or this machine cannot export, before it is built.

        Raises:
            PluginError: naming it.
        """
        for role in self.roles(config):
            if config.get(role) is not None:
                find(role, config[role]).needs()
        if config.get("model", self.models[0]) not in self.models:
            raise PluginError(
                f"model '{config['model']}' is not supported (supported: "
                f"{', '.join(self.models)})"
            )
        refuse_token_type("token_type", config)

    def wrap_encoder(self) -> EncoderModule:
        """The encoder graph of the model."""
        return EncoderGraph(self.model, vars(self.args))

    def wrap_stream(self) -> StreamGraphs | None:
        """The encoder of streams, where ESPnet has one of the model."""
        if getattr(self.args, "model", self.models[0]) not in self.streams:
            return None
        return wrap_stream(self.model, self.encoder, self.args.normalize)

    def wrap_decoders(self) -> dict[str, DecoderModule]:
        """Decoders of the model by role."""
        if getattr(self.model, "decoder", None) is None:
            return {}
        arch, joint = find("decoder", self.args.decoder), self.joint_network
        if joint is None:
            return {"decoder": arch.wrap(self.model.decoder).eval()}
        return {
            "decoder": arch.wrap(self.model.decoder, joint.lin_dec).eval(),
            "joint": JointModule(joint).eval(),
        }

    @property
    def joint_network(self) -> torch.nn.Module | None:
        """ESPnet's module of that name, where the model is a transducer."""
        return getattr(self.model, "joint_network", None)

    def sizes(self, role: str) -> tuple[int, int]:
        """Size of what the memory of a step reads, and of the step's vocabulary."""
        return self.encoder.output_size(), len(self.model.token_list)

    @functools.cached_property
    def speech(self) -> Speech:
        """Requirements of the model's input."""
        return describe_speech(self.model, self.frontend, self.args)

    @property
    def search(self) -> Search:
        """Settings of the search.

        Among them are the scorers that ESPnet asks hypothesis by hypothesis: with one
        of them its search differs.
        """
        if self.joint_network is not None:
            decoder = self.model.decoder
            return Transducer(blank=decoder.blank_id, sos=decoder.odim - 1)
        batch = import_nets("scorer_interface").BatchScorerInterface
        single = [
            r for r, d in self.decoders.items() if not isinstance(d.reference, batch)
        ]
        limits = [d.max_tokens for d in self.decoders.values() if d.max_tokens]
        primer = None
        if self.args.bpemodel in WHISPER_TYPES:
            primer = tuple(whisper_primer(self.whisper_converter))
        return LabelSynchronous(
            sos=self.model.sos,
            eos=self.model.eos,
            blank=0,
            single=tuple(single),
            together=tuple(r for r, d in self.decoders.items() if d.together),
            max_tokens=min(limits, default=None),
            primer=primer,
            generate=getattr(self.decoders.get("decoder"), "generate", None),
            blocks=self.blocks,
        )

    @property
    def blocks(self) -> Blocks:
        """Blocks of the encoder, as ESPnet's simulated streaming reads its options."""
        conf = getattr(self.args, "encoder_conf", None) or {}
        sizes = [conf.get(field.name) for field in dataclasses.fields(Blocks)]
        return Blocks(*sizes) if all(sizes) else Blocks()

    @functools.cached_property
    def whisper_converter(self) -> Any:
        """ESPnet's own, of a model that has Whisper's tokens."""
        conf = getattr(self.args, "preprocessor_conf", None) or {}
        return whisper_converter(
            self.args.bpemodel,
            conf.get("whisper_language"),
            conf.get("whisper_task"),
            sot="speaker_change_symbol" in conf,
        )

    def write_texts(self, work: Path) -> dict[str, Text]:
        """Write tokens and tokenizers, and describe them by field of the manifest."""
        args = self.args
        tokens = list(self.model.token_list)
        text = write_text(tokens, args.token_type, args.bpemodel, work)
        if args.bpemodel in WHISPER_TYPES:
            path = work / "tokenizer.json"
            write_whisper_tokenizer(self.whisper_converter, path)
            text = dataclasses.replace(text, tokenizer=describe_file(path))
        elif args.token_type == "hugging_face":
            path = work / "tokenizer.json"
            clean_up = write_hub_tokenizer(args.bpemodel, path)
            text = dataclasses.replace(
                text, tokenizer=describe_file(path), clean_up=clean_up
            )
        return {"text": text}

    def graph_specs(self) -> dict[str, GraphSpec]:
        """Every graph, by role."""
        specs = audio_specs(self.frontend, self.encoder, self.speech)
        if self.stream is not None:
            dim = specs["encoder"].inputs["feats"].axes[-1]
            specs |= self.stream.graph_specs(dim)
        for role, decoder in self.decoders.items():
            dim, vocabulary = self.sizes(role)
            if decoder.memory is not None:
                specs[f"{role}_memory"] = decoder.memory_spec(dim)
            specs[role] = decoder.graph_spec(vocabulary)
        return specs

    def accompany(self, speech: np.ndarray) -> Utterance:
        """Audio with what else the model reads, made up for a check."""
        return speech

    def noise(self) -> Iterator[tuple[str, Utterance]]:
        """Made-up utterances of several lengths with descriptions, for a check."""
        for what, array in noise(self.speech):
            yield what, self.accompany(array)

    def real(self, source: Source, speech: Speech) -> Iterator[tuple[str, Utterance]]:
        """Real utterances with descriptions, for a check."""
        for key, array, _ in usable(source, speech):
            yield key, self.accompany(array)

    def describe(self) -> dict[str, object]:
        """Fields of the manifest besides graphs and texts."""
        stream = None if self.stream is None else self.stream.settings
        return dict(speech=self.speech, search=self.search, stream=stream)

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare every graph with PyTorch, on noise and on real audio if given.

        Raises:
            PluginError: if one is above the tolerance.
        """
        encoder = Encoder(bundle, device)
        figures = {"encoder": check_encoder(self.encode, encoder, self.noise())}
        if source is not None:
            utterances = self.real(source, bundle.manifest.speech)
            figure = check_encoder(self.encode, encoder, utterances)
            figures["encoder_on_real_audio"] = figure
        if self.stream is not None:
            figures["stream"] = self.stream.check(self.model, bundle, device)
        for role, decoder in self.decoders.items():
            sizes = self.sizes(role)
            figures[role] = check_decoder(decoder, bundle, role, device, *sizes)
        return Parity({**figures, **self.check_others(bundle, device)})

    def check_others(self, bundle: Bundle, device: Device) -> dict[str, float]:
        """Compare graphs that are neither frontend and encoder nor steps, likewise."""
        return {}

    def measured(self, bundle: Bundle, device: Device) -> Manifest:
        """The manifest with what has to be measured on the graphs."""
        manifest = bundle.manifest
        graphs, speech = dict(manifest.graphs), manifest.speech
        for role in self.mixed(bundle, device):
            logger.info("%s mixes the utterances of a batch: it gets them singly", role)
            graphs[role] = dataclasses.replace(graphs[role], batches=False)
        encoder = Encoder(bundle, device)
        # Frames made of a transcript have no time.
        if "ctc_log_probs" in encoder.outputs and not self.encoder.others:
            shift = frame_shift(encoder, speech)
            speech = dataclasses.replace(speech, frame_shift=shift)
        return dataclasses.replace(manifest, graphs=graphs, speech=speech)

    def mixed(self, bundle: Bundle, device: Device) -> list[str]:
        """Roles of the graphs that let the utterances of a batch change each other."""
        utterances = [utterance for _, utterance in self.noise()]
        alone = encodes_batches(Encoder(bundle, device), utterances)
        return [] if alone else ["encoder"]

    def encode(self, utterance: Utterance) -> dict[str, np.ndarray]:
        """Outputs of the encoder graph for one utterance, from ESPnet's ``encode``.

        Args:
            utterance: (samples,) or (frames, dim), with what accompanies it.
        """
        return encode_reference(self.model, utterance)


def wrap_lm(
    train_config: Path, checkpoint: Path, tokens: list[str], of: Path
) -> StepModule:
    """A language model as a step.

    Args:
        train_config, checkpoint: its files.
        tokens: those that it has to be trained on.
        of: the training configuration that has those tokens.

    Raises:
        PluginError: if it is trained on others.
    """
    from espnet2.tasks.lm import LMTask

    arch = find("lm", read_config(train_config).get("lm"))
    lm, args = build(LMTask, train_config, checkpoint)
    if list(args.token_list) != tokens:
        raise PluginError(
            f"the tokens of {train_config} are not those of {of}; use a language model "
            "trained on the same token list"
        )
    return arch.wrap(lm.lm).eval()
