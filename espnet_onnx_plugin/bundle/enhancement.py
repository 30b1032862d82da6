"""Enhancement, separation and extraction of speech, as a bundle describes them.

A model's graphs read a waveform or its spectrum, and give waveforms or spectra. What
stands between the two ends is one of a few *methods*.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal


@dataclass(frozen=True, kw_only=True)
class Stft:
    """Settings of a short-time Fourier transform, as ESPnet and torch name them.

    Attributes:
        n_fft, hop_length, win_length: in samples.
        window: name of torch's window, or None.
        center: whether the middle of the first frame is the first sample, and the
            waveform is reflected at its ends.
        normalized: whether spectra are divided by the square root of ``n_fft``.
        onesided: whether the bins of negative frequency are left out.
        transform: how magnitudes are compressed: to the power of ``exponent``, by the
            logarithm, or not at all; with one of the first two the spectrum is
            multiplied by ``factor``.
        default_fs: sampling rate that the sizes are of, where they follow the rate of
            the input; None where they do not.
    """

    n_fft: int
    hop_length: int
    win_length: int
    window: str | None = "hann"
    center: bool = True
    normalized: bool = False
    onesided: bool = True
    transform: Literal["exponent", "log"] | None = None
    factor: float = 1.0
    exponent: float = 1.0
    default_fs: int | None = None

    @property
    def bins(self) -> int:
        """Frequencies of a frame."""
        return self.n_fft // 2 + 1 if self.onesided else self.n_fft

    @property
    def shortest(self) -> int:
        """The fewest samples that have a frame."""
        return self.n_fft // 2 + 1 if self.center else self.n_fft


@dataclass(frozen=True)
class Direct:
    """One graph, ``separator``, makes all that comes out of all that goes in."""

    kind: ClassVar[str] = "direct"


@dataclass(frozen=True)
class Segmental:
    """Segments one after another, each with a memory of those before.

    The graph ``encoder`` makes features of a mixture and the first memory, the graph
    ``separator`` runs over a segment, ``decoder`` reads what it made of all of them.

    Attributes:
        frames: of a segment; zeros fill the last.
    """

    kind: ClassVar[str] = "segmental"

    frames: int


#: Each has a module of its name in runtime.enhancement.
Method = Direct | Segmental


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """Waveforms that a model makes of a mixture.

    Attributes:
        outputs: how many: speakers, or 1.
        channels: how many the mixture must have; None: any number.
        ref_channel: the channel that the model's outputs stand for.
        min_length: the fewest samples that the model can take.
        averages: whether the model takes the mean of all channels where the option
            ``ref_channel`` names none.
        modes: how many ways of processing the model has, the second of which takes
            reverberation away; None: categories are nothing to it.
        max_bins: the most frequencies that the model can take, where the transform
            follows the rate of the input and there is a limit.
        method: what lies between analysis and synthesis.
        analysis: makes the ``spectrum`` that the graphs read; None: they read the
            waveform, ``speech``.
        synthesis: makes waveforms of the ``spectra`` that the graphs give; None: they
            give ``waveforms``.
        variance: what is brought to variance 1 before, and back after: all channels
            together, each by itself, or None.
        categories: kinds of mixtures by their number, ESPnet's ``utt2category``.
        forward_rate: sampling rate that every mixture is brought to, and back after.
        single_channel: whether ESPnet's preprocessor takes the first channel alone.
        volume_normalize: peak that it scales mixtures to, or None.
    """

    outputs: int
    channels: int | None
    ref_channel: int
    min_length: int
    method: Method
    averages: bool = False
    modes: int | None = None
    max_bins: int | None = None
    analysis: Stft | None = None
    synthesis: Stft | None = None
    variance: Literal["all", "channel"] | None = None
    categories: tuple[str, ...] = ()
    forward_rate: int | None = None
    single_channel: bool = False
    volume_normalize: float | None = None
