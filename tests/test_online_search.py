"""The searches over streams against ESPnet's own, with the same random scorers."""

import copy
import dataclasses
import inspect
import pickle

import espnet2
import numpy as np
import pytest
import torch
from test_search import BLANK, CONVENTIONS, Table, assert_same

from espnet_onnx_plugin.bundle.search import Blocks
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.online import OnlineBeamSearch, OnlineConfig
from espnet_onnx_plugin.runtime.search.online_sim import SimulatedOnlineSearch
from espnet_onnx_plugin.runtime.search.protocol import Piece
from espnet_onnx_plugin.runtime.search.scorers import FullScorer, LengthBonus
from espnet_onnx_plugin.runtime.search.utterance import BeamSearchConfig

DIM = 2


class OurDecoder(FullScorer):
    """Scores that depend on the last tokens and on the frames that each was read with.

    The state of a hypothesis is its tokens, each with the frames that it has seen: as
    in a decoder with a cache, those before stay as they were.
    """

    is_tree = True

    def __init__(self, table, reads=True):
        self.table = table
        self.reads = reads

    def seen(self, frames):
        return (len(frames), int(frames[0, 0])) if self.reads else ()

    def start(self, encoded, primers):
        return [
            (self.of(encoded, i), [tuple((t, ()) for t in primer[:-1])])
            for i, primer in enumerate(primers)
        ]

    def of(self, encoded, i):
        return self.seen(encoded["encoder_out"][i, : encoded.lengths[i]])

    def score(self, tokens, parents, state):
        new = [
            (seen, [(*past[p], (int(t), seen)) for t, p in zip(*rows)])
            for *rows, (seen, past) in zip(tokens, parents, state)
        ]
        return self.rows(new), new

    def rows(self, state):
        return np.array(
            [[self.table.row(past).numpy() for past in pasts] for _, pasts in state]
        )

    def select(self, utterances, state):
        return [state[i] for i in utterances]

    def rest(self, state, utterance):
        return state[utterance][1]

    def resume(self, states, encoded):
        return [(self.of(encoded, i), past) for i, past in enumerate(states)]

    def restart(self, windows, state):
        new = [
            (seen, [tuple((int(t), seen) for t in row) for row in rows])
            for rows, (seen, _) in zip(windows, state)
        ]
        return self.rows(new), new


class OurLM(OurDecoder):
    """Scores that depend on the last tokens alone, each of which comes once."""

    is_tree = False

    def __init__(self, table):
        super().__init__(table, reads=False)


def their_scorer(ours):
    """A scorer of ours as ESPnet's batch scorer."""
    interface = import_nets("scorer_interface").BatchScorerInterface

    class TheirScorer(interface):
        def batch_score(self, ys, states, xs):
            assert states[0] is None or isinstance(states[0], tuple)  # as decoders ask
            scored = [self.score(*one) for one in zip(ys, states, xs)]
            return torch.stack([row for row, _ in scored]), [s for _, s in scored]

        def score(self, y, state, x):
            past, y = state or (), y.tolist()
            if ours.is_tree and state is not None:
                assert len(past) == len(y) - 1
            new = y[len(past) :] if ours.is_tree else y[-1:]
            past = (*past, *((t, ours.seen(x)) for t in new))
            return ours.table.row(past), past

    return TheirScorer()


class TheirCTC(torch.nn.Module):
    """Stands for the CTC layer: scores of frames, which say their numbers."""

    def __init__(self, logp):
        super().__init__()
        self.logp = logp

    def log_softmax(self, x):
        return self.logp[x[..., 0].long()].clone()


