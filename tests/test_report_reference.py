"""Timing: the sample, and ESPnet's inference with a made-up ESPnet."""

import argparse
import json
import sys
import types
from pathlib import Path

import numpy as np
import pytest
from conftest import tts_task

from espnet_onnx_plugin.bin import reference, sample
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.sample import choose_keys, read_lengths
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import TASKS, door_called


def test_sample_is_spread_and_has_the_longest():
    lengths = {f"u{i:03}": 10 for i in range(100)}
    lengths["u037"] = 99
    keys = choose_keys(lengths, 20)
    assert len(keys) == 20 and keys == sorted(keys)
    assert "u037" in keys and "u000" in keys
    numbers = [int(key[1:]) for key in keys if key != "u037"]
    assert {b - a for a, b in zip(numbers, numbers[1:], strict=False)} <= {5, 6}


def test_small_samples():
    lengths = {"a": 1, "b": 3, "c": 2}
    assert choose_keys(lengths, 20) == ["a", "b", "c"]
    assert choose_keys(lengths, 3) == ["a", "b", "c"]
    assert choose_keys(lengths, 2) == ["a", "b"]
    assert choose_keys(lengths, 1) == ["b"]
    with pytest.raises(PluginError, match="--num_utts 0"):
        choose_keys(lengths, 0)


@pytest.mark.parametrize(
    "file, end", [("utt2num_samples", ""), ("feats_shape", ",80"), (None, None)]
)
def test_lengths(tmp_path, file, end):
    for key, length in {"u1": 5, "u2": 9}.items():
        np.save(tmp_path / f"{key}.npy", np.zeros(length))
    scp = tmp_path / "wav.scp"
    scp.write_text("".join(f"{key} {tmp_path}/{key}.npy\n" for key in ("u1", "u2")))
    if file:
        lines = [f"{key}{end}\n" for key in ("u1 50", "u2 90", "u3 10")]
        (tmp_path / file).write_text("".join(lines))
    scale = 10 if file else 1
    assert read_lengths(Source(scp, "npy")) == {"u1": 5 * scale, "u2": 9 * scale}
    keys = tmp_path / "new/keys.scp"
    args = ["--scp", f"{scp},npy", "--num_utts", "1", "--output_file", str(keys)]
    sample.main(args)
    assert keys.read_text() == "u2\n"


def test_empty_list_is_one_line(tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("")
    keys = tmp_path / "keys.scp"
    with pytest.raises(SystemExit) as error:
        sample.main(["--scp", f"{tmp_path}/wav.scp,sound", "--output_file", str(keys)])
    message = capsys.readouterr().err
    assert error.value.code == 1
    assert message.count("\n") == 1 and "no utterance" in message
    assert not keys.exists()


class Speech2Text:
    """ESPnet's interface: one call for each utterance."""

    def __init__(self):
        self.calls = 0
        conf = {"fs": "8k"}
        self.asr_train_args = types.SimpleNamespace(frontend_conf=conf, input_size=None)

    def __call__(self, speech):
        self.calls += 1
        if len(speech) < 100:
            raise RuntimeError("too short")
        return "text"


@pytest.fixture
def espnet(monkeypatch, tmp_path):
    """Modules in the place of torch and ESPnet, and a data directory."""
    module = types.ModuleType("espnet2.bin.asr_inference")
    threads = []

    def inference(
        output_dir, data_path_and_name_and_type, key_file, beam_size, log_level
    ):
        assert beam_size == 5
        module.made = module.Speech2Text()
        Path(output_dir).mkdir()
        for line in open(key_file or data_path_and_name_and_type[0][0]):
            length = int(lengths[line.split()[0]])
            try:
                # Padded, as ESPnet gives Whisper-style models all their speech.
                speech = np.zeros(max(length, 9000), dtype=np.float32)
                module.made(speech=speech[: length if length < 100 else None])
            except RuntimeError:
                pass  # as ESPnet, which writes a placeholder

    def get_parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--output_dir", required=True)
        parser.add_argument("--config")
        parser.add_argument("--key_file")
        parser.add_argument("--log_level", default="INFO")
        parser.add_argument("--beam_size", type=int)
        parser.add_argument(
            "--data_path_and_name_and_type",
            type=lambda value: tuple(value.split(",")),
            action="append",
        )
        return parser

    module.Speech2Text = Speech2Text
    module.inference = inference
    module.get_parser = get_parser
    package = types.ModuleType("espnet2.bin")
    package.asr_inference = module
    torch = types.ModuleType("torch")
    torch.set_num_threads = threads.append
    for name, fake in {
        "torch": torch,
        "espnet2": types.ModuleType("espnet2"),
        "espnet2.bin": package,
        "espnet2.bin.asr_inference": module,
    }.items():
        monkeypatch.setitem(sys.modules, name, fake)
    lengths = {"u1": "8000", "u2": "16000", "u3": "50", "u4": "4000"}
    for key, length in lengths.items():
        np.save(tmp_path / f"{key}.npy", np.zeros(int(length)))
    lines = [f"{key} {tmp_path}/{key}.npy\n" for key in lengths]
    (tmp_path / "wav.scp").write_text("".join(lines))
    module.threads = threads
    return module


class Text2Speech:
    """ESPnet's interface of a model that speaks, at 8 kHz."""

    fs = 8000

    def __call__(self, text, speech=None):
        if not text:
            raise RuntimeError("nothing to say")
        return {"wav": np.zeros(1000 * len(text))}


@pytest.mark.parametrize(
    "command", [door.command for task in TASKS.values() for door in task.doors]
)
def test_help(command, capsys):
    tts_task()  # or its import fetches what a g2p reads
    with pytest.raises(SystemExit) as error:
        reference.main(["--inference", command, "--help"])
    assert error.value.code == 0
    assert "--num_threads" in capsys.readouterr().out


def test_a_percent_sign_in_a_text_of_espnet_is_no_format(espnet, monkeypatch, capsys):
    get_parser = espnet.get_parser

    def with_percent():
        parser = get_parser()
        parser.add_argument("--window", default=3, help="4.5% CER, %(default)s: 3%%")
        return parser

    monkeypatch.setattr(espnet, "get_parser", with_percent)
    with pytest.raises(SystemExit):
        reference.main(["--help"])
    assert "4.5% CER, 3: 3%" in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("keys", [["u1", "u3", "u2"], None])
def test_timings(espnet, tmp_path, keys):
    args = ["--output_dir", str(tmp_path / "out"), "--beam_size", "5"]
    args += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,npy"]
    if keys:
        (tmp_path / "keys.scp").write_text("".join(f"{key}\n" for key in keys))
        args += ["--key_file", str(tmp_path / "keys.scp")]
    reference.main([*args, "--num_threads", "2"])
    rows = [json.loads(line) for line in open(tmp_path / "out/timing.jsonl")]
    seconds = {"u1": 1.0, "u2": 2.0, "u3": 50 / 8000, "u4": 0.5}
    # ESPnet goes on after the short one.
    keys = keys or list(seconds)
    assert [row["key"] for row in rows] == keys
    assert [row["audio_seconds"] for row in rows] == [seconds[key] for key in keys]
    assert all(row["total_seconds"] > 0 for row in rows)
    assert all(row["peak_memory_mb"] > 1 for row in rows)
    assert espnet.threads == [2]
    assert espnet.made.calls == len(keys)
    assert espnet.Speech2Text is Speech2Text  # given back


def test_a_batch_is_timed_one_by_one(espnet, tmp_path, monkeypatch, capsys):
    # Batches of ESPnet do not go through the call that is timed.
    get_parser, inference = espnet.get_parser, espnet.inference
    taken = []

    def with_batches():
        parser = get_parser()
        parser.add_argument("--batch_size", type=int, default=1)
        return parser

    def batched(batch_size, **options):
        taken.append(batch_size)
        inference(**options)

    monkeypatch.setattr(espnet, "get_parser", with_batches)
    monkeypatch.setattr(espnet, "inference", batched)
    args = ["--output_dir", str(tmp_path / "out"), "--beam_size", "5"]
    args += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,npy"]
    reference.main([*args, "--batch_size", "8"])
    assert taken == [1]
    assert "batch_size is 1 here" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["Speech2Text", "Speech2TextGreedySearch"])
