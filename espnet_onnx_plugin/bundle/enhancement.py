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
    needs: ClassVar[tuple[str, ...]] = ("separator",)


@dataclass(frozen=True, kw_only=True)
class Wpe:
    """Dereverberation by weighted prediction errors, as ``DNN_WPE`` of ESPnet.

    The graph ``dereverberation_masks``, where there is one, says how much of a mixture
    is to be kept.

    Attributes:
        taps, delay: frames that a frame is predicted from, and how far back they end.
        iterations: how often, each time by the powers of what came out.
    """

    taps: int
    delay: int
    iterations: int


#: Beamformers by ESPnet's name; ``souden`` is the solution of M. Souden et al.
BeamformerType = Literal[
    "mvdr",
    "mvdr_souden",
    "mpdr",
    "mpdr_souden",
    "wmpdr",
    "wmpdr_souden",
    "wpd",
    "wpd_souden",
    "mwf",
    "wmwf",
    "sdw_mwf",
    "r1mwf",
    "lcmv",
    "lcmp",
    "wlcmp",
    "gev",
    "gev_ban",
    "mvdr_tfs",
    "mvdr_tfs_souden",
]


@dataclass(frozen=True, kw_only=True)
class Beamforming:
    """A spatial filter for each speaker, as ``DNN_Beamformer`` of ESPnet.

    The graph ``masks`` says what is speech of each and, last, what is noise; the graph
    ``reference`` weighs the channels where none is chosen. The filters are computed of
    spectra and masks outside the graphs. A mixture of one channel is dereverberated
    only.

    Attributes:
        type: which filter.
        noise_mask: whether there is a mask of noise.
        wpe: how the mixture is dereverberated before, or None.
        iterations: of the power method, for relative transfer functions.
        taps, delay: frames that WPD predicts from, and how far back they end.
        loading: share of its trace that is added to the diagonal of a matrix before it
            is inverted; None: nothing is.
        torchaudio: whether ESPnet takes torchaudio's functions, which load more of the
            matrices.
    """

    kind: ClassVar[str] = "beamforming"
    needs: ClassVar[tuple[str, ...]] = ("masks",)

    type: BeamformerType
    noise_mask: bool
    wpe: Wpe | None = None
    iterations: int = 2
    taps: int = 5
    delay: int = 3
    loading: float | None = 1e-7
    torchaudio: bool = False


@dataclass(frozen=True, kw_only=True)
class KMeans:
    """Bins of a spectrum are clustered by what a graph makes of each.

    ``embedding`` gives the embeddings of all bins, k-means the clusters, and
    ``separator`` makes the outputs of the mixture and of masks.

    Attributes:
        clusters: how many.
        masks: whether a bin belongs to one cluster, or to each by how alike its
            embedding and the cluster's centre, an attractor, are.
    """

    kind: ClassVar[str] = "k_means"
    needs: ClassVar[tuple[str, ...]] = ("embedding", "separator")

    clusters: int
    masks: Literal["clusters", "attractors"]


@dataclass(frozen=True, kw_only=True)
class SoftKMeans:
    """As :class:`KMeans`, but a bin belongs to each cluster by a weight.

    Attributes:
        clusters: how many.
        alpha: how hard the borders of clusters are.
        max_iteration: so many times the centres move, and twice more, at most.
        threshold: squared distance by which centres move when they have settled.
    """

    kind: ClassVar[str] = "soft_k_means"
    needs: ClassVar[tuple[str, ...]] = ("embedding", "separator")

    clusters: int
    alpha: float
    max_iteration: int
    threshold: float


