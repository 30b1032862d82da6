"""S2T (OWSM) end to end at tiny size: ESPnet's own inference against ours."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import (
    NO_SEARCH,
    RATE,
    a_few,
    build,
    run_readme,
    save,
    sharpen,
    task_config,
    waves,
    write_data,
)

from espnet_onnx_plugin.bin import (
    export,
    s2t_inference,
    s2t_inference_ctc,
    s2t_inference_language,
)
from espnet_onnx_plugin.bin._inference import UNSUPPORTED
from espnet_onnx_plugin.bundle import (
    Bundle,
    Manifest,
    Speech,
    Text,
    describe_file,
    read_bundle,
    read_manifest,
)
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model_zoo import from_tag
from espnet_onnx_plugin.runtime import s2t_ctc
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.recognition.long_form import fixed_length
from espnet_onnx_plugin.runtime.s2t import Speech2Text
from espnet_onnx_plugin.runtime.s2t_ctc import Speech2TextGreedySearch
from espnet_onnx_plugin.runtime.s2t_language import Speech2Language
from espnet_onnx_plugin.runtime.search.timestamps import TimestampRules
from espnet_onnx_plugin.runtime.text.converter import TokenConverter

ROOT = Path(__file__).resolve().parents[1]

SECONDS = 1.0
TOKENS = [
    *("<blank>", "<unk>", "<na>", "<nospeech>"),
    *("<abk>", "<deu>", "<eng>", "<zul>", "<asr>", "<st_eng>", "<notimestamps>"),
    *(f"<{0.02 * i:.2f}>" for i in range(51)),
    *("a", "b", "c", "d", "e", "f", "g", "<space>"),
    *("<sos>", "<eos>", "<sop>"),
]
SIZES = dict(attention_heads=2, linear_units=12, num_blocks=2)
SUBSAMPLED = dict(SIZES, input_layer="conv2d")  # named: long form of 202611 reads it
E_BRANCHFORMER = dict(
    SUBSAMPLED,
    output_size=8,
    pos_enc_layer_type="abs_pos",
    attention_layer_type="selfattn",
    cgmlp_linear_units=12,
    cgmlp_conv_kernel=3,
    use_ffn=True,
    macaron_ffn=True,
    interctc_layer_idx=[1],
    gradient_checkpoint_layers=[0],
)
MODELS = {
    "transformer": dict(encoder_conf=dict(SUBSAMPLED, output_size=8)),
    "e_branchformer": dict(encoder="e_branchformer", encoder_conf=E_BRANCHFORMER),
}


def s2t_config(task, **choices):
    """A training configuration as ESPnet writes it, with tiny sizes."""
    own = dict(
        token_list=TOKENS,
        model_conf=dict(ctc_weight=0.3, sym_na="<na>"),
        preprocessor_conf=dict(
            fs=RATE,
            na_symbol="<na>",
            speech_length=SECONDS,
            speech_resolution=0.02,
            notime_symbol="<notimestamps>",
            first_time_symbol="<0.00>",
            last_time_symbol="<1.00>",
        ),
    )
    return task_config(task, **{**own, **choices})


@pytest.fixture(scope="module", params=a_few(MODELS))
def tiny(request, tmp_path_factory):
    """A tiny model on disk and its bundle."""
    from espnet2.tasks.s2t import S2TTask

    root = tmp_path_factory.mktemp(request.param)
    config = s2t_config(S2TTask, **MODELS[request.param])
    model = build(S2TTask, config)
    sharpen(model)
    files = save(model, config, root / "s2t", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("s2t", checkpoints, root / "fp32")
    return dict(root=root, files=files, bundle=bundle.path)


def espnet(tiny, **options):
    from espnet2.bin.s2t_inference import Speech2Text

    return Speech2Text(
        str(tiny["files"]["config"]), str(tiny["files"]["file"]), **options
    )


def assert_same(ours, theirs):
    if isinstance(theirs, tuple):
        assert ours[1] == theirs[1]
        ours, theirs = ours[0], theirs[0]
    assert len(ours) == len(theirs) > 0
    for (*mine, hyp), (*other, reference) in zip(ours, theirs):
        assert mine == other
        assert hyp.score == pytest.approx(float(reference.score), abs=1e-3)
        assert list(hyp.yseq) == [int(i) for i in reference.yseq]


CALLS = {
    "plain": ({}, {}),
    "joint": (dict(ctc_weight=0.3, nbest=3), dict(lang_sym="<deu>")),
    "previous": (dict(ctc_weight=0.3), dict(text_prev="ab cab")),
    "previous_ids": ({}, dict(text_prev=np.array([63, 64]), task_sym="<st_eng>")),
    "no_previous": ({}, dict(text_prev=np.array([TOKENS.index("<na>"), 64]))),
    "timed": (dict(predict_time=True, nbest=2), {}),
    "timed_after": ({}, dict(text_prev="fade", predict_time=True)),
    "penalty": (dict(penalty=0.4, normalize_length=True, nbest=3), {}),
}


@pytest.mark.parametrize("name", CALLS)
def test_results_are_espnets(tiny, name):
    options, call = CALLS[name]
    options = dict(dict(beam_size=4, maxlenratio=-12), **options)
    theirs = espnet(tiny, **options)
    ours = Speech2Text(tiny["bundle"], **options)
    # Half a second, which is padded, to one and a bit, which is cut.
    for wave in list(waves(4).values())[::2]:
        assert_same(ours(wave, **call), theirs(wave.astype(np.float32), **call))


def test_a_batch_of_primers_gives_what_each_gives_alone(tiny):
    ours = Speech2Text(tiny["bundle"], beam_size=3, maxlenratio=-10)
    primers = [
        ours.primer("abc", predict_time=True),
        ours.primer(lang_sym="<zul>"),
        ours.primer("a"),
    ]
    prepared = [ours.prepare(wave) for wave in waves(3).values()]
    together = ours.batch(prepared, primers)
    for speech, primer, result in zip(prepared, primers, together):
        [alone] = ours.batch([speech], [primer])
        assert_same(result, alone)


def noise(seconds, *channels):
    random = np.random.default_rng(5)
    shape = (int(seconds * RATE), *channels)
    return (0.2 * random.standard_normal(shape)).astype(np.float32)


@pytest.mark.parametrize("previous", (False, True))
def test_long_speech_is_espnets(tiny, previous):
    options = dict(beam_size=3, maxlenratio=-16)
    theirs, ours = espnet(tiny, **options), Speech2Text(tiny["bundle"], **options)
    speech = noise(3.3, 1)
    call = dict(
        condition_on_prev_text=previous,
        init_text="ab" if previous else None,
        end_time_threshold="<0.70>",
        lang_sym="<deu>",
    )
    segments = ours.decode_long(speech, **call)
    assert segments == theirs.decode_long(speech, **call)
    assert len(segments) > 3


def test_long_speech_is_read_from_a_file(tiny, tmp_path):
    ours = Speech2Text(tiny["bundle"], beam_size=2, maxlenratio=-8)
    speech = noise(1.5)
    soundfile.write(tmp_path / "long.wav", speech, RATE, "FLOAT")
    soundfile.write(tmp_path / "other.wav", speech, 2 * RATE, "FLOAT")
    call = dict(end_time_threshold="<0.70>")
    segments = ours.decode_long(tmp_path / "long.wav", **call)
    assert segments == ours.decode_long(speech, **call)
    assert next(ours.iter_long(str(tmp_path / "long.wav"), **call)) == segments[0]
    with pytest.raises(PluginError, match="sampled at 16000 Hz"):
        ours.decode_long(tmp_path / "other.wav", **call)


def release(tiny):
    """How the installed ESPnet decodes, which exported the bundle."""
    return conventions(read_manifest(tiny["bundle"]).espnet)


def changed(tiny, **search):
    """The bundle with other settings of preprocessor_conf."""
    bundle = read_bundle(tiny["bundle"])
    known = {k: v for k, v in search.items() if not k.endswith("_symbol")}
    search = dataclasses.replace(bundle.manifest.search, **known)
    return Bundle(bundle.path, dataclasses.replace(bundle.manifest, search=search))


def scripted(windows):
    """A call that gives each window tokens (seconds and letters), and its arguments."""
    given = []

    def call(speech, text_prev=None, lang_sym=None, task_sym=None, predict_time=None):
        script = windows[min(len(given), len(windows) - 1)]
        names = [f"<{one:.2f}>" if isinstance(one, float) else one for one in script]
        ids = [TOKENS.index(name) for name in ("<eng>", "<asr>", *names)]
        given.append((len(speech), text_prev, predict_time))
        assert len(given) < 99
        return [(None, [], ids, None, None)]

    return call, given


PAIRS = [0.0, "a", 0.5, 0.5, "b", 0.68]
CUT_OFF = [0.02, "c", 0.2, 0.3, "d", 0.62, 0.64, "e", 0.98]
WINDOWS = {
    "pairs": [PAIRS],
    "cut_off": [CUT_OFF, PAIRS],
    "one_start": [[0.12, "a", "b"], PAIRS],
    "odd": [[0.0, "a", 0.4, 0.6, "b"], CUT_OFF],
}


def windows_of(tiny, monkeypatch, windows, search=None, **how):
    """Segments and calls of both for long speech of scripted windows."""
    search = search or {}
    theirs = espnet(tiny, beam_size=2)
    theirs.preprocessor_conf = {**theirs.preprocessor_conf, **search}
    ours = Speech2Text(changed(tiny, **search), beam_size=2)
    call, mine = scripted(windows)
    with monkeypatch.context() as patch:
        patch.setattr(Speech2Text, "__call__", lambda self, *a, **k: call(*a, **k))
        segments = ours.decode_long(noise(2.71), **how)
    theirs.__call__, others = scripted(windows)
    return (segments, mine), lambda: (theirs.decode_long(noise(2.71), **how), others)


@pytest.mark.parametrize("previous", (False, True))
@pytest.mark.parametrize("name", WINDOWS)
def test_windows_are_espnets(tiny, monkeypatch, name, previous):
    call = dict(condition_on_prev_text=previous, init_text="f" if previous else None)
    call["end_time_threshold"] = "<0.70>"
    ours, theirs = windows_of(tiny, monkeypatch, WINDOWS[name], **call)
    assert ours == theirs()
    assert len(ours[1]) > 2


def test_timestamps_are_as_far_apart_as_espnets(tiny, monkeypatch):
    how = dict(search=dict(speech_resolution=0.04), end_time_threshold="<0.70>")
    ours, theirs = windows_of(tiny, monkeypatch, WINDOWS["cut_off"], **how)
    assert ours == theirs()
    starts = [start for start, _, _ in ours[0]]
    assert starts[0] == (0.02 if release(tiny).s2t_times_span_window else 0.04)


def test_the_last_second_is_cut_off_by_default(tiny, monkeypatch):
    windows = WINDOWS["cut_off"]
    if not release(tiny).s2t_times_span_window:
        with pytest.raises(PluginError, match="'<29.00>' is not in"):
            windows_of(tiny, monkeypatch, windows)
        return
    ours, theirs = windows_of(tiny, monkeypatch, windows)
    assert ours == theirs()
    assert [text for *_, text in ours[0][:2]] == ["c", "d"]
    assert ours[0][2][0] == 0.64


def test_windows_that_name_no_time_to_go_on_end(tiny, monkeypatch):
    silent = [["a", "b"], PAIRS]
    back = [[0.0, "a", 0.0, 0.0, "b", 0.9], PAIRS]
    for windows, first in ((silent, (0.0, 1.0, "ab")), (back, (0.0, 0.0, "a"))):
        how = dict(end_time_threshold="<0.70>")
        ours, theirs = windows_of(tiny, monkeypatch, windows, **how)
        assert ours[0][0] == first
        assert ours[0][1][0] == 1.0  # the whole window is done
        # Before, the one was an error and the other endless.
        assert not release(tiny).s2t_times_span_window or ours == theirs()


@pytest.mark.parametrize(
    "search, message",
    [
        (dict(speech_length=0.8), "span 1 s, but speech_length says 0.8 s"),
        (
            dict(
                first_time=TOKENS.index("<1.00>"),
                last_time=TOKENS.index("<0.00>"),
                first_time_symbol="<1.00>",
                last_time_symbol="<0.00>",
            ),
            "<1.00> and <0.00> are not in order",
        ),
    ],
    ids=("length", "order"),
)
def test_timestamps_that_contradict_the_window_are_refused(
    tiny, monkeypatch, search, message
):
    how = dict(search=search, end_time_threshold="<0.70>")
    if not release(tiny).s2t_times_span_window:
        if "speech_length" in search:
            ours, theirs = windows_of(tiny, monkeypatch, [PAIRS], **how)
            assert ours == theirs()
        return
    theirs = espnet(tiny)
    theirs.preprocessor_conf = {**theirs.preprocessor_conf, **search}
    with pytest.raises(RuntimeError):
        theirs.decode_long(noise(1.5))
    with pytest.raises(PluginError, match=message):
        windows_of(tiny, monkeypatch, [PAIRS], **how)


def test_the_best_path_is_that_of_the_ctc(tiny):
    import torch

    theirs, ours = espnet(tiny), Speech2Text(tiny["bundle"])
    wave = waves(1)["utt0"].astype(np.float32)
    [result] = ours.best_path(wave)
    if hasattr(theirs, "best_path"):  # since 202611
        assert [result] == theirs.best_path(wave)
    padded = torch.from_numpy(fixed_length(wave, RATE))[None]
    with torch.no_grad():
        out, _ = theirs.s2t_model.encode(padded, torch.tensor([RATE]))
        out = out[0] if isinstance(out, tuple) else out
        path = theirs.s2t_model.ctc.argmax(out)[0].unique_consecutive().tolist()
    assert result[2] == [i for i in path if i != 0] and result[2]
    assert result[-1] is None


def test_every_way_in_looks_at_the_shape_before_it_pads(tiny, tiny_ctc):
    wrong = np.zeros((3, 4, 5), np.float32)
    attention, ctc = Speech2Text(tiny["bundle"]), Speech2Text(tiny_ctc["bundle"])
    greedy = Speech2TextGreedySearch(tiny_ctc["bundle"])
    for model in (attention, ctc, greedy):
        for take in (model, model.prepare, model.best_path, model.decode_long):
            how = {}
            if take == attention.decode_long:
                how = dict(end_time_threshold="<0.70>")
            with pytest.raises(PluginError, match=r"this one is \(3, 4, 5\)"):
                take(wrong, **how)
    with pytest.raises(PluginError, match=r"this one is \(3, 4, 5\)"):
        greedy.batch_decode([wrong])


def test_languages_are_espnets(tiny):
    from espnet2.bin.s2t_inference_language import Speech2Language as Theirs

    theirs = Theirs(str(tiny["files"]["config"]), str(tiny["files"]["file"]), nbest=3)
    ours = Speech2Language(tiny["bundle"], nbest=3)
    encode = theirs.s2t_model.encode

    def without_intermediate(**batch):  # which ESPnet's class trips over
        out, lengths = encode(**batch)
        return out[0] if isinstance(out, tuple) else out, lengths

    theirs.s2t_model.encode = without_intermediate
    for wave in waves(2).values():
        languages, expected = ours(wave), theirs(wave.astype(np.float32))
        assert [name for name, _ in languages] == [name for name, _ in expected]
        for (_, mine), (_, other) in zip(languages, expected):
            assert mine == pytest.approx(other, abs=1e-5)


def test_what_cannot_be_is_refused(tiny):
    with pytest.raises(PluginError, match="CTC cannot predict timestamps"):
        Speech2Text(tiny["bundle"], ctc_weight=0.3, predict_time=True)
    with pytest.raises(PluginError, match="'<fra>' is not in"):
        Speech2Text(tiny["bundle"])(np.zeros(RATE), lang_sym="<fra>")
    with pytest.raises(PluginError, match="nbest 5 must lie between 1 and the 4"):
        Speech2Language(tiny["bundle"], nbest=5)


def decode(command, tiny, data, out, *args):
    command.main(
        [
            *("--model_dir", str(tiny["bundle"]), "--output_dir", str(out)),
            *("--data_path_and_name_and_type", f"{data / 'wav.scp'},speech,sound"),
            *map(str, args),
        ]
    )
    return {
        path.name: dict(
            line.partition(" ")[::2]
            for line in path.read_text(encoding="utf-8").splitlines()
        )
        for path in (out / "1best_recog").iterdir()
    }


def test_files_are_laid_out_as_espnets(tiny, tmp_path):
    data = write_data(tmp_path / "data")
    (tmp_path / "decode.yaml").write_text(
        "lang_sym: <deu>\ntask_sym: st_eng\nbeam_size: 2\nmaxlenratio: -6\n"
        "predict_time: false\n"
    )
    config = ("--config", tmp_path / "decode.yaml", "--batch_size", 2)
    files = decode(s2t_inference, tiny, data, tmp_path / "out", *config)
    names = {"token", "token_int", "score", "scores", "text", "text_nospecial"}
    assert {name for name in files if "interctc" not in name} == names
    theirs = espnet(tiny, beam_size=2, maxlenratio=-6)
    for key in files["text"]:
        speech, _ = soundfile.read(data / f"{key}.wav", dtype="float32")
        results = theirs(speech, lang_sym="<deu>", task_sym="<st_eng>")
        [result] = results[0] if isinstance(results, tuple) else results
        assert files["text"][key] == result[0]
        assert files["token"][key] == " ".join(result[1])
        assert files["text_nospecial"][key] == result[3]
    files = decode(s2t_inference_language, tiny, data, tmp_path / "languages")
    assert set(files) == {"score", "text"}
    assert set(files["text"].values()) <= set(TOKENS[4:8])


def test_seconds_are_those_of_the_audio_not_of_what_is_padded(tiny, tmp_path):
    data = write_data(tmp_path / "data")
    for out, size in (("one", 1), ("two", 2)):
        options = ("--beam_size", 1, "--maxlenratio", -2, "--batch_size", size)
        files = decode(s2t_inference, tiny, data, tmp_path / out, *options)
        lines = (tmp_path / out / "timing.jsonl").read_text().splitlines()
        rows = {row["key"]: row for row in map(json.loads, lines)}
        assert set(rows) == set(files["text"])
        lengths = {key: soundfile.info(data / f"{key}.wav").frames for key in rows}
        assert len(set(lengths.values())) > 1
        for key, row in rows.items():
            assert row["audio_seconds"] == pytest.approx(lengths[key] / RATE)


@pytest.mark.parametrize(
    "command", [s2t_inference, s2t_inference_language, s2t_inference_ctc]
)
def test_every_option_of_espnets_command_is_known(command):
    import importlib

    name = command.COMMAND.name
    theirs = importlib.import_module(f"espnet2.bin.{name}").get_parser()
    files = {"s2t_train_config", "s2t_model_file", "lm_train_config", "lm_file"}
    files |= {"word_lm_file", "ngram_file", "model_tag"}  # a bundle has its own
    ours = {action.dest for action in command.COMMAND.get_parser()._actions}
    assert {action.dest for action in theirs._actions} - files <= ours
    for option in command.COMMAND.unsupported:
        default, remedy = UNSUPPORTED[option]
        other = {False: "true", None: "some", "float32": "float64"}[default]
        args = ["--model_dir", "m", "--output_dir", "o", f"--{option}", other]
        args += ["--data_path_and_name_and_type", "a,speech,sound"]
        parsed = command.COMMAND.get_parser().parse_args(args)
        with pytest.raises(PluginError, match=f"--{option} .*: {remedy}"):
            command.COMMAND.check(parsed)


# CTC models, whose encoder reads a prompt

#: A whole number of frames, of which a second has 31.25.
CTC_SECONDS = 12.8

CTC_TOKENS = ["<blank>", "<unk>", "<na>", "<nolang>", *TOKENS[3:11], *TOKENS[-11:]]


@pytest.fixture(scope="module")
def tiny_ctc(tmp_path_factory):
    """A tiny CTC model on disk and its bundle."""
    from espnet2.tasks.s2t_ctc import S2TTask

    root = tmp_path_factory.mktemp("ctc")
    config = s2t_config(
        S2TTask,
        token_list=CTC_TOKENS,
        encoder="e_branchformer_ctc",
        encoder_conf=dict(
            {k: v for k, v in E_BRANCHFORMER.items() if "gradient" not in k},
            input_layer="conv2d8",
            interctc_use_conditioning=True,
            use_cross_attention=[False, True],
        ),
        promptencoder="transformer",
        promptencoder_conf=dict(SIZES, output_size=12),
        model="espnet_ctc",
        model_conf=dict(sym_na="<na>", ctc_asr_only=[True, False]),
        preprocessor="s2t_ctc",
        preprocessor_conf=dict(speech_length=CTC_SECONDS, fs=RATE),
    )
    for key in ("decoder", "decoder_conf"):
        del config[key]
    model = build(S2TTask, config, seed=1)
    model.ctc.ctc_lo.weight.data *= 6.0
    model.ctc.ctc_lo.bias.data[0] -= 1.0  # or nearly all frames are blank
    files = save(model, config, root / "s2t", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    bundle = export_bundle("s2t_ctc", checkpoints, root / "fp32")
    return dict(root=root, files=files, bundle=bundle.path)


def espnet_ctc(tiny, name="Speech2TextGreedySearch", **options):
    from espnet2.bin import s2t_inference_ctc as module

    return getattr(module, name)(
        str(tiny["files"]["config"]), str(tiny["files"]["file"]), **options
    )


@pytest.mark.parametrize(
    "call",
    [
        {},
        dict(text_prev="ab cab", lang_sym="<deu>"),
        dict(text_prev=np.array([2, 14]), task_sym="<st_eng>"),
    ],
)
def test_greedy_results_are_espnets(tiny_ctc, call):
    theirs, ours = espnet_ctc(tiny_ctc), Speech2TextGreedySearch(tiny_ctc["bundle"])
    for wave in list(waves(4).values())[::2]:
        results = ours(wave, **call)
        assert results == theirs(wave.astype(np.float32), **call)
        assert len(results[0][2]) > 2


def test_beams_over_the_ctc_are_espnets(tiny_ctc):
    options = dict(beam_size=3, nbest=2, penalty=0.2)
    theirs = espnet_ctc(tiny_ctc, "Speech2Text", **options)
    ours = Speech2TextGreedySearch(tiny_ctc["bundle"], **options)
    wave = waves(1)["utt0"]
    assert_same(ours(wave, "fade"), theirs(wave.astype(np.float32), "fade"))


@pytest.mark.parametrize("name", ["Speech2TextGreedySearch", "Speech2Text"])
def test_defaults_are_espnets(tiny_ctc, name):
    ours = getattr(s2t_ctc, name)(tiny_ctc["bundle"])
    theirs = espnet_ctc(tiny_ctc, name)
    wave = noise(0.9)
    if name == "Speech2Text":
        assert ours.search._config.beam_size == theirs.beam_search.beam_size
    assert ours.prompt()["prefix"].tolist() == [
        CTC_TOKENS.index(symbol) for symbol in (theirs.lang_sym, theirs.task_sym)
    ]
    assert ours(wave)[0][2] == theirs(wave)[0][2]


def test_the_class_of_either_kind_takes_ctc_models(tiny_ctc):
    options = dict(normalize_length=True, penalty=0.2, nbest=3, ctc_weight=0.4)
    ours = Speech2Text(tiny_ctc["bundle"], **options)
    if release(tiny_ctc).s2t_ctc_keeps_whole_frames:  # ESPnet's does since 202611
        theirs = espnet(tiny_ctc, **options)
    else:
        options = dict(penalty=0.2, nbest=3, beam_size=5, lang_sym="<eng>")
        theirs = espnet_ctc(tiny_ctc, "Speech2Text", **options)
        theirs.beam_search.normalize_length = True
    wave = noise(0.9)
    assert_same(ours(wave), theirs(wave))
    assert_same(ours(wave, "fade", "<deu>"), theirs(wave, "fade", "<deu>"))
    greedy = Speech2TextGreedySearch(tiny_ctc["bundle"], lang_sym="<eng>")
    assert ours.best_path(wave) == greedy(wave) != ours(wave)
    if hasattr(theirs, "best_path"):
        assert ours.best_path(wave) == theirs.best_path(wave)
    [(start, end, text)] = ours.decode_long(noise(20.0), condition_on_prev_text=True)
    assert (start, end) == (0.0, 20.0)
    assert text == greedy.decode_long_batched_buffered(noise(20.0))
    with pytest.raises(PluginError, match="CTC cannot predict timestamps"):
        Speech2Text(tiny_ctc["bundle"], ctc_weight=0.3, predict_time=True)
    with pytest.raises(PluginError, match="is a bundle of task 's2t_ctc'"):
        Speech2Language(tiny_ctc["bundle"])


@pytest.mark.parametrize("seconds", (30.3, 12.8, 3.21))
@pytest.mark.parametrize("context", (None, 1.28, 0.032))
def test_long_speech_of_ctc_models_is_espnets(tiny_ctc, seconds, context):
    theirs, ours = espnet_ctc(tiny_ctc), Speech2TextGreedySearch(tiny_ctc["bundle"])
    call = dict(batch_size=2, lang_sym="<deu>")
    if context is not None:
        call["context_len_in_secs"] = context
    text = ours.decode_long_batched_buffered(noise(seconds), **call)
    assert text == theirs.decode_long_batched_buffered(noise(seconds), **call)
    assert text
    [segment] = ours.decode_long(noise(seconds), **call)
    assert segment == (0.0, len(noise(seconds)) / RATE, text)
    if hasattr(theirs, "decode_long"):
        assert [segment] == theirs.decode_long(noise(seconds), **call)


@pytest.mark.parametrize(
    "context, search, message",
    [
        (0.1, {}, "context_len_in_secs 0.1 is no whole number of the encoder's frames"),
        (6.4, {}, "6.4 must not be negative and be less than half"),
        (-0.32, {}, "-0.32 must not be negative"),
        (0.0, {}, "context_len_in_secs is too short"),
        (1.28, dict(speech_length=12.0 + 1 / 3), "speech_length 12.3333 is no whole"),
    ],
)
def test_windows_that_do_not_fit_the_frames_are_refused(
    tiny_ctc, context, search, message
):
    theirs = espnet_ctc(tiny_ctc)
    theirs.preprocessor_conf = {**theirs.preprocessor_conf, **search}
    theirs.s2t_train_args.preprocessor_conf = theirs.preprocessor_conf
    ours = Speech2TextGreedySearch(changed(tiny_ctc, **search))
    call = dict(speech=noise(20.0), context_len_in_secs=context)
    never = not 0 <= context < 6.4
    if never or release(tiny_ctc).s2t_ctc_keeps_whole_frames:
        with pytest.raises(PluginError, match=message):
            ours.decode_long_batched_buffered(**call)
    if release(tiny_ctc).s2t_ctc_keeps_whole_frames:
        with pytest.raises(ValueError):
            theirs.decode_long_batched_buffered(**call)
    elif not never:
        text = theirs.decode_long_batched_buffered(**call)
        assert ours.decode_long_batched_buffered(**call) == text


def test_models_packed_by_s2t_sh_are_taken(tiny_ctc, tmp_path):
    from espnet2.main_funcs.pack_funcs import pack

    files = dict(
        s2t_train_config=str(tiny_ctc["files"]["config"]),
        s2t_model_file=str(tiny_ctc["files"]["file"]),
    )
    config, model = files.values()
    names = dict(s2t_train_config=config), dict(s2t_model_file=model)
    pack(files=names[1], yaml_files=names[0], outpath=str(tmp_path / "m.zip"))
    for task in ("s2t", "s2t_ctc"):
        out = tmp_path / task
        args = ["--task", task, "--model_tag", str(tmp_path / "m.zip")]
        export.main([*args, "--output_dir", str(out)])
        assert read_manifest(out).task == "s2t_ctc"
    with pytest.raises(PluginError, match="is no model of task asr"):
        with from_tag("asr", str(tmp_path / "m.zip")):
            pass


def test_long_and_short_speech_together_are_espnets(tiny_ctc):
    theirs, ours = espnet_ctc(tiny_ctc), Speech2TextGreedySearch(tiny_ctc["bundle"])
    speech = [noise(seconds) for seconds in (0.8, 30.2, 1.1)]
    call = dict(context_len_in_secs=1.28, lang_sym=["<deu>", "<eng>", "<zul>"])
    call["text_prev"] = ["abc", "<na>", "d"]
    # One batch: ESPnet pads the texts of all, and the mask of a batch whose own are
    # shorter does not fit (202511, 202604).
    expected = theirs.batch_decode(speech, batch_size=16, **call)
    for batch_size in (3, 16):
        assert ours.batch_decode(speech, batch_size, **call) == expected
    assert all(expected)
    for one in speech[:2]:  # with the default context
        assert ours.batch_decode(one) == theirs.batch_decode(one)


def test_files_of_a_ctc_model_are_laid_out_as_espnets(tiny_ctc, tmp_path):
    data = write_data(tmp_path / "data")
    options = ("--beam_size", 1, "--batch_size", 3, "--lang_sym", "deu")
    files = decode(s2t_inference_ctc, tiny_ctc, data, tmp_path / "out", *options)
    assert set(files) == {"token", "token_int", "text", "text_nospecial"}
    theirs = espnet_ctc(tiny_ctc, lang_sym="<deu>")
    for key in files["text"]:
        speech, _ = soundfile.read(data / f"{key}.wav", dtype="float32")
        speech = fixed_length(speech, int(CTC_SECONDS * RATE))
        [[text, token, *_]] = theirs(speech)
        assert files["text"][key] == text
        assert files["token"][key] == " ".join(token)
    options = ("--beam_size", 2, "--maxlenratio", -4, "--ctc_weight", 0.3)
    files = decode(s2t_inference, tiny_ctc, data, tmp_path / "either", *options)
    assert set(files) - {"scores"} == {
        *("token", "token_int", "text", "text_nospecial", "score")
    }
    options = dict(beam_size=2, maxlenratio=-4, lang_sym="<eng>")
    theirs = espnet_ctc(tiny_ctc, "Speech2Text", **options)
    [[text, *_]] = theirs(speech)
    assert files["text"][key] == text


# Parts


@pytest.mark.parametrize("seed", range(4))
def test_timestamp_rules_are_espnets(seed):
    import torch
    from espnet2.bin.s2t_inference import ScoreFilter

    ids = dict(
        first_time=TOKENS.index("<0.00>"),
        last_time=TOKENS.index("<1.00>"),
        sos=TOKENS.index("<sos>"),
        eos=TOKENS.index("<eos>"),
    )
    notime = TOKENS.index("<notimestamps>")
    rules = TimestampRules(len(TOKENS), notime=notime, **ids)
    theirs = ScoreFilter(notimestamps=notime, vocab_size=len(TOKENS), **ids)
    random = np.random.default_rng(seed)
    times = range(ids["first_time"], ids["last_time"] + 1)
    choices = [*times[:: 10 + seed], *range(ids["last_time"] + 1, len(TOKENS) - 3)]
    primers = [
        [len(TOKENS) - 1, *random.choice(choices, 3), ids["sos"], 5, 8],
        [ids["sos"], 6, 9],
        [ids["sos"], 6, 9, notime],
    ]
    state = rules.start(None, primers)
    prefixes = [[primer] for primer in primers]
    tokens = np.array([[primer[-1]] for primer in primers])
    parents = np.zeros_like(tokens)
    for width in (3, 2, 4, 3, 3):
        scores, state = rules.score(tokens, parents, state)
        for i, rows in enumerate(prefixes):
            for row, prefix in zip(scores[i], rows):
                with np.errstate(invalid="ignore"):
                    expected, _ = theirs.score(torch.tensor(prefix), None, None)
                np.testing.assert_array_equal(row, expected.detach().numpy())
        parents = random.integers(0, tokens.shape[1], (len(primers), width))
        tokens = random.choice(choices, parents.shape)
        prefixes = [
            [[*rows[p], int(t)] for p, t in zip(*both)]
            for rows, *both in zip(prefixes, parents, tokens)
        ]
    kept = rules.select([2, 0], state)
    assert kept.notime[0].all() and not kept.notime[1].any()


def test_text_becomes_espnets_tokens():
    from espnet2.text.build_tokenizer import build_tokenizer
    from espnet2.text.token_id_converter import TokenIDConverter

    lists = ROOT / "egs2_stage/demo/asr1/pretrained/data/en_token_list/bpe_unigram80"
    tokens = describe_file(lists / "tokens.txt")
    kinds = {"bpe": Text("bpe", tokens, describe_file(lists / "bpe.model"))}
    kinds |= {kind: Text(kind, tokens) for kind in ("char", "word")}
    theirs = TokenIDConverter(lists / "tokens.txt")
    for kind, text in kinds.items():
        manifest = Manifest("s2t", {}, Speech("waveform", RATE, 0, 1), text, NO_SEARCH)
        ours = TokenConverter(Bundle(lists, manifest))
        tokenizer = build_tokenizer(kind, bpemodel=str(lists / "bpe.model"))
        for line in ("seven two  nine", " ÜX", "", "<unk> one"):
            expected = theirs.tokens2ids(tokenizer.text2tokens(line))
            assert ours.text2ids(line) == expected
    untold = TokenConverter(
        Bundle(lists, dataclasses.replace(manifest, text=Text(None, tokens)))
    )
    with pytest.raises(PluginError, match="'None' cannot turn text into tokens"):
        untold.text2ids("one")


@pytest.mark.parametrize("tiny", ["transformer"], indirect=True)
def test_the_readmes_example(tiny, tiny_ctc, tmp_path):
    # Before 202611 the end of a window is named <29.00>, which tiny windows have not.
    bundle = tmp_path / "bundle"
    shutil.copytree(tiny["bundle"], bundle)
    manifest = (bundle / "manifest.yaml").read_text()
    newer = re.sub(r"(\n  espnet: )'\d+'", r"\1'202611'", manifest)
    (bundle / "manifest.yaml").write_text(newer)
    wave = waves()["utt0"]
    got = run_readme(
        "decode_long",
        {"BUNDLE": bundle, "CTC_BUNDLE": tiny_ctc["bundle"]},
        speech=wave,
        hours=np.tile(wave, 5),
    )
    options = dict(beam_size=5, lang_sym="<eng>", task_sym="<asr>")
    theirs = espnet(tiny, **options)(wave.astype(np.float32))[0]
    assert (got["text"], got["text_nospecial"]) == (theirs[0], theirs[3])
