"""Lower precision: each form decodes, and the budget holds or nothing is written."""

import dataclasses
import logging

import numpy as np
import onnx
import pytest
import soundfile
from conftest import waves
from onnx import numpy_helper

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import quantize as command
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.bundle.graph_file import load_graph, save_graph
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.budgets import TokenBudget
from espnet_onnx_plugin.evaluate.evaluator import Evaluator, evaluator_class
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.evaluate.tokens import Decoded, TokenQuality, error_rate
from espnet_onnx_plugin.optimize.editor import CONTRIB, Editor, constant
from espnet_onnx_plugin.quantize import half_lowering, lowering, products
from espnet_onnx_plugin.quantize.forms import Lowering
from espnet_onnx_plugin.quantize.half import FORMATS
from espnet_onnx_plugin.quantize.layers import find_layers, gemms_to_products
from espnet_onnx_plugin.quantize.lowering import calibrate_graph
from espnet_onnx_plugin.quantize.quantize import calibrate, fewest, quantize
from espnet_onnx_plugin.quantize.sensitivity import rank
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import TASKS

NO_BUDGET = TokenBudget(max_wer_increase=100.0, min_token_agreement=0.0)
SEARCH = dict(beam_size=3, ctc_weight=0.3, lm_weight=0.3, maxlenratio=-8.0)


@pytest.fixture(autouse=True)
def int8_is_faster(monkeypatch):
    """At these sizes chance would tell."""
    monkeypatch.setattr(lowering, "is_faster", lambda *args: True)


@pytest.fixture(scope="module")
def utterances(tiny):
    return RecognitionEvaluator(
        Source(tiny["data"] / "wav.scp", "sound"), options=SEARCH
    )


def nodes(bundle, role):
    graph = onnx.load(bundle.file(bundle.manifest.graphs[role].file.name)).graph
    return [node.op_type for node in graph.node]


def figures(bundle):
    return bundle.manifest.checks["quantize"]


# Forms

#: Types that weights have in each precision.
INITIALIZERS = {"int8": 3, "weight8": 2, "weight4": 2, "fp16": 10, "bf16": 16}


def test_blocks_are_what_the_operator_takes():
    import onnxruntime as ort
    from onnx import helper

    random = np.random.default_rng(0)
    weight = random.standard_normal((200, 6)).astype(np.float32)
    x = random.standard_normal((3, 200)).astype(np.float32)
    for bits, largest in ((8, 0.01), (4, 0.12)):
        value, scale = products.per_block(weight, bits)
        node = helper.make_node(
            "MatMulNBits",
            ["x", "value", "scale"],
            ["y"],
            domain=CONTRIB,
            K=200,
            N=6,
            bits=bits,
            block_size=products.BLOCKS[bits],
        )
        graph = helper.make_graph(
            [node],
            "g",
            [helper.make_tensor_value_info("x", 1, [3, 200])],
            [helper.make_tensor_value_info("y", 1, [3, 6])],
            [
                numpy_helper.from_array(value, "value"),
                numpy_helper.from_array(scale, "scale"),
            ],
        )
        opsets = [
            helper.make_opsetid("", 20),
            helper.make_opsetid(CONTRIB, 1),
        ]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        session = ort.InferenceSession(model.SerializeToString())
        expected = x @ weight
        error = session.run(None, {"x": x})[0] - expected
        assert np.sqrt(np.mean(error**2)) < largest * np.sqrt(np.mean(expected**2))


def test_channels_use_the_whole_range():
    weight = np.array([[1.0, -50.0], [-2.0, 0.0]], np.float32)
    for reduce_range, largest in ((False, 127), (True, 63)):
        value, scale = products.per_channel(weight, 1, reduce_range)
        assert np.abs(value).max(axis=0).tolist() == [largest, largest]
        assert np.allclose(value * scale, weight, atol=0.02)


