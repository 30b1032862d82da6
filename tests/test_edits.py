"""Edit distances and error rates."""

import numpy as np

from espnet_onnx_plugin.evaluate.error_rate import edit_distance, error_rate


def test_edit_distance_is_jiwers():
    import jiwer

    random = np.random.default_rng(0)
    for _ in range(50):
        a, b = (
            [str(i) for i in random.integers(0, 4, random.integers(1, 9))]
            for _ in range(2)
        )
        out = jiwer.process_words(" ".join(a), " ".join(b))
        assert edit_distance(a, b) == (
            out.substitutions + out.deletions + out.insertions
        )
    assert edit_distance([], "ab") == 2 and edit_distance("ab", []) == 2


def test_an_error_rate_counts_edits_against_the_references():
    pairs = [("a b c".split(), "a c".split()), ([], ["d", "e"])]
    assert error_rate(pairs) == 75
    assert error_rate([(["a"], [])]) is None
