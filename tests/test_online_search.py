"""The searches over streams against ESPnet's own, with the same random scorers."""

import copy
import dataclasses
import inspect
import pickle
import traceback

import espnet2
import numpy as np
import pytest
import torch
from conftest import asr_config, build_asr, build_lm, save, sharpen
from test_decoders import CONVOLUTIONS, S4
from test_search import BLANK, CONVENTIONS, Table, assert_same

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.bundle.search import Blocks
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.recognition.scoring import open_scorer
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
    vocabulary = choices.get("vocabulary", vocabulary)
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
    """(frames, DIM) each of which says its number, where no others are given."""
    if "x" in case:
        return case["x"]
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
    layer = case["ctc"] if "ctc" in case else TheirCTC(case["logp"])
    ctc = prefix_scorer(layer, eos, **window)
    theirs = case.get("theirs") or {k: their_scorer(ours[k]) for k in ("decoder", "lm")}
    bonus = import_nets("scorers.length_bonus").LengthBonus(case["vocabulary"])
    settings = {}
    if cls == "BatchBeamSearchOnline":
        settings = {
            k: v
            for k, v in vars(case["online"]).items()
            if k not in ("blank_penalty",)
        }
    return getattr(import_nets(name), cls)(
        beam_size=case["beam_size"],
        weights=case["weights"],
        scorers=dict(
            decoder=theirs["decoder"],
            ctc=ctc,
            length_bonus=bonus,
            lm=theirs["lm"],
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
    return {k: v for k, v in case.items() if k not in ("logp", "scorers", "x", "theirs", "ctc")}


def compare(case):
    """Hold the search to ESPnet's, piece by piece."""
    search = our_search(case)
    state = search.open()
    for piece, expected in zip(our_pieces(case), espnets(case)):
        if isinstance(expected, IndexError):
            if not breaks_in_ctc(expected):
                with pytest.raises(PluginError, match="largest length"):
                    search.feed([Piece(state, *piece)])
            break
        [found] = search.feed([Piece(state, *piece)])
        assert_same(found.hypotheses, expected, told(case))
        state = found.state


@pytest.mark.parametrize("seed", range(300))
def test_results_of_streams_are_espnets(seed):
    compare(make_case(seed))


#: Whether ESPnet has a window for its CTC prefix scores.
WINDOWED = "window_margin" in inspect.signature(
    import_nets("scorers.ctc").CTCPrefixScorer
).parameters


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
        except IndexError as e:
            if not breaks_in_ctc(e):
                with pytest.raises(PluginError, match="largest length"):
                    simulate(case)
            return
    assert_same(simulate(case), theirs, told(case))


def breaks_in_ctc(error):
    """Whether ESPnet's CTC prefix scorer broke down: it had fewer frames than tokens.

    Later releases do not, and our search follows those.
    """
    *_, last = traceback.walk_tb(error.__traceback__)
    return last[0].f_code.co_filename.endswith("ctc_prefix_score.py")


class Models:
    """A decoder, a CTC and a language model: ESPnet's, and ours as graphs."""

    def __init__(self, root, decoder, decoder_conf, lm, lm_conf):
        config = asr_config(decoder=decoder, decoder_conf=decoder_conf)
        self.model = build_asr(config, seed=3)
        sharpen(self.model)
        if decoder == "s4":
            with torch.no_grad():  # training leaves a state space another readout
                tokens, lengths = torch.randint(0, 20, (2, 9)), torch.tensor([9, 6])
                self.model.decoder(
                    torch.randn(2, 7, 8), torch.tensor([7, 5]), tokens, lengths
                )
        lm_model, lm_config = build_lm(lm, lm_conf)
        self.lm = lm_model.lm
        asr = save(self.model, config, root / "asr", "model.pth")
        lm = save(lm_model, lm_config, root / "lm", "lm.pth")
        checkpoints = Checkpoints(asr["config"], asr["file"], lm["config"], lm["file"])
        self.bundle = export_bundle("asr", checkpoints, root / "fp32")

    def case(self, seed, **choices):
        """A random case for these models."""
        random = np.random.default_rng(seed)
        case = make_case(seed, vocabulary=len(self.model.token_list), **choices)
        frames = case["frames"]
        case["x"] = random.standard_normal((frames, 8)).astype(np.float32)
        with torch.no_grad():
            scores = self.model.ctc.log_softmax(torch.from_numpy(case["x"])[None])
        case["logp"] = scores[0]
        case["ctc"] = self.model.ctc
        case["theirs"] = dict(decoder=self.model.decoder, lm=self.lm)
        device = Device("cpu", 1)
        case["scorers"] = dict(
            decoder=open_scorer(self.bundle, "decoder", device),
            length_bonus=LengthBonus(case["vocabulary"]),
            lm=open_scorer(self.bundle, "lm", device),
        )
        return case


@pytest.fixture(
    scope="module",
    params=[
        ("transformer", dict(attention_heads=2, linear_units=12, num_blocks=2)),
        ("dynamic_conv", CONVOLUTIONS),
        ("s4", S4),
    ],
    ids=lambda param: param[0],
)
def models(request, tmp_path_factory):
    decoder, conf = request.param
    recurrent = dict(unit=10, nlayers=1), dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=1)
    return Models(
        tmp_path_factory.mktemp(decoder),
        decoder,
        conf,
        "transformer" if decoder == "transformer" else "seq_rnn",
        recurrent[decoder == "transformer"],
    )


@pytest.mark.parametrize("seed", range(9000, 9010))
def test_results_of_real_models_are_espnets(models, seed):
    case = models.case(seed, frames=(30, 100))
    tree = case["scorers"]["lm"].is_tree
    if tree and case["weights"]["lm"]:
        online = dataclasses.replace(case["online"], decoder_text_length_limit=0)
        case["online"] = online
    compare(case)


@pytest.mark.parametrize("seed", range(9100, 9104))
def test_streams_together_get_what_they_get_alone(models, seed):
    first = models.case(seed, frames=(70, 100), pieces=16, maxlenratio=0.0)
    tree = first["scorers"]["lm"].is_tree
    limit = 0 if tree and first["weights"]["lm"] else 3
    limits = dict(decoder_text_length_limit=limit, encoded_feat_length_limit=30)
    if first["weights"]["ctc"] < 1.0:
        first["online"] = dataclasses.replace(first["online"], **limits)
    search = our_search(first)
    streams = []
    for i in range(3):
        case = models.case(seed + 100 * i, frames=(20 + 20 * i, 90), pieces=16)
        parts = our_pieces(case)
        alone, state = [], search.open()
        for piece in parts:
            [found] = search.feed([Piece(state, *piece)])
            alone.append(found.hypotheses)
            state = pickle.loads(pickle.dumps(found.state))
        streams.append((parts, alone))
    states = [search.open() for _ in streams]
    for step in range(max(len(parts) for parts, _ in streams)):
        live = [i for i, (parts, _) in enumerate(streams) if step < len(parts)]
        fed = [Piece(states[i], *streams[i][0][step]) for i in live]
        for i, found in zip(live, search.feed(fed)):
            states[i] = found.state
            expected = streams[i][1][step]
            assert [h.yseq for h in found.hypotheses] == [h.yseq for h in expected]
            scores = [h.score for h in expected]
            assert [h.score for h in found.hypotheses] == pytest.approx(scores, 1e-4)
    assert any(alone[-1] for _, alone in streams)


def test_a_state_can_be_gone_on_from_twice():
    case = make_case(11, frames=(80, 100), pieces=16)
    search = our_search(case)
    parts = our_pieces(case)
    states = [search.open()]
    first = []
    for piece in parts:
        [found] = search.feed([Piece(states[-1], *piece)])
        states.append(found.state)
        first.append(found.hypotheses)
    for i, piece in enumerate(parts):
        kept = copy.deepcopy(states[i])
        for state in (states[i], kept):
            [found] = search.feed([Piece(state, *piece)])
            assert found.hypotheses == first[i]