def make_case(seed, frames=(1, 100), **choices):
    """One random case: sizes, weights, options, pieces."""
    random = np.random.default_rng(seed)
    vocabulary = int(random.choice([8, 19, 60, 200]))
    frames = int(random.integers(*frames))
    logits = random.choice([0.3, 1.0]) * random.standard_normal((frames, vocabulary))
    logits[:, BLANK] += random.choice([2.0, 6.0])
    frame = int(random.integers(0, 10))
    while frame < frames:  # tokens that are heard one after the other
        logits[frame, random.integers(1, vocabulary - 1)] += 7.0
        frame += int(random.choice([1, 2, 4, 7, 20]))
    ctc_weight = float(random.choice([0.0, 0.3, 0.5, 0.8, 1.0]))
    text_limit = int(random.choice([0, 0, 0, 1, 3, 8]))
    case = dict(
        vocabulary=vocabulary,
        beam_size=int(random.choice([1, 2, 3, 5, 8])),
        frames=frames,
        pieces=int(random.choice([1, 3, 7, 16, 30, 1000])),
        logp=torch.log_softmax(torch.tensor(logits, dtype=torch.float32), dim=-1),
        weights=dict(
            decoder=1.0 - ctc_weight,
            ctc=ctc_weight,
            length_bonus=float(random.choice([0.0, 0.0, 0.5, -0.3])),
            lm=float(random.choice([0.0, 0.3, 1.0])),
        ),
        maxlenratio=float(random.choice([0.0, 0.0, 0.0, 0.5, 0.1, -4])),
        minlenratio=float(random.choice([0.0, 0.0, 0.1, -3])),
        normalize_length=bool(random.integers(2)),
        online=OnlineConfig(
            disable_repetition_detection=bool(random.integers(2)),
            encoded_feat_length_limit=int(random.choice([0, 0, 0, 10, 30, 50])),
            decoder_text_length_limit=text_limit if ctc_weight < 1.0 else 0,
            incremental_decode=bool(random.choice([False, False, True])),
        ),
    )
    case["ctc_window_margin"] = 0
    case.update(choices)
    sharpness = float(random.choice([0.5, 1.0, 2.0]))
    bias = float(random.choice([-3.0, 0.0, 2.0]))
    case["scorers"] = dict(
        decoder=OurDecoder(Table(f"decoder{seed}", vocabulary, sharpness, bias)),
        length_bonus=LengthBonus(vocabulary),
        lm=OurLM(Table(f"lm{seed}", vocabulary, 1.0, bias / 2)),
    )
    return case


def encoder_out(case):
    """(frames, DIM) each of which says its number."""
    return np.repeat(np.arange(case["frames"], dtype=np.float32)[:, None], DIM, 1)


def pieces(case):
    """Slices of the frames as they come, and whether they are the last."""
    frames, size = case["frames"], case["pieces"]
    starts = list(range(0, frames, size))
    return [(slice(i, i + size), i == starts[-1]) for i in starts]


def espnet_search(case, name="batch_beam_search_online", cls="BatchBeamSearchOnline"):
    """ESPnet's search with the case's scorers."""
    eos = case["vocabulary"] - 1
    ours = case["scorers"]
    window = {"window_margin": case["ctc_window_margin"]}
    if not case["ctc_window_margin"]:
        window = {}
    prefix_scorer = import_nets("scorers.ctc").CTCPrefixScorer
    ctc = prefix_scorer(TheirCTC(case["logp"]), eos, **window)
    bonus = import_nets("scorers.length_bonus").LengthBonus(case["vocabulary"])
    settings = {}
    if cls == "BatchBeamSearchOnline":
        settings = {
            k: v for k, v in vars(case["online"]).items() if k not in ("blank_penalty",)
        }
    return getattr(import_nets(name), cls)(
        beam_size=case["beam_size"],
        weights=case["weights"],
        scorers=dict(
            decoder=their_scorer(ours["decoder"]),
            ctc=ctc,
            length_bonus=bonus,
            lm=their_scorer(ours["lm"]),
        ),
        sos=eos,
        eos=eos,
        vocab_size=case["vocabulary"],
        pre_beam_score_key=None if case["weights"]["ctc"] == 1.0 else "full",
        normalize_length=case["normalize_length"],
        **settings,
    )


