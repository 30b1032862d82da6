"""The task ``asr_transducer`` of ``asr.sh``: stand-alone transducers."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from espnet_onnx_plugin.bundle import Bundle, Speech
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.rwkv_transducer_decoder import kernel_left_out
from espnet_onnx_plugin.export.block_stream import StreamGraphs
from espnet_onnx_plugin.export.checkpoints import Checkpoints, read_config
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.steps import DecoderModule
from espnet_onnx_plugin.export.tasks.asr_transducer_encoder import (
    TransducerEncoderGraph,
)
from espnet_onnx_plugin.export.tasks.asr_transducer_stream import wrap_chunks
from espnet_onnx_plugin.export.tasks.recognition import RecognitionExporter
from espnet_onnx_plugin.export.transducers import JointModule
from espnet_onnx_plugin.runtime.core.device import Device


def block_types(config: Mapping[str, Any]) -> list[str]:
    """Types of the blocks of a training configuration's encoder, one for each."""
    return [
        conf["block_type"]
        for conf in config["encoder_conf"]["body_conf"]
        for _ in range(conf.get("num_blocks") or 1)
    ]


class ASRTransducerExporter(RecognitionExporter):
    """An ``ESPnetASRTransducerModel``."""

    espnet_task = ("espnet2.tasks.asr_transducer", "ASRTransducerTask")
    encoder: TransducerEncoderGraph

    def __init__(self, checkpoints: Checkpoints):
        lm_config = checkpoints.lm_train_config
        if lm_config is not None and read_config(lm_config).get("lm") != "seq_rnn":
            raise PluginError(
                f"the language model of {lm_config} is not a seq_rnn: a stand-alone "
                "transducer takes no other one, in ESPnet either"
            )
        if checkpoints.ngram_file is not None:
            raise PluginError(
                "a stand-alone transducer uses no n-gram model: leave out --ngram_file"
            )
        with kernel_left_out():
            super().__init__(checkpoints)
        # As in ESPnet's inference: convolutions stay causal, no chunk is masked.
        self.model.encoder.dynamic_chunk_training = False

    def roles(self, config: Mapping[str, Any]) -> list[str]:
        """Keys that choose an architecture; decoders of this task are no other's."""
        return ["frontend", "normalize"]

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Refuse also blocks and decoders that are not known."""
        super().refuse(config)
        find("transducer_decoder", config.get("decoder", "rnn")).needs()
        for kind in block_types(config):
            find("transducer_block", kind).needs()

    def wrap_encoder(self) -> TransducerEncoderGraph:
        """The encoder graph of the model."""
        blocks = block_types(vars(self.args))
        return TransducerEncoderGraph(self.model, self.args.normalize, blocks)

    def wrap_stream(self) -> StreamGraphs | None:
        """The encoder of streams, chunk by chunk."""
        return wrap_chunks(self.model, self.encoder, self.args.normalize)

    def wrap_decoders(self) -> dict[str, DecoderModule]:
        """The prediction network, and the joint network."""
        joint = self.model.joint_network
        wrap = find("transducer_decoder", self.args.decoder).wrap
        return {
            "decoder": wrap(self.model.decoder, joint.lin_dec).eval(),
            "joint": JointModule(joint).eval(),
        }

    @functools.cached_property
    def speech(self) -> Speech:
        """Requirements of the model's input."""
        shortest = self.encoder.shortest()
        if self.frontend is not None:
            shortest = self.frontend.shortest(shortest)
        return dataclasses.replace(super().speech, min_length=shortest)

    @property
    def search(self) -> Transducer:
        """Settings of the search."""
        return Transducer(blank=0, sos=self.model.vocab_size - 1)

    def mixed(self, bundle: Bundle, device: Device) -> list[str]:
        """Roles of the graphs that mix utterances.

        Among them is a decoder whose states grow with the labels: rows with as many
        ones as others have in a batch are not stacked.
        """
        grows = bundle.manifest.graphs["decoder"].grows
        return [*super().mixed(bundle, device), *(["decoder"] if grows else [])]

    def encode(self, utterance: np.ndarray) -> dict[str, np.ndarray]:
        """Outputs of the encoder graph, from ESPnet's own ``encode``."""
        speech = torch.from_numpy(utterance.copy())[None]
        with torch.no_grad():
            out, _ = self.model.encode(speech, torch.tensor([speech.size(1)]))
        # ESPnet's search takes every frame, whatever the length that the encoder says.
        lengths = np.array([out.size(1)])
        return dict(encoder_out=out.numpy(), encoder_out_lens=lengths)
