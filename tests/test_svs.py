"""Singing voice synthesis: every model and option against ESPnet's own inference."""

import functools
import json
import re
from unittest import mock

import nltk
import numpy as np
import pytest
import soundfile
import torch
import yaml
from conftest import RATE, configurations, run_readme, save_svs
from sweeping.build import randomize

from espnet_onnx_plugin.bin import export, optimize, quantize, svs_inference
from espnet_onnx_plugin.bundle import ScoreInputs, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.layers.draws import dropouts_are_of_mkl
from espnet_onnx_plugin.export.parity.synthesis import compare_outputs
from espnet_onnx_plugin.export.parity.tolerance import TOLERANCE
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.runtime.svs import SingingGenerate, tokens_by_frame
from espnet_onnx_plugin.runtime.synthesis.score import (
    SLUR,
    Label,
    Note,
    Score,
    label_of_song,
    phones_of_song,
    read_label,
    read_score,
    score_of_song,
)
from espnet_onnx_plugin.runtime.synthesis.songs import made_up_song
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

#: Models of this file; others make waveforms themselves.
MODELS = [
    case
    for case in configurations("svs")
    if case.values[0] in ("naive_rnn", "naive_rnn_dp", "xiaoice", "toksing")
]

#: What the tiny models read besides a score, by name.
OTHERS = dict(
    sids=np.array([1]),
    lids=np.array([1]),
    spembs=np.random.default_rng(1).standard_normal(5).astype(np.float32),
    discrete_token=np.arange(60) % 12,
)