@pytest.mark.parametrize(
    "precision, operators",
    [
        ("int8", {"DynamicQuantizeMatMul", "QLinearConv"}),
        ("weight8", {"MatMulNBits"}),
        ("weight4", {"MatMulNBits"}),
        ("fp16", {"Cast"}),
        ("bf16", {"Cast"}),
    ],
)
def test_each_precision_decodes(
    tiny, tmp_path, utterances, monkeypatch, precision, operators
):
    budget = TokenBudget(min_token_agreement=0.5)
    model = read_bundle(tiny["bundle"])
    bundle = quantize(model, tmp_path / "q", precision, utterances, budget)
    assert operators <= set(nodes(bundle, "encoder"))
    assert bundle.manifest.precision == precision
    assert 0 < figures(bundle)["differences"]["decoder"] < 0.2
    told = {"seconds", "speed_ratio", "slower", "emulated"} & figures(bundle).keys()
    if precision in FORMATS:
        assert told == {"emulated"}  # the CPU's speed is not a GPU's
    else:
        assert told == {"seconds", "speed_ratio", "slower"}
        assert figures(bundle)["slower"] == (figures(bundle)["speed_ratio"] < 1)
    types = {
        tensor.data_type
        for tensor in onnx.load(bundle.file("decoder.onnx")).graph.initializer
    }
    assert INITIALIZERS[precision] in types
    if precision in FORMATS:
        with pytest.raises(PluginError, match=f"{precision}, which is for cuda"):
            espnet_onnx_plugin.Speech2Text(bundle.path)
    else:
        result = espnet_onnx_plugin.Speech2Text(bundle.path, **SEARCH)(
            np.random.default_rng(0).standard_normal(6000) * 0.2
        )
        assert np.isfinite(result[0][3].score)


@pytest.mark.parametrize("precision", ["int8", "weight8"])
def test_a_batch_gives_what_one_at_a_time_gives(tiny, tmp_path, utterances, precision):
    # int8 activations have one scale for all rows of a product: rows of other
    # utterances, or that only fill a batch, must not move it.
    model = read_bundle(tiny["bundle"])
    bundle = quantize(model, tmp_path / "b", precision, utterances, NO_BUDGET)
    speech2text = espnet_onnx_plugin.Speech2Text(bundle, **SEARCH)
    audio = [speech2text.prepare(wave) for wave in waves().values()]
    for together, one in zip(speech2text.batch(audio), audio):
        [alone] = speech2text.batch([one])
        assert [r[:3] for r in together] == [r[:3] for r in alone]
        scores = [[r[3].score for r in results] for results in (together, alone)]
        assert scores[0] == pytest.approx(scores[1], abs=1e-4)


def test_convolutions_need_audio(tiny, tmp_path, utterances, caplog):
    model = read_bundle(tiny["bundle"])
    budget = TokenBudget(min_token_agreement=0)
    bundle = quantize(model, tmp_path / "audio", "int8", utterances, budget)
    assert nodes(bundle, "encoder").count("QLinearConv") == 1
    with caplog.at_level(logging.WARNING):
        bundle = quantize(model, tmp_path / "none", "int8")
    assert "QLinearConv" not in nodes(bundle, "encoder")
    assert "convolutions stay in fp32" in caplog.text
    assert figures(bundle)["budget"] is None


def test_the_range_of_a_convolution_is_the_audios(tiny, utterances):
    model = read_bundle(tiny["bundle"])
    feeds = utterances.run(model, Device()).feeds["encoder"]
    source = model.file("encoder.onnx")
    ranges = calibrate_graph(source, "int8", False, Device(), feeds).ranges
    assert len(ranges) == 2
    for low, high in ranges.values():
        assert low == 0 < high  # both follow a Relu


# The budget


FACTOR = 1e6


def hostile(model, output_dir, role, name):
    """The tiny model, but one channel of a layer's input is a million times the rest.

    In fp32 that changes nothing: the weights of the channel are smaller in proportion.
    """

    def rewrite(graph_role, old, new):
        editor = Editor(load_graph(old))
        if graph_role == role:
            gemms_to_products(editor)
            layers = find_layers(editor.model).items()
            (node,) = (node for layer, node in layers if layer.name.endswith(name))
            array = constant(node.inputs[1])
            factors = np.ones(len(array), np.float32)
            factors[0] = FACTOR
            up = editor.put("Mul", node.inputs[0], editor.add_constant(factors))
            down = editor.add_constant(array / factors[:, None], "scaled_down")
            editor.replace(node.outputs[0], editor.put("MatMul", up, down))
            editor.tidy()
        save_graph(editor.model, new)
        return True

    return derive(model, output_dir, {"step": "test"}, rewrite, lambda bundle: {})


