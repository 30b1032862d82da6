"""The searches over streams against ESPnet's own, with the same random scorers."""

import copy
import dataclasses
import inspect
import pickle
import shutil
import traceback

import numpy as np
import pytest
import torch
import yaml
from conftest import asr_config, build_asr, build_lm, save, sharpen, waves
from test_decoders import CONVOLUTIONS
from test_search import BLANK, CONVENTIONS, Table, assert_same

import espnet_onnx_plugin
from espnet_onnx_plugin.bundle.search import Blocks, LabelSynchronous
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.espnet_compat import import_nets
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.recognition.scoring import open_scorer
from espnet_onnx_plugin.runtime.search.online import (
    OnlineBeamSearch,
    OnlineConfig,
    check_streaming,
)
from espnet_onnx_plugin.runtime.search.online_sim import SimulatedOnlineSearch
from espnet_onnx_plugin.runtime.search.online_time_sync import OnlineTimeSyncSearch
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

    def project(self, encoded):
        return encoded

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
        settings = dict(vars(case["online"]))
        del settings["blank_penalty"], settings["nbest"]
        if "time_sync" in case:
            tokens = [str(i) for i in range(case["vocabulary"])]
            settings.update(time_sync=True, ctc=layer, token_list=tokens)
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
    """ESPnet's results of each piece, up to where it breaks down."""
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


def our_search(case, kind=OnlineBeamSearch):
    return kind(config_of(case), case["scorers"], case["online"])


def our_pieces(case):
    x, logp = encoder_out(case), case["logp"].numpy()
    return [(x[part], logp[part], last) for part, last in pieces(case)]


def feed_all(search, parts, between=lambda state: state):
    """Hypotheses found in each piece of a stream."""
    state, results = search.open(), []
    for part in parts:
        [found] = search.feed([Piece(state, *part)])
        results.append(found.hypotheses)
        state = between(found.state)
    return results


def told(case):
    return {
        k: v
        for k, v in case.items()
        if k not in ("logp", "scorers", "x", "theirs", "ctc")
    }


def compare(case, kind=OnlineBeamSearch):
    """Hold a search to ESPnet's, piece by piece."""
    search = our_search(case, kind)
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


@pytest.mark.espnet
@pytest.mark.parametrize("seed", range(300))
def test_results_of_streams_are_espnets(seed):
    compare(make_case(seed))


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
        lm_model, lm_config = build_lm(lm, lm_conf)
        self.lm = lm_model.lm
        asr = save(self.model, config, root / "asr", "model.pth")
        lm = save(lm_model, lm_config, root / "lm", "lm.pth")
        checkpoints = Checkpoints(asr["config"], asr["file"], lm["config"], lm["file"])
        self.bundle = export_bundle("asr", checkpoints, root / "fp32")

    def limits(self, case):
        """Whether a case can limit what the decoder reads."""
        scorers, weights = case["scorers"], case["weights"]
        recurrent = not (weights["lm"] and scorers["lm"].is_tree)
        return scorers["decoder"].is_tree and weights["decoder"] and recurrent

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
        (
            ("transformer", dict(attention_heads=2, linear_units=12, num_blocks=2)),
            ("transformer", dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=1)),
        ),
        (("dynamic_conv", CONVOLUTIONS), ("seq_rnn", dict(unit=10, nlayers=1))),
    ],
    ids=lambda param: param[0][0],
)
def models(request, tmp_path_factory):
    decoder, lm = request.param
    return Models(tmp_path_factory.mktemp(decoder[0]), *decoder, *lm)


@pytest.mark.parametrize("seed", range(9000, 9010))
def test_results_of_real_models_are_espnets(models, seed):
    case = models.case(seed, frames=(30, 100))
    if not models.limits(case):
        without = dataclasses.replace(case["online"], decoder_text_length_limit=0)
        case["online"] = without
    compare(case)


@pytest.mark.parametrize("seed", range(9100, 9104))
def test_streams_together_get_what_they_get_alone(models, seed):
    choices = dict(pieces=16, maxlenratio=0.0)
    first = models.case(seed, frames=(70, 100), **choices)
    limits = dict(encoded_feat_length_limit=30)
    limits["decoder_text_length_limit"] = 3 if models.limits(first) else 0
    first["online"] = dataclasses.replace(first["online"], **limits)
    search = our_search(first)
    streams = []
    for i in range(3):
        case = models.case(seed + 100 * i, frames=(20 + 20 * i, 90), **choices)
        parts = our_pieces(case)
        alone = feed_all(search, parts, lambda s: pickle.loads(pickle.dumps(s)))
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


