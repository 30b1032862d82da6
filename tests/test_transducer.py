"""Searches of transducers against ESPnet's own."""

import dataclasses
import itertools

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import (
    a_few,
    asr_config,
    build,
    build_lm,
    save,
    st_config,
    task_config,
    waves,
    write_data,
)
from espnet2.asr.decoder.transducer_decoder import TransducerDecoder
from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer
from espnet2.asr_transducer.joint_network import JointNetwork
from espnet2.lm.seq_rnn_lm import SequentialRNNLM
from espnet2.lm.transformer_lm import TransformerLM

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import asr_inference, slu_inference, st_inference
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints, losses_left_out
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.values import pad
from espnet_onnx_plugin.runtime.search.transducer import TransducerSearch
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import TransducerConfig

#: Size of encoder outputs.
DIM = 6

LMS = {
    "none": None,
    "lstm": lambda v: SequentialRNNLM(v, unit=5, nlayers=2),
    "gru": lambda v: SequentialRNNLM(v, unit=5, nlayers=1, rnn_type="gru"),
    "transformer": lambda v: TransformerLM(
        v, embed_unit=4, att_unit=8, head=2, unit=8, layer=2
    ),
}


class TorchNetworks:
    """ESPnet's modules as the networks that a search asks."""

    batches = True
    grows = False

    def __init__(self, decoder, joint):
        self.decoder, self.joint = decoder, joint

    def project(self, encoded):
        with torch.no_grad():
            return self.joint.lin_enc(torch.tensor(encoded["encoder_out"])).numpy()

    def start(self):
        h, c = self.decoder.init_state(1)
        return {"h": h.transpose(0, 1).numpy()} | (
            {} if c is None else {"c": c.transpose(0, 1).numpy()}
        )

    def predict(self, labels, states):
        past = [torch.tensor(s).transpose(0, 1).contiguous() for s in states.values()]
        with torch.no_grad():
            embedded = self.decoder.embed(torch.tensor(labels)[:, None])
            out, new = self.decoder.rnn_forward(embedded, (*past, None)[:2])
            predicted = self.joint.lin_dec(out[:, 0]).numpy()
        new = [s.transpose(0, 1).numpy() for s in new if s is not None]
        return predicted, dict(zip(states, new))

    def join(self, projected, predicted):
        with torch.no_grad():
            logits = self.joint(
                torch.tensor(projected), torch.tensor(predicted)[:, None], True
            )
            return torch.log_softmax(logits, dim=-1).numpy()


class TorchLM:
    """ESPnet's language model as a scorer; a state holds what each hypothesis read."""

    def __init__(self, lm):
        self.lm = lm

    def start(self, encoded, primers):
        return [[((), None)] for _ in primers]

    def score(self, tokens, parents, state):
        scores, new = [], []
        for row, of_row, past in zip(tokens, parents, state):
            scored = []
            for token, parent in zip(row, of_row):
                read, own = past[parent]
                read = (*read, int(token))
                with torch.no_grad():
                    scored.append((read, self.lm.score(torch.tensor(read), own, None)))
            scores.append([s.numpy() for _, (s, _) in scored])
            new.append([(read, own) for read, (_, own) in scored])
        return np.array(scores), new

    def join(self, picked):
        return [[state[i][j] for state, i, j in row] for row in picked]

    def rest(self, state, utterance):
        return state[utterance]

    def project(self, encoded):
        return None

    def resume(self, states, projected):
        return list(states)


@dataclasses.dataclass
class Case:
    """Random networks, encoder outputs (frames, DIM) and the options of a search."""

    decoder: TransducerDecoder
    joint: JointNetwork
    lm: torch.nn.Module | None
    utterances: list
    beam_size: int
    lm_weight: float
    conf: dict
    blanks: dict

    def espnets(self):
        search = BeamSearchTransducer(
            self.decoder,
            self.joint,
            self.beam_size,
            self.lm,
            self.lm_weight,
            **self.conf,
            **self.blanks,
        )
        with torch.no_grad():
            return [search(torch.tensor(one)) for one in self.utterances]

    def search(self):
        vocabulary = self.decoder.odim
        return TransducerSearch(
            TransducerConfig(**self.conf),
            TorchNetworks(self.decoder, self.joint),
            Transducer(
                blank=0,
                sos=vocabulary - 1,
                **{name: tuple(values) for name, values in self.blanks.items()},
            ),
            self.beam_size,
            [*map(str, range(vocabulary))],
            self.lm and TorchLM(self.lm),
            self.lm_weight,
        )

    def ours(self):
        lengths = np.array([len(one) for one in self.utterances])
        encoded = Encoded(encoder_out=pad(self.utterances), encoder_out_lens=lengths)
        return self.search()(encoded)


