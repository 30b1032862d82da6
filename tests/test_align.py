"""Times of tokens and words."""

import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import RATE, waves

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.parity.encoding import frame_shift
from espnet_onnx_plugin.runtime.search.ctc_align import Span, forced_align, words


def by_hand(log_probs, tokens):
    """Probability of the best path that collapses to the tokens, of all paths."""
    best = -np.inf
    for path in itertools.product(range(log_probs.shape[1]), repeat=len(log_probs)):
        if [i for i, _ in itertools.groupby(path) if i != 0] == tokens:
            best = max(best, log_probs[np.arange(len(path)), list(path)].sum())
    return best


@pytest.mark.parametrize("tokens", [[], [1], [1, 2], [2, 2], [1, 1, 2], [2, 1, 2]])
def test_the_path_is_the_best_of_all(tokens):
    random = np.random.default_rng(len(tokens))
    for _ in range(10):
        log_probs = np.log(random.dirichlet(np.ones(3), size=6))
        spans = forced_align(log_probs, tokens, blank=0)
        path = np.zeros(6, int)
        for token, (start, end) in zip(tokens, spans):
            path[start:end] = token
        assert [i for i, _ in itertools.groupby(path) if i != 0] == tokens
        assert (spans[1:, 0] >= spans[:-1, 1]).all()
        assert log_probs[np.arange(6), path].sum() == pytest.approx(
            by_hand(log_probs, tokens)
        )


def test_tokens_that_do_not_fit_have_no_times():
    log_probs = np.zeros((3, 4))
    assert forced_align(log_probs, [1, 2, 3], blank=0) is not None
    # A blank has to part the two.
    assert forced_align(log_probs, [1, 1, 2], blank=0) is None
    assert forced_align(log_probs, [1, 2, 3, 1], blank=0) is None


def test_many_tokens_have_times():
    log_probs = np.log(np.full((200, 3), 1 / 3))
    log_probs[-1, 0] += 1  # the path ends in the last blank
    assert len(forced_align(log_probs, [1, 2] * 40, blank=0)) == 80


def spans(tokens):
    return [Span(token, i, i + 1) for i, token in enumerate(tokens)]


def test_words_of_tokens():
    bpe = spans(["▁he", "llo", "▁", "wor", "ld", "▁a"])
    assert words(bpe, "bpe") == [
        Span("hello", 0, 2),
        Span("world", 3, 5),
        Span("a", 5, 6),
    ]
    char = spans(["a", "<space>", "b", "c"])
    assert words(char, "char") == [Span("a", 0, 1), Span("bc", 2, 4)]
    assert words(spans(["AA", "B"]), "phn") == spans(["AA", "B"])


@pytest.mark.parametrize("token_type", ["bpe", "char"])
def test_chinese_and_japanese_have_a_word_for_each_character(token_type):
    found = words(spans(["今", "日", "は", "、", "コ", "a", "b", "。"]), token_type)
    assert found == [
        *spans(["今", "日", "は", "、", "コ"]),
        Span("ab", 5, 7),
        Span("。", 7, 8),
    ]
    korean = words(spans(["안", "녕"]), token_type)
    assert korean == [Span("안녕", 0, 2)]


def test_characters_of_one_token_divide_its_time():
    found = words([Span("▁今日ab", 1.0, 3.0), Span("c", 3.0, 4.0)], "bpe")
    assert found == [Span("今", 1, 1.5), Span("日", 1.5, 2), Span("abc", 2, 4)]


def test_bytes_are_joined_into_characters():
    seven = ["<0xE8>", "<0xAA>", "<0x9E>", "<0xC3>", "<0xA9>", "t", "<0xC3>"]
    tokens = ["▁", *seven, "▁a", "<0x0A>", "b", "<0xFF>", "<0x41>"]
    assert words(spans(tokens), "bpe") == [
        Span("語", 1, 4),
        Span("ét\ufffd", 4, 8),
        Span("a", 8, 9),
        Span("b\ufffdA", 10, 13),
    ]


def test_the_shift_of_a_frame_is_the_subsampling():
    class Encoder:
        def __call__(self, utterances):
            return SimpleNamespace(lengths=[(len(utterances[0]) - 7) // 160 // 4])

    assert frame_shift(Encoder(), Speech("waveform", RATE, 0, 400)) == 640


def test_a_constant_number_of_frames_has_no_shift():
    class Padded:
        def __call__(self, utterances):
            return SimpleNamespace(lengths=[1500])

    assert frame_shift(Padded(), Speech("waveform", RATE, 0, 400)) is None


def test_results_come_with_times(tiny):
    options = dict(beam_size=2, ctc_weight=0.3, lm_weight=0.3, nbest=2)
    plain = espnet_onnx_plugin.Speech2Text(tiny["bundle"], **options)
    timed = espnet_onnx_plugin.Speech2Text(tiny["bundle"], ctm=True, **options)
    speech = timed.bundle.manifest.speech
    assert speech.frame_shift == 4 * 32  # conv2d on a hop of 32 samples
    wave = waves()["utt1"]
    for old, new in zip(plain(wave), timed(wave)):
        assert old[:3] == new[:3] and old[3].times == ()
        times = new[3].times
        assert [span.text for span in times] == new[1]
        ends = [0.0, *(t for span in times for t in (span.start, span.end))]
        assert ends == sorted(ends) and ends[-1] <= len(wave) / RATE
        lines = timed.lines(new)
        assert len(lines["token.ctm"]) == len(new[1])
        marked = [line.split()[3] for line in lines["ctm"]]
        assert marked == new[0].split()
        parts = dict(part.split("=") for part in lines["scores"].split())
        weights = dict(decoder=0.7, ctc=0.3, lm=0.3)
        total = sum(weights[name] * float(value) for name, value in parts.items())
        assert total == pytest.approx(new[3].score, abs=1e-2)
        assert "ctm" not in plain.lines(old)


def test_a_model_without_ctc_has_no_times(tiny, monkeypatch):
    import dataclasses

    from espnet_onnx_plugin.bundle import read_bundle

    bundle = read_bundle(tiny["bundle"])
    speech = dataclasses.replace(bundle.manifest.speech, frame_shift=None)
    manifest = dataclasses.replace(bundle.manifest, speech=speech)
    with pytest.raises(PluginError, match="no CTC to align by"):
        espnet_onnx_plugin.Speech2Text(
            dataclasses.replace(bundle, manifest=manifest), ctm=True
        )
