"""The searches against ESPnet's own, with the same random scorers."""

import dataclasses
import hashlib
import inspect
import itertools

import espnet2
import numpy as np
import pytest
import torch

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.scorers import LengthBonus
from espnet_onnx_plugin.runtime.search.time_sync import TimeSyncSearch
from espnet_onnx_plugin.runtime.search.utterance import (
    BeamSearchConfig,
)

BLANK = 0

#: The search has to be that of the release that is installed.
CONVENTIONS = conventions(espnet2.__version__)


class Table:
    """Random scores that depend on the last tokens, the same for both searches."""

    def __init__(self, name, vocabulary, sharpness, end_bias):
        self.name = name
        self.vocabulary = vocabulary
        self.sharpness = sharpness
        self.end_bias = end_bias
        self.rows = {}

    def row(self, prefix):
        key = tuple(prefix[-3:]) + (len(prefix),)
        if key not in self.rows:
            digest = hashlib.sha256(repr((self.name, key)).encode()).digest()
            random = np.random.default_rng(int.from_bytes(digest[:8], "little"))
            logits = self.sharpness * random.standard_normal(self.vocabulary)
            logits[-1] += self.end_bias
            self.rows[key] = torch.log_softmax(
                torch.tensor(logits, dtype=torch.float32), dim=-1
            )
        return self.rows[key]


class OurScorer:
    """:class:`Table` as this package's full scorer; its state is the prefixes."""

    def __init__(self, table):
        self.table = table

    def start(self, encoded, primers):
        return [[tuple(primer[:-1])] for primer in primers]

    def score(self, tokens, parents, state):
        prefixes = [
            [(*past[p], int(t)) for t, p in zip(*rows)]
            for *rows, past in zip(tokens, parents, state)
        ]
        scores = [[self.table.row(p).numpy() for p in row] for row in prefixes]
        return np.array(scores), prefixes

    def select(self, utterances, state):
        return [state[i] for i in utterances]


def their_scorer(table):
    """:class:`Table` as ESPnet's batch scorer."""
    interface = import_nets("scorer_interface").BatchScorerInterface

    class TheirScorer(interface):
        def score(self, y, state, x):
            return table.row(y.tolist()), len(y)

    return TheirScorer()


class TheirCTC(torch.nn.Module):
    """Stands for the CTC layer: scores are given, not computed."""

    def __init__(self, logp):
        super().__init__()
        self.logp = logp

    def log_softmax(self, x):
        return self.logp[None].clone()


def make_case(seed, vocabularies=(8, 19, 60, 200), single=False):
    """One random case: sizes, weights, options, kind of scorers."""
    random = np.random.default_rng(seed)
    vocabulary = int(random.choice(vocabularies))
    frames = int(random.integers(2, 40))
    logits = random.choice([1.0, 4.0]) * random.standard_normal((frames, vocabulary))
    logits[:, BLANK] += 2.0
    ctc_weight = float(random.choice([0.0, 0.3, 0.5, 1.0]))
    return dict(
        single=single,
        vocabulary=vocabulary,
        beam_size=int(random.choice([1, 2, 5, 8])),
        frames=frames,
        logp=torch.log_softmax(torch.tensor(logits, dtype=torch.float32), dim=-1),
        weights=dict(
            decoder=1.0 - ctc_weight,
            ctc=ctc_weight,
            length_bonus=float(random.choice([0.0, 0.0, 0.5, -0.3])),
            lm=float(random.choice([0.0, 0.3, 1.0])),
            ngram=float(random.choice([0.0, 0.0, 0.4])),
        ),
        # With more steps than frames ESPnet's CTC scorer ends in an IndexError.
        ctc_window_margin=0,
        maxlenratio=max(-frames, float(random.choice([0.0, 0.0, 0.5, 0.01, -4, -9]))),
        minlenratio=float(random.choice([0.0, 0.0, 0.25, -3])),
        normalize_length=bool(random.integers(2)),
        tables={
            name: Table(
                f"{name}{seed}", vocabulary, 2.0, float(random.choice([0.0, 2.0]))
            )
            for name in ("decoder", "lm", "ngram")
        },
    )


