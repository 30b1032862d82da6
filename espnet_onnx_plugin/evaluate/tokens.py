"""Decoded results held against fp32's and against transcripts: recognition's budget."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts, count_errors
from espnet_onnx_plugin.evaluate.evaluator import Quality


@dataclass(frozen=True)
class Decoded:
    """Best hypothesis of an utterance.

    Attributes:
        token_int: its tokens; of several speakers, all in a row.
        texts: its text, of each speaker.
    """

    token_int: list[int]
    texts: list[str]


@dataclass(frozen=True)
class TokenQuality(Quality[TokenBudget]):
    """Decoded results in figures: error rates in percent, shares of 1."""

    token_agreement: float
    wer_fp32: float | None = None
    wer: float | None = None

    @classmethod
    def measure(
        cls,
        decoded: Mapping[str, Decoded],
        reference: Mapping[str, Decoded],
        transcripts: Sequence[Mapping[str, str]] | None,
    ) -> TokenQuality:
        """Compare decoded results with fp32's, and both with the transcripts."""
        rates: dict[str, float] = {}
        if transcripts is not None:
            rates["wer_fp32"] = error_rate(reference, transcripts)
            rates["wer"] = error_rate(decoded, transcripts)
        expected = [result.token_int for result in reference.values()]
        found = [decoded[key].token_int for key in reference]
        counts = count_errors(expected, found)
        return cls(
            utterances=len(reference),
            identical=counts.sentences - counts.sentence_errors,
            token_agreement=1 - counts.errors / max(counts.words, 1),
            **rates,
        )

    def within(self, budget: TokenBudget) -> bool:
        """Whether a budget holds."""
        if self.wer is not None and self.wer_fp32 is not None:
            # An allowance of 0.1 is not exceeded by 0.1, whatever the rounding.
            if not self.wer - self.wer_fp32 <= budget.max_wer_increase + 1e-9:
                return False
        return self.token_agreement >= budget.min_token_agreement

    def __str__(self) -> str:
        agreement = f"{100 * self.token_agreement:.2f} % of fp32's tokens"
        if self.wer is None:
            return agreement
        return f"WER {self.wer_fp32:.2f} % in fp32, now {self.wer:.2f} %; {agreement}"


def error_rate(
    decoded: Mapping[str, Decoded], transcripts: Sequence[Mapping[str, str]]
) -> float:
    """Errors in percent of the transcripts' words; of their characters where none of
    them holds a space, as in languages that are written without.

    Of several speakers, hypotheses go with the transcripts to which their error rates
    add up to the least, as in ESPnet's ``eval_perm_free_error.py``.

    Args:
        decoded: by utterance.
        transcripts: of each speaker, by utterance.

    Raises:
        PluginError: if an utterance has no transcript, or all are empty.
    """
    missing = [key for key in decoded for table in transcripts if key not in table]
    if missing:
        raise PluginError(
            f"--calibration_text has no line for utterance '{missing[0]}' of "
            "--calibration_scp; give the text of the same data directory"
        )
    words = {key: [table[key].split() for table in transcripts] for key in decoded}
    spaceless = all(len(line) < 2 for lines in words.values() for line in lines)
    split = list if spaceless else str.split
    counts = ErrorCounts()
    for key, result in decoded.items():
        references = [split(" ".join(line)) for line in words[key]]
        hypotheses = [split(" ".join(text.split())) for text in result.texts]
        counts += count_errors(references, _assigned(hypotheses, references))
    if not counts.words:
        raise PluginError("--calibration_text holds no words for these utterances")
    return counts.rate


def _assigned(
    hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[str]]
) -> Sequence[Sequence[str]]:
    """Hypotheses in the order of the speakers with the lowest sum of error rates."""
    if len(hypotheses) == 1:
        return hypotheses

    def rates(order: Sequence[Sequence[str]]) -> float:
        return sum(
            count_errors([reference], [hypothesis]).errors / max(len(reference), 1)
            for hypothesis, reference in zip(order, references, strict=True)
        )

    return min(permutations(hypotheses), key=rates)
