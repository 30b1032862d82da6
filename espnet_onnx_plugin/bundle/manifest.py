"""Types of ``manifest.yaml``, in which a bundle describes itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from espnet_onnx_plugin.bundle.diarization import Diarization
from espnet_onnx_plugin.bundle.enhancement import Enhancement
from espnet_onnx_plugin.bundle.search import Features, LabelSynchronous, Search
from espnet_onnx_plugin.errors import PluginError

FORMAT_VERSION = 5

#: Of a bundle: as exported, products and convolutions in 8-bit integers, weights in
#: blocks of 8 or 4 bits, half floats with 10 and with 7 bits of mantissa.
Precision = Literal["fp32", "int8", "weight8", "weight4", "fp16", "bf16"]

#: An axis of a tensor: its size, or the name of a size that varies.
Axis = int | str


@dataclass(frozen=True)
class Tensor:
    """A named input or output of a graph: dtype as numpy names it, and axes."""

    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class State:
    """A recurrent state of a step graph.

    The graph has an input ``name`` and an output ``next_<name>``. The state starts as
    zeros in which an axis named ``rows`` has size 1, an axis named ``nodes`` size 0,
    and any other named one the size that it has in the graph's memory.
    """

    dtype: str
    axes: tuple[Axis, ...]


@dataclass(frozen=True)
class File:
    """A file of a bundle: its name below the bundle, bytes, and digest."""

    name: str
    size: int
    sha256: str


@dataclass(frozen=True)
class Graph:
    """One ONNX graph of a bundle.

    Attributes:
        file: the graph.
        weights: its tensors, in a file that is mapped into memory; None where the graph
            has no large ones.
        inputs, outputs: the tensors that are not states, by name.
        states: the recurrent states, by name.
        batches: whether an utterance gets the same result in a batch as alone.
    """

    file: File
    weights: File | None
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    states: Mapping[str, State] = field(default_factory=dict)
    batches: bool = True

    @property
    def grows(self) -> bool:
        """Whether its states grow with every token that was read."""
        return any("nodes" in state.axes for state in self.states.values())


@dataclass(frozen=True)
class Framing:
    """Cutting of a waveform into frames, of which a stream's frontend has to know.

    Attributes:
        win_length, hop_length: of the training options, as ESPnet's streaming takes
            them: 512 and 128 where there are none.
        n_fft: samples that a frame is made of; None where it is not made of one window.
        center: whether the middle of the first frame is the first sample, and the
            waveform is reflected at its ends.
    """

    win_length: int
    hop_length: int
    n_fft: int | None = None
    center: bool = False

    @property
    def pad(self) -> int:
        """Samples that are reflected at either end."""
        return (self.n_fft or 0) // 2 if self.center else 0

    @property
    def shortest(self) -> int:
        """The fewest samples that have a frame; a reflection needs one more than it is
        long.
        """
        return max((self.n_fft or 1) - 2 * self.pad, self.pad + 1)


@dataclass(frozen=True)
class Speech:
    """Input of the encoder.

    Attributes:
        kind: ``waveform`` or ``features``.
        sampling_rate: samples a second; for features, frames a second.
        feature_dim: size of a feature vector; 0 for waveforms.
        min_length: the shortest input (samples or frames) that the encoder can take;
            ESPnet answers shorter ones with a placeholder.
        volume_normalize: peak that ESPnet's preprocessor scales to, or None.
        average_channels: whether several channels are averaged; else the first is
            taken.
        all_channels: whether the model reads them all, in the place of both.
        frame_shift: samples or frames of the input from one frame of the encoder's
            output to the next; None where it has no CTC or its frames have no time.
        framing: of the frontend; None in bundles of before this was noted.
    """

    kind: str
    sampling_rate: int
    feature_dim: int
    min_length: int
    volume_normalize: float | None = None
    average_channels: bool = False
    all_channels: bool = False
    frame_shift: float | None = None
    framing: Framing | None = None

    @property
    def dtype(self) -> str:
        """Type that the samples of sound files are read in.

        ESPnet reads float64 and makes float32 of what its preprocessor gives; where
        that computes nothing, samples read in float32 are the same.
        """
        computes = self.volume_normalize is not None or self.average_channels
        return "float64" if computes else "float32"

    def seconds(self, length: float) -> float:
        """Duration of an input of ``length`` samples or frames."""
        return length / self.sampling_rate


@dataclass(frozen=True, kw_only=True)
class BlockStream:
    """Settings of an encoder that encodes streams block by block.

    Attributes:
        block_size, hop_size, look_ahead: frames behind the input layer, as in ESPnet:
            those of a block, from one block to the next, and the last ones of a block,
            which the frames that it gives see but the next block gives.
        subsample: feature frames from one frame behind the input layer to the next.
        receptive: feature frames that one frame is made of.
        normalize: ESPnet's name of what normalizes the features of a chunk: each frame
            by itself (``global_mvn``), or all of the chunk's together
            (``utterance_mvn``); None where nothing does.
    """

    needs: ClassVar[tuple[str, ...]] = ("stream_embed", "stream_blocks")

    block_size: int
    hop_size: int
    look_ahead: int
    subsample: int
    receptive: int
    normalize: str | None = None


@dataclass(frozen=True, kw_only=True)
class ChunkStream:
    """Settings of an encoder that encodes streams chunk by chunk.

    Attributes:
        again: feature frames of before that a chunk begins with.
        shortest: feature frames of a chunk that gives one encoder frame.
        normalize: see :class:`BlockStream`.
    """

    needs: ClassVar[tuple[str, ...]] = ("stream_chunks",)

    again: int
    shortest: int
    normalize: str | None = None


@dataclass(frozen=True)
class Text:
    """Tokens and how they become text, or text them.

    Attributes:
        token_type: char, bpe, word, phn, whisper_en, whisper_multilingual, hugging_face
            or None, as in ESPnet.
        token_list: the tokens, one a line.
        bpemodel: the sentencepiece model, or None.
        tokenizer: the tokenizer of Whisper or of a hub, or None.
        clean_up: whether its texts lose the spaces before punctuation.
        cleaner: ESPnet's names of what is applied to a text before it becomes tokens,
            in this order.
        g2p: ESPnet's name of what makes phonemes of a text; None: spaces part them.
            Of token type phn alone.
        non_linguistic_symbols: those that are one token, of token type char alone.
    """

    token_type: str | None
    token_list: File
    bpemodel: File | None = None
    tokenizer: File | None = None
    clean_up: bool = False
    cleaner: tuple[str, ...] = ()
    g2p: str | None = None
    non_linguistic_symbols: tuple[str, ...] = ()

    @property
    def files(self) -> list[File]:
        """Its files in the bundle."""
        files = (self.token_list, self.bpemodel, self.tokenizer)
        return [file for file in files if file is not None]


@dataclass(frozen=True, kw_only=True)
class Transcript(Text):
    """A transcript that a model reads beside the speech: words, and ids of their parts.

    Attributes:
        first, last: ids that stand around it.
        max_tokens: how many ids it may have with those.
    """

    first: int
    last: int
    max_tokens: int


@dataclass(frozen=True, kw_only=True)
class Excitation:
    """Sines of the fundamental frequency, which a vocoder makes a waveform of.

    Attributes:
        kind: sines alone, or those of a neural source-filter model, where noise is
            added and takes their place in unvoiced samples.
        sampling_rate: samples a second.
        interpolated: whether the frequency goes from frame to frame in a line; else
            each frame's stays until the next.
        sine_amp, noise_std: of such a model, amplitude, and deviation of voiced noise.
        voiced_threshold: of such a model, the frequency that is not yet voiced.
        unused_draws: how many numbers ESPnet draws for each frame to no effect.
    """

    kind: Literal["sines", "source_filter"]
    sampling_rate: int
    interpolated: bool = False
    sine_amp: float = 1.0
    noise_std: float = 0.0
    voiced_threshold: float = 0.0
    unused_draws: int = 0


@dataclass(frozen=True)
class ScoreInputs:
    """Inputs of a singing voice model, which are made of a score and its phones.

    Attributes:
        fs, hop_length: of the frames in which durations are counted.
        ids: of label, midi, duration_phn, duration_ruled_phn, duration_syb and slur
            those that the encoder reads, and how many ids it has of each, from 0 on.
        repeated_by: the durations by which every phone is repeated; None: a row of the
            inputs is a phone (``syllable_score_feats``), not a frame.
        needs_labels: whether ESPnet cannot sing a score without labels.
    """

    fs: int
    hop_length: int
    ids: Mapping[str, int]
    repeated_by: Literal["duration_phn", "duration_ruled_phn"] | None = None
    needs_labels: bool = False


@dataclass(frozen=True)
class Synthesis:
    """Output of a model that speaks or sings, and its inputs besides text.

    Attributes:
        sampling_rate: samples a second of its waveforms; None where ESPnet names none.
        frame_shift: samples of the waveform from one frame of the features to the next;
            None where ESPnet makes no waveform of them.
        vocoder_reads: the output of the decoder or the postnet that becomes a waveform.
        vocoder_context: frames before and after a frame that the vocoder's graph sees
            when it makes the frame's samples; None: every one of the utterance.
        griffin_lim: settings of the spectrogram (n_fft, n_shift, win_length, window,
            fs, n_mels, fmin, fmax), where no graph makes the waveform.
        excitation: made of the fundamental frequency, where the vocoder reads it.
        reads: of spembs, sids, lids, speech and discrete_token, those that the model
            needs.
        speakers, languages: how many ids of each it knows, from 0 on; None where it
            reads none, or in bundles of before this was noted.
        score: what it reads of a score; None where it speaks.
    """

    sampling_rate: int | None
    frame_shift: int | None
    vocoder_reads: str
    vocoder_context: tuple[int, int] | None = None
    griffin_lim: Mapping[str, Any] | None = None
    reads: tuple[str, ...] = ()
    speakers: int | None = None
    languages: int | None = None
    excitation: Excitation | None = None
    score: ScoreInputs | None = None


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
