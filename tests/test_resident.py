"""Searches whose scores stay on the device, against those that take them as arrays.

The CPU stands for the device: what stays there has to be asked for as well.
"""

import dataclasses

import numpy as np
import onnxruntime as ort
import pytest
import torch
from conftest import RATE, a_few, waves
from test_search import (
    BLANK,
    OurScorer,
    config_of,
    make_case,
    make_spoken_case,
    our_scorers,
)

from espnet_onnx_plugin.bundle.search import LabelSynchronous
from espnet_onnx_plugin.runtime.asr import Speech2Text
from espnet_onnx_plugin.runtime.core.encoder import INTERCTC, LENS, Encoded
from espnet_onnx_plugin.runtime.core.graph_errors import MemoryShort
from espnet_onnx_plugin.runtime.core.graph_writer import GraphWriter
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.core.runner import Runner
from espnet_onnx_plugin.runtime.core.values import argmax, pad, stack, take, to_numpy
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.ctc_graph import MASKED, Blocks
from espnet_onnx_plugin.runtime.search.greedy import (
    GreedySearch,
    best_of_frames,
    intermediate_tokens,
)
from espnet_onnx_plugin.runtime.search.scorers import FullScorer

on_device = ort.OrtValue.ortvalue_from_numpy

#: Numbers that come back of each survivor: parent, token, total, and three scorers'.
BACK = 6


class OnDevice(OurScorer):
    """A scorer whose scores stay on the device."""

    def score_resident(self, tokens, parents, state):
        scores, state = self.score(tokens, parents, state)
        return on_device(scores.reshape(tokens.size, -1)), state


class InArrays(OurScorer, FullScorer):
    """A scorer that runs beside the device."""


def resident_scorers(case):
    tables = case["tables"]
    return dict(
        our_scorers(case),
        decoder=OnDevice(tables["decoder"]),
        lm=OnDevice(tables["lm"]),
        ngram=InArrays(tables["ngram"]),
    )


@pytest.fixture
def brought_back(monkeypatch):
    """Sizes of what was brought back from the device so far."""
    sizes = []
    numpy = ort.OrtValue.numpy

    def counted(value):
        sizes.append(int(np.prod(value.shape())))
        return numpy(value)

    monkeypatch.setattr(ort.OrtValue, "numpy", counted)
    return sizes


def make_batch(case, random, longest):
    """CTC scores of utterances, of which one has one frame, on the device.

    Behind an utterance's end stands what must not be read.
    """
    frames = np.array([longest, 1, *random.integers(1, longest, 3)])
    random.shuffle(frames)
    logits = 3.0 * random.standard_normal((5, longest + 9, case["vocabulary"]))
    logits[..., BLANK] += 2.0
    logp = torch.log_softmax(torch.tensor(logits, dtype=torch.float32), dim=-1).numpy()
    for row, count in zip(logp, frames):
        row[count:] = np.nan
    return Encoded(encoder_out_lens=frames, ctc_log_probs=logp)


def make_resident_case(seed):
    """A case, its batch and primers: all that changes what a step is made of."""
    case = make_case(seed, vocabularies=[8, 19, 19, 60])
    random = np.random.default_rng(seed)
    vocabulary = case["vocabulary"]
    case["beam_size"] = int(random.integers(1, min(20, vocabulary) + 1))
    case["single"] = bool(random.random() < 0.3)
    case["ctc_window_margin"] = int(random.choice([0, 0, 1, 3, 20]))
    case["release"] = str(random.choice(["202511", "202611"]))
    primers = None
    if random.random() < 0.4:
        counts = random.integers(0, 4, 5)
        primers = [[vocabulary - 1, *random.integers(1, vocabulary, n)] for n in counts]
    return case, make_batch(case, random, 16), primers


