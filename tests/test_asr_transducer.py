"""Stand-alone transducers (``asr.sh --asr_task asr_transducer``): graphs and search."""

import copy

import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import (
    RATE,
    TOKENS,
    a_few,
    build,
    build_lm,
    configurations,
    save,
    task_config,
    waves,
    write_data,
)
from espnet2.asr_transducer.beam_search_transducer import BeamSearchTransducer
from espnet2.asr_transducer.joint_network import JointNetwork
from espnet2.bin.asr_transducer_inference import Speech2Text as Reference
from espnet2.bin.asr_transducer_inference import main as reference_main
from espnet2.tasks.asr_transducer import ASRTransducerTask, decoder_choices
from test_transducer import LMS, TorchLM, TorchNetworks

from espnet_onnx_plugin.bin.asr_transducer_inference import main
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archs.rwkv_transducer_decoder import kernel_left_out
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.registry import all_archs, find
from espnet_onnx_plugin.export.tasks.asr_transducer import ASRTransducerExporter
from espnet_onnx_plugin.runtime.asr_transducer import Speech2Text
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.core.values import pad
from espnet_onnx_plugin.runtime.recognition.engine import TooShortUttError
from espnet_onnx_plugin.runtime.search.transducer_stand_alone import (
    StandAloneConfig,
    StandAloneSearch,
)

CONFORMER = dict(
    block_type="conformer",
    hidden_size=8,
    linear_size=12,
    heads=2,
    conv_mod_kernel_size=3,
)

#: Where an utterance changes with the batch around it, in ESPnet too: a convolution
#: with a stride takes its positions from the batch's end on.
MIXES_BATCHES = {("conv1d", "before_conformer")}


def config_of(**choices):
    """A training configuration with tiny sizes."""
    config = task_config(
        ASRTransducerTask,
        **dict(
            decoder="rnn",
            decoder_conf=dict(embed_size=6, hidden_size=8),
            encoder_conf=dict(body_conf=[CONFORMER]),
            joint_network_conf=dict(joint_space_size=8),
            model_conf={},
        )
        | choices,
    )
    del config["encoder"]  # the task has no such choice
    return config


def written(root, seed=1, blank=10.0, **choices):
    """A model that training left, see :func:`config_of`.

    Args:
        blank: what is added to its score, so that not every frame makes a label.
    """
    config = config_of(**choices)
    with kernel_left_out():
        # ESPnet writes into the settings that it builds from.
        model = build(ASRTransducerTask, copy.deepcopy(config), seed)
    # So that a random model's choices are not all alike, and most are the blank.
    for layer in model.joint_network.children():
        if isinstance(layer, torch.nn.Linear):
            layer.weight.data *= 6.0
    model.joint_network.lin_out.bias.data[0] += blank
    return save(model, config, root, "model.pth")


def exported(files, path, lm=None):
    more = () if lm is None else (lm["config"], lm["file"])
    files = Checkpoints(files["config"], files["file"], *more)
    return export_bundle("asr_transducer", files, path)


def reference(files, lm=None, **options):
    """ESPnet's own inference."""
    if lm is not None:
        options.update(lm_train_config=lm["config"], lm_file=lm["file"])
    with kernel_left_out():
        return Reference(files["config"], files["file"], **options)


@pytest.fixture(scope="module", autouse=True)
def no_streams():
    """Leave out the graphs for streams, whose tests are a module of their own."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ASRTransducerExporter, "wrap_stream", lambda _: None)
        yield


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    root = tmp_path_factory.mktemp("transducer")
    files = written(root / "asr")
    model, config = build_lm("seq_rnn", dict(unit=8, nhid=10, nlayers=2))
    model.lm.decoder.weight.data *= 4.0
    lm = save(model, config, root / "lm", "lm.pth")
    bundle = exported(files, root / "fp32", lm)
    return dict(root=root, files=files, lm=lm, bundle=bundle.path)


def same(ours, theirs):
    """Hold hypotheses against ESPnet's, in their order."""
    assert [list(h.yseq) for h in ours] == [list(h.yseq) for h in theirs]
    for mine, other in zip(ours, theirs):
        assert mine.score == pytest.approx(float(other.score), abs=1e-3)


