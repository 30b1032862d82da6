"""ESPnet's decoding options: a class for each of its commands.

Names and defaults are those of ESPnet's classes. The command lines are made from the
same fields (:func:`~espnet_onnx_plugin.bundle.typed.option`); one that is not made by
``option`` is for Python alone, and one without ``init`` is not an option of that task.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError

_MAXLENRATIO = "0: end detection; positive: share of the frames; negative: a constant"


@dataclass(frozen=True)
class DecodeOptions:
    """Options that tasks have in common."""

    nbest: int = option(1, "hypotheses in the results")
    beam_size: int = option(20, "hypotheses that the search keeps")
    penalty: float = option(0.0, "insertion penalty")
    maxlenratio: float = option(0.0, _MAXLENRATIO)
    minlenratio: float = option(0.0, "fewest tokens, as --maxlenratio")
    ctc_weight: float = option(0.5, "weight of the CTC, the decoder has the rest")
    lm_weight: float = option(1.0, "weight of the language model")
    ngram_weight: float = option(0.9, "weight of the n-gram model")
    normalize_length: bool = option(False, "hypotheses are ordered by score per token")
    ctm: bool = option(
        False,
        "also write when tokens and words were spoken (by the CTC; not an option of "
        "ESPnet)",
    )

    def __post_init__(self) -> None:
        if not 0.0 <= self.ctc_weight <= 1.0:
            raise PluginError(f"ctc_weight {self.ctc_weight} must lie between 0 and 1")
        if self.nbest < 1:
            raise PluginError(f"nbest {self.nbest} must be 1 or more")

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each scorer, in ESPnet's order."""
        return dict(
            decoder=1.0 - self.ctc_weight,
            ctc=self.ctc_weight,
            length_bonus=self.penalty,
            lm=self.lm_weight,
            ngram=self.ngram_weight,
        )


@dataclass(frozen=True)
class TransducerOptions(DecodeOptions):
    """Options of commands that also decode with transducers.

    Of the others, those have ``beam_size`` and ``lm_weight``; ``nbest`` limits what
    ``transducer_conf`` says, where one hypothesis is the default.
    """

    transducer_conf: Mapping[str, Any] | None = option(
        None, "of a transducer's search: NAME=VALUE,..."
    )