@dataclass(frozen=True)
class Segmental:
    """Segments one after another, each with a memory of those before.

    The graph ``separator_encoder`` makes features of a mixture and the first memory,
    ``separator`` runs over a segment, and ``separator_decoder`` reads what that made of
    all of them.

    Attributes:
        frames: of a segment; zeros fill the last.
    """

    kind: ClassVar[str] = "segmental"
    needs: ClassVar[tuple[str, ...]] = (
        "separator_encoder",
        "separator",
        "separator_decoder",
    )

    frames: int


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Reverse diffusion of a spectrum, as ESPnet's sgmse samples it.

    The graph ``separator`` is the score. The process is ``OUVESDE``, with a corrector
    of annealed Langevin dynamics before each step of the predictor.

    Attributes:
        theta, sigma_min, sigma_max: stiffness of the process, and how much noise there
            is at its ends.
        steps: of the predictor.
        corrector_steps: before each of them.
        snr: signal-to-noise ratio that the corrector aims at.
        end: time at which sampling ends; it begins at 1.
        normalize: whether spectra are brought to a peak below 1.
        drawn: how many numbers ESPnet's job draws before the first mixture.
    """

    kind: ClassVar[str] = "diffusion"
    needs: ClassVar[tuple[str, ...]] = ("separator",)

    theta: float
    sigma_min: float
    sigma_max: float
    steps: int
    corrector_steps: int
    snr: float
    end: float
    normalize: bool = False
    drawn: int = 0


@dataclass(frozen=True)
class MultiMask:
    """Masks for as many speakers as a mixture has, which is known when it is separated.

    The graph ``separator`` makes the bottleneck feature of a mixture, and ``masks_N``
    makes the outputs of N speakers of it: at most as many as the model's outputs.
    """

    kind: ClassVar[str] = "multi_mask"
    needs: ClassVar[tuple[str, ...]] = ("separator", "masks_1")


#: Modules of runtime.enhancement run each.
Method = Direct | Beamforming | KMeans | SoftKMeans | Segmental | Diffusion | MultiMask


@dataclass(frozen=True, kw_only=True)
class FrameStream:
    """Settings of a separator that works through a stream frame by frame.

    Its graph, ``separator_step``, takes any number of frames at once. Waveforms of
    frames are added up where they overlap.

    Attributes:
        frame_size, hop_length: samples of a frame, and from one to the next.
        padding: samples that are reflected at either end of a mixture.
        segment: frames at whose multiples, counted from the start, a run of the graph
            has to end; None: nowhere.
        silence: frames of zeros that ESPnet's streaming stands behind at the start; a
            mixture that is separated whole has none before it.
        exact: whether a stream gets what the whole mixture gets.
    """

    needs: ClassVar[tuple[str, ...]] = ("separator_step",)

    frame_size: int
    hop_length: int
    padding: int = 0
    segment: int | None = None
    silence: int = 0
    exact: bool = True


@dataclass(frozen=True, kw_only=True)
class Enrollment:
    """Speech of a speaker who is to be extracted, or what was made of it.

    The graph ``enrollment`` makes an embedding of it; the graphs of a mixture read
    the ``embeddings`` of the speakers.

    Attributes:
        reads: a waveform, features (frames, size) or a speaker embedding (size,).
        size: of features or a speaker embedding; of a waveform 1.
        min_length: the fewest samples or frames that the model can take.
    """

    needs: ClassVar[tuple[str, ...]] = ("enrollment",)

    reads: Literal["waveform", "features", "embedding"]
    size: int = 1
    min_length: int = 1


@dataclass(frozen=True, kw_only=True)
class Enhancement:
    """Waveforms that a model makes of a mixture.

    Attributes:
        outputs: how many: speakers, or 1.
        channels: how many the mixture must have; None: any number.
        ref_channel: the channel that the model's outputs stand for; -1: the model
            weighs the channels itself.
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
        named_categories: likewise, of ESPnet's preprocessor, which numbers the kinds
            that data name; a model without categories pays no regard to them.
        forward_rate: sampling rate that every mixture is brought to, and back after.
        single_channel: whether ESPnet's preprocessor takes the first channel alone.
        volume_normalize: peak that it scales mixtures to, or None.
        stream: how it works through a stream; None: it takes mixtures whole.
        enrollment: how the model is told whom to extract; None: it is not.
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
    named_categories: tuple[str, ...] = ()
    forward_rate: int | None = None
    single_channel: bool = False
    volume_normalize: float | None = None
    stream: FrameStream | None = None
    enrollment: Enrollment | None = None

    @property
    def dtype(self) -> str:
        """Type that the samples of mixtures are read in, see :attr:`Speech.dtype`."""
        return "float32" if self.volume_normalize is None else "float64"
