"""Options from a YAML file and from Python are held to what the command line takes."""

import importlib
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import yaml

import espnet_onnx_plugin
from espnet_onnx_plugin import Text2Speech
from espnet_onnx_plugin.bin import asr_inference, quantize, report
from espnet_onnx_plugin.bin._common import add_derive_options, make_evaluator
from espnet_onnx_plugin.bin._parser import ArgumentParser
from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import BUDGETS
from espnet_onnx_plugin.evaluate.data_options import (
    COMPARED,
    SCORED,
    Count,
    DataOptions,
)
from espnet_onnx_plugin.evaluate.evaluator import evaluator_class
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.opening import make_options
from espnet_onnx_plugin.runtime.synthesis.options import TtsOptions
from espnet_onnx_plugin.tasks import TASKS, Door, Task

DOORS = [door for task in TASKS.values() for door in task.doors]
INFERENCE = sorted({door.command for door in DOORS})


def parser_of(command):
    module = importlib.import_module(f"espnet_onnx_plugin.bin.{command}")
    return module.COMMAND.get_parser()


def parse(parser, tmp_path, content, *args):
    config = tmp_path / "options.yaml"
    text = content if isinstance(content, str) else yaml.safe_dump(content)
    config.write_text(text, encoding="utf-8")
    return parser.parse_args(["--config", str(config), *args])


NEEDED = ["--model_dir", "m", "--output_dir", "o"]
NEEDED += ["--data_path_and_name_and_type", "wav.scp,speech,sound"]


@pytest.mark.parametrize(
    "content, message",
    [
        ("beam_size: 2.5", "--beam_size: invalid int value: '2.5'"),
        ("beam_size: 2.0", "--beam_size: invalid int value: '2.0'"),
        ("beam_size: null", "--beam_size: invalid int value: 'null'"),
        ("beam_size: true", "--beam_size: invalid int value: 'true'"),
        ("nbest: 1.5", "--nbest: invalid int value: '1.5'"),
        ("ctc_weight: [1]", "--ctc_weight: invalid value: [1]"),
        ("ctc_weight: {a: 1}", "--ctc_weight: invalid value: {'a': 1}"),
        ("ctc_weight: half", "--ctc_weight: invalid float value: 'half'"),
        ("log_level: LOUD", "--log_level: invalid choice: 'LOUD'"),
        ("provider: tpu", "--provider: invalid choice: 'tpu'"),
        ("normalize_length: 2", "--normalize_length: '2' is neither true nor false"),
        ("streaming: maybe", "--streaming: 'maybe' is neither true nor false"),
        ("batch_size: 0", "--batch_size: '0' must be 1 or more"),
        ("model_dir: null", "--model_dir: invalid value: null"),
        ("output_dir: [o]", "--output_dir: invalid value: ['o']"),
        ("data_path_and_name_and_type: [wav.scp]", "'wav.scp' is not PATH,NAME,TYPE"),
        ("data_path_and_name_and_type: [[a, b, c]]", "invalid value: ['a', 'b', 'c']"),
        ("hugging_face_decoder_conf: top", "'top' is not NAME=VALUE,NAME=VALUE"),
        ("hugging_face_decoder_conf: [1]", "is not NAME=VALUE,NAME=VALUE"),
        ("help: true", "unknown option 'help'"),
    ],
)
def test_a_value_that_the_command_line_refuses_is_refused(
    content, message, tmp_path, capsys
):
    with pytest.raises(SystemExit) as e:
        parse(asr_inference.COMMAND.get_parser(), tmp_path, content, *NEEDED)
    assert e.value.code == 2
    printed = capsys.readouterr().err
    assert message in printed and "options.yaml" in printed
    assert printed.count("\n") == 1