@pytest.fixture(scope="module")
def hostile_bundle(tiny, tmp_path_factory):
    output_dir = tmp_path_factory.mktemp("hostile") / "fp32"
    return hostile(read_bundle(tiny["bundle"]), output_dir, "decoder", "output_layer")


def test_a_hostile_layer_is_found_and_kept(tiny, hostile_bundle, tmp_path, utterances):
    free = TokenBudget(min_token_agreement=0)
    model = read_bundle(tiny["bundle"])
    usual = figures(quantize(model, tmp_path / "usual", "int8", utterances, free))
    bundle = quantize(hostile_bundle, tmp_path / "free", "int8", utterances, free)
    budget = TokenBudget(min_token_agreement=usual["token_agreement"] - 0.15)
    assert not figures(bundle)["token_agreement"] >= budget.min_token_agreement
    bundle = quantize(hostile_bundle, tmp_path / "q", "int8", utterances, budget)
    kept = sum(figures(bundle)["kept"].values(), [])
    assert any(layer.endswith("output_layer") for layer in kept)
    assert len(kept) <= 2
    assert figures(bundle)["token_agreement"] >= budget.min_token_agreement
    # What the manifest tells of the files is what they are.
    espnet_onnx_plugin.Speech2Text(tmp_path / "q", **SEARCH)


def test_ranking_puts_the_hostile_layer_first(hostile_bundle, utterances):
    quantizer = calibrate(hostile_bundle, "int8", utterances, TokenBudget(), Device())
    outputs = {r: list(g.outputs) for r, g in hostile_bundle.manifest.graphs.items()}
    steps = rank(quantizer.lowerings, outputs, quantizer.baseline.feeds, Device())
    assert steps[0].role == "decoder" and steps[0].layer.endswith("output_layer")
    assert steps[0].gain > 10 * steps[2].gain
    layers = [f"{s.role} {s.layer}" for s in steps]
    assert {layers.count(layer) for layer in layers} == {1, 2}  # steps to fp32
    forms = quantizer.forms(steps)
    assert {form for x in forms.values() for form in x.values()} == {"fp32"}


def test_a_model_that_the_search_does_not_use_comes_last(hostile_bundle, utterances):
    without_lm = dataclasses.replace(utterances, options={**SEARCH, "lm_weight": 0.0})
    quantizer = calibrate(hostile_bundle, "int8", without_lm, TokenBudget(), Device())
    outputs = {r: list(g.outputs) for r, g in hostile_bundle.manifest.graphs.items()}
    steps = rank(quantizer.lowerings, outputs, quantizer.baseline.feeds, Device())
    assert steps[0].role == "decoder"
    assert {step.gain for step in steps if step.role == "lm"} == {0.0}


def test_a_budget_that_cannot_be_met_is_refused(
    hostile_bundle, tmp_path, utterances, monkeypatch, capsys
):
    write = Lowering.write

    def always_low(self, forms, target):
        write(self, {layer.name: f[0] for layer, f in self.ladders.items()}, target)

    monkeypatch.setattr(Lowering, "write", always_low)
    config = tmp_path / "decode.yaml"
    config.write_text("".join(f"{k}: {v}\n" for k, v in SEARCH.items()))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(SystemExit) as e:
        command.main(
            ["--model_dir", str(hostile_bundle.path)]
            + ["--output_dir", str(tmp_path / "q")]
            + ["--calibration_scp", f"{utterances.source.path},sound"]
            + ["--inference_config", str(config)]
        )
    assert e.value.code == 1
    assert "does not hold even with every layer in fp32" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before


def test_fp16_over_the_budget_is_refused(tiny, tmp_path, utterances, monkeypatch):
    monkeypatch.setattr(TokenQuality, "within", lambda self, budget: False)
    model = read_bundle(tiny["bundle"])
    with pytest.raises(PluginError, match="every layer in fp32; nothing was written"):
        quantize(model, tmp_path / "q", "fp16", utterances, TokenBudget())
    assert not any(tmp_path.iterdir())


