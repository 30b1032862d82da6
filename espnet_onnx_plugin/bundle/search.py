"""Kinds of search and of synthesis, which run the graphs of a model.

Each says what has to be known to run the graphs, and nothing of the options that a user
gives. The class names the graphs without which it runs nothing (``needs``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal


@dataclass(frozen=True)
class Generate:
    """Settings with the names of transformers' ``GenerationConfig``.

    Attributes:
        start: the token that hypotheses begin with.
        eos: the tokens that end one.
        prompt: of a decoder that reads the encoder output as a prompt, how many tokens
            stand around it; None: of one that does not.
        positions: how many the model has, where that is a limit.
        max_length: of a hypothesis with all that comes before it.
    """

    start: int
    eos: tuple[int, ...]
    prompt: int | None = None
    positions: int | None = None
    max_length: int | None = None
    max_new_tokens: int | None = None
    num_beams: int = 1
    min_length: int = 0
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    no_repeat_ngram_size: int = 0
    forced_bos_token_id: int | None = None
    forced_eos_token_id: int | None = None
    do_sample: bool = False


@dataclass(frozen=True)
class Blocks:
    """Blocks of an encoder for streams, as its options name them, in its own frames.

    All are 0 where the options do not name all three.
    """

    block_size: int = 0
    hop_size: int = 0
    look_ahead: int = 0


@dataclass(frozen=True, kw_only=True)
class LabelSynchronous:
    """Search over tokens by decoder, CTC and language models, or the best CTC path.

    Attributes:
        sos, eos, blank: ids of the symbols.
        single: scorers that ESPnet asks hypothesis by hypothesis; with one of them its
            search differs.
        together: decoders that ESPnet cannot ask for one hypothesis alone.
        max_tokens: how many tokens the decoder or the language model can read; None:
            any number.
        primer: what hypotheses begin with in the place of ``sos``.
        generate: of a decoder of Hugging Face's hub, how that searches.
        hugging_face_decoder: whether the decoder is one of the hub's that ESPnet
            searches by itself.
        recognition: of a model that recognizes before it translates, the first search.
        blocks: what simulated streaming goes by; None in bundles of before it was
            noted.
    """

    kind: ClassVar[str] = "label_synchronous"
    needs: ClassVar[tuple[str, ...]] = ("encoder",)
    sos: int
    eos: int
    blank: int
    single: tuple[str, ...] = ()
    together: tuple[str, ...] = ()
    max_tokens: int | None = None
    primer: tuple[int, ...] | None = None
    generate: Generate | None = None
    hugging_face_decoder: bool = False
    recognition: LabelSynchronous | None = None
    blocks: Blocks | None = None


@dataclass(frozen=True, kw_only=True)
class Prompted(LabelSynchronous):
    """The search of OWSM's models with a decoder, over windows of one length.

    Attributes:
        sop, na, notime: ids of what stands before previous text, in the place of
            unknown text, and for no timestamps.
        first_time, last_time: ids of the first and the last timestamp.
        fs: samples a second.
        speech_length: seconds that all speech is brought to.
        speech_resolution: seconds from one timestamp to the next.
    """

    kind: ClassVar[str] = "prompted"
    sop: int
    na: int
    notime: int
    first_time: int
    last_time: int
    fs: int
    speech_length: float
    speech_resolution: float


@dataclass(frozen=True, kw_only=True)
class PromptedCTC(LabelSynchronous):
    """The search of OWSM's models that are all CTC, over windows of one length.

    Attributes:
        sop, na, fs, speech_length: see :class:`Prompted`.
        frames_per_second: of the encoder's output; None where ESPnet does not know it.
    """

    kind: ClassVar[str] = "prompted_ctc"
    sop: int
    na: int
    fs: int
    speech_length: float
    frames_per_second: float | None


@dataclass(frozen=True)
class MaskCTC:
    """Refinement of the CTC's tokens by a masked language model.

    Attributes:
        blank, mask: ids of the symbols.
    """

    kind: ClassVar[str] = "mask_ctc"
    needs: ClassVar[tuple[str, ...]] = (
        "encoder",
        "mask_decoder",
        "mask_decoder_memory",
    )
    blank: int
    mask: int


@dataclass(frozen=True, kw_only=True)
class Transducer:
    """Search of a transducer: a prediction network and a joint network.

    Attributes:
        blank: what hypotheses begin with, and what stands for no label.
        sos: what language models begin with, where the search begins with it.
        multi_blank_durations: frames that each blank stands for, from the longest to
            the standard one; none where ESPnet's command does not tell the search.
        multi_blank_indices: ids of those blanks, which follow each other.
    """

    kind: ClassVar[str] = "transducer"
    needs: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "joint", "joint_memory")
    blank: int
    sos: int
    multi_blank_durations: tuple[int, ...] = ()
    multi_blank_indices: tuple[int, ...] = ()

    @property
    def eos(self) -> int:
        """The end symbol of a CTC beside it, which is ``sos``."""
        return self.sos


@dataclass(frozen=True)
class Pitch:
    """How the fundamental frequency of speech is made: ESPnet's ``Dio``, normalized.

    Attributes:
        fs to reduction_factor: settings of ``Dio``.
        shift, scale: what is taken away, and divided by; None: nothing.
    """

    fs: int
    hop_length: int
    f0min: float
    f0max: float
    use_continuous_f0: bool
    use_log_f0: bool
    reduction_factor: int
    shift: float | None
    scale: float | None


@dataclass(frozen=True)
class Energy:
    """How the energy of speech is made: ESPnet's ``Energy``, see :class:`Pitch`."""

    reduction_factor: int
    shift: float | None
    scale: float | None