def song(notes=7, seed=0):
    """A song whose phones are letters."""
    random = np.random.default_rng(seed)
    return made_up_song(
        [*"abcdef"], random.integers(5, 30, notes) * 8 / RATE, 70, random
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Gives a tiny model of ESPnet, ``architecture/configuration``, and its bundle."""

    @functools.cache
    def give(what, **choices):
        arch, name = what.split("/")
        files = save_svs(arch, name, tmp_path_factory.mktemp("svs"), **choices)
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("svs", checkpoints, files["file"].parent / "onnx")
        return files, bundle

    return give


def espnet(files, **options):
    """ESPnet's ``SingingGenerate``."""
    with mock.patch.object(nltk, "download"):
        from espnet2.bin.svs_inference import SingingGenerate
    return SingingGenerate(files["config"], files["file"], **options)


def inputs(bundle, **others):
    needed = bundle.manifest.synthesis.reads
    given = {name: OTHERS[name] for name in needed}
    return {"text": song(), **given, **others}


def as_espnets(given):
    """Arguments of ESPnet's class, which takes tuples, and tokens as a tensor."""
    text = {name: tuple(value) for name, value in given["text"].items()}
    given = {**given, "text": text}
    if "discrete_token" in given:
        given["discrete_token"] = torch.from_numpy(given["discrete_token"])
    return given


def sing(ours, theirs, given, seed=0):
    """Outputs of both for a song, with the same draws; ESPnet's are tensors."""
    ours.noise = Noise(seed, mkl=dropouts_are_of_mkl())
    made = ours(**given)
    torch.manual_seed(seed)
    return made, theirs(**as_espnets(given))


def agree(made, reference):
    assert set(made) == set(reference)
    nothing = {name for name, value in reference.items() if value is None}
    assert nothing == {name for name, value in made.items() if value is None}
    compare_outputs(made, reference, "the song")


def singing(samples=900):
    """A voice whose pitch goes up and down."""
    phase = 2 * np.pi * np.cumsum(180 + 60 * np.sin(np.arange(samples) / 200)) / RATE
    noise = 0.01 * np.random.default_rng(3).standard_normal(samples)
    wave = sum(np.sin(k * phase) / k for k in range(1, 5))
    return (0.1 * wave + noise).astype(np.float32)


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", MODELS)
def test_a_model_sings_as_in_espnet(arch, name, exported):
    files, bundle = exported(f"{arch}/{name}")
    parity = bundle.manifest.checks["parity"]
    assert all(0 <= figure <= TOLERANCE for figure in parity.values())
    ours, theirs = SingingGenerate(bundle), espnet(files)
    assert ours.fs is theirs.fs is None
    assert not ours.use_speech
    for name in ("sids", "lids", "spembs"):
        assert getattr(ours, f"use_{name}") == getattr(theirs, f"use_{name}")
    frames = set()
    for notes in (4, 11):
        given = inputs(bundle, text=song(notes, seed=notes))
        made, reference = sing(ours, theirs, given)
        agree(made, reference)
        frames.add(len(made["feat_gen"]))
        numbers = ours.prepare(dict(given))
        again = ours(**numbers)
        assert all(np.array_equal(again[name], made[name]) for name in made)
    assert len(frames) == 2


FORCED = dict(use_teacher_forcing=True)


@pytest.mark.espnet
@pytest.mark.parametrize("arch, name", MODELS)
def test_teacher_forcing_is_espnets(arch, name, exported):
    files, bundle = exported(f"{arch}/{name}")
    ours, theirs = SingingGenerate(bundle, **FORCED), espnet(files, **FORCED)
    given = inputs(bundle)
    for model, arguments in ((ours, given), (theirs, as_espnets(given))):
        with pytest.raises(RuntimeError, match="^missing required argument: 'singing"):
            model(**arguments)
    given["singing"] = singing()
    made, reference = sing(ours, theirs, given)
    agree(made, reference)
    if "logits" in made:  # tokens are those of the singing
        assert np.array_equal(made["feat_gen"][:, 0], given["discrete_token"])
        assert made["pitch"].any()


@pytest.mark.espnet
def test_a_score_without_labels_is_sung_as_in_espnet(exported):
    files, bundle = exported("naive_rnn_dp/add")
    score = song()["score"]
    phones = [phone for note in score.notes for phone in note.phones.split("_")]
    ours, theirs = SingingGenerate(bundle), espnet(files)
    text = {"score": score, "text": " ".join(phones)}
    given = inputs(bundle, text=text)
    made = ours(**given)
    reference = theirs(**{**given, "text": {**text, "score": tuple(score)}})
    agree(made, reference)
    ids = ours.converter.tokens2ids(phones)
    for same in (phones, ids, np.array(ids)):
        again = ours(**{**given, "text": {"score": score, "text": same}})
        assert np.array_equal(again["feat_gen"], made["feat_gen"])
    text["text"] = "a b"
    with pytest.raises(PluginError, match="^the text has 2 phones, the score"):
        ours(**{**given, "text": text})
    for model in ("xiaoice/transformer", "naive_rnn/add"):
        given["text"]["text"] = " ".join(phones)
        with pytest.raises(PluginError, match="give label too"):
            SingingGenerate(exported(model)[1])(**given)


@pytest.mark.espnet
@pytest.mark.parametrize(
    "what, kind",
    [("naive_rnn/add", "syllable"), ("naive_rnn_dp/add", "frame")],
)
def test_either_features_of_scores_are_espnets(what, kind, exported):
    files, bundle = exported(what, score_feats_extract=f"{kind}_score_feats")
    repeated = bundle.manifest.synthesis.score.repeated_by
    assert (repeated is None) == (kind == "syllable")
    agree(*sing(SingingGenerate(bundle), espnet(files), inputs(bundle)))


def random_song(random):
    """Notes that need not fit frames; with rests, slurs and times as integers."""
    notes, times, names = [], [], []
    now = float(random.random())
    for _ in range(int(random.integers(1, 12))):
        length = float(random.choice([0.5, 0.25, 1, random.random()]))
        count = int(random.integers(1, 5))
        phones = [str(p) for p in random.choice([*"abcdefgh", "?"], count)]
        syllable = SLUR if random.random() < 0.3 else "".join(phones)
        midi = float(random.integers(0, 128)) if random.random() < 0.5 else 60
        notes.append(Note(now, now + length, syllable, midi, "_".join(phones)))
        for phone in phones:
            end = now + length * float(random.random())
            times.append((now, end))
            names.append(phone)
            now = end
        now = notes[-1].end + (0 if random.random() < 0.7 else 0.1)
    return Score(int(random.integers(60, 200)), notes), Label(np.array(times), names)


@pytest.mark.parametrize("fs, hop_length", [(24000, 300), (44100, 512), (8000, 8)])
def test_phones_are_those_of_espnets_preprocessor(fs, hop_length):
    from espnet2.train.preprocessor import SVSPreprocessor

    tokens = ["<blank>", "<unk>", *"abcdefg", "<sos/eos>"]
    preprocess = SVSPreprocessor(
        False,
        token_type="phn",
        token_list=tokens,
        g2p_type=None,
        fs=fs,
        hop_length=hop_length,
    )
    read = ScoreInputs(fs, hop_length, {})

    def ids(names):
        return [tokens.index(n) if n in tokens else 1 for n in names]

    random = np.random.default_rng(fs)
    slurs = 0
    for _ in range(100):
        score, label = random_song(random)
        names = list(label.phones)
        theirs = preprocess(
            "song", dict(score=tuple(score), label=(label.times, names), text="a")
        )
        ours = phones_of_song(score, label, ids, read)
        for name, value in vars(ours).items():
            assert value.dtype == np.int64
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        text = " ".join(names)
        theirs = preprocess("song", dict(score=tuple(score), text=text))
        ours = phones_of_song(score, None, np.array(ids(names)), read)
        for name, value in vars(ours).items():
            np.testing.assert_array_equal(value, theirs[name], err_msg=name)
        slurs += ours.slur.sum()
    assert slurs


def test_frames_are_those_of_espnets_features():
    from espnet2.svs.feats_extract.score_feats_extract import expand_to_frame

    score, label = random_song(np.random.default_rng(5))
    names = {"label": 99, "midi": 128, "duration_phn": 10**6}
    read = ScoreInputs(8000, 80, names, "duration_phn")
    phones = phones_of_song(score, label, lambda n: [ord(c) % 99 for c in n], read)
    ours = phones.tensors(read)
    as_tensors = {n: torch.from_numpy(getattr(phones, n))[None] for n in names}
    duration = as_tensors["duration_phn"]
    label, _, midi, _, repeated, _ = expand_to_frame(
        duration,
        torch.tensor([duration.size(1)]),
        as_tensors["label"],
        as_tensors["midi"],
        duration,
    )
    for name, theirs in zip(names, (label, midi, repeated)):
        assert np.array_equal(ours[name], theirs[0].numpy())


@pytest.mark.parametrize("mix_type", ["frame", "sequence"])
def test_tokens_of_a_frame_are_side_by_side(mix_type):
    tokens = np.arange(12)[:, None]
    ours = tokens_by_frame(tokens, 3, mix_type)
    theirs = torch.from_numpy(tokens)  # as in svs_inference
    if mix_type == "frame":
        theirs = theirs.view(-1, 3)
    else:
        theirs = theirs.view(3, -1).transpose(0, 1)
    assert np.array_equal(ours, theirs.numpy())
    with pytest.raises(PluginError, match="12 tokens are no whole frames of 5"):
        tokens_by_frame(tokens, 5, mix_type)


GOOD = [0.0, 0.25, "a", 60, "a"]


@pytest.mark.parametrize(
    "score, message",
    [
        (120, "score has to be a tempo and notes of five values"),
        ((120, [GOOD[:4]]), "score has to be a tempo and notes of five values"),
        ((120, []), "the score has no note"),
        ((120, [["0", *GOOD[1:]]]), "note 1: start, end and midi have to be numbers"),
        ((120, [GOOD, [0.5, 0.25, "a", 60, "a"]]), "note 2 from 0.5 to 0.25 s"),
        ((120, [[0.0, np.nan, "a", 60, "a"]]), "note 1 from 0.0 to nan s"),
        ((120, [[0.0, 0.5, "a", 60, "a_b_c_d_e"]]), "note 1 has 5 phones, a_b_c_d_e"),
    ],
)
def test_a_score_that_cannot_be_sung_is_refused(score, message):
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        score_of_song(score)


@pytest.mark.parametrize(
    "label, message",
    [
        (7, "label has to be times"),
        ((np.zeros((3, 2)), "ab"), "label has times of shape (3, 2) for 2 phones"),
        ((np.array([[0.2, 0.1]]), "a"), "phone 1 of the label ends before it starts"),
    ],
)
def test_a_label_that_cannot_be_sung_is_refused(label, message):
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        label_of_song(label)


def test_what_a_model_cannot_take_is_refused(exported):
    files, bundle = exported("naive_rnn_dp/add")
    ours = SingingGenerate(bundle)
    given = inputs(bundle)
    text = given["text"]
    short = Label(text["label"].times[1:], text["label"].phones[1:])
    other = Label(text["label"].times, ["f", *text["label"].phones[1:]])
    for song_, message in (
        ({"score": text["score"]}, "a song needs score, and label or text"),
        ({"label": text["label"]}, "a song needs score, and label or text"),
        ({**text, "label": short}, "phone [12] is|the label has"),
        ({**text, "label": other}, "phone 1 is 'f' in the label and"),
    ):
        with pytest.raises(PluginError, match=message):
            ours(**{**given, "text": song_})
    numbers = ours.prepare(dict(given))
    for change, message in (
        (dict(midi=numbers["midi"] + 100), "midi has 1.., the model knows 0 to 128"),
        (dict(label=numbers["label"] - 9), "label has -., the model knows 0 to 29"),
        (dict(midi=numbers["midi"][1:]), "numbers of midi are given for"),
        (dict(midi=[0.5]), "midi has to be integers"),
        (dict(sids=[3]), "sids has to be one id from 0 to 2"),
    ):
        with pytest.raises(PluginError, match=message):
            ours(**{**numbers, **change})
    with pytest.raises(RuntimeError, match="Missing required argument: 'slur'"):
        ours(**{**numbers, "slur": None})
    del given["sids"]
    for model, arguments in ((ours, given), (espnet(files), as_espnets(given))):
        with pytest.raises(RuntimeError, match="Missing required argument: 'sids'"):
            model(**arguments)
    naive = SingingGenerate(exported("naive_rnn/add")[1])
    none = dict(numbers, duration_phn=0 * numbers["duration_phn"])
    with pytest.raises(PluginError, match="duration_phn is 0 frames in all"):
        naive(**none)


@pytest.mark.parametrize(
    "choices, message",
    [
        (dict(svs="singing_tacotron"), "svs 'singing_tacotron' is not supported: ESP"),
        (dict(svs="nonesuch"), "svs 'nonesuch' is not supported (supported: "),
        (dict(use_preprocessor=False), "use_preprocessor: false is not supported"),
        (dict(feats_extract_conf={}), "feats_extract_conf has no hop_length"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_configuration_that_cannot_sing_is_refused(
    choices, message, exported, tmp_path
):
    files, _ = exported("naive_rnn/add")
    config = yaml.safe_load(files["config"].read_text()) | choices
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    checkpoints = Checkpoints(tmp_path / "config.yaml", files["file"])
    with pytest.raises(PluginError, match=f"^{re.escape(message)}"):
        export_bundle("svs", checkpoints, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    "conf, choices, message",
    [
        (dict(use_discrete_token=False), {}, "toksing with one of use_discrete_token"),
        ({}, dict(model_type="svs", odim=None), "needs model_type: discrete_svs"),
        ({}, dict(score_feats_extract="frame_score_feats"), "cannot sing in ESPnet"),
    ],
    ids=["half", "model_type", "frame"],
)
def test_tokens_that_espnet_cannot_sing_are_refused(conf, choices, message, tmp_path):
    tiny = {**find("svs", "toksing").tiny["tokens"], **conf}
    files = save_svs("toksing", "tokens", tmp_path, svs_conf=tiny, **choices)
    checkpoints = Checkpoints(files["config"], files["file"])
    with pytest.raises(PluginError, match=re.escape(message)):
        export_bundle("svs", checkpoints, tmp_path / "onnx")


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(mix_type="x"), "mix_type 'x' must be frame or sequence"),
        (dict(discrete_token_layers=0), "discrete_token_layers 0 must be 1 or more"),
        (dict(nonesuch=1), "nonesuch"),
    ],
)
def test_an_option_that_cannot_be_met_is_refused(options, message, exported):
    with pytest.raises(PluginError, match=message):
        SingingGenerate(exported("naive_rnn/add")[1], **options)


def test_teacher_forcing_that_espnet_cannot_do_is_refused(tmp_path):
    energy = dict(fs=RATE, n_fft=64, hop_length=8, use_token_averaged_energy=False)
    choices = dict(energy_extract="energy", energy_extract_conf=energy)
    files = save_svs("naive_rnn", "add", tmp_path, **choices)
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("svs", checkpoints, tmp_path / "onnx")
    with pytest.raises(PluginError, match="use_teacher_forcing: .* cannot be taught"):
        SingingGenerate(bundle, **FORCED)
    with pytest.raises(TypeError, match="energy"):
        espnet(files, **FORCED)(**as_espnets(inputs(bundle, singing=singing())))


def write_songs(directory, count=2, length=5):
    """Songs as a recipe's files; the options that name them."""
    directory.mkdir()
    lines = {name: [] for name in ("text", "label", "score.scp", "sids", "wav.scp")}
    for number in range(count):
        key, made = f"song{number}", song(length + number, seed=number)
        path = directory / f"{key}.json"
        notes = [list(note) for note in made["score"].notes]
        content = dict(tempo=120, item_list=["st", "et"], note=notes)
        path.write_text(json.dumps(content))
        label = made["label"]
        phones = " ".join(
            f"{start:.6f} {end:.6f} {phone}"
            for (start, end), phone in zip(label.times, label.phones)
        )
        soundfile.write(directory / f"{key}.wav", singing(), RATE)
        lines["text"].append(f"{key} {' '.join(label.phones)}")
        lines["label"].append(f"{key} {phones}")
        lines["score.scp"].append(f"{key} {path}")
        lines["sids"].append(f"{key} {number}")
        lines["wav.scp"].append(f"{key} {directory / key}.wav")
    for name, of_name in lines.items():
        (directory / name).write_text("".join(f"{line}\n" for line in of_name))
    kinds = ["text,text,text", "label,label,duration", "score.scp,score,score"]
    kinds.append("wav.scp,singing,sound")
    return [f"--data_path_and_name_and_type={directory}/{kind}" for kind in kinds]


def agree_on_files(root):
    """Hold the files of our command against those of ESPnet's."""

    def tree(name):
        folder = root / name
        return {str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file()}

    empty = {n for n in tree("espnet") if not (root / "espnet" / n).stat().st_size}
    names = tree("ours") - {"timing.jsonl", "records.jsonl"}
    assert names == tree("espnet") - empty
    for name in names:
        mine, other = root / "ours" / name, root / "espnet" / name
        if name.endswith(".npy"):
            assert np.load(mine).dtype == np.load(other).dtype
            assert difference(np.load(mine), np.load(other)) <= TOLERANCE
        elif name.endswith(".wav"):
            (wave, rate), (reference, expected) = map(soundfile.read, (mine, other))
            assert rate == expected and wave.shape == reference.shape
            assert np.abs(wave - reference).max() <= 1 / 2**15
        else:
            there = other.read_text().replace(str(root / "espnet"), "DIR")
            assert mine.read_text().replace(str(root / "ours"), "DIR") == there
    return names


@pytest.mark.espnet
@pytest.mark.parametrize("what", ["naive_rnn_dp/add", "xiaoice/transformer"])
def test_the_command_leaves_espnets_files(what, exported, tmp_path):
    pytest.importorskip("matplotlib")
    files, bundle = exported(what)
    cmd = write_songs(tmp_path / "data")
    cmd.append(f"--data_path_and_name_and_type={tmp_path}/data/sids,sids,text_int")
    cmd += ["--seed", "3", "--num_workers", "0", "--ngpu", "0"]
    with mock.patch.object(nltk, "download"):
        from espnet2.bin import svs_inference as theirs
    theirs.main(
        [
            *("--output_dir", str(tmp_path / "espnet"), *cmd),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
            *("--vocoder_checkpoint", "none", "--svs_task", "svs"),
        ]
    )
    ours = ["--output_dir", str(tmp_path / "ours"), "--model_dir", str(bundle.path)]
    none = ["--vocoder_checkpoint", "none", "--svs_task", "svs"]
    svs_inference.main([*ours, *cmd, *none])
    names = agree_on_files(tmp_path)
    assert {"norm/feats.scp", "denorm/song0.npy", "speech_shape/speech_shape"} <= names
    lines = (tmp_path / "ours/timing.jsonl").read_text().splitlines()
    timings = [json.loads(line) for line in lines]
    assert [timing["key"] for timing in timings] == ["song0", "song1"]
    frames = len(np.load(tmp_path / "ours/norm/song1.npy"))
    assert timings[1]["audio_seconds"] == pytest.approx(frames * 8 / RATE)


VOCODER = dict(
    generator_type="HiFiGANGenerator",
    generator_params=dict(
        in_channels=10,
        out_channels=1,
        channels=8,
        upsample_scales=[4, 2],
        upsample_kernel_sizes=[8, 4],
        resblock_kernel_sizes=[3],
        resblock_dilations=[[1, 3]],
    ),
    sampling_rate=16000,
    format="hdf5",
)


@pytest.mark.espnet
def test_a_vocoder_of_parallel_wavegan_is_espnets_and_quantized(
    exported, tmp_path, monkeypatch
):
    import scipy.signal
    from scipy.signal import windows

    # Of before scipy 1.13
    monkeypatch.setattr(scipy.signal, "kaiser", windows.kaiser, raising=False)
    reason = "pip install --no-build-isolation parallel_wavegan, after pytest-runner"
    models = pytest.importorskip(
        "parallel_wavegan.models", reason=reason, exc_type=ImportError
    )
    files, _ = exported("xiaoice/transformer")
    generator = models.HiFiGANGenerator(**VOCODER["generator_params"])
    randomize(torch.nn.ModuleList([generator]))
    weights = dict(model=dict(generator=generator.state_dict()))
    vocoder_file = tmp_path / "x.pkl"
    torch.save(weights, vocoder_file)
    (tmp_path / "config.yml").write_text(yaml.safe_dump(VOCODER))
    export.main(
        [
            *("--task", "svs", "--output_dir", str(tmp_path / "onnx")),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
            *("--vocoder_file", str(vocoder_file)),
        ]
    )
    bundle = read_bundle(tmp_path / "onnx")
    ours = SingingGenerate(bundle)
    theirs = espnet(files, vocoder_checkpoint=str(vocoder_file))
    assert ours.fs == theirs.fs == 16000
    made, reference = sing(ours, theirs, inputs(bundle))
    agree(made, reference)
    assert len(made["wav"]) == 8 * len(made["feat_gen"])
    pieces = list(ours.stream(**ours.prepare(inputs(bundle)), chunk=7))
    assert difference(np.concatenate(pieces), made["wav"]) <= 1e-6

    with mock.patch.object(nltk, "download"):
        from espnet2.bin import svs_inference as command
    cmd = write_songs(tmp_path / "data")
    cmd.append(f"--data_path_and_name_and_type={tmp_path}/data/sids,sids,text_int")
    command.main(
        [
            *("--output_dir", str(tmp_path / "espnet"), *cmd),
            *("--train_config", str(files["config"])),
            *("--model_file", str(files["file"])),
            *("--vocoder_checkpoint", str(vocoder_file)),
        ]
    )
    ours = ["--output_dir", str(tmp_path / "ours"), "--model_dir", str(bundle.path)]
    svs_inference.main([*ours, *cmd])
    names = agree_on_files(tmp_path)
    assert {"wav/wav.scp", "wav/song0.wav"} <= names

    # Whether it is says a machine.
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)
    made = ["--model_dir", str(bundle.path), "--output_dir"]
    cmd = write_songs(tmp_path / "long", length=30)  # a few windows of the measures
    cmd.append(f"--data_path_and_name_and_type={tmp_path}/long/sids,sids,text_int")
    quantize.main([*made, str(tmp_path / "int8"), *cmd, "--max_mcd", "30"])
    figures = read_bundle(tmp_path / "int8").manifest.checks["quantize"]
    assert 0 < figures["mcd"] < 30, figures
    strict = ["--max_mcd", "0", "--max_log_f0_rmse", "0"]
    quantize.main([*made, str(tmp_path / "strict"), *cmd, *strict])
    figures = read_bundle(tmp_path / "strict").manifest.checks["quantize"]
    assert figures["mcd"] == 0 and figures["kept"]["fp32"]


