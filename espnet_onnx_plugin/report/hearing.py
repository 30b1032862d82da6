"""Errors of what an ASR model hears in synthesized speech, in characters."""

from __future__ import annotations

from collections.abc import Mapping

from espnet_onnx_plugin.evaluate.listener import plain
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.report.counts import ErrorCounts


def count_characters(
    texts: Mapping[str, str], heard: Mapping[str, str]
) -> ErrorCounts | None:
    """Count errors of characters, of which the space between words is one.

    Args:
        texts: What was to be said, by utterance.
        heard: What was heard, of the same utterances or more.

    Returns:
        None where the texts hold no character.
    """
    jiwer = import_package("jiwer", "the character error rate", "jiwer")
    references = [plain(text) for text in texts.values()]
    hypotheses = [plain(heard[key]) for key in texts]
    counts = jiwer.process_characters(references, hypotheses)
    pairs = zip(references, hypotheses, strict=True)
    total = ErrorCounts(
        sentences=len(texts),
        words=counts.hits + counts.substitutions + counts.deletions,
        correct=counts.hits,
        substitutions=counts.substitutions,
        deletions=counts.deletions,
        insertions=counts.insertions,
        sentence_errors=sum(one != other for one, other in pairs),
    )
    return total if total.words else None