@pytest.mark.parametrize(
    "option, value, expected",
    [
        ("beam_size", 7, 7),
        ("beam_size", "7", 7),
        ("ctc_weight", 1, 1.0),
        ("ctc_weight", "0.3", 0.3),
        ("penalty", "1e-3", 0.001),  # no number in YAML 1.1
        ("normalize_length", True, True),
        ("normalize_length", "yes", True),
        ("log_level", "debug", "DEBUG"),
        ("provider", None, None),
        ("key_file", None, None),
        ("key_file", "none", None),
        ("lang_prompt_token", None, None),
        ("hugging_face_decoder_conf", {"num_beams": 2}, {"num_beams": 2}),
        (
            "hugging_face_decoder_conf",
            "num_beams=2,x=true",
            {"num_beams": 2, "x": True},
        ),
        ("transducer_conf", None, None),
        ("streaming", False, False),
        ("dtype", "float32", "float32"),
        ("quantize_modules", ["Linear"], ["Linear"]),
        ("seed", 3, 3),
    ],
)
def test_a_value_that_espnet_takes_is_taken(option, value, expected, tmp_path):
    parser = asr_inference.COMMAND.get_parser()
    given = getattr(parse(parser, tmp_path, {option: value}, *NEEDED), option)
    assert given == expected and type(given) is type(expected)


def test_required_options_and_lists_may_stand_in_the_file(tmp_path):
    data = ["wav.scp,speech,sound", "text,text_prev,text"]
    content = dict(model_dir="m", output_dir="o", data_path_and_name_and_type=data)
    args = parse(asr_inference.COMMAND.get_parser(), tmp_path, content)
    triples = [("wav.scp", "speech", "sound"), ("text", "text_prev", "text")]
    assert args.data_path_and_name_and_type == triples
    content["data_path_and_name_and_type"] = data[0]
    args = parse(asr_inference.COMMAND.get_parser(), tmp_path, content)
    assert args.data_path_and_name_and_type == triples[:1]


@pytest.mark.parametrize(
    "content, message",
    [
        ({"test_sets": []}, "--test_sets: invalid number of values: []"),
        ({"test_sets": [["a"]]}, "--test_sets: invalid value: ['a']"),
        ({"fact": [["threads"]]}, "--fact: invalid number of values: ['threads']"),
        ({"fact": "threads"}, "--fact: invalid number of values: threads"),
    ],
)
def test_numbers_of_values_are_those_of_the_command_line(
    content, message, tmp_path, capsys
):
    with pytest.raises(SystemExit):
        parse(report.get_parser(), tmp_path, content)
    assert message in capsys.readouterr().err


def test_several_values_of_an_option(tmp_path):
    content = dict(
        system=[["fp32", "decode", "model"], ["int8", "decode"]],
        test_sets="test",
        fact=[["threads", 1]],
        output_dir="o",
    )
    args = parse(report.get_parser(), tmp_path, content)
    assert args.system == content["system"] and args.test_sets == ["test"]
    assert args.fact == [["threads", "1"]]


@pytest.mark.parametrize("command", INFERENCE)
def test_every_command_takes_its_own_defaults_from_a_file(command, tmp_path):
    """Defaults can be written down as --help prints them."""
    parser = parser_of(command)
    args = parser.parse_args(NEEDED)
    left = ("config", "model_dir", "output_dir", "data_path_and_name_and_type")
    content = {k: v for k, v in vars(args).items() if k not in left}
    again = parse(parser_of(command), tmp_path, content, *NEEDED)
    assert {k: getattr(again, k) for k in content} == content


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.command)
def test_a_command_has_options_of_the_class_that_decodes(door):
    module = importlib.import_module(f"espnet_onnx_plugin.bin.{door.command}")
    assert module.COMMAND.name == door.command
    assert issubclass(door.load().options_class, module.COMMAND.options)


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_data_of_a_task_and_its_budget_are_options(task):
    evaluator = evaluator_class(task)
    for data in (COMPARED, SCORED):
        assert sum(issubclass(known, evaluator.data_class) for known in data) == 1
    assert evaluator.budget_class in BUDGETS


@dataclass(frozen=True)
class Mixtures(DataOptions):
    mixture_scp: str | None = option(None, "SCP of mixtures")
    mixtures: Count = option(5, "how many of them")

    does = "separates"
    instead = "mixtures as --mixture_scp"
    misplaced = {"mixture_scp": "--mixture_scp is for models that separate"}


