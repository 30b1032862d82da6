"""Where ESPnet's releases decode differently: a bundle follows the one that exported it.

Nothing else compares versions: what depends on a release is a field of
:class:`Conventions`, with the file of ESPnet that it was read in.
"""

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Conventions:
    """How a release of ESPnet decodes.

    Attributes:
        ctc_window_margin: default of asr_inference's option of that name; 0: the CTC
            prefix score has no window (espnet2/bin/asr_inference.py).
        ctc_counts_primer: whether the CTC prefix score takes a frame for each token
            that hypotheses begin with (nets/batch_beam_search.py).
        fastspeech2_gives_zeros: whether FastSpeech2 gives the durations that it
            predicted where all are 0, not the ones that it speaks with
            (espnet2/tts/fastspeech2/fastspeech2.py).
    """

    ctc_window_margin: int
    ctc_counts_primer: bool
    fastspeech2_gives_zeros: bool


def conventions(espnet: str) -> Conventions:
    """Those of a release, or of a checkout of ESPnet's master between two.

    Args:
        espnet: ``espnet2.__version__``, which begins with year and month.
    """
    dated = re.match(r"\d{6}", espnet)
    since_202611 = dated is None or int(dated.group()) >= 202611
    return Conventions(
        ctc_window_margin=100 if since_202611 else 0,
        ctc_counts_primer=not since_202611,
        fastspeech2_gives_zeros=since_202611,
    )
