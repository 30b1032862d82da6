"""Settings of a benchmark, and what a system gives for an utterance in each kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from espnet_onnx_plugin.errors import PluginError

# What the other systems are compared with.
REFERENCE = "pytorch"
#: The variants that are measured where nothing else is said, by provider.
BUNDLES = {
    "cpu": ("fp32", "optimized", "int8"),
    "cuda": ("fp32", "optimized", "fp16"),
}


@dataclass(frozen=True)
class Run:
    """One utterance, recognized or spoken once.

    Attributes:
        PARTS: Where the time goes; rest is the total less the others.
        seconds: From what is given to what is made of it.
        parts: The same by part.
        peak_memory_mb: The process's peak resident set so far, MiB.
    """

    PARTS: ClassVar[tuple[str, ...]]

    seconds: float
    parts: Mapping[str, float]
    peak_memory_mb: float


@dataclass(frozen=True)
class Decode(Run):
    """From waveform to hypothesis.

    Attributes:
        tokens: token_int of the best hypothesis.
        score: Its score.
        text: Its text, None where the model has no tokenizer.
    """

    PARTS = ("frontend", "encoder", "decoder", "lm", "ctc", "rest")

    tokens: tuple[int, ...]
    score: float
    text: str | None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", tuple(self.tokens))


@dataclass(frozen=True)
class StreamDecode(Decode):
    """From the parts of streams to hypotheses; tokens and score are of all streams.

    Attributes:
        delays: Seconds from the end of a part until it is recognized, of every part of
            every stream but the last ones.
        last_delays: Those of the last ones.
    """

    delays: tuple[float, ...]
    last_delays: tuple[float, ...]


@dataclass(frozen=True)
class BatchDecode(Run):
    """Several utterances, recognized together.

    Attributes:
        tokens: token_int of the best hypothesis of each.
        scores: Their scores, None without a search.
        allocated_mb: MiB of the device that torch has allocated at most so far.
    """

    PARTS = ()

    tokens: Sequence[Sequence[int]]
    scores: Sequence[float | None]
    allocated_mb: float | None


@dataclass(frozen=True)
class Synthesis(Run):
    """From token ids, or a song, to waveform.

    Attributes:
        audio_seconds: Length of the waveform.
        first_audio_seconds: How long it took to what can be played first; in PyTorch
            that is the whole.
    """

    PARTS = ("acoustic", "vocoder", "rest")

    audio_seconds: float
    first_audio_seconds: float


@dataclass(frozen=True)
class Separation(Run):
    """From mixture to waveforms."""

    PARTS = ("separator", "rest")


@dataclass(frozen=True)
class BaseSetting:
    """One row group of the tables.

    Attributes:
        RUN: What is measured.
        OPTIONS: Fields that are ESPnet's decoding options.
        name: What the tables call it; by default what it holds.
        audio_seconds: Length of the audio; None for the test data.
        threads: CPU threads of each system.
        repeats: Measured runs over the audio.
        starts: Measured starts of a process.
        variants: The systems.
    """

    RUN: ClassVar[type[Run]]
    OPTIONS: ClassVar[tuple[str, ...]]

    name: str = ""
    audio_seconds: float | None = None
    threads: int = 1
    repeats: int = 5
    starts: int = 3
    variants: tuple[str, ...] = (REFERENCE, *BUNDLES["cpu"])

    def __post_init__(self) -> None:
        for count in ("threads", "repeats", "starts"):
            if getattr(self, count) < 1:
                raise PluginError(f"{count} {getattr(self, count)} must be 1 or more")
        if self.audio_seconds is not None and self.audio_seconds <= 0:
            raise PluginError(f"audio_seconds {self.audio_seconds} must be above 0")
        known = tuple(dict.fromkeys((REFERENCE, *sum(BUNDLES.values(), ()))))
        unknown = [name for name in self.variants if name not in known]
        if unknown or not self.variants or len({*self.variants}) < len(self.variants):
            raise PluginError(
                f"variants {', '.join(self.variants)}: some of {', '.join(known)}, "
                "each once"
            )
        if not self.name:
            seconds = self.audio_seconds
            audio = "test data" if seconds is None else f"{seconds:g} s"
            object.__setattr__(self, "name", ", ".join((audio, *self._names)))

    @property
    def _names(self) -> list[str]:
        return [f"{self.threads} threads"] if self.threads > 1 else []

    @property
    def search_name(self) -> str:
        """Return what the tables call it, but for the audio."""
        return ", ".join(self._names)

    @property
    def search_options(self) -> dict[str, Any]:
        """Return ESPnet's decoding options."""
        options = {name: getattr(self, name) for name in self.OPTIONS}
        return {name: value for name, value in options.items() if value is not None}

    @property
    def but_for_length(self) -> str:
        """Return what settings have in common that differ in the audio's length."""
        return f"{self.threads} {sorted(self.search_options.items())}"


