"""ASR end to end at tiny size: ESPnet's own inference against ours."""

import dataclasses
import inspect
import json
import sys

import kaldiio
import numpy as np
import pytest
import soundfile
import yaml
from conftest import (
    RATE,
    TOKENS,
    asr_config,
    build_asr,
    run_readme,
    save,
    sharpen,
    waves,
)

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import asr_inference
from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime import asr
from espnet_onnx_plugin.runtime.core.opening import make_options
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.recognition.options import (
    MaskCTCOptions,
    S2tCtcOptions,
    S2tOptions,
    SluOptions,
    StOptions,
)
from espnet_onnx_plugin.runtime.search.ngram_scorer import NgramScorer

OPTIONS = {
    "greedy": dict(beam_size=1, ctc_weight=0.0, lm_weight=0.0),
    "joint": dict(beam_size=4, ctc_weight=0.3, lm_weight=0.0),
    "joint_lm": dict(beam_size=4, ctc_weight=0.3, lm_weight=0.4, nbest=3),
    "ctc_only": dict(beam_size=3, ctc_weight=1.0, lm_weight=0.2),
    "penalty": dict(beam_size=3, ctc_weight=0.5, lm_weight=0.3, penalty=0.4),
    "lengths": dict(beam_size=3, maxlenratio=0.4, minlenratio=0.1),
    "constants": dict(beam_size=3, maxlenratio=-6, minlenratio=-2),
    "normalized": dict(beam_size=4, ctc_weight=0.3, normalize_length=True, nbest=4),
    "time_sync": dict(beam_size=4, ctc_weight=0.4, lm_weight=0.3, time_sync=True),
}


def espnet(tiny, **options):
    import torch
    from espnet2.bin.asr_inference import Speech2Text

    speech2text = Speech2Text(
        str(tiny["asr"]["config"]),
        str(tiny["asr"]["file"]),
        lm_train_config=str(tiny["lm"]["config"]),
        lm_file=str(tiny["lm"]["file"]),
        **options,
    )
    if options.get("time_sync"):
        # ESPnet's Speech2Text asks every search for this, and this one has none:
        # "'BeamSearchTimeSync' object has no attribute 'nn_dict'" (202511, 202604).
        speech2text.beam_search.nn_dict = torch.nn.ModuleDict()
    return speech2text


@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_espnets(tiny, name):
    options = OPTIONS[name]
    theirs = espnet(tiny, **options)
    ours = espnet_onnx_plugin.Speech2Text(tiny["bundle"], **options)
    lengths = set()
    for wave in waves().values():
        expected = theirs(wave.astype(np.float32))
        results = ours(wave)
        assert len(results) == len(expected)
        for (text, token, token_int, hyp), other in zip(results, expected):
            assert token_int == other[2]
            assert (text, token) == other[:2]
            assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)
            assert list(hyp.yseq) == [int(i) for i in other[3].yseq]
            lengths.add(len(token_int))
    assert max(lengths) > 1


def test_primers_of_unequal_lengths_are_espnets(tiny):
    # With more tokens than frames ESPnet's CTC scorer ends in an IndexError.
    options = dict(OPTIONS["joint_lm"], maxlenratio=0.5)
    theirs = espnet(tiny, **options)
    ours = espnet_onnx_plugin.Speech2Text(tiny["bundle"], **options)
    prepared = [ours.prepare(wave) for wave in waves(3).values()]
    sos = len(TOKENS) - 1
    primers = [[sos, 3, 7, 4], [sos, 5], [sos]]
    results = ours.search(ours.encode(prepared), primers)
    for speech, primer, hypotheses in zip(prepared, primers, results):
        theirs.beam_search.set_hyp_primer(primer)
        for hyp, (*_, other) in zip(hypotheses, theirs(speech)):
            assert list(hyp.yseq) == [int(i) for i in other.yseq]
            assert hyp.score == pytest.approx(float(other.score), abs=1e-3)


def read_with(tiny, espnet=None, **search):
    """The tiny bundle as a release of ESPnet would have exported it."""
    bundle = read_bundle(tiny["bundle"])
    manifest = bundle.manifest
    source = dict(manifest.source, **({} if espnet is None else {"espnet": espnet}))
    search = dataclasses.replace(manifest.search, **search)
    manifest = dataclasses.replace(manifest, source=source, search=search)
    return Bundle(bundle.path, manifest)