def test_fp16_keeps_what_costs_too_much(hostile_bundle, tmp_path, utterances):
    # Activations of 1e6 are in float32 from the start.
    whole = quantize(hostile_bundle, tmp_path / "whole", "fp16", utterances)
    assert figures(whole)["kept"] == {} and figures(whole)["emulated"]
    assert figures(whole)["token_agreement"] == 1


def test_fp16_keeps_the_layer_that_overflows(
    hostile_bundle, tmp_path, utterances, monkeypatch
):
    monkeypatch.setattr(half_lowering, "HEADROOM", 1e-9)  # so that nothing is too large
    bundle = quantize(hostile_bundle, tmp_path / "q", "fp16", utterances)
    kept = figures(bundle)["kept"]["fp32"]
    assert any(layer.startswith("decoder: ") for layer in kept) and len(kept) <= 4
    assert figures(bundle)["token_agreement"] >= TokenBudget().min_token_agreement


def test_the_states_of_fp16_are_in_fp16(tiny, tmp_path, utterances):
    """States of a search are not cast in each step."""
    bundle = quantize(read_bundle(tiny["bundle"]), tmp_path / "q", "fp16", utterances)
    graphs = bundle.manifest.graphs
    for role in ("decoder", "lm"):
        graph = onnx.load(bundle.file(f"{role}.onnx")).graph
        types = {v.name: v.type.tensor_type.elem_type for v in graph.input}
        states = {k: s.dtype for k, s in graphs[role].states.items()}
        assert set(states.values()) == {"float16"}
        assert {types[name] for name in states} == {onnx.TensorProto.FLOAT16}
    memory = graphs["decoder_memory"].outputs
    assert {tensor.dtype for tensor in memory.values()} == {"float16"}
    assert graphs["encoder"].outputs["encoder_out"].dtype == "float32"
    # TensorRT, which has no such operator, may take the encoder.
    fused = {r for r in graphs if "SkipLayerNormalization" in nodes(bundle, r)}
    assert fused == {"decoder", "lm"}


def test_an_error_rate_over_the_budget_is_mended(
    hostile_bundle, tmp_path, utterances, caplog
):
    """Transcripts are what fp32 decodes, so any other token is an error."""
    reference = utterances.run(hostile_bundle, Device()).decoded
    text = tmp_path / "text"
    text.write_text("".join(f"{k} {r.texts[0]}\n" for k, r in reference.items()))
    budget = TokenBudget(max_wer_increase=0.0, min_token_agreement=0.0)
    said = RecognitionEvaluator(utterances.source, SEARCH, [text])
    bundle = quantize(hostile_bundle, tmp_path / "q", "int8", said, budget)
    assert figures(bundle)["wer"] == figures(bundle)["wer_fp32"] == 0
    kept = sum(figures(bundle)["kept"].values(), [])
    assert any(layer.endswith("output_layer") for layer in kept)


@pytest.mark.parametrize("threshold", [1, 2, 3, 7, 11, 64, 100])
def test_fewest_raises(threshold):
    asked = []

    def holds(count):
        asked.append(count)
        return count >= threshold

    assert fewest(100, holds) == threshold
    assert len(asked) <= 14
    with pytest.raises(PluginError, match="every layer in fp32"):
        fewest(100, lambda count: False)


# Decoded results


def test_quality_of_decoded_results():
    reference = {"a": Decoded([1, 2, 3], ["x y"]), "b": Decoded([4], ["z"])}
    other = {"a": Decoded([1, 3], ["x"]), "b": Decoded([4], ["z"])}
    quality = TokenQuality.measure(
        other, reference, [{"a": "x  y", "b": "z z", "c": ""}]
    )
    assert quality.identical == 1 and quality.token_agreement == 0.75
    assert quality.wer_fp32 == 25 and quality.wer == 50
    assert quality.within(TokenBudget(25.0, 0.75))
    assert not quality.within(TokenBudget(24.9, 0.75))
    assert not quality.within(TokenBudget(25.0, 0.76))
    # Without spaces, characters count.
    spaceless = {"a": Decoded([1, 2], ["xy"])}
    assert TokenQuality.measure(spaceless, spaceless, [{"a": "xz"}]).wer == 50
    with pytest.raises(PluginError, match="no line for utterance 'b'"):
        TokenQuality.measure(other, reference, [{"a": "x"}])


