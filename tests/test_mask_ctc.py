"""Mask-CTC end to end at tiny size: ESPnet's own inference against ours."""

import numpy as np
import pytest
from conftest import asr_config, build_asr, save, waves, write_data

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import asr_inference_maskctc, quantize
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.runtime.mask_ctc import Speech2Text

OPTIONS = {
    "defaults": {},
    "few_masks": dict(maskctc_threshold_probability=0.5),
    "one_pass": dict(maskctc_n_iterations=1, maskctc_threshold_probability=0.9),
    "a_pass_for_each_mask": dict(maskctc_n_iterations=0),
    "nothing_masked": dict(maskctc_threshold_probability=0.0),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A tiny Mask-CTC model on disk and its bundle."""
    root = tmp_path_factory.mktemp("maskctc")
    config = asr_config(
        model="maskctc",
        decoder="mlm",
        decoder_conf=dict(attention_heads=2, linear_units=12, num_blocks=1),
    )
    model = build_asr(config)
    model.ctc.ctc_lo.weight.data *= 6.0
    files = save(model, config, root / "asr", "model.pth")
    bundle = export_bundle(
        "asr", Checkpoints(files["config"], files["file"]), root / "fp32"
    )
    return dict(files=files, bundle=bundle, root=root)


@pytest.mark.parametrize("name", OPTIONS)
def test_results_are_espnets(model, name):
    from espnet2.bin import asr_inference_maskctc as espnet

    files = model["files"]
    theirs = espnet.Speech2Text(
        str(files["config"]), str(files["file"]), **OPTIONS[name]
    )
    ours = Speech2Text(model["bundle"].path, **OPTIONS[name])
    expected = [theirs(wave.astype(np.float32)) for wave in waves().values()]
    results = [ours(wave) for wave in waves().values()]
    for [(*found, hyp)], [(*other, their_hyp)] in zip(results, expected):
        assert found == other
        assert list(hyp.yseq) == their_hyp.yseq.tolist()
        assert str(hyp.score) == str(their_hyp.score)
    lengths = {len(token_int) for [(_, _, token_int, _)] in results}
    assert len(lengths) == len(results) and min(lengths) > 5
    together = ours.batch([ours.prepare(wave) for wave in waves().values()])
    assert [r[0][:3] for r in together] == [r[0][:3] for r in results]


def test_the_passes_matter(model):
    found = {
        name: [Speech2Text(model["bundle"], **o)(w)[0][2] for w in waves().values()]
        for name, o in OPTIONS.items()
    }
    assert found["defaults"] != found["nothing_masked"]
    assert found["one_pass"] != found["a_pass_for_each_mask"]


def test_silence_gives_nothing(model):
    """No token is left to mask."""
    ours = Speech2Text(model["bundle"])
    encoded = ours.encode([ours.prepare(waves()["utt0"])])
    encoded["ctc_log_probs"] = np.full_like(encoded["ctc_log_probs"], -9.0)
    encoded["ctc_log_probs"][..., 0] = 0.0
    mask = model["bundle"].manifest.search.mask
    assert [list(h.yseq) for [h] in ours.search(encoded)] == [[mask, mask]]


def test_each_command_names_the_other(model, tiny):
    with pytest.raises(PluginError, match="use asr_inference_maskctc"):
        espnet_onnx_plugin.Speech2Text(model["bundle"])
    with pytest.raises(PluginError, match="use asr_inference$"):
        Speech2Text(tiny["bundle"])
    with pytest.raises(PluginError, match="Mask-CTC uses no language model"):
        lm = (tiny["lm"]["config"], tiny["lm"]["file"])
        files = model["files"]
        export_bundle(
            "asr",
            Checkpoints(files["config"], files["file"], *lm),
            tiny["root"] / "none",
        )


def test_optimized_quantized_and_decoded_by_the_command(model, tmp_path):
    optimized = optimize(model["bundle"], tmp_path / "optimized", "cpu", None)
    figures = optimized.manifest.checks["optimize"]
    assert figures["identical"] == figures["utterances"] > 0
    assert "mask_decoder" in figures["differences"]
    quantize.main(
        [
            "--model_dir",
            str(model["bundle"].path),
            "--output_dir",
            str(tmp_path / "int8"),
            "--inference_args=--maskctc_threshold_probability 0.9",
        ]
    )
    quantized = read_bundle(tmp_path / "int8")
    assert not quantized.manifest.graphs["mask_decoder"].batches
    assert 0 < quantized.manifest.checks["quantize"]["differences"]["mask_decoder"]
    data = write_data(tmp_path / "data")
    for size in ("1", "3"):
        asr_inference_maskctc.main(
            [
                "--model_dir",
                str(quantized.path),
                "--output_dir",
                str(tmp_path / f"out{size}"),
                "--data_path_and_name_and_type",
                f"{data / 'wav.scp'},speech,sound",
                "--batch_size",
                size,
            ]
        )
    text, batched = (
        (tmp_path / f"out{size}/1best_recog/token_int").read_text() for size in "13"
    )
    assert text == batched and len(text.splitlines()) == len(waves())