@dataclass(frozen=True, kw_only=True)
class _Features:
    """Base of the ways from text, or a score, to features.

    Attributes:
        model: ESPnet's class, where something of its follows the release.
        options: decoding options that ESPnet gives to the model.
        teacher_forcing: inputs that it reads; none where ESPnet cannot do it.
        unused_draws: by role, how many numbers ESPnet draws to no effect before a graph
            runs.
        drawn: how many it draws before the first text.
        mkl: whether its dropout is drawn by MKL.
        block: frames of which the vocoder draws its noise at once.
    """

    model: str | None = None
    options: tuple[str, ...] = ()
    teacher_forcing: tuple[str, ...] = ()
    unused_draws: Mapping[str, int] = field(default_factory=dict)
    drawn: int = 0
    mkl: bool = False
    block: int | None = None


@dataclass(frozen=True, kw_only=True)
class Durations(_Features):
    """Synthesis by a model that predicts how long each symbol lasts.

    Attributes:
        rounding: of durations that a speed changes.
        pitch, energy: of teacher forcing, where it reads them.
        token_layers: discrete tokens of a frame, of a model that makes such.
    """

    kind: ClassVar[str] = "durations"
    needs: ClassVar[tuple[str, ...]] = ("encoder", "decoder")
    rounding: Literal["round", "ceil"]
    pitch: Pitch | None = None
    energy: Energy | None = None
    token_layers: int | None = None


@dataclass(frozen=True, kw_only=True)
class Frames(_Features):
    """Synthesis by a model that makes frame after frame.

    Attributes:
        reduction_factor: frames that a step makes.
        dropout: of the prenet, which is there in inference too.
        limits_steps: whether the length ratios count steps, not frames.
    """

    kind: ClassVar[str] = "frames"
    needs: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "postnet")
    reduction_factor: int
    dropout: float
    limits_steps: bool = False


@dataclass(frozen=True, kw_only=True)
class Framewise(_Features):
    """Synthesis by a model that reads a row of inputs for every frame it makes."""

    kind: ClassVar[str] = "framewise"
    needs: ClassVar[tuple[str, ...]] = ("encoder",)


Search = LabelSynchronous | Prompted | PromptedCTC | MaskCTC | Transducer
Features = Durations | Frames | Framewise
