"""ST end to end at tiny size: ESPnet's own inference against ours."""

import dataclasses

import numpy as np
import pytest
import soundfile
import yaml
from conftest import (
    RATE,
    SRC_TOKENS,
    TOKENS,
    a_few,
    build,
    build_lm,
    save,
    st_config,
    waves,
    write_data,
)

from espnet_onnx_plugin.bin import st_inference
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.tasks.st import STExporter
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import quantize
from espnet_onnx_plugin.runtime.st import Speech2Text

#: Scores of hypotheses that no path of the CTC gives.
IMPOSSIBLE = -1e8

LM = dict(embed_unit=6, att_unit=12, head=2, unit=20, layer=1)

_LAYERS = dict(attention_heads=2, linear_units=12, num_blocks=1)
_ENCODER = dict(_LAYERS, output_size=8)
_ASR = dict(extra_asr_decoder="transformer", extra_asr_decoder_conf=_LAYERS)

CONFIGS = {
    "plain": dict(model_conf=dict(asr_weight=0.3, mtlalpha=1.0)),
    "hierarchical": dict(
        **_ASR,
        hier_encoder="conformer",
        hier_encoder_conf=dict(
            _ENCODER, input_layer=None, macaron_style=True, rel_pos_type="latest"
        ),
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
    "ctc": dict(
        postencoder="length_adaptor",
        postencoder_conf=dict(length_adaptor_n_layers=1),
        model_conf=dict(asr_weight=0.0, st_mtlalpha=1.0),
    ),
    "multi_decoder": dict(
        **_ASR,
        hier_encoder="transformer",
        hier_encoder_conf=dict(_ENCODER, input_layer="linear"),
        md_encoder="transformer",
        md_encoder_conf=dict(_ENCODER, input_layer=None),
        decoder="transformer_md",
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
    "multi_decoder_without_speech": dict(
        **_ASR,
        md_encoder="conformer",
        md_encoder_conf=dict(_ENCODER, input_layer="linear", use_cnn_module=False),
        decoder="transformer_md",
        decoder_conf=dict(_LAYERS, use_speech_attn=False),
        model_conf=dict(asr_weight=0.3, mtlalpha=0.3, st_mtlalpha=0.3),
    ),
}

#: Which of them have a language model.
LMS = {"multi_decoder": ("lm", "src_lm")}

#: Size of feature vectors; all but the largest model have no frontend.
DIM = 20

#: Searches, by the models that they are for.
_PLAIN = dict(beam_size=4, lm_weight=0.0)
_JOINT = dict(beam_size=4, ctc_weight=0.3, lm_weight=0.3, penalty=0.1, nbest=3)
_TWICE = dict(_JOINT, asr_beam_size=4, asr_lm_weight=0.3, asr_penalty=0.1)
SEARCHES = {
    "plain": [_PLAIN, dict(beam_size=3, maxlenratio=0.4, nbest=2)],
    "hierarchical": [
        _JOINT,
        dict(beam_size=3, ctc_weight=0.5, minlenratio=0.2, normalize_length=True),
        dict(beam_size=4, ctc_greedy=True),
    ],
    "ctc": [dict(beam_size=20, ctc_weight=1.0), dict(beam_size=2, ctc_greedy=True)],
    "multi_decoder": [
        _TWICE,
        dict(_PLAIN, asr_beam_size=3, asr_ctc_weight=0.0, asr_maxlenratio=0.3),
    ],
    "multi_decoder_without_speech": [_TWICE, dict(_TWICE, asr_maxlenratio=-7)],
}


def build_st(config, seed=0):
    """An ``ESPnetSTModel`` whose choices are not all alike."""
    from espnet2.tasks.st import STTask

    model = build(STTask, config, seed)
    for name in ("decoder", "extra_asr_decoder"):
        if getattr(model, name, None) is not None:
            output = getattr(model, name).output_layer
            output.weight.data *= 6.0
            output.bias.data[-1] -= 3.0  # or most end at once
    for name in ("ctc", "st_ctc"):
        if getattr(model, name, None) is not None:
            getattr(model, name).ctc_lo.weight.data *= 6.0
    return model


@pytest.fixture(scope="module")
def translators(tmp_path_factory):
    """Gives a tiny model's files and bundle by name, made when first asked for."""
    root = tmp_path_factory.mktemp("st")
    lms = {}
    for side, tokens in (("", TOKENS), ("src_", SRC_TOKENS)):
        lm, config = build_lm("transformer", LM, tokens=tokens)
        files = save(lm, config, root / f"{side}lm", "lm.pth")
        lms[f"{side}lm_train_config"] = files["config"]
        lms[f"{side}lm_file"] = files["file"]
    made = {}

    def give(name):
        if name not in made:
            layers = dict(encoder_conf=_ENCODER, decoder_conf=_LAYERS)
            choices = {**layers, **CONFIGS[name]}
            if name not in LMS:
                choices.update(frontend=None, input_size=DIM)
            config = st_config(**choices)
            files = save(build_st(config), config, root / name, "model.pth")
            used = {k: v for k, v in lms.items() if k.startswith(LMS.get(name, ("-",)))}
            checkpoints = Checkpoints(files["config"], files["file"], **used)
            bundle = export_bundle("st", checkpoints, root / name / "fp32")
            made[name] = checkpoints, bundle
        return made[name]

    return give


def espnets(checkpoints, **options):
    from espnet2.bin.st_inference import Speech2Text

    files = {name: str(path) for name, path in checkpoints.files().items()}
    files["st_train_config"] = files.pop("train_config")
    files["st_model_file"] = files.pop("model_file")
    return Speech2Text(**files, **options)


def utterances(bundle):
    """Three of different lengths, as the model takes them."""
    if bundle.manifest.speech.kind == "waveform":
        return [wave.astype(np.float32) for wave in list(waves().values())[:3]]
    random = np.random.default_rng(0)
    shapes = [(length, DIM) for length in (120, 171, 230)]
    return [random.standard_normal(shape).astype(np.float32) for shape in shapes]


def assert_same(ours, theirs):
    """Compare n-best lists, less what a CTC without enough frames finds impossible."""
    ours, theirs = (
        [result for result in nbest if result[3].score > IMPOSSIBLE]
        for nbest in (ours, theirs)
    )
    assert len(ours) == len(theirs) > 0
    for mine, other in zip(ours, theirs):
        assert mine[:3] == other[:3]
        assert list(mine[3].yseq) == [int(i) for i in other[3].yseq]
        assert mine[3].score == pytest.approx(float(other[3].score), abs=1e-3)
        if len(mine) == 5:
            assert mine[4] == pytest.approx(other[4].numpy(), abs=1e-4)


@pytest.mark.parametrize("name", a_few(SEARCHES, 2))
def test_results_are_espnets(translators, name):
    checkpoints, bundle = translators(name)
    lengths = set()
    for options in SEARCHES[name]:
        theirs, ours = espnets(checkpoints, **options), Speech2Text(bundle, **options)
        for speech in utterances(bundle):
            expected, results = theirs(speech.copy()), ours(speech)
            if isinstance(expected, tuple):
                assert_same(results[1], expected[1])
                expected, results = expected[0], results[0]
            assert_same(results, expected)
            lengths.update(len(result[2]) for result in results)
    assert max(lengths) > 3
    assert max(bundle.manifest.checks["parity"].values()) < 1e-4


def decode(bundle, out, *args):
    scp = out.parent / "wav.scp"
    st_inference.main(
        [
            *("--model_dir", str(bundle.path), "--output_dir", str(out)),
            *("--data_path_and_name_and_type", f"{scp},speech,sound"),
            *map(str, args),
        ]
    )
    return {
        str(path.relative_to(out)): path.read_text(encoding="utf-8")
        for path in sorted(out.rglob("*"))
        if path.is_file() and path.suffix != ".jsonl"  # times and records
    }


def test_files_are_laid_out_as_espnets_and_batches_change_nothing(
    translators, tmp_path
):
    checkpoints, bundle = translators("multi_decoder")
    write_data(tmp_path / "data")
    soundfile.write(tmp_path / "data/short.wav", np.zeros(20), RATE)
    scp = (tmp_path / "data/wav.scp").read_text()
    (tmp_path / "wav.scp").write_text(f"short {tmp_path}/data/short.wav\n{scp}")
    args = [a for k, v in _TWICE.items() for a in (f"--{k}", v)] + ["--asr_nbest", 2]
    files = decode(bundle, tmp_path / "out", *args)
    names = ("token", "token_int", "score", "text")
    written = {f"{n}best_recog/{name}" for n in (1, 2, 3) for name in names}
    written |= {f"{n}asr_best_recog/asr_{name}" for n in (1, 2) for name in names}
    assert written == {name for name in files if not name.endswith("scores")}
    audio, _ = soundfile.read(tmp_path / "data/utt1.wav", dtype="float32")
    theirs = espnets(checkpoints, **_TWICE)
    (translation, *_), (recognized, *_) = theirs(audio)
    line = files["1best_recog/text"].splitlines()[2]
    assert line == f"utt1 {translation[0]}"
    line = files["1asr_best_recog/asr_token_int"].splitlines()[2]
    assert line == " ".join(["utt1", *map(str, recognized[2])])
    # What is too short has a line in every file, by which others are joined with it.
    for name in written:
        if name.startswith("1"):
            assert files[name].startswith("short "), name
    batched = decode(bundle, tmp_path / "out5", *args, "--batch_size", 5)
    assert batched.keys() == files.keys()
    for name in files:
        if "score" not in name:  # whose last digits may differ
            assert batched[name] == files[name]


def test_every_graph_is_optimized_and_quantized(translators, tmp_path):
    _, bundle = translators("multi_decoder")
    fused = optimize(bundle, tmp_path / "optimized", "cpu", None)
    int8 = quantize(bundle, tmp_path / "int8")
    graphs = bundle.manifest.graphs.keys()
    assert {"md_encoder", "extra_asr_decoder", "src_lm"} < graphs
    checks = fused.manifest.checks["optimize"]
    assert checks["identical"] == checks["utterances"] == 3
    assert checks["nodes"].keys() == graphs
    used = {name for name in graphs if not name.endswith("memory")} - {"frontend"}
    assert checks["differences"].keys() == used
    differences = int8.manifest.checks["quantize"]["differences"]
    assert all(0 < differences[name] < 1 for name in used)
    wave = waves()["utt2"]
    for other in (fused, int8):
        results, recognized = Speech2Text(other, **_TWICE)(wave)
        assert results and len(recognized[0]) == 5


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("plain", dict(ctc_weight=0.3), "has no CTC: set ctc_weight to 0"),
        ("plain", dict(ctc_greedy=True), "has no CTC: set ctc_greedy to false"),
        ("plain", dict(time_sync=True), "unexpected keyword argument 'time_sync'"),
        ("ctc", dict(ctc_weight=0.0, beam_size=2), "no scorer is left"),
        ("multi_decoder", dict(asr_ctc_weight=1.0), "leaves out the ASR sub-decoder"),
        ("multi_decoder", dict(asr_beam_size=40), "recognition .*beam_size 40"),
    ],
)
def test_options_that_a_model_cannot_meet_are_told(translators, name, options, message):
    options = {"beam_size": 2, "asr_beam_size": 2, **options}
    with pytest.raises(PluginError, match=message):
        Speech2Text(translators(name)[1], **options)


