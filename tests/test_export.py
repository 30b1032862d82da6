"""The export, optimize, quantize and verify commands."""

import functools
import shutil

import numpy as np
import pytest
import torch
import yaml
from conftest import asr_config, build_asr, build_lm, save, waves

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import export, optimize, quantize, verify
from espnet_onnx_plugin.bundle import read_bundle


def args(**options):
    return [a for k, v in options.items() for a in (f"--{k}", str(v))]


def model_args(tiny):
    return dict(train_config=tiny["asr"]["config"], model_file=tiny["asr"]["file"])


def lm_args(tiny):
    return dict(lm_train_config=tiny["lm"]["config"], lm_file=tiny["lm"]["file"])


def refused(capsys, command, tmp_path, *arguments):
    """Run a command that has to fail in one line and to write nothing."""
    before = sorted(p.name for p in tmp_path.iterdir())
    with pytest.raises(SystemExit) as e:
        command.main(list(map(str, arguments)))
    assert e.value.code == 1
    errors = [x for x in capsys.readouterr().err.splitlines() if "error:" in x]
    assert len(errors) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
    return errors[0]


def test_export_says_what_it_wrote_and_is_idle_the_second_time(capsys, tiny, tmp_path):
    shutil.copytree(tiny["bundle"], tmp_path / "fp32")
    before = (tmp_path / "fp32" / "manifest.yaml").stat().st_mtime_ns
    parity = f"{tiny['data'] / 'wav.scp'},sound"
    export.main(
        args(
            output_dir=tmp_path / "fp32",
            parity_scp=parity,
            **model_args(tiny),
            **lm_args(tiny),
        )
    )
    assert "largest difference from PyTorch" in capsys.readouterr().out
    assert (tmp_path / "fp32" / "manifest.yaml").stat().st_mtime_ns == before


def test_the_manifest_tells_what_the_bundle_is(tiny):
    manifest = read_bundle(tiny["bundle"]).manifest
    assert list(manifest.graphs) == [
        "frontend",
        "encoder",
        "decoder_memory",
        "decoder",
        "lm",
    ]
    assert set(manifest.checks["parity"]) == {"encoder", "decoder", "lm"}
    assert all(0 < v <= 1e-4 for v in manifest.checks["parity"].values())
    assert manifest.source["torch"] == torch.__version__
    content = (tiny["bundle"] / "manifest.yaml").read_text()
    assert str(tiny["root"]) not in content


def test_export_from_a_packed_zip(tiny, tmp_path):
    from espnet2.main_funcs.pack_funcs import pack

    zipped = tmp_path / "model.zip"
    pack(
        files={
            "asr_model_file": str(tiny["asr"]["file"]),
            "lm_file": str(tiny["lm"]["file"]),
        },
        yaml_files={
            "asr_train_config": str(tiny["asr"]["config"]),
            "lm_train_config": str(tiny["lm"]["config"]),
        },
        outpath=str(zipped),
    )
    export.main(args(model_tag=zipped, output_dir=tmp_path / "fp32"))
    ours = espnet_onnx_plugin.Speech2Text(tmp_path / "fp32", beam_size=2)
    same = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=2)
    for wave in waves().values():
        assert ours(wave)[0][2] == same(wave)[0][2]


def test_bad_models_are_named(capsys, tiny, tmp_path):
    out = tmp_path / "out"

    def line(**options):
        return refused(capsys, export, tmp_path, *args(output_dir=out, **options))

    good = model_args(tiny)
    assert "nowhere.pth does not exist" in line(
        **{**good, "model_file": tmp_path / "nowhere.pth"}
    )
    assert "go together" in line(**good, lm_file=tiny["lm"]["file"])
    assert "--model_tag" in line()
    assert "exclude each other" in line(**good, model_tag="x")
    refusal = "--vocoder_file is for task tts or svs, not asr"
    assert refusal in line(**good, vocoder_file="vocoder.pkl")

    (tmp_path / "junk.pth").write_bytes(b"not a checkpoint")
    message = line(**{**good, "model_file": tmp_path / "junk.pth"})
    assert "junk.pth is no checkpoint of torch" in message
    other = save(
        build_asr(asr_config(encoder_conf=dict(output_size=16, num_blocks=1))),
        {},
        tmp_path / "other",
        "other.pth",
    )
    message = line(**{**good, "model_file": other["file"]})
    assert "other.pth does not fit" in message and "size mismatch" in message

    (tmp_path / "broken.yaml").write_text("a: [")
    assert "broken.yaml" in line(**{**good, "train_config": tmp_path / "broken.yaml"})
    (tmp_path / "junk.zip").write_bytes(b"PK")
    assert "not a model packed" in line(model_tag=tmp_path / "junk.zip")


