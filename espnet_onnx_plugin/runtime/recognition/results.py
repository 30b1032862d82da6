"""What decoding gives of an utterance, and what is written of it."""

import logging
from typing import (
    Callable,
    Dict,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from espnet_onnx_plugin.bundle import Manifest
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.ctc_align import Span, align, words
from espnet_onnx_plugin.runtime.search.utterance import Hypothesis

logger = logging.getLogger(__name__)

Result = Tuple[Optional[str], List[str], List[int], Hypothesis]
Results = Union[
    List[Result], Tuple[List[Result], Dict[int, List[str]]], List[List[Result]]
]

#: What is written into a file of an utterance: a line, or several.
Lines = Union[str, List[str]]

#: What ESPnet answers an utterance with that is too short for the encoder.
PLACEHOLDER: Result = (" ", ["<space>"], [2], Hypothesis(yseq=[], score=0.0))


class Timing(NamedTuple):
    """Seconds that a call took, by part; ``rest`` is what no part accounts for."""

    frontend: float
    encoder: float
    decoder: float
    lm: float
    ctc: float
    rest: float


def timed(
    nbest: Sequence[Result], encoded: Encoded, utterance: int, manifest: Manifest
) -> List[Result]:
    """Results of an utterance, with the times of their tokens in the hypotheses."""
    log_probs = encoded["ctc_log_probs"][utterance, : encoded.lengths[utterance]]
    shift = manifest.speech.seconds(manifest.speech.frame_shift)
    results = []
    for text, token, token_int, hypothesis in nbest:
        frames = align(log_probs, token_int, manifest.search.blank)
        if frames is None:
            logger.warning("more tokens than frames of the encoder: no times")
        else:
            seconds = (frames * shift).tolist()
            times = [Span(name, *span) for name, span in zip(token, seconds)]
            hypothesis = hypothesis._replace(times=times)
        results.append((text, token, token_int, hypothesis))
    return results


def result_lines(result: Result) -> Dict[str, Lines]:
    """What ESPnet writes of a result, by the file's name; and ``scores``, what each
    scorer gave (before its weight).
    """
    text, token, token_int, hypothesis = result
    written: Dict[str, Lines] = {
        "token": " ".join(token),
        "token_int": " ".join(map(str, token_int)),
        "score": str(hypothesis.score),
    }
    if text is not None:
        written["text"] = text
    if hypothesis.scores:
        parts = [f"{name}={value:.4f}" for name, value in hypothesis.scores.items()]
        written["scores"] = " ".join(parts)
    return written


def time_marks(result: Result, token_type: Optional[str]) -> Dict[str, Lines]:
    """NIST's time marks of a result (channel, start, duration, token or word), by the
    file's name.
    """
    times = result[-1].times
    spans = {"token.ctm": times, "ctm": words(times, token_type)}
    return {
        name: [f"1 {start:.3f} {end - start:.3f} {text}" for text, start, end in marks]
        for name, marks in spans.items()
    }


def result_files(
    results: Results,
    speakers: Optional[int],
    lines: Callable[[Result], Dict[str, Lines]],
) -> Dict[str, Lines]:
    """What is written of an utterance, by the file's path.

    Of several speakers, each has files of its own: ``token_spk1``, ...
    """
    nbest, intermediate = results if isinstance(results, tuple) else (results, {})
    lists = {"": nbest}
    if speakers is not None:
        lists = {f"_spk{i}": of_speaker for i, of_speaker in enumerate(nbest, 1)}
    written = {
        f"{n}best_recog/{name}{suffix}": line
        for suffix, of_speaker in lists.items()
        for n, result in enumerate(of_speaker, 1)
        for name, line in lines(result).items()
    }
    for layer, token in intermediate.items():
        name = f"1best_recog/encoder_interctc_layer{layer}.txt"
        written[name] = " ".join(token)
    return written
