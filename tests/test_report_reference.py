"""Timing ESPnet's inference on a sample, with a made-up ESPnet."""

import argparse
import json
import sys
import types

import numpy as np
import pytest

from espnet_onnx_plugin.bin import asr_reference
from espnet_onnx_plugin.bin.asr_reference import choose_keys
from espnet_onnx_plugin.errors import PluginError


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
        for line in open(key_file):
            length = int(lengths[line.strip()])
            try:
                module.made(np.zeros(length, dtype=np.float32))
            except RuntimeError:
                pass  # as ESPnet, which writes a placeholder

    def get_parser():
        parser = argparse.ArgumentParser()
        parser.add_argument("--output_dir", required=True)
        parser.add_argument("--config")
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
    dataset = types.ModuleType("espnet2.train.iterable_dataset")
    dataset.DATA_TYPES = {"sound": lambda path: np.zeros(int(lengths[path]))}
    torch = types.ModuleType("torch")
    torch.set_num_threads = threads.append
    for name, fake in {
        "torch": torch,
        "espnet2": types.ModuleType("espnet2"),
        "espnet2.bin": package,
        "espnet2.bin.asr_inference": module,
        "espnet2.train": types.ModuleType("espnet2.train"),
        "espnet2.train.iterable_dataset": dataset,
    }.items():
        monkeypatch.setitem(sys.modules, name, fake)
    lengths = {"u1": "8000", "u2": "16000", "u3": "50", "u4": "4000"}
    (tmp_path / "wav.scp").write_text("".join(f"{key} {key}\n" for key in lengths))
    module.threads = threads
    return module


@pytest.mark.parametrize("lengths_are_known", [True, False])
def test_timings(espnet, tmp_path, lengths_are_known):
    if lengths_are_known:
        lines = "u1 8000\nu2 16000\nu3 50\nu4 4000\n"
        (tmp_path / "utt2num_samples").write_text(lines)
    out = tmp_path / "out"
    asr_reference.main(
        ["--output_dir", str(out), "--beam_size", "5", "--num_threads", "2"]
        + ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
        + ["--num_utts", "3"]
    )
    rows = [json.loads(line) for line in open(out / "timing.jsonl")]
    # Evenly spread with the longest; ESPnet goes on after the short one.
    assert [row["key"] for row in rows] == ["u1", "u2", "u3"]
    assert [row["audio_seconds"] for row in rows] == [1.0, 2.0, 50 / 8000]
    assert all(row["total_seconds"] > 0 for row in rows)
    assert all(row["peak_memory_mb"] > 1 for row in rows)
    assert espnet.threads == [2]
    assert espnet.made.calls == 4  # one of them to warm up
    assert espnet.Speech2Text is Speech2Text  # given back


def test_empty_list_is_one_line(espnet, tmp_path, capsys):
    (tmp_path / "wav.scp").write_text("")
    with pytest.raises(SystemExit) as error:
        asr_reference.main(
            ["--output_dir", str(tmp_path / "out"), "--beam_size", "5"]
            + ["--data_path_and_name_and_type", f"{tmp_path}/wav.scp,speech,sound"]
        )
    message = capsys.readouterr().err
    assert error.value.code == 1
    assert message.count("\n") == 1 and "no utterance" in message
    assert not (tmp_path / "out").exists()
