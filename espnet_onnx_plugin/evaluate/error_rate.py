"""How many edits make one sequence of tokens or words of another."""

from typing import Any, Iterable, List, Optional, Sequence, Tuple


def edit_distance(a: Sequence[Any], b: Sequence[Any]) -> int:
    """Fewest substitutions, deletions and insertions between two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], best
    return row[-1]


def error_rate(pairs: Iterable[Tuple[Sequence[Any], Sequence[Any]]]) -> Optional[float]:
    """Edits in percent of the references' length; None where they are empty.

    Args:
        pairs: of hypotheses and references, each a sequence of words.
    """
    pairs = list(pairs)
    edits: List[int] = [edit_distance(*pair) for pair in pairs]
    length = sum(len(reference) for _, reference in pairs)
    return 100 * sum(edits) / length if length else None
