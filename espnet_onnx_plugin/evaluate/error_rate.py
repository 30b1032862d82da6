"""Errors of hypotheses against references, of words, characters or tokens, by jiwer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from itertools import zip_longest
from types import ModuleType

from espnet_onnx_plugin.errors import PluginError

#: An aligned pair of a reference's word and a hypothesis's, None for a gap.
Pair = tuple["str | None", "str | None"]

# Stands for a word without a letter, which jiwer cannot align.
_EMPTY = "\0"


@dataclass(frozen=True)
class ErrorCounts:
    """Counts of an alignment of hypotheses with references."""

    sentences: int = 0
    words: int = 0
    correct: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0
    sentence_errors: int = 0

    @classmethod
    def of_sentence(cls, pairs: Sequence[Pair]) -> ErrorCounts:
        """Count the errors of one sentence."""
        deletions = sum(hyp is None for _, hyp in pairs)
        insertions = sum(ref is None for ref, _ in pairs)
        correct = sum(ref == hyp for ref, hyp in pairs)
        errors = len(pairs) - correct
        return cls(
            sentences=1,
            words=len(pairs) - insertions,
            correct=correct,
            substitutions=errors - deletions - insertions,
            deletions=deletions,
            insertions=insertions,
            sentence_errors=int(errors > 0),
        )

    def __add__(self, other: ErrorCounts) -> ErrorCounts:
        pairs = zip(astuple(self), astuple(other), strict=True)
        return ErrorCounts(*map(sum, pairs))

    @property
    def errors(self) -> int:
        """Sum of substitutions, deletions and insertions."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Error rate in percent of the reference's words.

        Raises:
            PluginError: if there are none.
        """
        if not self.words:
            raise PluginError("no error rate: the references hold no words")
        return 100 * self.errors / self.words


def import_jiwer() -> ModuleType:
    """Import jiwer.

    Raises:
        PluginError: if it is not installed.
    """
    try:
        import jiwer
    except ImportError:
        raise PluginError("the package jiwer is missing: pip install jiwer") from None
    return jiwer


def align_words(
    references: Sequence[Sequence[str]], hypotheses: Sequence[Sequence[str]]
) -> list[list[Pair]]:
    """Align each hypothesis with its reference by the fewest edits (Levenshtein).

    Raises:
        PluginError: if jiwer is not installed.
    """
    jiwer = import_jiwer()

    def words(sentences: Sequence[Sequence[str]]) -> list[list[str]]:
        return [[word or _EMPTY for word in sentence] for sentence in sentences]

    output = jiwer.process_words(references, hypotheses, words, words)
    return [
        [
            pair
            for chunk in chunks
            for pair in zip_longest(
                reference[chunk.ref_start_idx : chunk.ref_end_idx],
                hypothesis[chunk.hyp_start_idx : chunk.hyp_end_idx],
            )
        ]
        for reference, hypothesis, chunks in zip(
            references, hypotheses, output.alignments, strict=True
        )
    ]


def count_errors(
    references: Iterable[Sequence[object]], hypotheses: Iterable[Sequence[object]]
) -> ErrorCounts:
    """Count the errors of hypotheses, each beside its reference.

    Args:
        references: sequences of words or of token ids; a string is its characters.
        hypotheses: likewise, as many.

    Raises:
        PluginError: if jiwer is not installed.
    """
    words = (
        [[str(word) for word in sentence] for sentence in side]
        for side in (references, hypotheses)
    )
    return sum(map(ErrorCounts.of_sentence, align_words(*words)), ErrorCounts())