def windowed(bundle, **options):
    """Results for a noise of several seconds, which a CTC window changes."""
    options = dict(OPTIONS["joint"], ctc_weight=0.7, maxlenratio=-12, nbest=4) | options
    wave = np.random.default_rng(1).standard_normal(6 * RATE)
    if not isinstance(bundle, dict):
        return espnet_onnx_plugin.Speech2Text(bundle, **options)(wave)
    return espnet(bundle, **options)(wave.astype(np.float32))


def scored(results):
    return [(token_int, round(hyp.score, 3)) for *_, token_int, hyp in results]


def test_results_with_a_ctc_window_are_espnets(tiny):
    import espnet2
    from espnet2.bin.asr_inference import Speech2Text

    if "ctc_window_margin" not in inspect.signature(Speech2Text).parameters:
        pytest.skip(f"ESPnet {espnet2.__version__} has no CTC window")
    for options in ({}, dict(ctc_window_margin=2), dict(ctc_window_margin=0)):
        ours, theirs = windowed(tiny["bundle"], **options), windowed(tiny, **options)
        assert [r[2] for r in ours] == [r[2] for r in theirs]
        for mine, other in zip(ours, theirs):
            assert mine[3].score == pytest.approx(float(other[3].score), abs=1e-3)


def test_the_ctc_window_is_by_default_that_of_the_release_of_the_export(
    tiny, monkeypatch
):
    margins = [conventions(e).ctc_window_margin for e in ("202511", "202604", "202611")]
    assert margins == [0, 0, 100]

    def narrow(espnet):  # such that seconds of noise are enough to see the window
        taken = conventions(espnet)
        return dataclasses.replace(
            taken, ctc_window_margin=taken.ctc_window_margin // 50
        )

    monkeypatch.setattr(asr, "conventions", narrow)
    given = {m: scored(windowed(tiny["bundle"], ctc_window_margin=m)) for m in (0, 2)}
    assert given[0] != given[2]
    assert scored(windowed(read_with(tiny, "202511"))) == given[0]
    assert scored(windowed(read_with(tiny, "202611"))) == given[2]


def test_the_ctc_window_is_not_for_scorers_of_single_hypotheses(tiny):
    single = read_with(tiny, single=["decoder"])
    found = [scored(windowed(single, ctc_window_margin=m)) for m in (0, 2)]
    assert found[0] == found[1]


def test_the_command_takes_the_ctc_window(tiny, tmp_path):
    (tmp_path / "decode.yaml").write_text("ctc_window_margin: 1\nlm_weight: 0.0\n")
    args = ("--beam_size", 4, "--ctc_weight", 0.7)
    found = []
    for more in (("--lm_weight", 0.0), ("--config", tmp_path / "decode.yaml")):
        out = decode(tiny, tmp_path, *args, *more) / "1best_recog"
        found.append(read(out / "score"))
        ours = espnet_onnx_plugin.Speech2Text(
            tiny["bundle"],
            beam_size=4,
            ctc_weight=0.7,
            lm_weight=0.0,
            ctc_window_margin=1 if "--config" in more else None,
        )
        for key, wave in sound_waves(tiny).items():
            assert float(found[-1][key]) == pytest.approx(ours(wave)[0][3].score)
    assert found[0] != found[1]


@pytest.mark.parametrize(
    "options_class",
    [SluOptions, StOptions, S2tOptions, S2tCtcOptions, MaskCTCOptions],
)
def test_the_ctc_window_is_an_option_of_asr_alone(options_class):
    with pytest.raises(PluginError, match="ctc_window_margin"):
        make_options(options_class, dict(ctc_window_margin=100))


def decode(tiny, tmp_path, *args, bundle=None, data=None, kind="sound"):
    """Run the command; returns the directory of its results."""
    out = tmp_path / "out"
    asr_inference.main(
        [
            "--model_dir",
            str(bundle or tiny["bundle"]),
            "--output_dir",
            str(out),
            "--data_path_and_name_and_type",
            f"{data or tiny['data'] / 'wav.scp'},speech,{kind}",
            *map(str, args),
        ]
    )
    return out