@dataclass(frozen=True)
class AsrOptions(TransducerOptions):
    """Options of ``asr_inference``.

    Attributes:
        lid_prompt: whether Whisper's prompt is the start symbol alone.
    """

    time_sync: bool = option(False, "time-synchronous search")
    streaming: bool = option(False, "search block by block, as streams are searched")
    multi_asr: bool = option(False, "whether the model tells several speakers apart")
    enh_s2t_task: bool = option(
        False, "whether the model enhances or separates speech before it recognizes it"
    )
    lid_prompt: bool = False
    hugging_face_decoder: bool = option(False, "search by transformers' generate")
    hugging_face_decoder_conf: Mapping[str, Any] = option(
        dict, "of transformers' generate: NAME=VALUE,..."
    )
    lang_prompt_token: str | None = option(
        None, "tokens in place of Whisper's language and task"
    )
    nlp_prompt_token: str | None = option(None, "text in place of Whisper's task")
    ctc_window_margin: int | None = option(
        None,
        "frames of the encoder, before and behind the hypotheses, that the CTC looks "
        "at in a step; 0: all; default: that of the release of ESPnet that exported "
        "the bundle (100 from 202611 on, 0 before)",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.multi_asr and self.enh_s2t_task:
            raise PluginError("multi_asr and enh_s2t_task exclude each other")


@dataclass(frozen=True)
class SluOptions(AsrOptions):
    """Options of ``slu_inference``, and those that its models share with ASR's."""

    # ESPnet has a window in asr_inference alone.
    ctc_window_margin: int = field(default=0, init=False)
    enh_s2t_task: bool = field(default=False, init=False)


@dataclass(frozen=True)
class StOptions(TransducerOptions):
    """Options of ``st_inference``; ``asr_*`` are of a multi-decoder's recognition.

    ``normalize_length`` changes nothing without ``hugging_face_decoder``: ESPnet's
    translation takes it and does not hand it on to the search.
    """

    ctc_weight: float = option(0.0, "weight of the CTC, the decoder has the rest")
    # A translation does not follow the speech in time.
    ctm: bool = field(default=False, init=False)
    asr_nbest: int = option(1, "transcripts in the results")
    asr_beam_size: int = option(20, "hypotheses that recognition keeps")
    asr_penalty: float = option(0.0, "insertion penalty")
    asr_maxlenratio: float = option(0.0, _MAXLENRATIO)
    asr_minlenratio: float = option(0.0, "fewest tokens, as --asr_maxlenratio")
    asr_lm_weight: float = option(1.0, "weight of the source language model")
    asr_ngram_weight: float = option(0.9, "weight of the source n-gram model")
    asr_ctc_weight: float = option(0.3, "weight of the CTC in recognition")
    hugging_face_decoder: bool = option(False, "the decoder is of Hugging Face's hub")
    ctc_greedy: bool = option(False, "CTC, frame by frame")

    def __post_init__(self) -> None:
        if not self.hugging_face_decoder:
            object.__setattr__(self, "normalize_length", False)
        super().__post_init__()

    @property
    def recognition(self) -> dict[str, Any]:
        """Options of the first search, by its names."""
        prefix = "asr_"
        return {
            name[len(prefix) :]: value
            for name, value in vars(self).items()
            if name.startswith(prefix)
        }


@dataclass(frozen=True)
class StreamingOptions(DecodeOptions):
    """Options that the commands for streams have in common."""

    # ESPnet's streaming knows no n-gram model.
    ngram_weight: float = field(default=0.0, init=False)
    # The scores by which an utterance is aligned are not kept.
    ctm: bool = field(default=False, init=False)
    disable_repetition_detection: bool = option(
        False, "a token that comes again does not end a block"
    )
    encoded_feat_length_limit: int = option(
        0, "newest frames of the encoder that the decoder reads; 0: all"
    )
    decoder_text_length_limit: int = option(
        0, "newest tokens that the decoder reads; 0: all"
    )
    sim_chunk_length: int = option(
        0, "samples of a part, in which whole utterances are fed; 0: in one"
    )
    frontend: str = option(
        "exact",
        "frames of the waveform: exact, those of the whole utterance, or espnet, those "
        "of ESPnet's streaming, which depend on the pieces that the audio comes in",
        command="espnet",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.frontend not in ("exact", "espnet"):
            raise PluginError(f"frontend '{self.frontend}' is neither exact nor espnet")
        for name in (
            "sim_chunk_length",
            "encoded_feat_length_limit",
            "decoder_text_length_limit",
        ):
            if getattr(self, name) < 0:
                raise PluginError(f"{name} {getattr(self, name)} must be 0 or more")


@dataclass(frozen=True)
class AsrStreamingOptions(StreamingOptions):
    """Options of ``asr_inference_streaming``."""


@dataclass(frozen=True)
class StStreamingOptions(StreamingOptions):
    """Options of ``st_inference_streaming``.

    ``normalize_length`` changes nothing without ``hugging_face_decoder``: ESPnet's
    translation takes it and does not hand it on to the search.
    """

    ctc_weight: float = option(0.0, "weight of the CTC, the decoder has the rest")
    time_sync: bool = option(False, "time-synchronous search")
    incremental_decode: bool = option(
        False, "the best hypothesis alone goes on after a block"
    )
    blank_penalty: float = option(
        1.0, "what the CTC's blank is multiplied by in a time-synchronous search"
    )
    hold_n: int = option(0, "newest tokens that an incremental search takes back")
    hugging_face_decoder: bool = option(False, "the decoder is of Hugging Face's hub")

    def __post_init__(self) -> None:
        if not self.hugging_face_decoder:
            object.__setattr__(self, "normalize_length", False)
        super().__post_init__()


def symbol(value: str) -> str:
    """A symbol, whose brackets may be left out: a shell redirects at them."""
    return f"<{value.lstrip('<').rstrip('>')}>"


@dataclass(frozen=True)
class S2tOptions(DecodeOptions):
    """Options of ``s2t_inference``."""

    beam_size: int = option(5, "hypotheses that the search keeps", command=20)
    ctc_weight: float = option(0.0, "weight of the CTC, the decoder has the rest")
    lm_weight: float = option(0.0, "weight of the language model")
    ngram_weight: float = option(0.0, "weight of the n-gram model")
    # The tokens of language and task were not spoken.
    ctm: bool = field(default=False, init=False)
    lang_sym: str = option("<eng>", "symbol of the language", read=symbol)
    task_sym: str = option("<asr>", "symbol of the task", read=symbol)
    predict_time: bool = option(False, "predict timestamps")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.ctc_weight > 0.0 and self.predict_time:
            raise PluginError(
                "CTC cannot predict timestamps: set ctc_weight to 0 or predict_time to "
                "false"
            )

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each scorer, in ESPnet's order."""
        return {**super().weights, "scorefilter": 1.0}


@dataclass(frozen=True)
class S2tOfCtcOptions(S2tOptions):
    """Options for a model that is all CTC, whatever ``ctc_weight`` says."""

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each scorer, in ESPnet's order."""
        return {**super().weights, "decoder": 0.0, "ctc": 1.0}


@dataclass(frozen=True)
class S2tCtcOptions(DecodeOptions):
    """Options of OWSM-CTC's search.

    Attributes:
        beam_size: default: that of the ESPnet that exported the model.
    """

    beam_size: int | None = None  # type: ignore[assignment]
    ctc_weight: float = field(default=1.0, init=False)
    lm_weight: float = option(0.0, "weight of the language model")
    ngram_weight: float = option(0.0, "weight of the n-gram model")
    normalize_length: bool = field(default=False, init=False)
    # The tokens of language and task were not spoken.
    ctm: bool = field(default=False, init=False)
    lang_sym: str = option("<nolang>", "symbol of the language", read=symbol)
    task_sym: str = option("<asr>", "symbol of the task", read=symbol)


@dataclass(frozen=True)
class S2tCtcGreedyOptions(S2tCtcOptions):
    """Options of ``s2t_inference_ctc``."""

    beam_size: int = option(
        1,
        "1: the best token of each frame; above: a search that keeps as many",
        command=20,
    )


@dataclass(frozen=True)
class LanguageOptions:
    """Options of ``s2t_inference_language``."""

    nbest: int = option(1, "languages in the results")
    first_lang_sym: str = option("<abk>", "the first language's symbol")
    last_lang_sym: str = option("<zul>", "the last language's symbol")


@dataclass(frozen=True)
class MaskCTCOptions:
    """Options of ``asr_inference_maskctc``."""

    maskctc_n_iterations: int = option(
        10, "most passes over an utterance; 0: as many as it has masks"
    )
    maskctc_threshold_probability: float = option(
        0.99, "tokens of which the CTC is less sure are masked"
    )
    nbest: ClassVar[int] = 1
    ctm: ClassVar[bool] = False


@dataclass(frozen=True)
class AsrTransducerOptions:
    """Options of ``asr_transducer_inference``.

    Attributes:
        return_decoded_hyp: whether a call returns texts and tokens beside the
            hypotheses.
    """

    nbest: int = option(1, "hypotheses in the results")
    beam_size: int = option(5, "hypotheses that the search keeps")
    lm_weight: float = option(1.0, "weight of the language model")
    beam_search_config: Mapping[str, Any] = option(
        dict, "of the beam search: search_type=TYPE,NAME=VALUE,..."
    )
    return_decoded_hyp: bool = False
    streaming: bool = option(False, "decode chunk by chunk, as streams are decoded")
    decoding_window: int = option(
        640, "milliseconds of a chunk of audio at 16 kHz; below 0: no streaming"
    )
    left_context: int = option(
        32, "frames of the encoder before a chunk that its attention sees"
    )
    ctm: ClassVar[bool] = False

    def __post_init__(self) -> None:
        for name in ("nbest", "beam_size"):
            if getattr(self, name) < 1:
                raise PluginError(f"{name} {getattr(self, name)} must be 1 or more")

    @property
    def window(self) -> int | None:
        """Samples of a chunk; None: utterances are decoded as a whole.

        As in ESPnet, these are of a rate of 16 kHz whatever the model's is.
        """
        if not self.streaming or self.decoding_window < 0:
            return None
        return round(self.decoding_window * 16000 / 1000)