@pytest.fixture
def separation(monkeypatch):
    """The row of a task that has an evaluator and data of its own."""
    evaluator = SimpleNamespace(
        data_class=Mixtures,
        from_options=lambda task, data, options: (task.name, data, options),
    )
    name = "espnet_onnx_plugin.evaluate.separation"
    monkeypatch.setitem(sys.modules, name, SimpleNamespace(Separator=evaluator))
    door = Door("enh_inference", "enh", "SeparateSpeech")
    return Task("enh", door, exporter="", evaluator="separation.Separator")


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("enh", ["--mixture_scp", "x", "--mixtures", "3"], None),
        (
            "enh",
            ["--calibration_scp", "x,sound"],
            "a model of task enh separates: give mixtures as --mixture_scp in the "
            "place of --calibration_scp and --calibration_transcript",
        ),
        (
            "enh",
            ["--data_path_and_name_and_type", "x,text,text"],
            "--data_path_and_name_and_type is for models that make waveforms; give "
            "mixtures as --mixture_scp",
        ),
        ("asr", ["--mixture_scp", "x"], "--mixture_scp is for models that separate"),
        ("tts", ["--mixture_scp", "x"], "--mixture_scp is for models that separate"),
    ],
)
def test_a_new_kind_of_task_brings_its_own_data(separation, name, options, message):
    data = [*COMPARED, Mixtures]
    parser = ArgumentParser()
    add_derive_options(parser, data)
    args = parser.parse_args([*NEEDED[:4], *options])
    task = {**TASKS, "enh": separation}[name]
    if message is None:
        made = make_evaluator(args, task, data, {"ref_channel": 1})
        assert made == ("enh", Mixtures("x", 3), {"ref_channel": 1})
        return
    with pytest.raises(PluginError) as e:
        make_evaluator(args, task, data)
    assert str(e.value) == message


def test_a_check_of_no_utterance_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        quantize.main([*NEEDED[:4], "--calibration_utterances", "0"])
    assert "--calibration_utterances: '0' must be 1 or more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(beam_size=2.5), "beam_size 2.5 must be of type int"),
        (dict(beam_size=True), "beam_size True must be of type int"),
        (dict(nbest=None), "nbest None must be of type int"),
        (dict(ctc_weight="0.3"), "ctc_weight '0.3' must be of type float"),
        (dict(ctc_weight=[1]), r"ctc_weight \[1\] must be of type float"),
        (dict(normalize_length=1), "normalize_length 1 must be of type bool"),
        (dict(lang_prompt_token=1), "lang_prompt_token 1 must be of type str or None"),
        (dict(hugging_face_decoder_conf=3), "must be of type Mapping"),
        (dict(beam=3), "unexpected keyword argument 'beam'"),
        (dict(threads=1.5), "threads 1.5 must be of type int"),
    ],
)
def test_options_of_the_classes_have_types(options, message, tiny):
    with pytest.raises(PluginError, match=message):
        espnet_onnx_plugin.Speech2Text(tiny["bundle"], **options)


def test_options_of_a_call_have_types():
    options = make_options(Text2Speech.options_class, dict(threshold=1))
    with pytest.raises(PluginError, match="threshold '0.5' must be of type float"):
        options.changed(dict(threshold="0.5"))
    with pytest.raises(PluginError, match="speed_control_alpha None must be of type"):
        options.changed(dict(alpha=None))
    assert isinstance(options.changed(dict(alpha=2)), TtsOptions)


def test_numbers_of_numpy_are_numbers():
    import numpy as np

    options = dict(beam_size=np.int64(3), ctc_weight=np.float32(0.5), lm_weight=1)
    made = make_options(espnet_onnx_plugin.Speech2Text.options_class, options)
    assert (made.beam_size, made.ctc_weight) == (3, 0.5)
    assert Device(threads=np.int64(2)).threads == 2