def make_case(seed, search_type, lm="none", **conf):
    """A case; what ``conf`` does not name is drawn."""
    random = np.random.default_rng([seed, *search_type.encode(), *lm.encode()])
    torch.manual_seed(seed)
    vocabulary = int(random.integers(5, 30))
    decoder = TransducerDecoder(
        vocabulary,
        rnn_type=str(random.choice(["lstm", "gru"])),
        num_layers=int(random.integers(1, 3)),
        hidden_size=7,
    ).eval()
    decoder.embed.weight.data *= 2.0
    joint = JointNetwork(vocabulary, DIM, 7, joint_space_size=9).eval()
    joint.lin_out.weight.data *= float(random.choice([2.0, 8.0]))
    blanks = int(random.integers(1, 4)) if search_type == "mbg" else 1
    joint.lin_out.bias.data[:blanks] += float(random.choice([1.0, 2.5]))
    drawn = dict(
        score_norm=bool(random.integers(2)),
        score_norm_during=bool(random.integers(2)),
        nbest=int(random.integers(1, 5)),
        max_sym_exp=int(random.integers(1, 4)),
        u_max=int(random.choice([3, 50])),
        nstep=int(random.integers(1, 4)),
        prefix_alpha=int(random.integers(0, 4)),
        expansion_gamma=float(random.choice([0.5, 2.3])),
        expansion_beta=int(random.integers(0, 3)),
    )
    beam_size = min(int(random.integers(2, 11)), vocabulary - 1)
    frames = random.integers(1, 16, size=3)
    if search_type == "default":
        # ESPnet's search has no end where many labels are as good as the blank.
        joint.lin_out.bias.data[0] += 6.0
        beam_size, frames = min(beam_size, 6), frames // 2 + 1
    if search_type == "maes":
        # ESPnet asks for every hypothesis, of which there can be thousands.
        drawn["nstep"] = min(drawn["nstep"], 3 if beam_size < 4 else 2)
        beam_size = min(beam_size, vocabulary - drawn["expansion_beta"])
    made = LMS[lm] and LMS[lm](vocabulary).eval()
    if made is not None:
        made.decoder.weight.data *= 3.0
    durations = {}
    if search_type == "mbg":
        durations = dict(
            multi_blank_durations=[*range(blanks, 0, -1)],
            multi_blank_indices=[*range(blanks)],
        )
    return Case(
        decoder,
        joint,
        made,
        [
            2.0 * random.standard_normal((count, DIM)).astype(np.float32)
            for count in frames
        ],
        beam_size,
        float(random.choice([0.1, 0.4])),
        dict(drawn, search_type=search_type, **conf),
        durations,
    )


def same(ours, espnets):
    for found, expected in zip(ours, espnets, strict=True):
        assert [h.yseq for h in found] == [h.yseq for h in expected]
        scores = [float(h.score) for h in expected]
        assert [h.score for h in found] == pytest.approx(scores, abs=1e-3)


SEARCHES = [
    *(("default", lm) for lm in LMS),
    *itertools.product(("tsd", "alsd", "nsc", "maes"), ("none", "lstm", "gru")),
    ("mbg", "none"),
]


@pytest.mark.espnet
@pytest.mark.parametrize("seeds", a_few([range(3), range(3, 12)]))
@pytest.mark.parametrize("search_type, lm", SEARCHES)
def test_hypotheses_are_espnets(search_type, lm, seeds):
    for seed in seeds:
        case = make_case(seed, search_type, lm)
        same(case.ours(), case.espnets())


def test_networks_that_do_not_batch_are_asked_utterance_by_utterance(monkeypatch):
    asked, joined = [], []
    project, join = TorchNetworks.project, TorchNetworks.join

    def watched(self, encoded):
        asked.append(encoded.utterances)
        return project(self, encoded)

    def counted(self, projected, predicted):
        joined.append(len(projected))
        return join(self, projected, predicted)

    monkeypatch.setattr(TorchNetworks, "project", watched)
    monkeypatch.setattr(TorchNetworks, "join", counted)
    case = make_case(1, "tsd")
    case.ours()
    assert asked == [3] and max(joined) > case.beam_size
    monkeypatch.setattr(TorchNetworks, "batches", False)
    joined.clear()
    same(case.ours(), case.espnets())
    assert asked == [3, 1, 1, 1] and max(joined) <= case.beam_size


def sharpen(joint):
    """Scale the output so that a random model's choices are not all alike."""
    joint.lin_out.weight.data *= 12.0
    joint.lin_out.bias.data[0] += 5.0  # or a search without bounds takes minutes