def test_a_song_that_cannot_be_sung_leaves_the_others_alone(exported, tmp_path, capsys):
    bundle = exported("naive_rnn/add")[1]
    cmd = write_songs(tmp_path / "data", 5)
    data = tmp_path / "data"
    label = (data / "label").read_text().splitlines()
    label[1] = label[1].rsplit(" ", 1)[0]  # a phone less
    (data / "label").write_text("".join(f"{line}\n" for line in label))
    (data / "song2.json").write_text("{}")
    (data / "song3.json").unlink()
    files = ["--output_dir", str(tmp_path / "out"), "--model_dir", str(bundle.path)]
    with pytest.raises(SystemExit):
        svs_inference.main([*files, *cmd])
    assert "3 of 5 utterances" in capsys.readouterr().err.splitlines()[-1]
    failed = (tmp_path / "out.incomplete/failed").read_text().splitlines()
    assert [line.split(": ")[0].split(" ", 1)[1][:13] for line in failed] == [
        "label '0.0000",
        str(data)[:13],
        str(data)[:13],
    ]
    assert failed[1].endswith("is no score: JSON with tempo and note; make it again")
    assert failed[2].endswith("No such file or directory")
    made = {f.stem for f in (tmp_path / "out.incomplete/norm").glob("*.npy")}
    assert made == {"song0", "song4"}