def compare(bundle, files, lm=None, least=2, count=4, **options):
    """Decode as ESPnet does, one by one and in a batch."""
    theirs = reference(files, lm, **options)
    if lm is None:
        options.update(lm_weight=0.0)
    ours = Speech2Text(bundle, **options)
    speech = [wave.astype(np.float32) for wave in waves(count).values()]
    expected = [theirs(one) for one in speech]
    for one, hypotheses in zip(speech, expected):
        same(ours(one), hypotheses)
    batch = ours.batch([ours.prepare(one) for one in speech])
    for results, hypotheses in zip(batch, expected):
        same([r.hypothesis for r in results], hypotheses)
    lengths = {len(hypotheses[0].yseq) for hypotheses in expected}
    assert max(lengths) > least, "ESPnet finds hardly any labels"
    return expected


def random_search(seed, search_type, lm):
    """ESPnet's search with random networks, ours, and utterances for them."""
    random = np.random.default_rng([seed, *search_type.encode(), *lm.encode()])
    torch.manual_seed(seed)
    vocabulary = int(random.integers(5, 30))
    decoder = decoder_choices.get_class("rnn")(
        vocabulary,
        rnn_type=str(random.choice(["lstm", "gru"])),
        num_layers=int(random.integers(1, 3)),
        hidden_size=7,
    ).eval()
    decoder.embed.weight.data *= 2.0
    joint = JointNetwork(vocabulary, 6, 7, joint_space_size=9).eval()
    joint.lin_out.weight.data *= float(random.choice([2.0, 8.0]))
    joint.lin_out.bias.data[0] += float(random.choice([1.0, 2.5]))
    conf = dict(
        search_type=search_type,
        score_norm=bool(random.integers(2)),
        max_sym_exp=int(random.integers(2, 4)),
        u_max=int(random.choice([0, 3, 50])),
        nstep=int(random.integers(1, 4)),
        expansion_gamma=float(random.choice([0.5, 2.3])),
        expansion_beta=int(random.integers(0, 3)),
    )
    beam_size, nbest = map(int, random.integers((1, 1), (9, 5)))
    beam_size = min(beam_size, vocabulary - 1 - conf["expansion_beta"])
    frames = random.integers(1, 16, size=3)
    if search_type == "default":
        # ESPnet's search has no end where many labels are as good as the blank.
        joint.lin_out.weight.data *= 0.5
        joint.lin_out.bias.data[0] += 5.0
        beam_size, frames = min(beam_size, 4), frames // 2 + 1
    if search_type == "maes" and beam_size > 3:
        # ESPnet asks for every hypothesis, of which there can be thousands.
        conf["nstep"] = min(conf["nstep"], 2)
    model = LMS[lm] and LMS[lm](vocabulary).eval()
    if model is not None:
        model.decoder.weight.data *= 3.0
    weight = float(random.choice([0.1, 0.4]))
    theirs = BeamSearchTransducer(
        decoder, joint, beam_size, model, weight, nbest=nbest, **conf
    )
    ours = StandAloneSearch(
        StandAloneConfig(**conf),
        TorchNetworks(decoder, joint),
        Transducer(blank=0, sos=vocabulary - 1),
        beam_size,
        [*map(str, range(vocabulary))],
        model and TorchLM(model),
        weight,
        nbest,
    )
    utterances = [
        2.0 * random.standard_normal((count, 6)).astype(np.float32) for count in frames
    ]
    return theirs, ours, utterances


def same_in_a_batch(seed, search_type, lm):
    """Hypotheses of random networks, of utterances in a batch and in ESPnet alone."""
    theirs, ours, utterances = random_search(seed, search_type, lm)
    frames = np.array([len(one) for one in utterances])
    batch = Encoded(encoder_out=pad(utterances), encoder_out_lens=frames)
    with torch.no_grad():
        for found, one in zip(ours(batch), utterances, strict=True):
            same(found, theirs(torch.tensor(one)))


@pytest.mark.parametrize("seeds", a_few([range(3), range(3, 12)]))
@pytest.mark.parametrize("lm", ["none", "lstm", "gru"])
@pytest.mark.parametrize("search_type", ["default", "tsd", "alsd", "maes"])
def test_hypotheses_are_espnets(search_type, lm, seeds):
    for seed in seeds:
        same_in_a_batch(seed, search_type, lm)