def espnets(case):
    """What ESPnet gives of each piece, up to where it breaks down."""
    search, x = espnet_search(case), torch.from_numpy(encoder_out(case))
    results = []
    with torch.no_grad():
        for part, last in pieces(case):
            try:
                lengths = case["maxlenratio"], case["minlenratio"]
                results.append(search(x[part], *lengths, is_final=last))
            except IndexError as e:
                results.append(e)
                break
    return results


def config_of(case):
    eos = case["vocabulary"] - 1
    return BeamSearchConfig(
        beam_size=case["beam_size"],
        vocabulary=case["vocabulary"],
        sos=eos,
        eos=eos,
        weights=case["weights"],
        conventions=CONVENTIONS,
        pre_beam=case["weights"]["ctc"] != 1.0,
        maxlenratio=case["maxlenratio"],
        minlenratio=case["minlenratio"],
        normalize_length=case["normalize_length"],
        ctc_window_margin=case["ctc_window_margin"],
    )


def our_search(case):
    return OnlineBeamSearch(config_of(case), case["scorers"], case["online"])


def our_pieces(case):
    x, logp = encoder_out(case), case["logp"].numpy()
    return [(x[part], logp[part], last) for part, last in pieces(case)]


def feed_all(search, case, between=lambda state: state):
    """Results of the pieces."""
    state, results = search.open(), []
    for piece in our_pieces(case):
        [found] = search.feed([Piece(state, *piece)])
        results.append(found.hypotheses)
        state = between(found.state)
    return results


def told(case):
    return {k: v for k, v in case.items() if k not in ("logp", "scorers")}


@pytest.mark.parametrize("seed", range(300))
def test_results_of_streams_are_espnets(seed):
    case = make_case(seed)
    theirs = espnets(case)
    state, search = our_search(case).open(), our_search(case)
    for piece, expected in zip(our_pieces(case), theirs):
        if isinstance(expected, IndexError):
            with pytest.raises(PluginError, match="largest length"):
                search.feed([Piece(state, *piece)])
            break
        [found] = search.feed([Piece(state, *piece)])
        assert_same(found.hypotheses, expected, told(case))
        state = found.state


#: Whether ESPnet has a window for its CTC prefix scores.
WINDOWED = (
    "window_margin"
    in inspect.signature(import_nets("scorers.ctc").CTCPrefixScorer).parameters
)


def simulated_case(seed):
    """A case for simulated streaming; :class:`Blocks` may be none."""
    random = np.random.default_rng(seed + 1)
    sizes = [(40, 16, 16), (40, 16, 16), (12, 4, 3), (20, 20, 5), (0, 0, 0)]
    margin = int(random.choice([0, 2, 10, 100])) if WINDOWED else 0
    blocks = Blocks(*sizes[random.integers(len(sizes))])
    return make_case(seed, blocks=blocks, ctc_window_margin=margin)


def simulate(case):
    encoded = Encoded(
        encoder_out=encoder_out(case)[None],
        encoder_out_lens=np.array([case["frames"]]),
        ctc_log_probs=case["logp"].numpy()[None],
    )
    search = SimulatedOnlineSearch(config_of(case), case["scorers"], case["blocks"])
    return search(encoded)[0]


@pytest.mark.parametrize("seed", range(7000, 7200))
def test_results_of_simulated_streams_are_espnets(seed):
    case = simulated_case(seed)
    search = espnet_search(
        case, "batch_beam_search_online_sim", "BatchBeamSearchOnlineSim"
    )
    search.set_block_size(case["blocks"].block_size)
    search.set_hop_size(case["blocks"].hop_size)
    search.set_look_ahead(case["blocks"].look_ahead)
    x, lengths = encoder_out(case), (case["maxlenratio"], case["minlenratio"])
    with torch.no_grad():
        try:
            theirs = search(torch.from_numpy(x), *lengths)
        except IndexError:
            with pytest.raises(PluginError, match="largest length"):
                simulate(case)
            return
    assert_same(simulate(case), theirs, told(case))