def both(case, encoded, primers, sizes, cuda_graphs=False):
    """Hypotheses of the two searches, of which the second keeps its scores."""
    release = conventions(case.get("release", "202511"))
    config = dataclasses.replace(config_of(case), conventions=release)
    resident = dataclasses.replace(config, memory="cpu", cuda_graphs=cuda_graphs)
    found = BeamSearch(config, our_scorers(case))(encoded, primers)
    there = Encoded(encoded, ctc_log_probs=on_device(encoded["ctc_log_probs"]))
    search = BeamSearch(resident, resident_scorers(case))
    if cuda_graphs:  # what it leaves in its places must not matter
        search(there.select([0]), primers and primers[:1])
    del sizes[:]
    ours = search(there, primers)
    limit = encoded.utterances * case["beam_size"] * BACK
    assert max(sizes, default=0) <= limit
    return found, ours


def lives(hypothesis):
    """Whether a hypothesis has a score of its own: those of log 0 all tie, and so did
    those that a blank, which the CTC knows as no token, brought back from there.
    """
    blank = "ctc" in hypothesis.scores and BLANK in hypothesis.yseq
    return hypothesis.score > -1e8 and not blank


def assert_equal(ours, theirs):
    """Compare hypotheses and their order."""
    assert bool(ours) == bool(theirs)
    ours, theirs = (list(filter(lives, side)) for side in (ours, theirs))
    assert [h.yseq for h in ours] == [h.yseq for h in theirs]
    for mine, other in zip(ours, theirs):
        assert mine.score == pytest.approx(other.score, abs=1e-4)
        assert mine.scores == pytest.approx(other.scores, abs=1e-4)


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("first", a_few(range(0, 600, 50)))
def test_scores_that_stay_give_the_same_hypotheses(first, cuda_graphs, brought_back):
    for seed in range(first, first + 50):
        case, encoded, primers = make_resident_case(seed)
        found, ours = both(case, encoded, primers, brought_back, cuda_graphs)
        for mine, other in zip(ours, found):
            assert_equal(mine, other)


