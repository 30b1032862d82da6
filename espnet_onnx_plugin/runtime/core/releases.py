"""Differences between the decoding of ESPnet's releases: a bundle follows its exporter.

Nothing else compares versions: what depends on a release is a field of
:class:`Conventions`, with the file of ESPnet that it was read in.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """Decoding of a release of ESPnet.

    Attributes:
        s2t_times_span_window: whether timestamps of long speech are as far apart as
            the window divided by their number, which their names may not contradict,
            and not speech_resolution; and whether an utterance counts as cut off in the
            window's last second, not behind <29.00> (espnet2/bin/s2t_inference.py).
        s2t_ctc_beam_size: default of the class that searches over a CTC model
            (espnet2/bin/s2t_inference_ctc.py).
        s2t_ctc_keeps_whole_frames: whether long speech keeps the frames of each chunk
            alone, without those of the prefix and of padding, and samples are rounded,
            not cut (espnet2/bin/s2t_inference.py, before in s2t_inference_ctc.py).
        ctc_window_margin: default of asr_inference's option of that name; 0: the CTC
            prefix score has no window (espnet2/bin/asr_inference.py).
        ctc_counts_primer: whether the CTC prefix score takes a frame for each token
            that hypotheses begin with (nets/batch_beam_search.py).
        end_counts_primer: whether end detection knows that hypotheses are longer by
            what they begin with; else it comes that many steps late
            (nets/beam_search.py).
        steps_detect_end: whether a step of a search tests for the end as soon as it has
            taken up what ended in it, so that the searches over streams, which test by
            themselves before, test twice (nets/batch_beam_search.py).
        last_end_overwrites: whether the end symbol that a search adds in its last step
            is written over the step's own hypotheses, where the searches over streams
            meet it (nets/batch_beam_search.py).
        fastspeech2_gives_zeros: whether FastSpeech2 gives the durations that it
            predicted where all are 0, not the ones that it speaks with
            (espnet2/tts/fastspeech2/fastspeech2.py).
        visinger_takes_durations: whether VISinger sings the durations of a label that
            is given, not those that it predicts (espnet2/gan_svs/vits/generator.py).
    """

    s2t_times_span_window: bool
    s2t_ctc_beam_size: int
    s2t_ctc_keeps_whole_frames: bool
    ctc_window_margin: int
    ctc_counts_primer: bool
    end_counts_primer: bool
    steps_detect_end: bool
    last_end_overwrites: bool
    fastspeech2_gives_zeros: bool
    visinger_takes_durations: bool


def conventions(espnet: str) -> Conventions:
    """The conventions of a release, or of a checkout of ESPnet's master between two.

    Args:
        espnet: ``espnet2.__version__``, which begins with year and month.
    """
    dated = re.match(r"\d{6}", espnet)
    since_202611 = dated is None or int(dated.group()) >= 202611
    return Conventions(
        s2t_times_span_window=since_202611,
        s2t_ctc_beam_size=5 if since_202611 else 20,
        s2t_ctc_keeps_whole_frames=since_202611,
        ctc_window_margin=100 if since_202611 else 0,
        ctc_counts_primer=not since_202611,
        end_counts_primer=since_202611,
        steps_detect_end=since_202611,
        last_end_overwrites=not since_202611,
        fastspeech2_gives_zeros=since_202611,
        visinger_takes_durations=since_202611,
    )
