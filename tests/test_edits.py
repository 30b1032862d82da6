"""Error counts and rates."""

import numpy as np
import pytest

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts, count_errors


def edit_distance(a, b):
    """Fewest substitutions, deletions and insertions between two sequences."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, y in enumerate(b, 1):
            best = min(row[j] + 1, row[j - 1] + 1, diagonal + (x != y))
            diagonal, row[j] = row[j], best
    return row[-1]


def test_errors_are_the_edit_distance():
    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (random.integers(0, 40, random.integers(0, 9)) for _ in range(2))
        counts = count_errors([a], [b])
        assert counts.errors == edit_distance(a, b)
        assert counts.words == len(a)
        assert counts.sentence_errors == (a.tolist() != b.tolist())
    assert count_errors([[]], ["ab"]).errors == 2
    assert count_errors(["ab"], [[]]).errors == 2


def test_kinds_of_errors():
    counts = count_errors([["a", "b", ""], []], [["a", "c", "", "d"], []])
    assert counts == ErrorCounts(2, 3, 2, 1, 0, 1, 1)
    assert count_errors([], []) == ErrorCounts()


def test_an_error_rate_counts_edits_against_the_references():
    counts = count_errors(["a c".split(), ["d", "e"]], ["a b c".split(), []])
    assert counts.rate == 75
    counts = count_errors([[]], [["a"]])
    assert (counts.errors, counts.words) == (1, 0)
    with pytest.raises(PluginError, match="the references hold no words"):
        assert counts.rate