def spoken_batch(case):
    """A batch of what a case hears, also later and backwards, of unequal lengths."""
    logp = case["logp"].numpy()
    heard = [logp, np.roll(logp, 17, axis=0)[:-13], logp[: len(logp) // 2 : -1]]
    frames = np.array([len(one) for one in heard])
    return Encoded(encoder_out_lens=frames, ctc_log_probs=pad(heard))


@pytest.mark.parametrize("cuda_graphs", [False, True])
@pytest.mark.parametrize("margin", a_few([1, 3, 10, 100]))
def test_speech_with_silences_gives_the_same_hypotheses(
    margin, cuda_graphs, brought_back
):
    for seed in range(3000, 3012):
        case = make_spoken_case(seed, margin)
        found, ours = both(case, spoken_batch(case), None, brought_back, cuda_graphs)
        for mine, other in zip(ours, found):
            assert_equal(mine, other)


def test_scores_that_stay_are_not_brought_back(brought_back):
    # What the other tests go by: scores that are asked for would be seen.
    case, encoded, _ = make_resident_case(1)
    config = config_of(case)
    scorer = OnDevice(case["tables"]["decoder"])
    state = scorer.start(encoded, [[0]])
    scores, _ = scorer.score_resident(
        np.zeros((1, 3), int), np.zeros((1, 3), int), state
    )
    to_numpy(scores)
    assert brought_back == [3 * config.vocabulary]


def test_scores_of_few_utterances_are_taken_as_arrays(brought_back):
    case, encoded, primers = make_resident_case(1)
    there = Encoded(encoded, ctc_log_probs=on_device(encoded["ctc_log_probs"]))
    for fewest in (encoded.utterances, encoded.utterances + 1):
        config = dataclasses.replace(
            config_of(case), memory="cpu", resident_from=fewest
        )
        del brought_back[:]
        BeamSearch(config, resident_scorers(case))(there, primers)
        limit = encoded.utterances * case["beam_size"] * BACK
        assert (max(brought_back) > limit) == (fewest > encoded.utterances)


def test_a_search_copies_no_utterance_whose_hypotheses_ended():
    case, encoded, _ = make_resident_case(4)
    case["minlenratio"], case["maxlenratio"] = 0.0, -5

    class Whole(Encoded):
        def select(self, utterances):
            raise AssertionError(utterances)

    for config in (config_of(case), dataclasses.replace(config_of(case), memory="cpu")):
        found = BeamSearch(config, resident_scorers(case))(Whole(encoded))
        assert all(found)


def test_a_vanishing_product_is_worked_out_in_the_log_domain(brought_back):
    # exp(-900) is 0 in double precision; the score must not become minus infinity.
    case = make_case(0, vocabularies=[8])
    case.update(beam_size=8, maxlenratio=-1, minlenratio=0.0, normalize_length=False)
    case["weights"].update(ctc=1.0, decoder=0.0, lm=0.0, ngram=0.0, length_bonus=0.0)
    logp = np.random.default_rng(0).uniform(-22.0, -20.0, (1, 4, 8)).astype(np.float32)
    logp[..., 1] = -900.0
    encoded = Encoded(encoder_out_lens=np.array([4]), ctc_log_probs=logp)
    [found], [ours] = both(case, encoded, None, brought_back)
    assert_equal(ours, found)
    assert any(-1000 < h.score < -800 for h in ours)


@pytest.mark.parametrize("pre_beam", [False, True])
def test_a_bonus_alone_scores_every_token(pre_beam):
    case, encoded, _ = make_resident_case(4)
    case.update(maxlenratio=-3, minlenratio=0.0)
    case["weights"] = dict(ctc=0.7, length_bonus=0.5)
    config = dataclasses.replace(config_of(case), pre_beam=pre_beam, memory="cpu")
    ours = BeamSearch(config, resident_scorers(case))(encoded)
    assert all(ours)
    if not pre_beam:  # else candidates tie
        arrays = dataclasses.replace(config, memory=None)
        for mine, other in zip(ours, BeamSearch(arrays, our_scorers(case))(encoded)):
            assert_equal(mine, other)


def test_hidden_states_come_with_the_hypotheses():
    class Hidden(OnDevice):
        def hidden(self, state):
            return np.array([[[len(p), p[-1]] for p in row] for row in state])

    case, encoded, _ = make_resident_case(4)
    case["weights"]["decoder"] = 0.7
    config = dataclasses.replace(config_of(case), return_hs=True)
    scorers = dict(resident_scorers(case), decoder=Hidden(case["tables"]["decoder"]))
    found = BeamSearch(config, scorers)(encoded)
    ours = BeamSearch(dataclasses.replace(config, memory="cpu"), scorers)(encoded)
    for mine, other in zip(sum(ours, []), sum(found, [])):
        assert np.array_equal(mine.hs, other.hs) and len(mine.hs)


def test_the_best_tokens_of_frames_are_found_where_the_scores_lie(brought_back):
    random = np.random.default_rng(0)
    frames, ids = np.array([7, 4]), LabelSynchronous(sos=5, eos=5, blank=0)
    # Few values, of which many are equal: the first one counts.
    scores = random.integers(0, 2, (2, 7, 6)).astype(np.float32)
    layers = {f"{INTERCTC}3": scores[:, ::-1].copy(), f"{INTERCTC}3{LENS}": frames - 1}
    arrays = Encoded(encoder_out_lens=frames, ctc_log_probs=scores, **layers)
    there = Encoded(
        {k: v if k.endswith(LENS) else on_device(v) for k, v in arrays.items()}
    )
    for mine, other in zip(best_of_frames(there), best_of_frames(arrays), strict=True):
        np.testing.assert_array_equal(mine, other)
    assert GreedySearch(ids)(there) == GreedySearch(ids)(arrays)
    for i in range(2):
        expected = intermediate_tokens(arrays, i, ids)
        assert intermediate_tokens(there, i, ids) == expected != {}
    assert max(brought_back) == scores[..., 0].size


def test_values_are_worked_on_where_they_lie():
    random = np.random.default_rng(0)
    one, other = random.standard_normal((2, 5, 3)), random.standard_normal((1, 7, 3))
    ids = np.array([4, 2])
    there = [on_device(one), on_device(other)]
    made = [
        (take(there[0], [1, 1], 4), take(one, [1, 1], 4)),
        (take(there[0], [1]), one[[1]]),
        (take(on_device(ids), [1]), ids[[1]]),
        (stack(there), np.concatenate((np.pad(one, [(0, 0), (0, 2), (0, 0)]), other))),
        (stack([on_device(ids)] * 2), stack([ids, ids])),
    ]
    for value, expected in made:
        assert isinstance(value, ort.OrtValue)
        np.testing.assert_array_equal(to_numpy(value), expected)
    scores = one.astype(np.float32)
    np.testing.assert_array_equal(argmax(on_device(scores)), scores.argmax(-1))


@pytest.mark.parametrize("frames", [1, 2, 3, 16, 17, 250])
def test_blocks_hold_all_frames_and_hardly_more(frames):
    blocks = Blocks.of(frames)
    assert frames <= blocks.frames < frames + blocks.size
    assert (blocks.inputs()["up_to"] == MASKED).sum() == blocks.size * (
        blocks.size - 1
    ) // 2


def test_a_written_graph_is_one_of_onnx():
    import onnx

    graph = GraphWriter()
    x = graph.input("x", np.float32)
    y = graph.Concat(x, graph.Mul(x, np.float32(-0.1)), axis=-1)
    graph.output("y", graph.Reshape(y, [-1, 2]), np.float32)
    model = onnx.load_from_string(graph.model())
    assert [node.op_type for node in model.graph.node][:2] == ["Mul", "Concat"]
    assert [a.i for a in model.graph.node[1].attribute] == [-1]
    constants = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    assert [c.tolist() for c in constants.values()] == [np.float32(-0.1), [-1, 2]]
    session = ort.InferenceSession(graph.model(), providers=["CPUExecutionProvider"])
    array = np.float32([[1, 2], [3, 4]])
    [y] = session.run(None, {"x": array})
    expected = np.concatenate((array, array * np.float32(-0.1)), axis=1).reshape(-1, 2)
    np.testing.assert_array_equal(y, expected)


@pytest.mark.parametrize(
    "options", a_few([dict(ctc_weight=0.3), dict(ctc_weight=1.0), dict(ctc_weight=0.0)])
)
def test_a_model_on_a_resident_device_finds_the_same(tiny, options, brought_back):
    options = dict(beam_size=4, lm_weight=0.3, maxlenratio=-12, **options)
    models = [
        Speech2Text(tiny["bundle"], session=dict(resident=gpu, buckets=gpu), **options)
        for gpu in (False, True)
    ]
    speech = list(waves().values())
    found, ours = ([], [])
    for model, results in zip(models, (found, ours)):
        del brought_back[:]
        results += model.batch([model.prepare(one) for one in speech])
    vocabulary = len(models[0].converter.token_list)
    assert max(brought_back) < len(speech) * 4 * min(vocabulary, BACK + 1)
    for mine, other in zip(ours, found, strict=True):
        assert_equal([r.hypothesis for r in mine], [r.hypothesis for r in other])


def test_a_search_in_arrays_gets_them_from_a_resident_device(tiny):
    options = dict(beam_size=3, time_sync=True, ctc_weight=0.3, lm_weight=0.3)
    found, ours = (
        Speech2Text(tiny["bundle"], session=dict(resident=gpu), **options)
        for gpu in (False, True)
    )
    speech = [found.prepare(one[: RATE // 2]) for one in waves(2).values()]
    for mine, other in zip(ours.batch(speech), found.batch(speech), strict=True):
        assert_equal([r.hypothesis for r in mine], [r.hypothesis for r in other])


class Failing:
    """A session of onnxruntime on a GPU whose memory is full."""

    def get_inputs(self):
        return []

    get_outputs = get_inputs

    def io_binding(self):
        return None

    def run_with_iobinding(self, binding, options):
        raise RuntimeError("CUDA failure 2: out of memory")


def test_a_search_that_memory_does_not_hold_is_told():
    runner = Runner(Failing(), "cuda", "search")
    with pytest.raises(MemoryShort, match="a batch in search.* --batch_size"):
        runner.run(runner.binding(), {}, ())
