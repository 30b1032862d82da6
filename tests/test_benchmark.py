"""scripts/benchmark.py, from a configuration to tables and plots."""

import csv
import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarking.benchmark_report import describe_agreement, write_report
from benchmarking.measurement import Agreement, Distance, Measurement, Outcome
from benchmarking.settings import Decode, Setting, SpeechSetting, Synthesis

from espnet_onnx_plugin.errors import PluginError

ROOT = Path(__file__).parents[1]
CONF = ROOT / "conf" / "benchmark"

# One worker of xdist, so that the smoke configuration runs once.
pytestmark = pytest.mark.xdist_group("benchmark")


def load(monkeypatch):
    """The script as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    path = ROOT / "scripts" / "benchmark.py"
    spec = importlib.util.spec_from_file_location("benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def smoke(tmp_path_factory):
    """The output directory of the smoke configuration."""
    output = tmp_path_factory.mktemp("benchmark")
    with pytest.MonkeyPatch.context() as monkeypatch:
        command = ["--config", str(CONF / "smoke.yaml"), "--output_dir", str(output)]
        load(monkeypatch).main(command)
    return output


def test_one_worker_has_all_tests_of_a_group(request):
    """Not so with pytest 9.2 and pytest-xdist 3.8."""
    if getattr(request.config.option, "loadgroup", False):
        assert request.node.nodeid.endswith("@benchmark")


def outcomes(output):
    files = sorted((output / "settings").glob("*.json"))
    contents = [json.loads(f.read_text(encoding="utf-8")) for f in files]
    return [Outcome.from_json(content["outcome"]) for content in contents]


@pytest.mark.more
def test_smoke(smoke):
    for name in ("time_by_part.png", "rtf_by_length.png"):
        assert (smoke / name).read_bytes().startswith(b"\x89PNG")
    page = (smoke / "RESULTS.md").read_text(encoding="utf-8")
    for heading in ("## Speed", "## Time by part", "## Growth"):
        assert heading in page
    for word in ("torch ", "onnxruntime ", "cores", "- date: 20", "threads: 1"):
        assert word in page
    with open(smoke / "results.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert [row["system"] for row in rows[:4]] == [
        "pytorch",
        "fp32",
        "optimized",
        "int8",
    ]
    assert len(rows) == 6
    for row in rows:
        if row["system"] in ("fp32", "optimized"):
            assert (row["identical"], row["different"]) == ("1", "0")
        assert float(row["start_seconds"]) > float(row["median_seconds"]) > 0
        assert int(row["model_bytes"]) > 100_000


@pytest.mark.more
def test_smoke_measurements(smoke):
    one, two = outcomes(smoke)
    assert (one.setting.audio_seconds, two.setting.audio_seconds) == (1.0, 2.0)
    assert len({m.peak_memory_mb for m in two.measurements}) == 4
    for m in two.measurements:
        assert len(m.runs) == 2 and len(m.starts) == 1
        for (decode,) in m.runs:
            assert sum(decode.parts.values()) == pytest.approx(decode.seconds)
            assert min(decode.parts.values()) >= 0
            assert len(decode.tokens) == 8  # the steps that the configuration fixes
    pytorch = two.reference.parts
    assert all(pytorch[part] > 0 for part in Decode.PARTS)
    # A bundle's process holds no torch.
    assert two.measurements[1].peak_memory_mb < two.reference.peak_memory_mb / 2


@pytest.mark.more
def test_smoke_of_speech(monkeypatch, tmp_path):
    """Bundle and PyTorch make the same waveform, and its figures are in the tables."""
    module = load(monkeypatch)
    config = ["--config", str(CONF / "smoke_tts.yaml")]
    module.main([*config, "--output_dir", str(tmp_path)])
    (outcome,) = outcomes(tmp_path)
    pytorch, fp32 = outcome.measurements
    assert fp32.distance.difference < 1e-3 and fp32.distance.mcd < 0.1
    # 46 tokens and the one that ends them, 6 frames each, 16 samples each.
    assert pytorch.audio_seconds == fp32.audio_seconds == 47 * 6 * 16 / 22050
    wave = np.load(tmp_path / "log" / "0.2_s_1_thread" / "fp32_0.npy")
    assert wave.std() > 0.1  # neither silence nor noise at full scale
    for m in (pytorch, fp32):
        for (synthesis,) in m.runs:
            assert sum(synthesis.parts.values()) == pytest.approx(synthesis.seconds)
            assert synthesis.parts["acoustic"] > 0 and synthesis.parts["vocoder"] > 0
        assert m.first_audio > 0
    # The size of the vocoder's checkpoint counts.
    files = [tmp_path / "model" / name for name in ("model.pth", "vocoder.pkl")]
    assert pytorch.model_bytes == sum(path.stat().st_size for path in files)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    for word in (
        "| first audio s | vocoder s |",
        "| difference | MCD dB |",
        "acoustic",
    ):
        assert word in page


@pytest.mark.more
def test_smoke_of_singing(monkeypatch, tmp_path):
    """Bundle and PyTorch sing the same song, as long as its label says."""
    module = load(monkeypatch)
    config = ["--config", str(CONF / "smoke_svs.yaml")]
    module.main([*config, "--output_dir", str(tmp_path)])
    (outcome,) = outcomes(tmp_path)
    pytorch, fp32 = outcome.measurements
    assert fp32.distance.difference < 1e-3
    assert pytorch.audio_seconds == fp32.audio_seconds == pytest.approx(1, abs=0.01)
    wave = np.load(tmp_path / "log" / "1_s_1_thread" / "fp32_0.npy")
    assert wave.std() > 0
    for m in (pytorch, fp32):
        for (synthesis,) in m.runs:
            assert synthesis.parts["acoustic"] > 0 and synthesis.parts["vocoder"] > 0


@pytest.mark.more
def test_smoke_of_enhancement(monkeypatch, tmp_path):
    """Bundles and PyTorch make the same waveforms, and the tables say how near."""
    module = load(monkeypatch)
    config = ["--config", str(CONF / "smoke_enh.yaml")]
    module.main([*config, "--output_dir", str(tmp_path)])
    whole, stream = outcomes(tmp_path)
    assert stream.setting.name == "0.5 s, stream in pieces of 100 ms"
    for outcome in (whole, stream):
        pytorch, fp32, optimized, int8 = outcome.measurements
        assert [m.audio_seconds for m in outcome.measurements] == [0.5] * 4
        assert pytorch.distance is None
        for m in (fp32, optimized):
            assert m.distance.difference < 1e-3 and m.distance.si_snr > 60
        assert int8.distance.si_snr > 10
    waves = [
        np.load(tmp_path / "log" / name / "fp32_0.npy")
        for name in ("0.5_s_1_thread", "0.5_s_stream_in_pieces_of_100_ms")
    ]
    assert waves[0].shape == waves[1].shape == (2, 4000) and waves[0].std() > 0
    for m in whole.measurements:
        for (separation,) in m.runs:
            assert sum(separation.parts.values()) == pytest.approx(separation.seconds)
            assert separation.parts["separator"] > 0
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| difference | SI-SNR dB |" in page


@pytest.mark.more
def test_smoke_of_streams(monkeypatch, tmp_path):
    """Bundle and PyTorch recognize the same, alone and together, parts late or not."""
    module = load(monkeypatch)
    config = ["--config", str(CONF / "smoke_streaming.yaml")]
    module.main([*config, "--output_dir", str(tmp_path)])
    one, two = outcomes(tmp_path)
    assert (one.setting.streams, two.setting.streams) == (1, 2)
    for outcome in (one, two):
        streams = outcome.setting.streams
        assert outcome.agreement(outcome.measurements[1]).identical == 1
        for m in outcome.measurements:
            assert m.audio_seconds == 4.0 * streams
            [[decode]] = m.runs
            assert 4 * streams < len(decode.tokens) < 40 * streams
            assert sum(decode.parts.values()) == pytest.approx(decode.seconds)
            assert decode.parts["encoder"] > 0 and decode.parts["ctc"] > 0
            # 4 s are 6 whole parts of 640 ms and a rest.
            assert len(decode.delays) == 6 * streams
            assert len(decode.last_delays) == streams
            assert 0 < m.delay(0.5) <= m.delay(0.95) < decode.seconds
    pytorch, fp32 = (m.runs[0][0] for m in two.measurements)
    assert pytorch.last_delays[0] < pytorch.last_delays[1]  # it waits for the first
    assert fp32.last_delays[0] == fp32.last_delays[1]
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| delay s | 95 % s | last word s | encoder s |" in page
    with open(tmp_path / "results.csv", encoding="utf-8") as f:
        rows = list(csv.DictReader(f))
    assert all(float(row["delay_95_percent_seconds"]) > 0 for row in rows)


@pytest.mark.parametrize("difference", [None, 2e-3, math.nan, math.inf])
def test_other_waveforms_are_refused(monkeypatch, difference):
    module = load(monkeypatch)
    parts = dict.fromkeys(Synthesis.PARTS, 1.0)
    runs = [[Synthesis(3.0, parts, 100.0, 1.0, 2.0)]]
    systems = {
        "pytorch": None,
        "fp32": Distance(1e-5, 0.0),
        "optimized": Distance(difference, 0.2),
        "int8": Distance(difference, 0.4),
    }
    measurements = [
        Measurement(name, 1, 1.0, [1.0], runs, distance)
        for name, distance in systems.items()
    ]
    outcome = Outcome(SpeechSetting("name"), "2026-01-01", None, measurements)
    with pytest.raises(PluginError, match="other waveforms.*: optimized in 'name': "):
        module.check_results([outcome])


@pytest.mark.more
def test_finished_settings_are_kept(smoke, monkeypatch, tmp_path, capsys):
    module = load(monkeypatch)
    config = tmp_path / "more.yaml"
    text = (CONF / "smoke.yaml").read_text(encoding="utf-8")
    config.write_text(text + "- audio_seconds: 1.5\n", encoding="utf-8")
    measured = []

    def interrupt(setting, *others):
        measured.append(setting.name)
        raise KeyboardInterrupt

    monkeypatch.setattr(module.drive, "measure", interrupt)
    with pytest.raises(SystemExit):
        module.main(["--config", str(config), "--output_dir", str(smoke)])
    assert measured == ["1.5 s, beam 4, LM 0.5"]
    assert "finished settings (2) are kept" in capsys.readouterr().err


def worker_spec(smoke, system, model):
    noise = next((smoke / "inputs").glob("*.npy"))
    options = {"beam_size": 4, "maxlenratio": -8.0, "minlenratio": -7.0}
    return {
        "system": system,
        "task": "asr",
        "model": str(model),
        "options": {**options, "ctc_weight": 0.3, "lm_weight": 0.5},
        "threads": 1,
        "inputs": [str(noise)],
    }


@pytest.mark.more
def test_a_worker_of_a_bundle_imports_neither_torch_nor_espnet_nor_onnx(smoke):
    code = (
        "import runpy, sys\n"
        "for name in ('torch', 'espnet', 'espnet2', 'onnx'): sys.modules[name] = None\n"
        "runpy.run_module('benchmarking.worker', run_name='__main__')\n"
    )
    spec = worker_spec(smoke, "fp32", smoke / "bundles" / "fp32")
    result = subprocess.run(
        [sys.executable, "-c", code, json.dumps(spec)],
        input="0\n0\n",
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'scripts'}:{ROOT}"},
    )
    assert result.returncode == 0, result.stderr
    first, second = map(json.loads, result.stdout.splitlines())
    assert first["tokens"] == second["tokens"] and len(first["tokens"]) == 8


@pytest.mark.more
def test_a_wrong_bundle_is_different(smoke, monkeypatch, tmp_path, capsys):
    import onnx

    from espnet_onnx_plugin.bundle import read_bundle, redescribe, write_manifest

    module = load(monkeypatch)
    output = tmp_path / "wrong"
    shutil.copytree(smoke, output)
    shutil.rmtree(output / "settings")
    bundle = read_bundle(output / "bundles" / "fp32")
    graph = bundle.manifest.graphs["decoder"]
    path = bundle.file(graph.file.name)
    # The best token becomes the worst.
    decoder = onnx.load(path, load_external_data=False)
    name = "log_probs"
    for node in decoder.graph.node:
        node.output[:] = ["right" if o == name else o for o in node.output]
    decoder.graph.node.append(onnx.helper.make_node("Neg", ["right"], [name]))
    onnx.save(decoder, path)
    graphs = {**bundle.manifest.graphs, "decoder": redescribe(path, graph)}
    write_manifest(bundle.path, dataclasses.replace(bundle.manifest, graphs=graphs))
    config = tmp_path / "wrong.yaml"
    text = (CONF / "smoke.yaml").read_text(encoding="utf-8")
    head = text[: text.index("settings:")]
    config.write_text(
        f"{head}settings: [{{audio_seconds: 1, variants: [pytorch, fp32]}}]\n",
        encoding="utf-8",
    )
    # PyTorch's side is as it was.
    known, measure = outcomes(smoke)[0].reference, module.drive.measure

    def measure_fp32(setting, specs, logs):
        measured = measure(setting, {"fp32": specs["fp32"]}, logs)
        return {"pytorch": (known.starts, known.runs), **measured}

    monkeypatch.setattr(module.drive, "measure", measure_fp32)
    with pytest.raises(SystemExit) as error:
        module.main(["--config", str(config), "--output_dir", str(output)])
    assert error.value.code == 1
    message = capsys.readouterr().err.splitlines()[-1]
    assert "other hypotheses than PyTorch's: fp32 in '1 s, beam 4, LM 0.5'" in message
    assert "| different (" in (output / "RESULTS.md").read_text(encoding="utf-8")


def test_a_part_within_another_counts_once(monkeypatch):
    load(monkeypatch)
    from benchmarking import stopwatch

    class Scorer:
        def score(self):
            return self.posteriors()

        def posteriors(self):
            return "log_probs"

    scorer, clock = Scorer(), iter([1.0, 11.0, 13.0, 113.0])
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: next(clock))
    watch = stopwatch.Stopwatch()
    watch.watch("encoder", scorer, "posteriors")
    watch.watch("ctc", scorer, "score", "what_it_lacks")
    assert scorer.score() == "log_probs"
    assert watch.seconds == {"ctc": 110.0, "encoder": 2.0}


@pytest.mark.more
def test_a_worker_that_ends_says_why(smoke, monkeypatch, tmp_path):
    module = load(monkeypatch)
    spec = worker_spec(smoke, "fp32", tmp_path / "nothing")
    with pytest.raises(PluginError, match="^fp32: .*nothing is not a bun"):
        module.drive.measure(Setting(), {"fp32": spec}, tmp_path / "log")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"settings": [{"beam": 4}]}, "setting 1: unknown key 'beam'"),
        ({"settings": [{"beam_size": "4"}]}, "beam_size is not a whole number"),
        ({"settings": [{"beam_size": 2.5}]}, "beam_size is not a whole number: 2.5"),
        ({"settings": [{"beam_size": None}]}, "beam_size is not a whole number: None"),
        ({"settings": [{"ctc_weight": [1]}]}, "ctc_weight is not a number: [1]"),
        ({"settings": [{"audio_seconds": math.nan}]}, "audio_seconds is not a number"),
        ({"settings": [{"lm_weight": math.inf}]}, "lm_weight is not a number: inf"),
        ({"settings": [{"beam_size": 0}]}, "beam_size 0 must be 1 or more"),
        ({"settings": [{"variants": ["fp64"]}]}, "variants fp64"),
        ({"settings": [{}]}, "neither audio_seconds nor test data"),
        ({"settings": [{"audio_seconds": 1}] * 2}, "setting 2: a second '1 s, beam"),
        ({"settings": []}, "settings is no list"),
        ({"model": {}}, "one of random_model and model"),
        ({"random_model": {"train_config": "no.yaml"}}, "cannot read"),
        ({"random_model": {}}, "train_config is missing"),
        (
            {"random_model": {"train_config": {}, "task": "codec"}},
            "task 'codec' is none",
        ),
        (
            {
                "random_model": {"train_config": {}, "task": "tts"},
                "settings": [{"audio_seconds": 1, "beam_size": 4}],
            },
            "setting 1: unknown key 'beam_size'",
        ),
        (
            {"use_streaming": True, "settings": [{"audio_seconds": 1, "streams": 0}]},
            "streams 0 must be 1 or more",
        ),
        (
            {"use_streaming": True, "data": {"dir": "d"}, "settings": [{"streams": 2}]},
            "test data is recognized one stream at a time",
        ),
        (
            {
                "use_streaming": True,
                "random_model": {"train_config": {}, "task": "st"},
            },
            "use_streaming is for task asr",
        ),
        ({"defaults": {"lm_weight": 0.5}}, "needs a language model"),
        ({"data": {"dirs": "x"}}, "data: unknown key 'dirs'"),
        ({"provider": "tpu"}, "provider 'tpu' is not cpu or cuda"),
        (
            {
                "provider": "cuda",
                "settings": [{"audio_seconds": 1, "variants": ["fp32", "int8"]}],
            },
            "setting 1: int8 is not for this provider, which takes pytorch, fp32, opt",
        ),
    ],
)
def test_errors_in_a_configuration(monkeypatch, tmp_path, capsys, change, message):
    import yaml

    module = load(monkeypatch)
    content = {"random_model": {"train_config": {}}, "settings": [{"audio_seconds": 1}]}
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**content, **change}), encoding="utf-8")
    with pytest.raises(SystemExit) as error:
        module.main(["--config", str(config), "--output_dir", str(tmp_path)])
    assert error.value.code == 1
    printed = capsys.readouterr().err
    assert message in printed and printed.count("\n") == 1


def test_variants_are_those_of_the_provider(monkeypatch, tmp_path):
    module = load(monkeypatch)
    config = tmp_path / "config.yaml"
    for provider, last in {"cpu": "int8", "cuda": "fp16"}.items():
        config.write_text(
            f"provider: {provider}\n"
            "random_model: {train_config: {}}\nsettings: [{audio_seconds: 1}]\n"
        )
        read = module.read_config(config)
        assert read.provider == provider
        assert read.settings[0].variants == ("pytorch", "fp32", "optimized", last)


def test_options_of_bin_quantize_may_stand_in_a_configuration(monkeypatch, tmp_path):
    module = load(monkeypatch)
    config = tmp_path / "config.yaml"
    config.write_text(
        "model: {train_config: a, model_file: b, quantize_options: [--max_mcd, 2]}\n"
        "settings: [{audio_seconds: 1}]\n"
    )
    assert module.read_config(config).model.quantize_options == ("--max_mcd", "2")


def test_bundles_without_pytorch_beside_them_are_not_said_to_be_right(
    monkeypatch, caplog
):
    module = load(monkeypatch)
    only = measurement("fp32", [decode(1.0, [1])])
    module.check_results([Outcome(Setting("name"), "2026-01-01", None, [only])])
    assert "name: nothing is compared with PyTorch" in caplog.text


def test_an_unknown_log_level_is_refused(monkeypatch, tmp_path, capsys):
    module = load(monkeypatch)
    with pytest.raises(SystemExit):
        module.main(["--config", "c", "--output_dir", "o", "--log_level", "LOUD"])
    assert "invalid choice: 'LOUD'" in capsys.readouterr().err


def test_a_missing_package_is_named(monkeypatch, tmp_path, capsys):
    module = load(monkeypatch)
    monkeypatch.setattr(module, "find_spec", lambda name: name != "espnet2" or None)
    with pytest.raises(SystemExit):
        module.main(
            ["--config", str(CONF / "smoke.yaml"), "--output_dir", str(tmp_path)]
        )
    assert "the benchmark needs espnet: pip install" in capsys.readouterr().err


def test_the_configurations_are_read(monkeypatch):
    module = load(monkeypatch)
    config = module.read_config(CONF / "librispeech_conformer.yaml")
    assert config.model.train_config["encoder_conf"]["num_blocks"] == 12
    assert config.model.lm_train_config["lm_conf"]["layer"] == 16
    assert len(config.settings) == 6
    config = module.read_config(CONF / "aishell_streaming.yaml")
    assert [setting.streams for setting in config.settings] == [1, 8]
    for name, task in {
        "csj_rnn": "asr",
        "must_c_conformer": "st",
        "owsm_small": "s2t",
        "ljspeech_tacotron2": "tts",
        "ljspeech_fastspeech2": "tts",
        "ljspeech_conformer_fastspeech2": "tts",
        "ljspeech_vits": "tts",
        "ljspeech_jets": "tts",
    }.items():
        assert module.read_config(CONF / f"{name}.yaml").model.task == task


def decode(seconds, tokens, score=-1.0, text="a b"):
    parts = {part: seconds / len(Decode.PARTS) for part in Decode.PARTS}
    return Decode(seconds, parts, 100.0, tuple(tokens), score, text)


def measurement(system, *runs):
    return Measurement(system, 10, 2.0, [1.0, 3.0, 2.0], runs)


def test_figures():
    m = measurement(
        "fp32", *[[decode(s, [1]), decode(2 * s, [2])] for s in (1.0, 5.0, 2.0)]
    )
    assert m.seconds == [3.0, 15.0, 6.0]
    assert (m.median, m.rtf, m.start) == (6.0, 3.0, 2.0)
    assert m.encoder == pytest.approx(2.0)
    assert sum(m.parts.values()) == pytest.approx(6.0)


def test_agreement_takes_an_utterances_worst_run():
    reference = measurement(
        "pytorch", *[[decode(1, [1, 2]), decode(1, [3]), decode(1, [4, 5])]] * 2
    )
    other = measurement(
        "int8",
        [decode(1, [1, 2]), decode(1, [4], -1.0009), decode(1, [4, 5])],
        [decode(1, [1, 2]), decode(1, [3]), decode(1, [4, 6], -1.1)],
    )
    agreement = other.agreement(reference)
    assert agreement == Agreement(1, 1, 1, pytest.approx((1 + 0 + 1 + 1 + 1 + 0.5) / 6))
    text = "1 identical, 1 tie, 1 different (75.0 % of tokens equal)"
    assert describe_agreement(agreement) == text
    assert describe_agreement(Agreement(1, 0, 0, 1.0)) == "identical"


def test_error_rates_of_test_data(tmp_path):
    pytorch = measurement("pytorch", [decode(1, [1], text="a b"), decode(1, [2])])
    fp32 = measurement("fp32", [decode(0.5, [1], text="a c"), decode(0.5, [2])])
    outcome = Outcome(Setting(), "2026-01-01", ["a b", "a b"], [pytorch, fp32])
    write_report(tmp_path, "Title", {}, [outcome])
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert "| test data, beam 10, no LM | fp32 | 1.000 |" in page
    assert page.count("| 0.00 |") == 1 and page.count("| 25.00 |") == 1
    assert (tmp_path / "wer_by_rtf.png").exists()
    assert not (tmp_path / "rtf_by_length.png").exists()


def test_a_random_transducer_says_something_now_and_then():
    import torch
    from benchmarking.random_transducer import (
        FRAMES_PER_LABEL,
        encode_noise,
        give_labels,
    )
    from conftest import asr_config, build_asr
    from espnet2.asr.transducer.beam_search_transducer import BeamSearchTransducer

    model = build_asr(
        asr_config(
            frontend_conf=dict(fs=16000, n_fft=2048, hop_length=1024, n_mels=20),
            encoder_conf=dict(output_size=64, attention_heads=2, num_blocks=1),
            decoder="transducer",
            decoder_conf=dict(hidden_size=48),
            joint_net_conf=dict(joint_space_size=64),
        )
    )
    torch.manual_seed(0)
    give_labels(model)
    with torch.no_grad():
        frames = encode_noise(model)[0]
        for beam in (1, 3):  # the second takes any number of labels in a frame
            search = BeamSearchTransducer(model.decoder, model.joint_network, beam)
            labels = len(search(frames)[0].yseq) - 1
            assert 0.7 < labels * FRAMES_PER_LABEL / len(frames) < 1.5


def test_settings_tell_the_searches_of_a_transducer_apart():
    maes = Setting(transducer_conf={"search_type": "maes"})
    assert "maes" in maes.name and maes.name != Setting().name
    assert maes.search_options["transducer_conf"] == {"search_type": "maes"}
    assert "transducer_conf" not in Setting().search_options


def test_searches_of_a_transducer_by_length(tmp_path):
    measured = [measurement("pytorch", [decode(1, [1])])]
    outcomes = [
        Outcome(
            Setting(audio_seconds=seconds, transducer_conf=conf), "", None, measured
        )
        for conf in (None, {"search_type": "maes"})
        for seconds in (5.0, 10.0)
    ]
    write_report(tmp_path, "Title", {}, outcomes)
    page = (tmp_path / "RESULTS.md").read_text(encoding="utf-8")
    assert (tmp_path / "rtf_by_length.png").exists()
    assert "| beam 10, maes, no LM | pytorch |" in page


def test_the_readmes_configuration(monkeypatch, tmp_path):
    readme = (CONF.parents[1] / "README.md").read_text(encoding="utf-8")
    _, _, after = readme.partition("```yaml\ntitle: My model\n")
    config = tmp_path / "mine.yaml"
    config.write_text(after.partition("```")[0], encoding="utf-8")
    read = load(monkeypatch).read_config(config)
    assert read.model.calibration_scp == "dump/raw/dev/wav.scp,sound"
    assert [setting.threads for setting in read.settings] == [1, 4]