@pytest.mark.parametrize(
    "choices, message",
    [
        (dict(encoder="avhubert"), "encoder 'avhubert' is not supported"),
        (dict(frontend="melspec_torch"), "frontend 'melspec_torch' is not supported"),
        (dict(postencoder="nonesuch"), "postencoder 'nonesuch' is not supported"),
        (dict(model="maskctc"), "model 'maskctc' with decoder 'transformer'"),
        (dict(decoder="mlm"), "model maskctc and decoder mlm go together"),
        (dict(token_type="nonesuch"), "token_type 'nonesuch'"),
    ],
)
def test_what_is_not_supported_is_named_before_it_is_built(
    capsys, tiny, tmp_path, choices, message
):
    config = yaml.safe_load(tiny["asr"]["config"].read_text())
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump({**config, **choices}))
    line = refused(
        capsys,
        export,
        tmp_path,
        *args(
            train_config=path,
            model_file=tiny["asr"]["file"],
            output_dir=tmp_path / "out",
        ),
    )
    assert message in line


def test_a_language_model_of_other_tokens_is_named(capsys, tiny, tmp_path):
    model, config = build_lm("seq_rnn", dict(unit=8, nlayers=1))
    config["token_list"] = list(reversed(config["token_list"]))
    files = save(model, config, tmp_path / "lm", "lm.pth")
    line = refused(
        capsys,
        export,
        tmp_path,
        *args(
            output_dir=tmp_path / "out",
            lm_train_config=files["config"],
            lm_file=files["file"],
            **model_args(tiny),
        ),
    )
    assert "same token list" in line


def test_an_optimized_bundle_is_no_exported_one(tiny, tmp_path):
    """The sources of both are the same."""
    optimize.main(args(model_dir=tiny["bundle"], output_dir=tmp_path / "fp32"))
    options = dict(output_dir=tmp_path / "fp32", **model_args(tiny), **lm_args(tiny))
    export.main(args(**options))
    manifests = [d / "manifest.yaml" for d in (tiny["bundle"], tmp_path / "fp32")]
    assert manifests[0].read_text() == manifests[1].read_text()


@pytest.mark.parametrize("provider", ["cpu", "cuda"])
def test_an_optimized_bundle_says_where_it_is_to_run(tiny, tmp_path, provider):
    optimize.main(
        args(model_dir=tiny["bundle"], output_dir=tmp_path / "o", provider=provider)
    )
    manifest = read_bundle(tmp_path / "o").manifest
    assert manifest.optimized_for == provider
    assert read_bundle(tiny["bundle"]).manifest.optimized_for is None
    figures = manifest.checks["optimize"]
    assert figures["identical"] == figures["utterances"] == 3
    fused = figures["nodes"]["decoder"]["rules"].get("residual_norm")
    assert fused == (7 if provider == "cuda" else None)


@pytest.mark.parametrize("calibration", [True, False])
def test_optimize_and_quantize(capsys, tiny, tmp_path, calibration):
    scp = f"{tiny['data'] / 'wav.scp'},sound"
    extra = dict(calibration_scp=scp) if calibration else {}
    lenient = dict(min_token_agreement=0) if calibration else {}
    optimized, int8 = tmp_path / "optimized", tmp_path / "int8"
    optimize.main(args(model_dir=tiny["bundle"], output_dir=optimized, **extra))
    assert "same tokens on" in capsys.readouterr().out
    quantize.main(args(model_dir=tiny["bundle"], output_dir=int8, **extra, **lenient))
    assert "same tokens on" in capsys.readouterr().out
    figures = read_bundle(optimized).manifest.checks["optimize"]
    assert figures["audio"] == ("real" if calibration else "noise")
    assert figures["utterances"] == figures["identical"] == (4 if calibration else 3)
    for role, nodes in figures["nodes"].items():
        # Of a frontend nothing fuses.
        assert nodes["after"] < nodes["before"] + (role == "frontend")
    assert figures["nodes"]["encoder"]["rules"]["attention"] == 1
    assert figures["nodes"]["decoder"]["rules"] == {"merged_projections": 2}
    figures = read_bundle(int8).manifest.checks["quantize"]
    assert 0 < figures["differences"]["decoder"] < 0.2
    reference = espnet_onnx_plugin.Speech2Text(tiny["bundle"], beam_size=2)
    for variant in (optimized, int8):
        ours = espnet_onnx_plugin.Speech2Text(variant, beam_size=2)
        for wave in waves().values():
            result, expected = ours(wave)[0], reference(wave)[0]
            if variant == optimized:
                assert result[:3] == expected[:3]
            scale = max(1.0, abs(expected[3].score))
            assert abs(result[3].score - expected[3].score) < 0.3 * scale


