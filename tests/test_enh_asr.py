"""Enhancement and recognition in one model, against ESPnet's own inference."""

import numpy as np
import pytest
import soundfile
from conftest import RATE, save_enh_asr, waves
from test_asr import decode, read, refused
from test_encoders import assert_equal
from test_enh_budget import derived

from espnet_onnx_plugin import Speech2Text
from espnet_onnx_plugin.bin import enh_inference, optimize, quantize
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.graphs import difference
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.quantize import lowering
from espnet_onnx_plugin.runtime.enh import SeparateSpeech
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.tasks import open_model

OPTIONS = dict(beam_size=3, ctc_weight=0.4, nbest=2)
AUDIO = [wave.astype(np.float32) for wave in waves().values()]


def made(root, separator=("tcn", "spectrum"), channels=1, **choices):
    """Files of a model with random weights, its bundle, and a data directory."""
    files = save_enh_asr(*separator, root / "exp", **choices)
    data = root / "data"
    data.mkdir()
    lines = []
    for key, wave in waves().items():
        soundfile.write(data / f"{key}.wav", mixture(wave, channels), RATE)
        lines.append(f"{key} {data / key}.wav\n")
    (data / "wav.scp").write_text("".join(lines))
    checkpoints = Checkpoints(files["config"], files["file"])
    real = Source(data / "wav.scp", "sound", 2)
    bundle = export_bundle("enh_asr", checkpoints, root / "fp32", real)
    return dict(files, root=root, data=data, bundle=bundle.path)


def mixture(wave, channels):
    """A waveform as several microphones hear it: each a little later, in noise."""
    if channels == 1:
        return wave
    noise = 0.05 * np.random.default_rng(1).standard_normal((len(wave), channels))
    heard = [np.roll(wave, 2 * channel) for channel in range(channels)]
    return (np.stack(heard, axis=1) + noise).astype(wave.dtype)


def espnet(model, **options):
    """ESPnet's own class of a model's files."""
    from espnet2.bin.asr_inference import Speech2Text as Theirs

    files = dict(asr_train_config=model["config"], asr_model_file=model["file"])
    return Theirs(**files, enh_s2t_task=True, **options)