def read(path):
    return dict(
        line.partition(" ")[::2]
        for line in path.read_text(encoding="utf-8").splitlines()
    )


def refused(capsys, tiny, tmp_path, *args, code=1, left=(), **where):
    """Run the command, which has to fail with one line; returns that line.

    It leaves nothing, but for ``left`` where other utterances have results.
    """
    with pytest.raises(SystemExit) as e:
        decode(tiny, tmp_path, *args, **where)
    assert e.value.code == code
    message = capsys.readouterr().err
    lines = [line for line in message.splitlines() if "error:" in line]
    assert len(lines) == 1, message
    assert "Traceback" not in message
    names = [p.name for p in tmp_path.iterdir() if p.name.startswith((".out", "out"))]
    assert names == list(left)
    return lines[0]


def test_files_are_laid_out_as_espnets(tiny, tmp_path):
    options = OPTIONS["joint_lm"]
    args = [a for k, v in options.items() for a in (f"--{k}", v)]
    out = decode(tiny, tmp_path, *args)
    theirs = espnet(tiny, **options)
    for n in (1, 2, 3):
        files = {p.name for p in (out / f"{n}best_recog").iterdir()}
        assert files == {"token", "token_int", "score", "text", "scores"}
    for key, wave in sound_waves(tiny).items():
        for n, (text, token, token_int, hyp) in enumerate(
            theirs(wave.astype(np.float32)), 1
        ):
            directory = out / f"{n}best_recog"
            assert read(directory / "text")[key] == text
            assert read(directory / "token")[key] == " ".join(token)
            assert read(directory / "token_int")[key] == " ".join(map(str, token_int))
            score = float(read(directory / "score")[key])
            assert score == pytest.approx(float(hyp.score), abs=1e-3)
    timings = [json.loads(x) for x in (out / "timing.jsonl").read_text().splitlines()]
    assert [t["key"] for t in timings] == list(waves())
    for timing, wave in zip(timings, waves().values()):
        assert timing["audio_seconds"] == pytest.approx(len(wave) / RATE)
        parts = timing["encoder_seconds"] + timing["search_seconds"]
        assert 0 < parts <= timing["total_seconds"]
        assert timing["peak_memory_mb"] > 10
        assert timing["arithmetic"] == "fp32"


@pytest.mark.parametrize("lm_weight", [0.0, 0.4])
def test_batches_give_the_results_of_one_at_a_time(tiny, tmp_path, lm_weight):
    data = tmp_path / "data"
    data.mkdir()
    soundfile.write(data / "short.wav", np.zeros(20), RATE)
    scp = (tiny["data"] / "wav.scp").read_text()
    (data / "wav.scp").write_text(f"short {data / 'short.wav'}\n{scp}")
    args = ("--beam_size", 4, "--ctc_weight", 0.3, "--lm_weight", lm_weight)
    where = dict(data=data / "wav.scp")
    files = {}
    bins = 2 * max(map(len, waves().values()))
    for limits in (("--batch_size", 1), ("--batch_size", 3), ("--batch_bins", bins)):
        out = decode(tiny, tmp_path, *args, *limits, **where)
        best = out / "1best_recog"
        files[limits] = [read(best / name) for name in ("token_int", "text")]
        scores = {k: float(v) for k, v in read(best / "score").items()}
        alone = limits == ("--batch_size", 1)
        files[limits].append(scores if alone else pytest.approx(scores, abs=1e-4))
        timings = (out / "timing.jsonl").read_text().splitlines()
        assert [json.loads(x)["key"] for x in timings] == ["short", *waves()]
    one_by_one, *together = files.values()
    for found in together:
        assert found == one_by_one
        assert list(found[0]) == list(one_by_one[0]) == ["short", *waves()]


def test_an_encoder_that_sees_few_lengths_gives_the_same(tiny):
    results, runs = [], []
    frontend = read_bundle(tiny["bundle"]).manifest.graphs["frontend"]
    for buckets in (False, True):
        runs.clear()
        ours = espnet_onnx_plugin.Speech2Text(
            tiny["bundle"],
            session=dict(buckets=buckets, watch=lambda graph, _: runs.append(graph)),
            **OPTIONS["joint_lm"],
        )
        utterances = [ours.prepare(wave) for wave in waves().values()]
        results.append([ours.batch(utterances)] + [ours.batch([u]) for u in utterances])
    calls = 1 + len(utterances)
    assert runs.count(frontend) == calls  # it hears a whole batch at once
    for alone, padded in zip(*results):
        assert [scored(r) for r in alone] == [scored(r) for r in padded]