def test_each_speaker_has_a_transcript(tiny):
    model = read_bundle(tiny["bundle"])
    with pytest.raises(PluginError, match=r"2 file\(s\) for a model of 1 speaker"):
        RecognitionEvaluator(texts=["text_spk1", "text_spk2"]).transcripts(model)


def test_speakers_are_assigned_as_espnet_scores_them():
    said = [{"a": "u v w x", "b": "u v"}, {"a": "u", "b": "w"}]
    assert error_rate({"b": Decoded([], ["w", "u v"])}, said) == 0
    assert error_rate({"b": Decoded([], ["", "w u v"])}, said) == 100 * 2 / 3
    # The rates decide, 4/4 + 1/1 before 2/4 + 2/1, not the counts.
    assert error_rate({"a": Decoded([], ["y z", "u v"])}, said) == 100 * 5 / 5
    with pytest.raises(PluginError, match="no line for utterance 'c'"):
        error_rate({"c": Decoded([], ["u", "v"])}, said)


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--calibration_text", "text"], "needs the audio"),
        (["--calibration_transcript", "text"], "is for models of task slu"),
        (
            ["--data_path_and_name_and_type", "text,text,text"],
            "--data_path_and_name_and_type is for models that make waveforms; give "
            "the audio as --calibration_scp",
        ),
        (["--asr_model_dir", "asr"], "is for a model of task tts, which speaks"),
        (["--max_wer_increase", "-1"], "max_wer_increase -1.0"),
        (["--min_token_agreement", "99"], "min_token_agreement 99.0"),
    ],
)
def test_bad_options(tiny, tmp_path, capsys, arguments, message):
    with pytest.raises(SystemExit):
        command.main(
            ["--model_dir", str(tiny["bundle"]), "--output_dir", str(tmp_path / "q")]
            + arguments
        )
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_the_limits_of_a_budget_are_options(task):
    evaluator = evaluator_class(task)
    assert issubclass(evaluator, Evaluator)
    args = command.get_parser().parse_args(["--model_dir", "a", "--output_dir", "b"])
    limits = dataclasses.asdict(evaluator.budget_class())
    assert limits and limits.items() <= vars(args).items()
    assert hasattr(args, evaluator.option.removeprefix("--"))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_other_data_of_the_same_name_is_noticed(task, tmp_path):
    evaluator = evaluator_class(task)
    scp, text, wav = (tmp_path / name for name in ("wav.scp", "text", "a.wav"))
    scp.write_text(f"a {wav}\n")

    def facts(samples, words):
        soundfile.write(wav, np.full(samples, 0.1), 8000)
        text.write_text(f"a {words}\n")
        if evaluator.option == "--calibration_scp":
            data = evaluator.data_class(calibration_scp=f"{scp},sound")
        else:
            files = [(str(text), "text", "text")]
            if task.name == "svs":
                kinds = dict(label="duration", score="score")
                files += [(str(text), name, kind) for name, kind in kinds.items()]
            if task.audio == "speech_mix":
                files = [(str(scp), "speech_mix", "sound")]
            data = evaluator.data_class(data_path_and_name_and_type=files)
        return evaluator.from_options(task, data).as_dict()

    first = facts(800, "one")
    assert first == facts(800, "one")
    assert first != facts(801, "two")


def test_the_search_is_the_recipes(tmp_path):
    config = tmp_path / "decode.yaml"
    config.write_text("beam_size: 7\nctc_weight: 0.4\n")
    options = command.search_options(
        "asr_inference", str(config), " --beam_size 5 --lm_weight 0"
    )
    assert (options["beam_size"], options["ctc_weight"]) == (5, 0.4)
    assert options["lm_weight"] == 0
    assert command.search_options("asr_inference", None, "") is None
