"""What a bundle found in utterances, against another's finding and transcripts."""

from dataclasses import dataclass
from itertools import permutations
from typing import List, Mapping, Sequence, Tuple

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate import error_rate as edits

#: Words of a hypothesis and of its reference.
Pair = Tuple[Sequence[str], Sequence[str]]


@dataclass(frozen=True)
class Result:
    """Best hypothesis of an utterance: of several speakers, all tokens in a row."""

    token_int: List[int]
    texts: List[str]


Reading = Mapping[str, Result]


def token_agreement(reading: Reading, reference: Reading) -> float:
    """Share of the reference's tokens that a reading gives alike, by edit distance."""
    tokens = sum(len(result.token_int) for result in reference.values())
    errors = sum(
        edits.edit_distance(reading[key].token_int, result.token_int)
        for key, result in reference.items()
    )
    return 1 - errors / max(tokens, 1)


def identical(reading: Reading, reference: Reading) -> int:
    """Number of utterances with the same tokens."""
    return sum(reading[k].token_int == r.token_int for k, r in reference.items())


def error_rate(reading: Reading, transcripts: Sequence[Mapping[str, str]]) -> float:
    """Errors in percent of the transcripts' words; of their characters where none of
    them holds a space, as in languages that are written without.

    Of several speakers, hypotheses go with the transcripts to which their error rates
    add up to the least, as in ESPnet's ``eval_perm_free_error.py``.

    Args:
        transcripts: of each speaker, by utterance.

    Raises:
        PluginError: if an utterance has no transcript, or all are empty.
    """
    missing = [key for key in reading for said in transcripts if key not in said]
    if missing:
        raise PluginError(
            f"--calibration_text has no line for utterance '{missing[0]}' of "
            "--calibration_scp; give the text of the same data directory"
        )
    said = {key: [table[key].split() for table in transcripts] for key in reading}
    spaceless = all(len(line) < 2 for lines in said.values() for line in lines)
    split = list if spaceless else str.split
    pairs: List[Pair] = []
    for key, result in reading.items():
        references = [split(" ".join(line)) for line in said[key]]
        hypotheses = [split(" ".join(text.split())) for text in result.texts]
        pairs += _assigned(hypotheses, references)
    rate = edits.error_rate(pairs)
    if rate is None:
        raise PluginError("--calibration_text holds no words for these utterances")
    return rate


def _assigned(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> List[Pair]:
    """Pairs of several speakers, assigned for the lowest sum of error rates."""

    def rates(order: Sequence[Sequence[str]]) -> float:
        return sum(
            edits.edit_distance(hypothesis, reference) / max(len(reference), 1)
            for hypothesis, reference in zip(order, references, strict=True)
        )

    best = min(permutations(hypotheses), key=rates)
    return list(zip(best, references, strict=True))