def test_both_classes_of_a_command_are_timed(espnet, tmp_path, monkeypatch, name):
    espnet.Speech2TextGreedySearch = type("Greedy", (Speech2Text,), {})
    inference = espnet.inference

    def choose(**options):  # as ESPnet does by the beam's size
        chosen = getattr(espnet, name)
        with monkeypatch.context() as patch:
            patch.setattr(espnet, "Speech2Text", chosen)
            inference(**options)

    espnet.inference = choose
    monkeypatch.setitem(sys.modules, "espnet2.bin.s2t_inference_ctc", espnet)
    args = ["--inference", "s2t_inference_ctc", "--beam_size", "5"]
    args += ["--output_dir", str(tmp_path / "out")]
    args += ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,npy"]
    reference.main(args)
    rows = [json.loads(line) for line in open(tmp_path / "out/timing.jsonl")]
    assert [row["key"] for row in rows] == ["u1", "u2", "u3", "u4"]


def test_no_utterance_is_one_line(espnet, tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("")
    with pytest.raises(SystemExit) as error:
        reference.main(
            ["--output_dir", str(tmp_path / "out"), "--beam_size", "5"]
            + ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,npy"]
        )
    message = capsys.readouterr().err
    assert error.value.code == 1
    assert message.count("\n") == 1 and "no utterance" in message
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("text", ["abcd", ""])
def test_timings_of_speech(espnet, tmp_path, monkeypatch, text, capsys):
    def inference(output_dir, **options):
        Path(output_dir).mkdir()
        speak = espnet.Text2Speech()
        for inputs in ({"text": "ab"}, {"text": text, "speech": np.zeros(9)}):
            speak(**inputs)

    espnet.Text2Speech, espnet.inference = Text2Speech, inference
    monkeypatch.setitem(sys.modules, "espnet2.bin.tts_inference", espnet)
    (tmp_path / "text").write_text("u1 ab\nu2 abcd\n")
    args = ["--inference", "tts_inference", "--output_dir", str(tmp_path / "out")]
    args += ["--data_path_and_name_and_type", f"{tmp_path}/text,text,text"]
    if not text:  # ESPnet's error is not lost
        with pytest.raises(RuntimeError, match="nothing to say"):
            reference.main(args)
        return
    reference.main(args)
    rows = [json.loads(line) for line in open(tmp_path / "out/timing.jsonl")]
    assert [row["key"] for row in rows] == ["u1", "u2"]
    assert [row["audio_seconds"] for row in rows] == [0.25, 0.5]
    for row in rows:
        assert row["first_audio_seconds"] == row["total_seconds"] > 0
    assert espnet.Text2Speech is Text2Speech


def test_an_unknown_command_is_refused():
    with pytest.raises(PluginError, match="'tts2_inference' is not one of .*asr_inf"):
        door_called("tts2_inference")
    names = [door_called(f"{task}_inference").name for task in ("asr", "slu", "tts")]
    assert names == ["Speech2Text", "Speech2Understand", "Text2Speech"]
    assert door_called("s2t_inference_ctc").name == "Speech2TextGreedySearch"