def make_single_case(seed, single=True):
    """A case for scorers of single hypotheses, beside which the end symbol has to earn
    its place among the candidates; in every second one that decides the result.
    """
    case = make_case(seed, single=single)
    if seed % 2:
        case = make_case(seed, (19, 60, 200), single)
        ctc_weight = float(np.random.default_rng(seed).choice([0.3, 0.5, 0.8]))
        case["weights"].update(decoder=1.0 - ctc_weight, ctc=ctc_weight)
        case["maxlenratio"] = 0.0
        for table in case["tables"].values():
            table.end_bias = 0.0
    return case


def espnet_search(case, primer=None):
    """N-best list of the search that ESPnet takes for the case's scorers."""
    search_cls = import_nets("beam_search").BeamSearch
    if not case["single"]:
        search_cls = import_nets("batch_beam_search").BatchBeamSearch
    prefix_scorer = import_nets("scorers.ctc").CTCPrefixScorer
    bonus = import_nets("scorers.length_bonus").LengthBonus
    eos = case["vocabulary"] - 1
    window = {}
    if case["ctc_window_margin"]:
        if "window_margin" not in inspect.signature(prefix_scorer).parameters:
            pytest.skip(f"ESPnet {espnet2.__version__} has no CTC window")
        window["window_margin"] = case["ctc_window_margin"]
    scorers = dict(
        decoder=their_scorer(case["tables"]["decoder"]),
        ctc=prefix_scorer(TheirCTC(case["logp"]), eos, **window),
        length_bonus=bonus(case["vocabulary"]),
        lm=their_scorer(case["tables"]["lm"]),
        ngram=their_scorer(case["tables"]["ngram"]),
    )
    search = search_cls(
        scorers,
        case["weights"],
        case["beam_size"],
        case["vocabulary"],
        eos,
        eos,
        pre_beam_score_key=None if case["weights"]["ctc"] == 1.0 else "full",
        normalize_length=case["normalize_length"],
    )
    search.set_hyp_primer(primer)
    with torch.no_grad():
        return search(
            torch.zeros(case["frames"], 1), case["maxlenratio"], case["minlenratio"]
        )


def config_of(case):
    eos = case["vocabulary"] - 1
    return BeamSearchConfig(
        beam_size=case["beam_size"],
        vocabulary=case["vocabulary"],
        sos=eos,
        eos=eos,
        weights=case["weights"],
        conventions=CONVENTIONS,
        ctc_window_margin=case["ctc_window_margin"],
        pre_beam=case["weights"]["ctc"] != 1.0,
        maxlenratio=case["maxlenratio"],
        minlenratio=case["minlenratio"],
        normalize_length=case["normalize_length"],
        end_is_candidate=not case["single"],
    )


def encoded_of(case):
    return Encoded(
        encoder_out_lens=np.array([case["frames"]]),
        ctc_log_probs=case["logp"].numpy()[None],
    )


def our_scorers(case):
    tables = case["tables"]
    return dict(
        decoder=OurScorer(tables["decoder"]),
        length_bonus=LengthBonus(case["vocabulary"]),
        lm=OurScorer(tables["lm"]),
        ngram=OurScorer(tables["ngram"]),
    )


def assert_same(ours, theirs, what):
    """Same hypotheses in the same order; those that tie may change places.

    Hypotheses made of ESPnet's stand-in for log 0 (-1e10, where single precision holds
    nothing else) all tie, so that only their being there counts.
    """
    assert bool(ours) == bool(theirs), what
    ours = [h for h in ours if h.score > -1e8]
    theirs = [h for h in theirs if float(h.score) > -1e8]
    assert len(ours) == len(theirs), what
    for mine, other in zip(ours, theirs):
        score = float(other.score)
        assert mine.score == pytest.approx(score, abs=1e-3, rel=1e-5), what
        if list(mine.yseq) != other.yseq.tolist():
            ties = [
                h.yseq.tolist() for h in theirs if abs(float(h.score) - score) < 1e-3
            ]
            assert list(mine.yseq) in ties, what


@pytest.mark.parametrize(
    "seed, make",
    [(i, make_case) for i in range(400)] + [(i, make_single_case) for i in range(150)],
)
def test_beam_search_is_espnets(seed, make):
    case = make(seed)
    theirs = espnet_search(case)
    [ours] = BeamSearch(config_of(case), our_scorers(case))(encoded_of(case))
    assert_same(ours, theirs, {k: v for k, v in case.items() if k != "logp"})
    if theirs and float(theirs[0].score) > -1e8:
        for name, value in theirs[0].scores.items():
            if list(ours[0].yseq) == theirs[0].yseq.tolist():
                assert ours[0].scores[name] == pytest.approx(float(value), abs=2e-3)


