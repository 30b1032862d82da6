"""Speech that a model reads, whole or as a stream, as a bundle describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar


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
    def edge(self) -> int:
        """Samples of which the first frame is made, without those that are reflected:
        every further one takes ``hop_length`` more.
        """
        return (self.n_fft or 1) - 2 * self.pad

    @property
    def shortest(self) -> int:
        """The fewest samples that have a frame; a reflection needs one more than it is
        long.
        """
        return max(self.edge, self.pad + 1)


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