@dataclass(frozen=True)
class BeamSetting(BaseSetting):
    """One of a beam search.

    Attributes:
        beam_size, ctc_weight, lm_weight, maxlenratio, minlenratio: ESPnet's decoding
            options. Ratios of -40 and -39 give exactly 40 steps.
    """

    OPTIONS = ("beam_size", "ctc_weight", "lm_weight", "maxlenratio", "minlenratio")

    beam_size: int = 10
    ctc_weight: float = 0.3
    lm_weight: float = 0.0
    maxlenratio: float = 0.0
    minlenratio: float = 0.0

    def __post_init__(self) -> None:
        if self.beam_size < 1:
            raise PluginError(f"beam_size {self.beam_size} must be 1 or more")
        super().__post_init__()

    @property
    def _names(self) -> list[str]:
        lm = f"LM {self.lm_weight:g}" if self.lm_weight else "no LM"
        names = [f"beam {self.beam_size}", self._search, lm]
        return [*filter(None, names), *super()._names]

    @property
    def _search(self) -> str | None:
        return None


@dataclass(frozen=True)
class Setting(BeamSetting):
    """One of recognition, or of another task with ESPnet's beam search.

    Attributes:
        transducer_conf: That of a transducer.
    """

    RUN = Decode
    OPTIONS = (*BeamSetting.OPTIONS, "transducer_conf")

    transducer_conf: Mapping[str, Any] | None = None

    @property
    def _search(self) -> str | None:
        return (self.transducer_conf or {}).get("search_type")


@dataclass(frozen=True)
class StreamSetting(BeamSetting):
    """One of recognition of streams.

    Attributes:
        disable_repetition_detection: ESPnet's decoding option.
        sim_chunk_length: Samples of the parts that streams are fed in.
        streams: How many are recognized at once; ESPnet takes one after the other.
    """

    RUN = StreamDecode
    OPTIONS = (*BeamSetting.OPTIONS, "disable_repetition_detection")

    disable_repetition_detection: bool = False
    sim_chunk_length: int = 10240
    streams: int = 1

    def __post_init__(self) -> None:
        for count in ("sim_chunk_length", "streams"):
            if getattr(self, count) < 1:
                raise PluginError(f"{count} {getattr(self, count)} must be 1 or more")
        super().__post_init__()

    @property
    def _names(self) -> list[str]:
        many = "s" if self.streams > 1 else ""
        return [f"{self.streams} stream{many}", *super()._names]


@dataclass(frozen=True)
class SongSetting(BaseSetting):
    """One of singing."""

    RUN = Synthesis
    OPTIONS = ()

    @property
    def _names(self) -> list[str]:
        return super()._names or ["1 thread"]


@dataclass(frozen=True)
class SpeechSetting(SongSetting):
    """One of speech synthesis.

    Attributes:
        maxlenratio, minlenratio: ESPnet's decoding options. Both 6 give exactly 6
            frames for each token, where a model makes one after the other.
    """

    OPTIONS = ("maxlenratio", "minlenratio")

    maxlenratio: float = 10.0
    minlenratio: float = 0.0


@dataclass(frozen=True)
class SeparationSetting(BaseSetting):
    """One of enhancement or separation.

    Attributes:
        fs: Samples a second.
        channels: Of the mixture.
        piece_seconds: Length of the pieces that a mixture comes in, as a stream; None:
            it comes as a whole. ESPnet takes a frame at a time.
    """

    RUN = Separation
    OPTIONS = ()

    fs: int = 8000
    channels: int = 1
    piece_seconds: float | None = None

    def __post_init__(self) -> None:
        if self.piece_seconds is not None and self.piece_seconds <= 0:
            raise PluginError(f"piece_seconds {self.piece_seconds} must be above 0")
        super().__post_init__()

    @property
    def _names(self) -> list[str]:
        names = [f"{self.channels} channels"] if self.channels > 1 else []
        if self.piece_seconds is not None:
            names.append(f"stream in pieces of {1000 * self.piece_seconds:g} ms")
        return [*names, *super()._names] or ["1 thread"]


#: Settings by what an outcome calls their kind.
KINDS = {
    cls.__name__: cls
    for cls in (Setting, StreamSetting, SongSetting, SpeechSetting, SeparationSetting)
}