@pytest.mark.espnet
@pytest.mark.parametrize("with_lm", [False, True], ids=["alone", "lm"])
@pytest.mark.parametrize("search_type", ["default", "tsd", "alsd", "maes"])
def test_speech_is_recognized_as_by_espnet(tiny, search_type, with_lm):
    lm = tiny["lm"] if with_lm else None
    options = dict(beam_search_config=dict(search_type=search_type), nbest=3)
    if with_lm:
        options.update(lm_weight=0.4, least=1)
    # ESPnet's default has no bound, and takes minutes with random weights.
    beam = 1 if search_type == "default" else 3
    compare(tiny["bundle"], tiny["files"], lm, beam_size=beam, **options)


@pytest.mark.parametrize(
    "name", ["gru_layers", "embedding", *a_few(["simple", "rotary", "rescaled"])]
)
def test_decoder_is_espnets(name, tmp_path):
    [arch] = (
        arch
        for arch in all_archs()
        if arch.role == "transducer_decoder" and name in arch.tiny
    )
    decoder = dict(decoder=arch.name, decoder_conf=dict(arch.tiny[name]))
    # Mega's random predictions hardly vary: one that says something.
    says = dict(seed=3, blank=7.0) if arch.name == "mega" else {}
    files = written(tmp_path / "asr", **says, **decoder)
    bundle = exported(files, tmp_path / "fp32")
    compare(bundle, files, beam_size=1, count=3)
    if arch.name == "mega":  # ESPnet's batches of other searches change its results
        with pytest.raises(PluginError, match="search_type tsd.*use default"):
            Speech2Text(bundle, beam_search_config=dict(search_type="tsd"))
    else:
        tsd = dict(beam_search_config=dict(search_type="tsd"))
        compare(bundle, files, beam_size=4, count=3, least=1, **tsd)


@pytest.mark.parametrize("kind, name", configurations("transducer_block"))
def test_encoder_is_espnets(kind, name, tmp_path):
    """The export compares every graph with PyTorch, on noise of several lengths."""
    conf = copy.deepcopy(find("transducer_block", kind).tiny[name])
    decoder = dict(decoder="stateless", decoder_conf=dict(embed_size=8))
    files = written(tmp_path / "asr", encoder_conf=conf, **decoder)
    bundle = exported(files, tmp_path / "fp32")
    assert 0 < bundle.manifest.checks["parity"]["encoder"] <= 1e-4
    # Where an utterance has what it has alone, it is not asked alone.
    mixes = (kind, name) in MIXES_BATCHES
    assert bundle.manifest.graphs["encoder"].batches != mixes
    # One frame less is too short for ESPnet's encoder, or for its convolutions.
    shortest = bundle.manifest.speech.min_length
    theirs, ours = reference(files, beam_size=1), Speech2Text(bundle, beam_size=1)
    speech = waves(1)["utt0"].astype(np.float32)
    same(ours(speech[:shortest]), theirs(speech[:shortest]))
    with pytest.raises(TooShortUttError):
        ours(speech[: shortest - 1])
    with pytest.raises(Exception, match="too short|[Kk]ernel|greater than"):
        theirs(speech[: shortest - 40])


def test_results_are_espnets(tiny):
    speech = waves(1)["utt0"].astype(np.float32)
    options = dict(beam_size=3, nbest=2, beam_search_config=dict(search_type="tsd"))
    theirs = reference(tiny["files"], **options)
    options.update(lm_weight=0.0)
    ours = Speech2Text(tiny["bundle"], **options)
    hypotheses = ours(speech)
    expected = theirs.hypotheses_to_results(theirs(speech))
    results = ours.hypotheses_to_results(hypotheses)
    assert [r[:3] for r in results] == [r[:3] for r in expected]
    assert [r.hypothesis for r in results] == hypotheses
    decoded = Speech2Text(tiny["bundle"], return_decoded_hyp=True, **options)
    assert [r[:3] for r in decoded(speech)] == [r[:3] for r in results]