def test_a_decoding_yaml_of_espnet_is_taken_unchanged(tiny, tmp_path):
    config = dict(
        batch_size=1,
        beam_size=2,
        penalty=0.0,
        maxlenratio=0.0,
        minlenratio=0.0,
        ctc_weight=0.3,
        lm_weight=0.3,
        ngram_weight=0.0,
        streaming=False,
        transducer_conf=None,
    )
    (tmp_path / "decode.yaml").write_text(yaml.safe_dump(config))
    out = decode(tiny, tmp_path, "--config", tmp_path / "decode.yaml")
    ours = espnet_onnx_plugin.Speech2Text(
        tiny["bundle"], beam_size=2, ctc_weight=0.3, lm_weight=0.3
    )
    text = read(out / "1best_recog" / "text")
    assert text == {k: ours(w)[0][0] for k, w in sound_waves(tiny).items()}


def sound_waves(tiny):
    """The waves as they come back from their 16-bit files."""
    return {k: soundfile.read(v)[0] for k, v in read(tiny["data"] / "wav.scp").items()}


def test_key_file_chooses_and_orders(tiny, tmp_path):
    (tmp_path / "keys").write_text("utt2 x\nutt0 y\n")
    out = decode(tiny, tmp_path, "--beam_size", 1, "--key_file", tmp_path / "keys")
    assert list(read(out / "1best_recog" / "text")) == ["utt2", "utt0"]


def test_every_input_type_gives_the_same(tiny, tmp_path):
    waves_16 = sound_waves(tiny)
    expected = read(
        decode(tiny, tmp_path, "--beam_size", 2) / "1best_recog" / "token_int"
    )
    kaldiio.save_ark(
        str(tmp_path / "a.ark"),
        {k: w.astype(np.float32) for k, w in waves_16.items()},
        scp=str(tmp_path / "ark.scp"),
    )
    columns, stereo, npy = [], [], []
    for key, wave in waves_16.items():
        for channel, signal in enumerate((wave, wave * 0.1)):
            soundfile.write(
                tmp_path / f"{key}-{channel}.wav", signal, RATE, subtype="FLOAT"
            )
        columns.append(f"{key} {tmp_path}/{key}-0.wav {tmp_path}/{key}-1.wav")
        soundfile.write(
            tmp_path / f"{key}.wav", np.stack((wave, wave * 0.1), 1), RATE, "FLOAT"
        )
        stereo.append(f"{key} {tmp_path}/{key}.wav")
        np.save(tmp_path / f"{key}.npy", wave)
        npy.append(f"{key} {tmp_path}/{key}.npy")
    for name, kind, lines in (
        ("ark.scp", "kaldi_ark", None),
        ("columns.scp", "multi_columns_sound", columns),
        ("stereo.scp", "sound", stereo),
        ("npy.scp", "npy", npy),
    ):
        if lines is not None:
            (tmp_path / name).write_text("\n".join(lines) + "\n")
        out = decode(tiny, tmp_path, "--beam_size", 2, data=tmp_path / name, kind=kind)
        assert read(out / "1best_recog" / "token_int") == expected, kind


def test_an_utterance_that_is_too_short_gets_espnets_placeholder(tiny, tmp_path):
    wave = np.zeros(100)
    soundfile.write(tmp_path / "short.wav", wave, RATE)
    (tmp_path / "wav.scp").write_text(f"short {tmp_path / 'short.wav'}\n")
    out = decode(tiny, tmp_path, "--nbest", 2, data=tmp_path / "wav.scp")
    for n in (1, 2):
        directory = out / f"{n}best_recog"
        assert (directory / "text").read_text() == "short  \n"
        assert (directory / "token").read_text() == "short <space>\n"
        assert (directory / "token_int").read_text() == "short 2\n"
        assert (directory / "score").read_text() == "short 0.0\n"
    limit = espnet_onnx_plugin.Speech2Text(tiny["bundle"]).bundle.manifest.speech
    theirs = espnet(tiny, beam_size=1)
    from espnet_onnx_plugin.export.espnet_compat import import_nets

    name = "pytorch_backend.transformer.subsampling"
    too_short = import_nets(name).TooShortUttError
    theirs(np.zeros(limit.min_length, np.float32))
    with pytest.raises(too_short):
        theirs(np.zeros(limit.min_length - 1, np.float32))