def test_a_search_for_some_results_ends_when_these_are_certain():
    saved = 0
    for seed in range(9200, 9230):
        nbest = seed % 3 + 1
        case = make_case(seed, frames=(30, 100), normalize_length=False)
        if case["weights"]["length_bonus"] > 0:
            case["weights"]["length_bonus"] = 0.0
        some = dataclasses.replace(case["online"], nbest=nbest)
        try:
            whole = feed_all(our_search(case), our_pieces(case))
        except PluginError:  # ESPnet breaks down, which other tests are about
            continue
        found = feed_all(our_search({**case, "online": some}), our_pieces(case))
        assert [h[:nbest] for h in found] == [h[:nbest] for h in whole], told(case)
        assert found[:-1] == whole[:-1]
        saved += len(whole[-1]) - len(found[-1])
    assert saved > 100


@pytest.mark.parametrize(
    "weights, choices",
    [
        (dict(length_bonus=0.1), {}),
        (dict(lm=-0.1), {}),
        ({}, {"normalize_length": True}),
    ],
)
def test_scores_that_may_rise_leave_no_result_certain(weights, choices):
    case = make_case(0, weights=dict(decoder=0.5, ctc=0.5, length_bonus=-0.1, lm=0.0))
    case["normalize_length"] = False
    assert config_of(case).scores_fall
    case["weights"].update(weights)
    assert not config_of({**case, **choices}).scores_fall


def test_streams_together_are_projected_together_once_a_block():
    choices = dict(vocabulary=60, beam_size=3, maxlenratio=0.0, online=OnlineConfig())
    choices["weights"] = dict(decoder=0.5, ctc=0.5, length_bonus=0.0, lm=0.0)
    cases = [make_case(seed, frames=(100, 101), **choices) for seed in range(31, 34)]
    search, projected, steps = our_search(cases[0]), [], []
    decoder = search.scorers["decoder"]
    project, score = decoder.project, decoder.score

    def projects(encoded):
        projected.append(encoded.lengths.tolist())
        return project(encoded)

    def scores(tokens, parents, state):
        steps.append(len(tokens))
        return score(tokens, parents, state)

    decoder.project, decoder.score = projects, scores
    alone = [
        Piece(search.open(), encoder_out(case), case["logp"].numpy(), True)
        for case in cases
    ]
    search.feed(alone)
    # Blocks end at frames 24, 40, ...; streams leave them after unequal steps.
    assert projected == [[end] * 3 for end in (24, 40, 56, 72, 88, 100)]
    assert {1, 2, 3} == set(steps)


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


def time_sync_case(seed, **choices):
    """A case for the time-synchronous search."""
    random = np.random.default_rng(seed + 2)
    case = make_case(seed, frames=(1, 75), time_sync=True, **choices)
    if case["vocabulary"] == 8:  # ESPnet needs 1.5 times as many as the beam is wide
        case["beam_size"] = min(case["beam_size"], 5)
    ctc = float(random.choice([0.3, 0.5, 1.0]))
    case["weights"] = dict(
        case["weights"],
        ctc=ctc,
        decoder=1.0 - ctc,
        blank_penalty=float(random.choice([1.0, 0.5, 2.0])),
    )
    case["online"] = OnlineConfig(
        incremental_decode=bool(random.integers(2)),
        hold_n=int(random.choice([0, 1, 3])),
        blank_penalty=case["weights"]["blank_penalty"],
    )
    return case


@pytest.mark.parametrize("seed", range(5000, 5120))
def test_results_of_time_synchronous_streams_are_espnets(seed):
    compare(time_sync_case(seed), OnlineTimeSyncSearch)


@pytest.mark.parametrize("seed", range(9200, 9205))
def test_results_of_time_synchronous_real_models_are_espnets(models, seed):
    case = models.case(seed)
    case = {
        **case,
        **{
            k: v
            for k, v in time_sync_case(seed).items()
            if k in ("weights", "online", "time_sync")
        },
    }
    compare(case, OnlineTimeSyncSearch)


