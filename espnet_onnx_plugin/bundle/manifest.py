"""Types of ``manifest.yaml``, in which a bundle describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from espnet_onnx_plugin.bundle.diarization import Diarization
from espnet_onnx_plugin.bundle.enhancement import Enhancement
from espnet_onnx_plugin.bundle.graph import File, Graph
from espnet_onnx_plugin.bundle.search import Features, LabelSynchronous, Search
from espnet_onnx_plugin.bundle.speech import BlockStream, ChunkStream, Speech
from espnet_onnx_plugin.bundle.synthesis import Synthesis
from espnet_onnx_plugin.bundle.text import Text, Transcript
from espnet_onnx_plugin.errors import PluginError

FORMAT_VERSION = 5

#: Of a bundle: as exported, products and convolutions in 8-bit integers, weights in
#: blocks of 8 or 4 bits, half floats with 10 and with 7 bits of mantissa.
Precision = Literal["fp32", "int8", "weight8", "weight4", "fp16", "bf16"]


@dataclass(frozen=True)
class Manifest:
    """The content of ``manifest.yaml``.

    Attributes:
        task: name of the recipe's driver: asr.
        graphs: by role: frontend, encoder, decoder_memory, decoder, lm;
            mask_decoder_memory and mask_decoder in the place of decoders; of
            text-to-speech frontend, encoder, decoder, postnet, vocoder, and alignment
            and energy of speech that teaches; stream_normalize, stream_embed and
            stream_blocks, or stream_chunks, of an encoder that encodes streams, too.
        text: output of the model, of text-to-speech its input; None where there is
            neither.
        speech: its input; None where it reads no speech.
        transcript: the transcript that the model also reads, or None.
        search: what follows the tokens; None where there are none.
        enhancement: the waveforms that it makes of a mixture, or None. Where it also
            recognizes speech, these are what the other graphs read.
        diarization: what it says of who speaks when, or None.
        stream: how its encoder encodes streams; None: it encodes whole utterances.
        ngram: a KenLM model, or None.
        src_text, src_ngram: the same of the source language, where a translation model
            recognizes before it translates.
        precision: of the arithmetic that its graphs are made for; some of their layers
            may be in a higher one.
        source: what the bundle was made from: checkpoint, versions, parent.
        checks: the figures that its checks measured.
    """

    task: str
    graphs: Mapping[str, Graph]
    speech: Speech | None
    text: Text | None
    search: Search | Features | None
    synthesis: Synthesis | None = None
    enhancement: Enhancement | None = None
    diarization: Diarization | None = None
    ngram: File | None = None
    transcript: Transcript | None = None
    stream: BlockStream | ChunkStream | None = None
    src_text: Text | None = None
    src_ngram: File | None = None
    precision: Precision = "fp32"
    source: Mapping[str, Any] = field(default_factory=dict)
    checks: Mapping[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    def __post_init__(self) -> None:
        if self.text is self.enhancement is self.diarization is None:
            raise PluginError("there is neither text, enhancement nor diarization")

    def check_graphs(self) -> None:
        """Refuse a bundle that lacks a graph without which it runs nothing.

        Raises:
            PluginError: naming it and what runs it.
        """
        for role, reader in self._needed().items():
            if role not in self.graphs:
                raise PluginError(
                    f"{reader} needs the graph '{role}', which is not there"
                )

    def _needed(self) -> dict[str, str]:
        """Roles of the graphs that it has to have, and what runs each."""
        parts: list[Any] = [self.search, self.stream, self.diarization]
        if self.enhancement is not None:
            parts += [self.enhancement.method, self.enhancement.enrollment]
            parts.append(self.enhancement.stream)
        needed = {
            role: getattr(part, "kind", type(part).__name__)
            for part in parts
            if part is not None
            for role in part.needs
        }
        if isinstance(self.search, LabelSynchronous):
            if self.search.recognition is not None:
                needed["md_encoder"] = "recognition before translation"
        return needed

    @property
    def files(self) -> list[File]:
        """Every file of the bundle but the manifest."""
        files: list[File | None] = [self.ngram, self.src_ngram]
        for graph in self.graphs.values():
            files += [graph.file, graph.weights]
        for text in (self.text, self.src_text, self.transcript):
            files += [] if text is None else text.files
        return [file for file in files if file is not None]

    @property
    def tokens(self) -> Text:
        """Its text.

        Raises:
            PluginError: if it has none.
        """
        if self.text is None:
            raise PluginError(
                "manifest.yaml says nothing of text; export the bundle again"
            )
        return self.text

    @property
    def espnet(self) -> str:
        """Release of the ESPnet that exported the bundle, e.g. 202511.

        Decoding follows its search, see ``runtime.core.releases``.
        """
        return str(self.source.get("espnet", "202511"))

    @property
    def optimized_for(self) -> str | None:
        """Provider that the graphs were optimized for; None: they were not."""
        made_by = self.source.get("made_by", {})
        return made_by.get("provider") if made_by.get("step") == "optimize" else None

    @property
    def reduced_range(self) -> bool:
        """Whether int8 weights have 7 bits, whose products saturate nowhere."""
        return bool(self.source.get("made_by", {}).get("reduce_range", False))

    @property
    def speakers(self) -> int | None:
        """Number of speakers that an utterance has results of; None: it has one result.

        They are told apart by the enhancement before the encoder, or by the encoder,
        whose outputs are (utterances, speakers, ...) then.
        """
        if self.enhancement is not None:
            return self.enhancement.outputs
        _, *speakers, _, _ = self.graphs["encoder"].outputs["encoder_out"].axes
        return int(speakers[0]) if speakers else None