def trained(root, task, lm, **choices):
    """A tiny transducer and a language model in ESPnet's files, and their bundle."""
    if task == "st":
        from espnet2.tasks.st import STTask as made_by

        config = st_config(decoder="transducer", **choices)
    elif task == "slu":
        from espnet2.tasks.slu import SLUTask as made_by

        config = task_config(made_by, decoder="transducer", **choices)
    else:
        from espnet2.tasks.asr import ASRTask as made_by

        config = asr_config(decoder="transducer", **choices)
    config["decoder_conf"] = dict(hidden_size=8)
    joint = "st_joint_net_conf" if task == "st" else "joint_net_conf"
    config[joint] = dict(joint_space_size=10)
    model = build(made_by, config, seed=2)
    sharpen(model.st_joint_network if task == "st" else model.joint_network)
    files = save(model, config, root / "model", "model.pth")
    lm_files = save(*build_lm(*lm), root / "lm", "lm.pth")
    names = dict(
        lm_train_config=str(lm_files["config"]),
        lm_file=str(lm_files["file"]),
        **{f"{task}_train_config": str(files["config"])},
        **{f"{task}_model_file": str(files["file"])},
    )
    checkpoints = Checkpoints(*files.values(), *lm_files.values())
    return names, export_bundle(task, checkpoints, root / "fp32").path


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory):
    """A transducer of task asr with a CTC beside it, and a recurrent LM."""
    lm = ("seq_rnn", dict(unit=6, nlayers=2))
    return trained(tmp_path_factory.mktemp("asr"), "asr", lm)


@pytest.fixture(scope="module")
def translator(tmp_path_factory):
    """A transducer of task st, and an LM of self-attention."""
    conf = dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=2)
    lm = ("transformer", conf)
    return trained(tmp_path_factory.mktemp("st"), "st", lm)


OPTIONS = {
    "greedy": dict(beam_size=1, transducer_conf=dict(search_type="maes")),
    "default": dict(beam_size=3, transducer_conf=None, nbest=3),
    "default_nbest": dict(beam_size=4, transducer_conf=dict(nbest=3), nbest=2),
    "tsd": dict(beam_size=4, transducer_conf=dict(search_type="tsd", max_sym_exp=3)),
    "alsd": dict(
        beam_size=5,
        transducer_conf=dict(search_type="alsd", score_norm_during=True, nbest=4),
        nbest=4,
    ),
    "nsc": dict(beam_size=4, transducer_conf=dict(search_type="nsc", nstep=2)),
    "maes": dict(
        beam_size=4,
        transducer_conf=dict(search_type="maes", nbest=9, score_norm=False),
        nbest=9,
    ),
    "mbg": dict(beam_size=4, transducer_conf=dict(search_type="mbg")),
}


def compare(theirs, ours):
    """Hold the results of ESPnet's class and ours against each other."""
    lengths = set()
    for wave in waves().values():
        expected = theirs(wave.astype(np.float32))
        for (*found, hyp), (*other, their) in zip(ours(wave), expected, strict=True):
            assert found == other
            assert hyp.yseq == their.yseq
            assert hyp.score == pytest.approx(float(their.score), abs=1e-3)
            lengths.add(len(other[2]))
    assert max(lengths) > 1


@pytest.mark.parametrize("lm_weight", [0.0, 0.4])
@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_espnets(recognizer, name, lm_weight):
    from espnet2.bin.asr_inference import Speech2Text as Theirs

    files, bundle = recognizer
    if lm_weight == 0.0:
        files = {k: v for k, v in files.items() if not k.startswith("lm")}
    options = dict(OPTIONS[name], lm_weight=lm_weight)
    with losses_left_out():
        theirs = Theirs(**files, **options)
    compare(theirs, espnet_onnx_plugin.Speech2Text(bundle, **options))


def test_translations_with_a_language_model_of_self_attention_are_espnets(translator):
    from espnet2.bin.st_inference import Speech2Text as Theirs

    from espnet_onnx_plugin.runtime.st import Speech2Text as Ours

    files, bundle = translator
    options = dict(beam_size=3, lm_weight=0.3, nbest=3)
    for conf in dict(nbest=3), dict(search_type="tsd"):
        weights = {}
        if conf.get("search_type") == "tsd":
            files = {k: v for k, v in files.items() if not k.startswith("lm")}
            weights["lm_weight"] = 0.0
        with losses_left_out():
            theirs = Theirs(**files, **{**options, **weights}, transducer_conf=conf)
        if weights == {}:
            # ESPnet leaves it in training mode: its scores are drawn by dropout.
            theirs.beam_search_transducer.lm.eval()
        ours = Ours(bundle, **{**options, **weights}, transducer_conf=conf)
        compare(theirs, ours)
    assert Ours(bundle, lm_weight=0.0).search.config == TransducerConfig()
    with pytest.raises(PluginError, match="search_type nsc is not for language models"):
        Ours(bundle, transducer_conf=dict(search_type="nsc"))
    Ours(bundle, beam_size=1, transducer_conf=dict(search_type="nsc"))