def test_simulated_streaming_of_a_model_is_espnets(tmp_path):
    from espnet2.bin.asr_inference import Speech2Text

    conf = dict(
        output_size=8,
        attention_heads=2,
        linear_units=12,
        num_blocks=1,
        block_size=20,
        hop_size=8,
        look_ahead=6,
    )
    config = asr_config(
        encoder="contextual_block_transformer",
        encoder_conf=conf,
        normalize=None,
    )
    model = build_asr(copy.deepcopy(config), seed=2)
    sharpen(model)
    files = save(model, config, tmp_path / "asr", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("asr", checkpoints, tmp_path / "fp32")
    assert bundle.manifest.search.blocks == Blocks(20, 8, 6)
    options = dict(beam_size=4, ctc_weight=0.5, nbest=3)
    different = 0
    theirs = Speech2Text(
        str(files["config"]), str(files["file"]), **options, streaming=True
    )
    ours = espnet_onnx_plugin.Speech2Text(bundle, **options, streaming=True)
    whole = espnet_onnx_plugin.Speech2Text(bundle, **options)
    audio = [wave.astype(np.float32) for wave in waves(4).values()]
    together = ours.batch([ours.prepare(wave) for wave in audio])
    for wave, batched in zip(audio, together):
        with torch.no_grad():
            expected = theirs(wave)
        for found in (ours(wave), batched):
            assert_same([h for *_, h in found], [h for *_, h in expected], "")
        different += [r[2] for r in whole(wave)] != [r[2] for r in expected]
    assert different  # or the test would prove less


def test_bundles_of_before_blocks_were_noted_are_refused(tiny, tmp_path):
    copied = tmp_path / "old"
    shutil.copytree(tiny["bundle"], copied)
    manifest = copied / "manifest.yaml"
    content = yaml.safe_load(manifest.read_text())
    del content["search"]["blocks"]
    manifest.write_text(yaml.safe_dump(content))
    with pytest.raises(PluginError, match="does not tell the blocks"):
        espnet_onnx_plugin.Speech2Text(copied, streaming=True)
    assert espnet_onnx_plugin.Speech2Text(copied).search


def refused(match, online, weights=None, scorers=(), kind=OnlineBeamSearch):
    case = make_case(3, online=online)
    case["weights"] = dict(decoder=0.5, ctc=0.5, length_bonus=0.0, lm=0.5)
    case["weights"].update(weights or {})
    case["scorers"].update(scorers)
    with pytest.raises(PluginError, match=match):
        our_search(case, kind)


def test_settings_with_which_espnet_breaks_down_are_refused():
    limit = OnlineConfig(decoder_text_length_limit=3)
    table = Table("x", 8, 1.0, 0.0)
    refused("without a decoder", limit, dict(decoder=0.0))
    refused("language models that attend", limit, None, dict(lm=OurDecoder(table)))
    refused("with self-attention", limit, None, dict(decoder=OurLM(table)))
    frames = OnlineConfig(encoded_feat_length_limit=3)
    refused("not for time_sync", frames, kind=OnlineTimeSyncSearch)
    with pytest.raises(PluginError, match="make no search"):
        OnlineConfig(block_size=16)


@pytest.mark.parametrize("field", ["single", "together"])
def test_decoders_that_espnets_streaming_cannot_ask_are_refused(field):
    search = LabelSynchronous(sos=1, eos=1, blank=0)
    check_streaming(search)
    with pytest.raises(PluginError, match="the decoder of the model is not for"):
        check_streaming(dataclasses.replace(search, **{field: ("decoder",)}))


def test_limits_bound_what_a_stream_keeps():
    online = OnlineConfig(encoded_feat_length_limit=30)
    case = make_case(21, frames=(990, 1000), pieces=16, online=online, maxlenratio=0.0)
    sizes = []

    def measure(state):
        if state.blocks > 3:
            sizes.append(len(state.frames.encoder_out) + len(state.scored))
        return state

    case["weights"] = dict(decoder=0.5, ctc=0.5, length_bonus=0.0, lm=0.0)
    feed_all(our_search(case), our_pieces(case), measure)
    assert len(sizes) > 20 and max(sizes) <= 2 * 30 + 40


def test_cases_reach_every_answer():
    # If the random cases stopped meeting these, the tests above would prove less.
    seen = set()
    for seed in range(150):
        case = make_case(seed)
        try:
            *before, result = feed_all(our_search(case), our_pieces(case))
        except PluginError:
            seen.add("broken down")
            continue
        seen.add("result" if result else "nothing")
        seen.update("partial" for found in before if found)
        if any(h.yseq[-2:] == [case["vocabulary"] - 1] * 2 for h in result):
            seen.add("ended in the last step")
        if len(result) != len({tuple(h.yseq) for h in result}):
            seen.add("taken up twice")
    everything = {"broken down", "result", "nothing", "partial"}
    assert seen == everything | {"ended in the last step", "taken up twice"}