def espnet_enhancement(model):
    """ESPnet's class for the first part of a model."""
    from espnet2.bin.enh_inference import SeparateSpeech as Theirs

    return Theirs(str(model["config"]), str(model["file"]), enh_s2t_task=True)


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A model that separates two speakers, wide enough for products in 8 bits."""
    sizes = dict(layer=2, stack=1, bottleneck_dim=32, hidden_dim=64)
    conf = dict(find("separator", "tcn").tiny["spectrum"], **sizes)
    conf.pop("ends")
    return made(tmp_path_factory.mktemp("two"), enh_separator_conf=conf)


def test_each_part_is_compared(two):
    bundle = read_bundle(two["bundle"])
    graphs = "separator frontend encoder decoder_memory decoder".split()
    assert list(bundle.manifest.graphs) == graphs
    assert bundle.manifest.speakers == bundle.manifest.enhancement.outputs == 2
    parity = bundle.manifest.checks["parity"]
    waveforms = ["waveforms", "waveforms_on_real_audio"]
    recognized = ["encoder", "encoder_on_real_audio", "decoder"]
    assert sorted(parity) == sorted(waveforms + recognized)
    assert all(parity[name] <= 1e-3 for name in waveforms)
    assert all(parity[name] <= 1e-4 for name in recognized)


def test_each_speaker_gets_espnets_result(two):
    theirs = espnet(two, **OPTIONS)
    ours = Speech2Text(two["bundle"], enh_s2t_task=True, **OPTIONS)
    for results, wave in zip(ours.batch(AUDIO), AUDIO, strict=True):
        expected = theirs(wave)
        assert len(results) == len(expected) == 2
        for one, other in zip(results, expected):
            assert_equal(one, other)
        first, second = (one[0][3].score for one in results)
        assert first != pytest.approx(second, abs=1e-2)


def test_the_command_writes_espnets_files(two, tmp_path):
    """An utterance that is too short for the encoder, too."""
    from espnet2.bin import asr_inference

    soundfile.write(tmp_path / "short.wav", AUDIO[0][:100], 8000)
    scp = tmp_path / "wav.scp"
    known = (two["data"] / "wav.scp").read_text()
    scp.write_text(f"{known}utt9 {tmp_path}/short.wav\n")
    args = ["--enh_s2t_task", "true", "--nbest", "2", "--beam_size", "3"]
    out = decode(two, tmp_path, *args, "--batch_size", 3, data=scp)
    theirs = tmp_path / "theirs"
    asr_inference.main(
        [
            *("--output_dir", f"{theirs}", *args),
            *("--data_path_and_name_and_type", f"{scp},speech,sound"),
            *("--asr_train_config", f"{two['config']}"),
            *("--asr_model_file", f"{two['file']}"),
        ]
    )
    for n in (1, 2):
        for name in ("token", "token_int", "text", "score"):
            for speaker in (1, 2):
                file = f"{n}best_recog/{name}_spk{speaker}"
                ours, expected = read(out / file), read(theirs / file)
                assert list(ours) == list(expected)
                if name != "score":
                    assert ours == expected
                    continue
                for key, value in expected.items():  # tensor(-3.2)
                    value = float(value.replace("tensor", "").strip("()"))
                    assert float(ours[key]) == pytest.approx(value, abs=1e-3)


def test_the_same_bundle_enhances(two, tmp_path):
    ours = SeparateSpeech(two["bundle"], enh_s2t_task=True)(AUDIO[0][None])
    theirs = espnet_enhancement(two)(AUDIO[0][None])
    for one, other in zip(ours, theirs, strict=True):
        assert difference(one, np.asarray(other)) <= 1e-3
    enh_inference.main(
        [
            *("--model_dir", f"{two['bundle']}", "--output_dir", f"{tmp_path}/out"),
            *("--enh_s2t_task", "true", "--fs", "8k"),
            "--data_path_and_name_and_type",
            f"{two['data']}/wav.scp,speech_mix,sound",
        ]
    )
    assert set(read(tmp_path / "out" / "spk2.scp")) == set(waves())


def test_both_have_to_be_asked_for(two, tiny, capsys, tmp_path):
    said = refused(capsys, two, tmp_path)
    assert "task 'enh_asr', Speech2Text with enh_s2t_task False takes asr" in said
    with pytest.raises(PluginError, match="enh_s2t_task False takes enh"):
        SeparateSpeech(two["bundle"])
    with pytest.raises(PluginError, match="enh_s2t_task True takes enh_asr"):
        SeparateSpeech(tiny["bundle"], enh_s2t_task=True)
    with pytest.raises(PluginError, match="multi_asr and enh_s2t_task exclude"):
        Speech2Text(two["bundle"], enh_s2t_task=True, multi_asr=True)
    # By a command's name too, the bundle's own task decides what it is opened with.
    bundle = read_bundle(two["bundle"])
    assert open_model(bundle, "enh_inference", enh_s2t_task=False).num_spk == 2
    assert len(open_model(bundle, "asr_inference", beam_size=2)(AUDIO[0])) == 2


def test_bad_input(two):
    ours = Speech2Text(two["bundle"], enh_s2t_task=True, **OPTIONS)
    with pytest.raises(PluginError, match=r"2 channel\(s\), the model takes 1"):
        ours(np.stack([AUDIO[0], AUDIO[1][: len(AUDIO[0])]], axis=1))
    with pytest.raises(PluginError, match="which is no number"):
        ours(np.full(4000, np.nan))


def test_one_speaker_in_several_channels(tmp_path):
    """A list, too; variance and intermediate CTCs count for nothing in recognition."""
    layers = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=2)
    model = made(
        tmp_path,
        separator=("wpe_beamformer", "souden"),
        channels=3,
        enh_model_conf=dict(normalize_variance=True),
        asr_encoder_conf=dict(layers, interctc_layer_idx=[1]),
        asr_model_conf=dict(ctc_weight=0.3, interctc_weight=0.3),
    )
    theirs = espnet(model, **OPTIONS)
    ours = Speech2Text(model["bundle"], enh_s2t_task=True, **OPTIONS)
    heard = [mixture(wave, 3) for wave in AUDIO[:2]]
    for results, mix in zip(ours.batch([ours.prepare(mix) for mix in heard]), heard):
        [one], [other] = results, theirs(mix)
        assert_equal(one, other)
    out = decode(model, tmp_path, "--enh_s2t_task", "true", "--beam_size", 3)
    assert list(read(out / "1best_recog" / "text_spk1")) == list(waves())
    ours = SeparateSpeech(model["bundle"], enh_s2t_task=True)(heard[0][None])
    theirs = espnet_enhancement(model)(heard[0][None])
    for one, other in zip(ours, theirs, strict=True):
        assert difference(one, np.asarray(other)) <= 1e-3


def test_other_series_are_refused(tmp_path):
    model = save_enh_asr("tcn", "global", tmp_path)
    text = model["config"].read_text()
    model["config"].write_text(text.replace("- asr\n", "- diar\n"))
    with pytest.raises(PluginError, match="subtask_series 'enh diar'"):
        export_bundle("enh_asr", Checkpoints(*model.values()), tmp_path / "fp32")


def test_optimized_and_quantized(two, tmp_path, monkeypatch):
    """Tokens of each speaker hold the budget, also of what the separator costs."""
    monkeypatch.setattr(lowering, "is_faster", lambda *_: True)
    bundle = read_bundle(two["bundle"])
    data = ["--calibration_scp", f"{two['data']}/wav.scp,sound"]
    optimized = derived(optimize, bundle, tmp_path / "optimized", *data)
    checks = optimized.manifest.checks["optimize"]
    assert checks["identical"] == checks["utterances"] == 4
    assert set(checks["differences"]) == {"enhancement", "encoder", "decoder"}
    assert "not_compared" not in checks
    ours = Speech2Text(bundle, enh_s2t_task=True, **OPTIONS)
    texts = []
    for speaker in (1, 2):
        texts.append(tmp_path / f"text_spk{speaker}")
        said = {
            key: ours(soundfile.read(path)[0])[speaker - 1][0][0]
            for key, path in read(two["data"] / "wav.scp").items()
        }
        texts[-1].write_text("".join(f"{k} {text}\n" for k, text in said.items()))
    search = " ".join(f"--{k} {v}" for k, v in OPTIONS.items())
    quantized = derived(
        quantize,
        bundle,
        tmp_path / "int8",
        *data,
        *("--calibration_text", *map(str, texts)),
        *("--inference_args", search),
        *("--min_token_agreement", "0", "--max_wer_increase", "0"),
    )
    figures = quantized.manifest.checks["quantize"]
    assert figures["wer"] == figures["wer_fp32"] == 0
    assert "separator" in figures["differences"]
    kept = [layer for layers in figures["kept"].values() for layer in layers]
    assert any(layer.startswith("separator: ") for layer in kept)