def test_scorers_of_single_hypotheses_change_the_search():
    # If the random cases stopped telling the two searches apart, the test above would
    # prove less.
    different = 0
    for seed in range(150):
        cases = [make_single_case(seed, single) for single in (False, True)]
        [batch], [single] = (
            BeamSearch(config_of(case), our_scorers(case))(encoded_of(case))
            for case in cases
        )
        different += [h.yseq for h in batch] != [h.yseq for h in single]
    assert different >= 30  # 56 to 68 with other seeds


def test_cases_reach_every_answer():
    # If the random cases stopped meeting these, the test above would prove less.
    seen = set()
    for seed in range(400):
        case = make_case(seed)
        search = BeamSearch(config_of(case), our_scorers(case))
        [hypotheses] = search(encoded_of(case))
        eos = case["vocabulary"] - 1
        if not hypotheses:
            seen.add("nothing ended")
        for h in hypotheses:
            if list(h.yseq[-2:]) == [eos, eos] and len(h.yseq) > 2:
                seen.add("ended in the last step")
            if len(h.yseq) > 3:
                seen.add("longer than one token")
    assert seen == {
        "nothing ended",
        "ended in the last step",
        "longer than one token",
    }


@pytest.mark.parametrize("seed", range(40))
def test_a_batch_gives_what_one_at_a_time_gives(seed):
    # Utterances end at different steps, and some of them with nothing.
    case = make_case(seed)
    random = np.random.default_rng(seed)
    frames = random.integers(2, 40, 5)
    logits = 3.0 * random.standard_normal((5, 40, case["vocabulary"]))
    logp = torch.log_softmax(torch.tensor(logits, dtype=torch.float32), dim=-1).numpy()
    search = BeamSearch(config_of(case), our_scorers(case))
    together = search(Encoded(encoder_out_lens=frames, ctc_log_probs=logp))
    for i, count in enumerate(frames):
        alone = Encoded(encoder_out_lens=frames[[i]], ctc_log_probs=logp[[i], :count])
        assert together[i] == search(alone)[0]


@pytest.mark.parametrize("seed", range(60))
def test_primed_hypotheses_are_espnets(seed):
    case = make_case(seed + 2000)
    random = np.random.default_rng(seed)
    vocabulary, frames = case["vocabulary"], case["frames"]
    primers = [
        [vocabulary - 1, *random.integers(0, vocabulary, count).tolist()]
        for count in (1, min(3, frames - 1))
    ]
    # ESPnet's CTC scorer takes no more tokens than there are frames.
    room = frames - max(map(len, primers)) + 1
    case["maxlenratio"] = -min(room, 6)
    one = encoded_of(case)
    both = Encoded({name: np.repeat(v, 2, axis=0) for name, v in one.items()})
    ours = BeamSearch(config_of(case), our_scorers(case))(both, primers)
    for mine, primer in zip(ours, primers):
        assert_same(mine, espnet_search(case, primer), primer)
        assert all(h.yseq[: len(primer)] == primer for h in mine)


def make_spoken_case(seed, margin):
    """A case whose CTC hears tokens one after the other, with silences in between."""
    case = make_case(seed, vocabularies=[8, 19, 60])
    random = np.random.default_rng(seed)
    case["frames"] = frames = int(random.integers(60, 160))
    logits = random.standard_normal((frames, case["vocabulary"]))
    logits[:, BLANK] += 5.0
    frame = int(random.integers(0, 20))
    while frame < frames:
        logits[frame, random.integers(1, case["vocabulary"] - 1)] += 9.0
        frame += int(random.choice([1, 2, 4, 25]))
    case["logp"] = torch.log_softmax(torch.tensor(logits, dtype=torch.float32), dim=-1)
    ctc = float(random.choice([0.5, 0.8, 1.0]))
    case["weights"] = dict(case["weights"], decoder=1.0 - ctc, ctc=ctc, ngram=0.0)
    case["ctc_window_margin"] = margin
    case["minlenratio"], case["maxlenratio"] = 0.0, -16
    return case