@pytest.mark.parametrize(
    "choices, message",
    [
        (
            dict(decoder="transducer", md_encoder="transformer"),
            "decoder 'transducer' is not supported with md_encoder",
        ),
        (
            dict(decoder="transducer", model_conf=dict(st_mtlalpha=1.0)),
            "nor with st_mtlalpha 1.0",
        ),
        (dict(decoder="nonesuch"), "supported: .*transformer_md"),
        (dict(hier_encoder="nonesuch"), "hier_encoder 'nonesuch'.*conformer"),
        (dict(md_encoder="transformer", model_conf={}), "asr_weight above 0"),
        (dict(decoder="transformer_md"), "use_speech_attn needs an md_encoder"),
        (
            dict(hier_encoder="transformer", hier_encoder_conf=_ENCODER),
            "hier_encoder with an input layer that subsamples",
        ),
        (
            dict(
                CONFIGS["multi_decoder_without_speech"],
                extra_asr_decoder="transformer_md",
            ),
            "TransformerMDDecoder cannot be the ASR sub-decoder",
        ),
    ],
)
def test_what_is_not_supported_is_named(tmp_path, choices, message):
    layers = dict(encoder_conf=_ENCODER, decoder_conf=_LAYERS)
    config = st_config(**{**layers, **choices})
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    (tmp_path / "model.pth").touch()
    if message.startswith(("use_", "hier_encoder with", "Trans")):
        save(build_st(config), config, tmp_path, "model.pth")
    with pytest.raises(PluginError, match=message):
        STExporter(Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth"))


def test_models_of_the_source_language_are_for_models_that_recognize(translators):
    checkpoints, _ = translators("plain")
    source, _ = translators("multi_decoder")
    files = {k: v for k, v in source.files().items() if k.startswith("src_")}
    with pytest.raises(PluginError, match="has no md_encoder"):
        STExporter(dataclasses.replace(checkpoints, **files))