@pytest.mark.parametrize("search_type", ["default", "alsd"])
def test_files_are_espnets_and_batches_change_nothing(
    recognizer, search_type, tmp_path
):
    files, bundle = recognizer
    conf = dict(beam_size=3, lm_weight=0.3, nbest=2, ctc_weight=0.0)
    conf["transducer_conf"] = dict(search_type=search_type, nbest=2)
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(conf))
    data = write_data(tmp_path / "data")
    found = {}
    for size in 1, 3:
        out = tmp_path / f"out{size}"
        asr_inference.main(
            [
                *("--model_dir", str(bundle), "--output_dir", str(out)),
                *("--config", str(tmp_path / "decode.yaml")),
                *("--data_path_and_name_and_type", f"{data}/wav.scp,speech,sound"),
                *("--batch_size", str(size)),
            ]
        )
        found[size] = {
            f"{n}/{name}": (out / f"{n}best_recog" / name).read_text()
            for n in (1, 2)
            for name in ("text", "token", "token_int", "score")
        }
    with losses_left_out():
        from espnet2.bin.asr_inference import Speech2Text as Theirs

        theirs = Theirs(**files, **conf)
    for i, (key, wave) in enumerate(waves().items()):
        wave, _ = soundfile.read(data / f"{key}.wav")
        for n, (text, token, token_int, hyp) in enumerate(
            theirs(wave.astype(np.float32)), 1
        ):
            for size in 1, 3:
                lines = {
                    name: found[size][f"{n}/{name}"].splitlines()[i].partition(" ")[2]
                    for name in ("text", "token", "token_int", "score")
                }
                assert lines["text"] == text
                assert lines["token"] == " ".join(token)
                assert lines["token_int"] == " ".join(map(str, token_int))
                score = float(lines["score"])
                assert score == pytest.approx(float(hyp.score), abs=1e-3)


def test_checks_use_every_graph(recognizer):
    _, bundle = recognizer
    bundle = read_bundle(bundle)
    compared = RecognitionEvaluator().compare(bundle, bundle, Device())
    assert compared.identical == compared.utterances > 0
    assert not compared.not_compared
    assert set(compared.differences) == {"encoder", "decoder", "joint", "lm"}


def test_tokens_have_times_by_the_ctc_beside(recognizer):
    _, bundle = recognizer
    speech2text = espnet_onnx_plugin.Speech2Text(bundle, beam_size=1, ctm=True)
    [(_, token, _, hyp)] = speech2text(waves(4)["utt3"])
    assert [span.text for span in hyp.times] == token and len(token) > 0
    assert speech2text.timing.decoder > 0 == speech2text.timing.lm


def test_a_language_model_that_greedy_search_does_not_ask_is_told(recognizer, caplog):
    _, bundle = recognizer
    speech2text = espnet_onnx_plugin.Speech2Text(bundle, beam_size=1, lm_weight=0.3)
    assert "LM is provided but not used" in caplog.text
    assert set(speech2text.search.scorers) == {"decoder", "joint"}


@pytest.mark.parametrize(
    "conf, message",
    [
        (dict(search_type="best"), "search_type 'best' is none of default, tsd, alsd"),
        (dict(beam=3), "unknown key 'beam'; known: search_type, max_sym_exp, u_max"),
        (dict(nstep=1.5), "nstep is not a whole number: 1.5"),
        (dict(nbest=0), "nbest 0 must be 1 or more"),
        (dict(max_sym_exp=0), "max_sym_exp 0 must be 1 or more"),
        (dict(expansion_gamma=-1.0), "expansion_gamma -1.0 must not be negative"),
        (dict(search_type="maes", expansion_beta=99), "expansion_beta 99 are more"),
    ],
)
def test_options_that_cannot_be_met_are_named(recognizer, conf, message):
    _, bundle = recognizer
    with pytest.raises(PluginError, match=message) as e:
        espnet_onnx_plugin.Speech2Text(bundle, beam_size=4, transducer_conf=conf)
    assert "\n" not in str(e.value)


def test_the_commands_take_transducer_conf(tmp_path):
    for command in asr_inference, st_inference, slu_inference:
        needed = ["--model_dir", "m", "--output_dir", "o"]
        needed += ["--data_path_and_name_and_type", "wav.scp,speech,sound"]
        args = command.COMMAND.get_parser().parse_args(
            [*needed, "--transducer_conf", "search_type=maes,nstep=3"]
        )
        assert args.transducer_conf == dict(search_type="maes", nstep=3)