def bad_wav(directory, content, rate=RATE):
    path = directory / "bad.wav"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        soundfile.write(path, content, rate)
    (directory / "bad.scp").write_text(f"utt9 {path}\n")
    return directory / "bad.scp"


@pytest.mark.parametrize(
    "content, rate, message",
    [
        (b"RIFF????", RATE, "cannot read audio file"),
        (b"", RATE, "cannot read audio file"),
        (np.zeros(0), RATE, "is empty"),
        (np.zeros(8000), 16000, "sampled at 16000 Hz, the model takes 8000 Hz"),
    ],
)
def test_bad_audio_is_named(capsys, tiny, tmp_path, content, rate, message):
    data = bad_wav(tmp_path, content, rate)
    line = refused(capsys, tiny, tmp_path, data=data)
    assert message in line and "utt9" in line


def test_a_failure_in_the_middle_leaves_the_results_of_the_others(
    capsys, tiny, tmp_path
):
    good = (tiny["data"] / "wav.scp").read_text()
    data = tmp_path / "wav.scp"
    data.write_text("utt9 /nonexistent.wav\n" + good)
    left = ["out.incomplete"]
    args = ("--beam_size", 1)
    line = refused(capsys, tiny, tmp_path, *args, data=data, left=left)
    assert "utt9" in line and "/nonexistent.wav" in line and left[0] in line
    found = tmp_path / left[0] / "1best_recog"
    keys = list(sound_waves(tiny))
    assert list(read(found / "text")) == keys
    # What may fail gets the result of silence, in its place.
    out = decode(tiny, tmp_path, *args, "--max_failures", 1, data=data)
    assert list(read(out / "1best_recog/text")) == ["utt9", *keys]
    assert read(out / "failed").keys() == {"utt9"}


def test_other_bad_input_is_named(capsys, tiny, tmp_path):
    def line(*args, **where):
        return refused(capsys, tiny, tmp_path, *args, **where)

    missing = tmp_path / "nowhere"
    assert "nowhere" in line(data=missing)
    assert "nowhere" in line("--key_file", missing)
    assert "nowhere is not a bundle" in line(bundle=missing)
    assert "data type 'flac'" in line(kind="flac")
    (tmp_path / "keys").write_text("utt77\n")
    assert "'utt77' is not in" in line("--key_file", tmp_path / "keys")
    assert "larger than the vocabulary" in line("--beam_size", 1000)
    joint = line("--enh_s2t_task", "true")
    assert "task 'asr', Speech2Text with enh_s2t_task True takes enh_asr" in joint
    assert "ctc_weight" in line("--ctc_weight", 1.5)
    (tmp_path / "c.yaml").write_text("beam_sise: 3\n")
    assert "unknown option 'beam_sise'" in line("--config", tmp_path / "c.yaml", code=2)
    (tmp_path / "c.yaml").write_text("beam_size: [\n")
    assert "no YAML" in line("--config", tmp_path / "c.yaml", code=2)
    assert "c.yml" in line("--config", tmp_path / "c.yml", code=2)


def test_cuda_is_refused_where_it_is_not(capsys, tiny, tmp_path):
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("this onnxruntime has CUDA")
    for args in (("--provider", "cuda"), ("--ngpu", "1")):
        line = refused(capsys, tiny, tmp_path, *args)
        assert "onnxruntime-gpu" in line
    assert "one GPU" in refused(capsys, tiny, tmp_path, "--ngpu", "2")


def test_a_corrupt_graph_is_named(capsys, tiny, tmp_path):
    import shutil

    shutil.copytree(tiny["bundle"], tmp_path / "b")
    graph = tmp_path / "b" / "decoder.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert "decoder.onnx is truncated or changed" in refused(
        capsys, tiny, tmp_path, bundle=tmp_path / "b"
    )


def test_a_full_disk_is_one_line(capsys, tiny, tmp_path, monkeypatch):
    import errno

    from espnet_onnx_plugin.runtime.io.writer import ResultWriter

    def full(self, *args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ResultWriter, "results", full)
    assert "No space left on device; free some" in refused(capsys, tiny, tmp_path)