def test_a_graph_that_gives_no_numbers_is_refused(capsys, tiny, tmp_path, monkeypatch):
    from espnet_onnx_plugin.runtime.search.graph_scorer import GraphScorer

    along, asked = GraphScorer.along, []

    def along_by_the_second(scorer, encoded, tokens):
        rows = along(scorer, encoded, tokens)
        if not asked:
            asked.append(scorer)
        return rows * np.float32("nan") if scorer is asked[0] else rows

    monkeypatch.setattr(GraphScorer, "along", along_by_the_second)
    line = refused(
        capsys,
        optimize,
        tmp_path,
        *args(model_dir=tiny["bundle"], output_dir=tmp_path / "optimized"),
    )
    assert "optimized decoder differs" in line


def test_int8_graphs_hold_bytes_and_a_filterbank_in_floats(tiny, tmp_path):
    import onnx

    quantize.main(args(model_dir=tiny["bundle"], output_dir=tmp_path / "int8"))
    types = {}
    for name in ("frontend", "encoder", "decoder", "lm"):
        graph = onnx.load(tmp_path / "int8" / f"{name}.onnx").graph
        types[name] = {i.name: i.data_type for i in graph.initializer}
        in_bytes = onnx.TensorProto.INT8 in types[name].values()
        assert in_bytes == (name != "frontend")
    melmat = [v for k, v in types["frontend"].items() if k.endswith("melmat")]
    assert melmat == [onnx.TensorProto.FLOAT]


def test_what_is_quantized_is_not_quantized_again(capsys, tiny, tmp_path):
    quantize.main(args(model_dir=tiny["bundle"], output_dir=tmp_path / "int8"))
    line = refused(
        capsys,
        quantize,
        tmp_path,
        *args(model_dir=tmp_path / "int8", output_dir=tmp_path / "again"),
    )
    assert "quantized already" in line


def test_a_graph_has_no_input_that_nothing_reads(tiny):
    import onnx

    bundle = read_bundle(tiny["bundle"])
    for graph in bundle.manifest.graphs.values():
        model = onnx.load(bundle.file(graph.file.name), load_external_data=False).graph
        read = {name for node in model.node for name in node.input}
        assert read >= {each.name for each in model.input}
    # ESPnet's default language model has no positions.
    lm = bundle.manifest.graphs["lm"]
    model = onnx.load(bundle.file(lm.file.name), load_external_data=False).graph
    assert {*lm.inputs} - {each.name for each in model.input} == {"positions"}


def test_verify_measures_parity_and_notices_another_model(capsys, tiny, tmp_path):
    verify.main(args(model_dir=tiny["bundle"]))
    assert "are whole" in capsys.readouterr().out
    verify.main(args(model_dir=tiny["bundle"], **model_args(tiny), **lm_args(tiny)))
    assert "largest difference from PyTorch" in capsys.readouterr().out
    config = yaml.safe_load(tiny["asr"]["config"].read_text())
    files = save(build_asr(config, seed=9), config, tmp_path / "asr", "model.pth")
    line = refused(
        capsys,
        verify,
        tmp_path,
        *args(
            model_dir=tiny["bundle"],
            train_config=files["config"],
            model_file=files["file"],
        ),
    )
    assert "parity check failed: encoder" in line


def test_rounding_noise_is_measured_not_assumed(tiny):
    from espnet_onnx_plugin.export.parity.encoding import (
        encode_reference,
        rounding_noise,
    )

    config = yaml.safe_load(tiny["asr"]["config"].read_text())
    model = build_asr(config)
    speech = waves()["utt1"].astype(np.float32)
    encode = functools.partial(encode_reference, model)
    noise = rounding_noise(encode, speech, encode(speech))
    assert 0 < noise["encoder_out"] < 1e-4
    assert np.isfinite(list(noise.values())).all()