def test_command_writes_what_espnet_writes(tiny, tmp_path):
    data = write_data(tmp_path / "data")
    soundfile.write(tmp_path / "short.wav", np.zeros(60), RATE)  # too short
    with open(data / "wav.scp", "a", encoding="utf-8") as f:
        f.write(f"short {tmp_path / 'short.wav'}\n")
    config = dict(
        beam_size=4,
        nbest=2,
        lm_weight=0.4,
        beam_search_config=dict(search_type="maes", nstep=2),
    )
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(config))
    common = ["--config", str(tmp_path / "decode.yaml")]
    common += ["--data_path_and_name_and_type", f"{data / 'wav.scp'},speech,sound"]
    files, lm = tiny["files"], tiny["lm"]
    names = ("asr_train_config", "asr_model_file", "lm_train_config", "lm_file")
    paths = (files["config"], files["file"], lm["config"], lm["file"])
    given = [w for n, p in zip(names, paths) for w in (f"--{n}", str(p))]
    with kernel_left_out():
        reference_main([*common, *given, "--output_dir", str(tmp_path / "espnet")])
    bundle = ["--model_dir", str(tiny["bundle"]), "--batch_size", "3"]
    main([*common, *bundle, "--output_dir", str(tmp_path / "ours")])
    for n in ("1best_recog", "2best_recog"):
        for name in ("token", "token_int", "text"):
            ours = (tmp_path / "ours" / n / name).read_text()
            assert ours == (tmp_path / "espnet" / n / name).read_text()
            assert ours.count("\n") == 5
        scores = [
            [float(line.split()[1]) for line in open(tmp_path / who / n / "score")]
            for who in ("ours", "espnet")
        ]
        np.testing.assert_allclose(*scores, atol=1e-3)


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(beam_size=0), "beam_size 0"),
        (dict(beam_size=99), "beam_size 99 is more than.*30 tokens"),
        (dict(beam_search_config=dict(search_type="nsc")), "search_type.*nsc"),
        (dict(beam_search_config=dict(prefix_alpha=1)), "prefix_alpha"),
        (
            dict(beam_search_config=dict(search_type="tsd", max_sym_exp=1)),
            "max_sym_exp 1",
        ),
        (
            dict(beam_search_config=dict(search_type="alsd", streaming=True)),
            "alsd is not for streaming",
        ),
        (
            dict(beam_size=29, beam_search_config=dict(search_type="maes")),
            "expansion_beta 2",
        ),
    ],
)
def test_what_cannot_be_met_is_refused(tiny, options, message):
    with pytest.raises(PluginError, match=message):
        Speech2Text(tiny["bundle"], **options)


def test_what_cannot_be_exported_is_refused(tiny, tmp_path):
    model, config = build_lm(
        "transformer", dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=1)
    )
    lm = save(model, config, tmp_path / "lm", "lm.pth")
    with pytest.raises(PluginError, match="is not a seq_rnn"):
        exported(tiny["files"], tmp_path / "fp32", lm)
    files = [tiny["files"][name] for name in ("config", "file")]
    with pytest.raises(PluginError, match="leave out --ngram_file"):
        ASRTransducerExporter(Checkpoints(*files, ngram_file=files[1]))
    known = yaml.safe_load(files[0].read_text())
    other_block = dict(body_conf=[dict(CONFORMER, block_type="other")])
    for change, message in (
        (dict(decoder="other"), "decoder 'other'.*mega, rnn, rwkv, stateless"),
        (dict(encoder_conf=other_block), "block 'other'.*branchformer, conformer"),
    ):
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump({**known, **change}))
        with pytest.raises(PluginError, match=message):
            exported(dict(config=config, file=files[1]), tmp_path / "fp32")


def test_attention_in_chunks_of_labels_is_refused():
    decoder = decoder_choices.get_class("mega")(len(TOKENS), chunk_size=4)
    with pytest.raises(PluginError, match="'mega' with chunk_size 4.*only -1"):
        find("transducer_decoder", "mega").wrap(decoder, torch.nn.Linear(1, 1))


def test_features_without_a_frontend(tmp_path):
    choices = dict(frontend=None, frontend_conf={}, input_size=20)
    files = written(tmp_path / "asr", **choices)
    bundle = exported(files, tmp_path / "fp32")
    assert bundle.manifest.speech.kind == "features"
    theirs = reference(files, beam_size=1)
    ours = Speech2Text(bundle, beam_size=1)
    random = np.random.default_rng(0)
    for frames in (30, 71):
        feats = random.standard_normal((frames, 20)).astype(np.float32)
        same(ours(feats), theirs(feats))