def test_results_of_something_else_are_not_removed(capsys, tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("x")
    with pytest.raises(SystemExit):
        decode(tiny, tmp_path)
    assert "thesis.tex" in capsys.readouterr().err
    assert (tmp_path / "out" / "thesis.tex").exists()


def variant(tmp_path, **choices):
    """Export a tiny model with other choices; returns (config, files, bundle)."""
    config = asr_config(**choices)
    model = build_asr(config)
    sharpen(model)
    files = save(model, config, tmp_path / "asr", "model.pth")
    checkpoints = Checkpoints(files["config"], files["file"])
    return files, export_bundle("asr", checkpoints, tmp_path / "bundle")


def compare(files, bundle, inputs, **options):
    from espnet2.bin.asr_inference import Speech2Text

    theirs = Speech2Text(str(files["config"]), str(files["file"]), **options)
    ours = espnet_onnx_plugin.Speech2Text(bundle.path, **options)
    answers = []
    for value in inputs:
        expected, result = theirs(value.astype(np.float32)), ours(value)
        if isinstance(expected, tuple):
            assert result[1] == expected[1]
            expected, result = expected[0], result[0]
        assert [r[:3] for r in result] == [r[:3] for r in expected]
        answers.append(result)
    assert any(len(r[0][2]) > 1 for r in answers)


def test_intermediate_ctc_is_returned_and_written(tmp_path):
    files, bundle = variant(
        tmp_path,
        encoder_conf=dict(
            output_size=8,
            attention_heads=2,
            linear_units=12,
            num_blocks=3,
            interctc_layer_idx=[1, 2],
            interctc_use_conditioning=True,
        ),
        model_conf=dict(ctc_weight=0.3, interctc_weight=0.5),
    )
    compare(files, bundle, waves().values(), beam_size=3, ctc_weight=0.3)
    soundfile.write(tmp_path / "a.wav", waves()["utt1"], RATE)
    (tmp_path / "wav.scp").write_text(f"a {tmp_path / 'a.wav'}\n")
    out = decode(None, tmp_path, bundle=bundle.path, data=tmp_path / "wav.scp")
    for layer in (1, 2):
        name = f"encoder_interctc_layer{layer}.txt"
        assert (out / "1best_recog" / name).read_text().startswith("a ")


def test_ctc_only_model(tmp_path):
    files, bundle = variant(tmp_path, decoder=None, model_conf=dict(ctc_weight=1.0))
    assert list(bundle.manifest.graphs) == ["frontend", "encoder"]
    compare(files, bundle, waves().values(), beam_size=3, ctc_weight=1.0)


def test_attention_only_model(tmp_path):
    files, bundle = variant(tmp_path, model_conf=dict(ctc_weight=0.0))
    compare(files, bundle, waves().values(), beam_size=3, ctc_weight=0.0)
    with pytest.raises(PluginError, match="has no CTC"):
        espnet_onnx_plugin.Speech2Text(bundle.path, ctc_weight=0.3)


def test_features_without_a_frontend(tmp_path):
    files, bundle = variant(tmp_path, frontend=None, input_size=20, token_type="word")
    random = np.random.default_rng(0)
    features = [random.standard_normal((n, 20)) for n in (60, 33, 101)]
    compare(files, bundle, features, beam_size=3, ctc_weight=0.3)
    with pytest.raises(PluginError, match=r"\(frames, 20\)"):
        espnet_onnx_plugin.Speech2Text(bundle.path)(np.zeros((50, 21)))


def test_volume_normalization_and_channels(tmp_path):
    files, bundle = variant(
        tmp_path,
        speech_volume_normalize=0.8,
        preprocessor_conf=dict(force_single_channel=True),
        normalize=None,
    )
    speech = bundle.manifest.speech
    assert (speech.volume_normalize, speech.average_channels) == (0.8, True)
    ours = espnet_onnx_plugin.Speech2Text(bundle.path, beam_size=2)
    wave = waves()["utt2"]
    stereo = np.stack((wave * 1.5, wave * 0.5), axis=1) * 0.01
    expected = ours(wave * (0.8 / 1.5) / np.abs(wave).max())
    # Only the scaled mean decides: another gain changes nothing.
    assert ours(stereo)[0][2] == ours(stereo * 7)[0][2]
    assert len(expected[0][2]) > 0


def test_sentencepiece_tokens(tmp_path):
    import sentencepiece

    (tmp_path / "text").write_text("abc abd fig fog dog dig abacad\n" * 20)
    sentencepiece.SentencePieceTrainer.Train(
        input=str(tmp_path / "text"),
        model_prefix=str(tmp_path / "bpe"),
        vocab_size=14,
        minloglevel=2,
    )
    processor = sentencepiece.SentencePieceProcessor(str(tmp_path / "bpe.model"))
    pieces = [processor.IdToPiece(i) for i in range(3, processor.GetPieceSize())]
    files, bundle = variant(
        tmp_path,
        token_type="bpe",
        bpemodel=str(tmp_path / "bpe.model"),
        token_list=["<blank>", "<unk>", *pieces, "<sos/eos>"],
    )
    (tmp_path / "bpe.model").rename(tmp_path / "gone.model")
    assert bundle.manifest.text.bpemodel.name == "bpe.model"
    ours = espnet_onnx_plugin.Speech2Text(bundle.path, beam_size=3)
    (tmp_path / "gone.model").rename(tmp_path / "bpe.model")
    compare(files, bundle, waves().values(), beam_size=3, ctc_weight=0.3)
    text, tokens, _, _ = ours(waves()["utt3"])[0]
    assert text == processor.DecodePieces(tokens)


def test_an_ngram_model_without_kenlm_is_refused(monkeypatch):
    monkeypatch.setitem(sys.modules, "kenlm", None)
    with pytest.raises(PluginError, match="pip install kenlm .* ngram_weight to 0"):
        NgramScorer("x.arpa", TOKENS)


def test_ngram_scores_are_espnets(tiny, tmp_path):
    kenlm = pytest.importorskip("kenlm", reason="the extra ngram is not installed")
    words = [t for t in TOKENS if t not in ("<blank>", "<unk>", "<sos/eos>")]
    random = np.random.default_rng(0)
    unigrams = ["-1.5\t<unk>\t0", "0\t<s>\t-0.3", "-1.2\t</s>\t0"]
    unigrams += [f"{-random.uniform(0.5, 2):.4f}\t{w}\t-0.3" for w in words]
    bigrams = [f"-0.4\t<s> {words[0]}"]
    bigrams += [
        f"{-random.uniform(0.1, 1):.4f}\t{a} {b}" for a in words[:6] for b in words[:6]
    ]
    arpa = (
        "\\data\\\nngram 1={}\nngram 2={}\n\n"
        "\\1-grams:\n{}\n\n\\2-grams:\n{}\n\n\\end\\\n"
    )
    path = tmp_path / "3gram.arpa"
    path.write_text(
        arpa.format(
            len(unigrams), len(bigrams), "\n".join(unigrams), "\n".join(bigrams)
        )
    )
    assert kenlm.LanguageModel(str(path)).order == 2
    files = tiny["asr"]
    checkpoints = Checkpoints(files["config"], files["file"], ngram_file=path)
    bundle = export_bundle("asr", checkpoints, tmp_path / "bundle")
    options = dict(beam_size=3, ctc_weight=0.3, ngram_weight=0.7, lm_weight=0.0)
    theirs = espnet(tiny, ngram_file=str(path), **options)
    ours = espnet_onnx_plugin.Speech2Text(bundle.path, **options)
    for wave in waves().values():
        expected, result = theirs(wave.astype(np.float32))[0], ours(wave)[0]
        assert result[:3] == expected[:3]
        assert result[3].score == pytest.approx(float(expected[3].score), abs=1e-3)
        assert result[3].scores["ngram"] != 0.0


def test_the_readmes_example(tiny):
    speech = waves()["utt0"]
    got = run_readme("ctc_weight=0.3", {"BUNDLE": tiny["bundle"]}, speech=speech)
    options = dict(beam_size=10, ctc_weight=0.3, lm_weight=0.3)
    assert got["text"] == espnet(tiny, **options)(speech.astype(np.float32))[0][0]
    assert set(got["hypothesis"].scores) == {"decoder", "ctc", "lm"}
