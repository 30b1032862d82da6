"""Speech and singing that a model makes, as a bundle describes them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


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