@pytest.mark.parametrize("margin", [1, 3, 10, 100])
@pytest.mark.parametrize("seed", range(3000, 3015))
def test_searches_with_a_ctc_window_are_espnets(seed, margin):
    case = make_spoken_case(seed, margin)
    theirs = espnet_search(case)
    [ours] = BeamSearch(config_of(case), our_scorers(case))(encoded_of(case))
    assert_same(ours, theirs, seed)


def test_the_ctc_window_changes_results():
    # If the cases stopped needing the window, the test above would prove less.
    different = 0
    for seed in range(3000, 3015):
        found = []
        for margin in (0, 1):
            case = make_spoken_case(seed, margin)
            [ours] = BeamSearch(config_of(case), our_scorers(case))(encoded_of(case))
            found.append([(h.yseq, round(h.score, 2)) for h in ours])
        different += found[0] != found[1]
    assert different >= 5


def test_a_batch_with_a_ctc_window_gives_what_one_at_a_time_gives():
    case = make_spoken_case(3000, margin=3)
    frames = np.array([60, 90, 33, 60])
    logp = np.zeros((4, 90, case["vocabulary"]), np.float32)
    for i, count in enumerate(frames):
        logits = np.random.default_rng(i).standard_normal((count, case["vocabulary"]))
        logits[:, BLANK] += 2.0
        logp[i, :count] = torch.log_softmax(torch.tensor(logits), dim=-1).numpy()
    search = BeamSearch(config_of(case), our_scorers(case))
    together = search(Encoded(encoder_out_lens=frames, ctc_log_probs=logp))
    for i, count in enumerate(frames):
        alone = Encoded(encoder_out_lens=frames[[i]], ctc_log_probs=logp[[i], :count])
        assert together[i] == search(alone)[0]


def test_ends_are_detected_with_primers_as_in_espnet():
    # Without a limit of length, how long a search goes on is up to end detection.
    told_apart = 0
    for seed in range(60):
        case = make_case(seed + 5000, vocabularies=[8, 19])
        case["weights"] = dict(case["weights"], decoder=1.0, ctc=0.0)
        case["maxlenratio"], case["minlenratio"] = 0.0, 0.0
        case["tables"]["decoder"].end_bias = 4.0
        eos = case["vocabulary"] - 1
        primer = [eos, 1, 2, 3]
        search = BeamSearch(config_of(case), our_scorers(case))
        [ours] = search(encoded_of(case), [primer])
        assert_same(ours, espnet_search(case, primer), seed)
        other = dataclasses.replace(
            CONVENTIONS, end_counts_primer=not CONVENTIONS.end_counts_primer
        )
        config = dataclasses.replace(config_of(case), conventions=other)
        [others] = BeamSearch(config, our_scorers(case))(encoded_of(case), [primer])
        told_apart += len(others) != len(ours)
    assert told_apart >= 5


@pytest.mark.parametrize("seed", range(60))
def test_time_synchronous_search_is_espnets(seed):
    # ESPnet's search needs 1.5 times as many tokens as the beam is wide.
    case = make_case(seed + 1000, vocabularies=[19, 60, 200])
    weights = case["weights"]
    case["weights"] = dict(
        weights, ctc=weights["ctc"] or 0.3, decoder=1.0 - (weights["ctc"] or 0.3)
    )
    module = import_nets("beam_search_timesync")
    eos = case["vocabulary"] - 1
    theirs = module.BeamSearchTimeSync(
        sos=eos,
        beam_size=case["beam_size"],
        scorers=dict(
            ctc=TheirCTC(case["logp"]),
            decoder=their_scorer(case["tables"]["decoder"]),
            lm=their_scorer(case["tables"]["lm"]),
        ),
        weights=case["weights"],
        token_list=[str(i) for i in range(case["vocabulary"])],
    )(torch.zeros(case["frames"], 1))
    [ours] = TimeSyncSearch(config_of(case), our_scorers(case))(encoded_of(case))
    for mine, other in itertools.zip_longest(ours, theirs):
        assert mine.score == pytest.approx(float(other.score), abs=1e-3, rel=1e-5)
    assert list(ours[0].yseq) == theirs[0].yseq.tolist() or (
        len(ours) > 1 and abs(ours[0].score - ours[1].score) < 1e-3
    )


def test_beam_larger_than_vocabulary_is_refused():
    case = make_case(0)
    case["beam_size"] = case["vocabulary"] + 1
    with pytest.raises(PluginError, match="larger than the vocabulary"):
        config_of(case)