@pytest.mark.parametrize(
    "drop, more, message",
    [
        ("label", [], "has to name one text and one label and one score"),
        ("", ["x,singing,text"], "x,singing,text is not supported"),
        ("", ["--use_singomd", "true"], "--use_singomd True is not supported"),
        ("", ["--vocoder_checkpoint", "v.pkl"], "give it to the export"),
        ("", ["--dtype", "float64"], "--dtype float64 is not supported"),
    ],
)
def test_options_that_cannot_be_met_are_one_line(
    drop, more, message, exported, tmp_path, capsys
):
    bundle = exported("naive_rnn/add")[1]
    cmd = write_songs(tmp_path / "data")
    if drop:
        cmd = [option for option in cmd if f",{drop}," not in option]
    if more and not more[0].startswith("--"):
        more = [f"--data_path_and_name_and_type={more[0]}"]
        cmd = [option for option in cmd if "singing" not in option]
    files = ["--output_dir", str(tmp_path / "out"), "--model_dir", str(bundle.path)]
    with pytest.raises(SystemExit):
        svs_inference.main([*files, *cmd, *more])
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("svs_inference: error: ") and message in error
    assert not (tmp_path / "out").exists()


def test_scores_and_labels_of_files(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(dict(tempo=100, item_list=[], note=[GOOD])))
    assert read_score(str(path)) == (100, [Note(*GOOD)])
    times, phones = read_label("0.1 0.2 a 0.2 0.35 b")
    assert phones == ["a", "b"]
    # As ESPnet reads them.
    assert np.array_equal(times, np.float32([[0.1, 0.2], [0.2, 0.35]]).astype(float))
    for line in ("0.1 0.2", "x 0.2 a"):
        with pytest.raises(PluginError, match="^label .* is not start, end and phone"):
            read_label(line)


def test_the_readmes_example(exported):
    bundle = exported("naive_rnn/add")[1]
    got = run_readme("SingingGenerate", {"BUNDLE": bundle.path})
    assert got["made"]["feat_gen"].shape[1] == 10 and got["made"]["att_w"] is None


def test_a_singer_is_optimized_and_quantized(exported, tmp_path, capsys, monkeypatch):
    _, bundle = exported("xiaoice/transformer")
    data = write_songs(tmp_path / "data")
    data.append(f"--data_path_and_name_and_type={tmp_path}/data/sids,sids,text_int")
    files = ["--model_dir", str(bundle.path), "--output_dir"]
    optimize.main([*files, str(tmp_path / "optimized"), *data])
    assert "2 of 2 utterances (real input)" in capsys.readouterr().out
    quantize.main([*files, str(tmp_path / "int8"), *data])
    made = SingingGenerate(tmp_path / "int8")(**inputs(bundle))
    reference = SingingGenerate(bundle)(**inputs(bundle))
    assert made["feat_gen"].shape[1] == reference["feat_gen"].shape[1]
