"""Whole models of less common encoders: ESPnet's inference against ours."""

import numpy as np
import pytest
import soundfile
from conftest import asr_config, build_asr, save, sharpen, waves, write_data
from test_asr import decode, read, refused

import espnet_onnx_plugin
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle

OPTIONS = dict(beam_size=3, ctc_weight=0.3, lm_weight=0.0, maxlenratio=-8)


def both(root, **choices):
    """A tiny model on disk, as ESPnet's ``Speech2Text`` and as a bundle."""
    from espnet2.bin.asr_inference import Speech2Text

    config = asr_config(**choices)
    model = build_asr(config)
    sharpen(model)
    files = save(model, config, root / "asr", "model.pth")
    bundle = export_bundle(
        "asr", Checkpoints(files["config"], files["file"]), root / "fp32"
    )
    multi_asr = choices.get("model") == "pit_espnet"
    theirs = Speech2Text(
        str(files["config"]), str(files["file"]), multi_asr=multi_asr, **OPTIONS
    )
    return theirs, bundle


def assert_equal(results, expected):
    """Equal n-best lists."""
    assert len(results) == len(expected)
    for (text, token, token_int, hyp), other in zip(results, expected):
        assert (text, token, token_int) == other[:3]
        assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)


def test_blocks_made_shorter_behind_the_encoder(tmp_path):
    theirs, bundle = both(
        tmp_path,
        encoder="contextual_block_conformer",
        encoder_conf=dict(
            output_size=8,
            attention_heads=2,
            linear_units=12,
            num_blocks=2,
            cnn_module_kernel=3,
            input_layer="linear",
            block_size=12,
            hop_size=4,
            look_ahead=4,
        ),
        postencoder="length_adaptor",
        postencoder_conf=dict(length_adaptor_n_layers=1),
    )
    ours = espnet_onnx_plugin.Speech2Text(bundle, **OPTIONS)
    # Less than a block, less than two, and many.
    for samples in (11 * 32, 20 * 32, 3000):
        wave = next(iter(waves(seed=samples).values()))
        wave = np.resize(wave, samples).astype(np.float32)
        assert_equal(ours(wave), theirs(wave))


@pytest.fixture(scope="module")
def speakers(tmp_path_factory):
    """A model that tells two speakers apart, ESPnet's and as a bundle."""
    root = tmp_path_factory.mktemp("speakers")
    theirs, bundle = both(
        root,
        model="pit_espnet",
        model_conf=dict(ctc_weight=0.2, num_inf=2, num_ref=2),
        encoder="transformer_multispkr",
        encoder_conf=dict(
            output_size=8,
            attention_heads=2,
            linear_units=12,
            num_blocks=1,
            num_blocks_sd=1,
            num_inf=2,
        ),
    )
    return theirs, dict(bundle=bundle.path, data=write_data(root / "data"))


def test_each_speaker_gets_espnets_result(speakers):
    theirs, tiny = speakers
    ours = espnet_onnx_plugin.Speech2Text(tiny["bundle"], multi_asr=True, **OPTIONS)
    audio = [wave.astype(np.float32) for wave in waves().values()]
    for results, wave in zip(ours.batch(audio), audio):
        expected = theirs(wave)
        assert len(results) == len(expected) == 2
        for one, other in zip(results, expected):
            assert_equal(one, other)
        first, second = (one[0][3].score for one in results)
        assert first != pytest.approx(second, abs=1e-2)


def test_each_speaker_has_espnets_files(speakers, tmp_path):
    _, tiny = speakers
    args = [a for k, v in OPTIONS.items() for a in (f"--{k}", v)]
    out = decode(tiny, tmp_path, "--multi_asr", "true", "--batch_size", 3, *args)
    names = ("token", "token_int", "score", "text", "scores")
    files = {path.name for path in (out / "1best_recog").iterdir()}
    assert files == {f"{name}_spk{i}" for name in names for i in (1, 2)}
    ours = espnet_onnx_plugin.Speech2Text(tiny["bundle"], multi_asr=True, **OPTIONS)
    for key, path in read(tiny["data"] / "wav.scp").items():
        for i, [(_, _, token_int, _)] in enumerate(ours(soundfile.read(path)[0]), 1):
            ids = read(out / "1best_recog" / f"token_int_spk{i}")[key]
            assert ids == " ".join(map(str, token_int))


def test_several_speakers_have_to_be_asked_for(speakers, capsys, tmp_path):
    message = refused(capsys, speakers[1], tmp_path)
    assert "tells 2 speakers apart: set multi_asr to true" in message
