"""S2T (OWSM) end to end at tiny size: ESPnet's own inference against ours."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import soundfile
from conftest import RATE, build, save, sharpen, task_config, waves, write_data

from espnet_onnx_plugin.bin import (
    s2t_inference,
    s2t_inference_ctc,
    s2t_inference_language,
)
from espnet_onnx_plugin.bundle import Bundle, Manifest, Speech, Text
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model import Checkpoints
from espnet_onnx_plugin.runtime.s2t import Speech2Text, fixed_length
from espnet_onnx_plugin.runtime.s2t_ctc import Speech2TextGreedySearch
from espnet_onnx_plugin.runtime.s2t_language import Speech2Language
from espnet_onnx_plugin.runtime.text import TokenConverter
from espnet_onnx_plugin.runtime.timestamps import TimestampRules

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
E_BRANCHFORMER = dict(
    SIZES,
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
    "transformer": dict(encoder_conf=dict(SIZES, output_size=8)),
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


@pytest.fixture(scope="module", params=MODELS)
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


@pytest.mark.parametrize("previous", (False, True))
def test_long_speech_is_espnets(tiny, previous):
    options = dict(beam_size=3, maxlenratio=-16)
    theirs, ours = espnet(tiny, **options), Speech2Text(tiny["bundle"], **options)
    random = np.random.default_rng(5)
    speech = (0.2 * random.standard_normal((int(3.3 * RATE), 1))).astype(np.float32)
    call = dict(
        condition_on_prev_text=previous,
        init_text="ab" if previous else None,
        end_time_threshold="<0.70>",
        lang_sym="<deu>",
    )
    segments = ours.decode_long(speech, **call)
    assert segments == theirs.decode_long(speech, **call)
    assert len(segments) > 3


def test_languages_are_espnets(tiny):
    from espnet2.bin.s2t_inference_language import Speech2Language as Theirs

    theirs = Theirs(str(tiny["files"]["config"]), str(tiny["files"]["file"]), nbest=3)
    ours = Speech2Language(tiny["bundle"], nbest=3)
    if isinstance(theirs.s2t_model.encoder.interctc_layer_idx, list):
        if theirs.s2t_model.encoder.interctc_layer_idx:
            pytest.skip("ESPnet's class takes no model with intermediate CTC")
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
    import soundfile
    from conftest import write_data

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


# CTC models, whose encoder reads a prompt

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
        preprocessor_conf=dict(speech_length=SECONDS, fs=RATE),
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


def test_long_and_short_speech_together_are_espnets(tiny_ctc):
    theirs, ours = espnet_ctc(tiny_ctc), Speech2TextGreedySearch(tiny_ctc["bundle"])
    random = np.random.default_rng(5)
    speech = [
        (0.2 * random.standard_normal(int(seconds * RATE))).astype(np.float32)
        for seconds in (0.8, 2.9, 1.1)
    ]
    call = dict(context_len_in_secs=0.2, lang_sym=["<deu>", "<eng>", "<zul>"])
    call["text_prev"] = ["abc", "<na>", "d"]
    # One batch: ESPnet pads the texts of all, and the mask of a batch whose own are
    # shorter does not fit (202511, 202604).
    expected = theirs.batch_decode(speech, batch_size=16, **call)
    for batch_size in (3, 16):
        assert ours.batch_decode(speech, batch_size, **call) == expected
    assert all(expected)
    one = dict(batch_size=2, context_len_in_secs=0.1)
    text = ours.decode_long_batched_buffered(speech[1], **one)
    assert text == theirs.decode_long_batched_buffered(speech[1], **one)
    assert ours.batch_decode(speech[0]) == theirs.batch_decode(speech[0])


def test_files_of_a_ctc_model_are_laid_out_as_espnets(tiny_ctc, tmp_path):
    data = write_data(tmp_path / "data")
    options = ("--beam_size", 1, "--batch_size", 3, "--lang_sym", "deu")
    files = decode(s2t_inference_ctc, tiny_ctc, data, tmp_path / "out", *options)
    assert set(files) == {"token", "token_int", "text", "text_nospecial"}
    theirs = espnet_ctc(tiny_ctc, lang_sym="<deu>")
    for key in files["text"]:
        speech, _ = soundfile.read(data / f"{key}.wav", dtype="float32")
        [[text, token, *_]] = theirs(fixed_length(speech, RATE))
        assert files["text"][key] == text
        assert files["token"][key] == " ".join(token)


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
    kinds = {"bpe": Text("bpe", "tokens.txt", "bpe.model")}
    kinds |= {kind: Text(kind, "tokens.txt") for kind in ("char", "word")}
    theirs = TokenIDConverter(lists / "tokens.txt")
    for kind, text in kinds.items():
        manifest = Manifest("s2t", {}, Speech("waveform", RATE, 0, 1), text, {})
        ours = TokenConverter(Bundle(lists, manifest))
        tokenizer = build_tokenizer(kind, bpemodel=str(lists / "bpe.model"))
        for line in ("seven two  nine", " ÜX", "", "<unk> one"):
            expected = theirs.tokens2ids(tokenizer.text2tokens(line))
            assert ours.text2ids(line) == expected
    untold = TokenConverter(
        Bundle(lists, dataclasses.replace(manifest, text=Text(None, "tokens.txt")))
    )
    with pytest.raises(PluginError, match="'None' cannot turn text into tokens"):
        untold.text2ids("one")
