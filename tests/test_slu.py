"""SLU models against ``espnet2.bin.slu_inference``, with and without transcripts."""

import numpy as np
import pytest
import torch
from conftest import RATE, a_few, asr_config, build, save, sharpen, waves

from espnet_onnx_plugin.bin import optimize, quantize, slu_inference
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.recognition import RecognitionEvaluator
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.io.data import Source
from espnet_onnx_plugin.runtime.slu import Speech2Understand

WORDS = ["<blank>", "<unk>", "turn", "on", "the", "lights", "please", "<sos/eos>"]
TRANSCRIPTS = {
    "utt0": "turn on the lights",
    "utt1": "please",
    "utt2": "turn never the lights on please please",
    "utt3": "",
}
OPTIONS = dict(beam_size=3, ctc_weight=0.3, lm_weight=0.0, nbest=2)
CONFORMER = dict(
    output_size=8,
    attention_heads=2,
    linear_units=12,
    num_blocks=1,
    rel_pos_type="latest",
    macaron_style=True,
    cnn_module_kernel=3,
)
TRANSFORMER = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=1)
BERT = dict(
    postdecoder="hugging_face_transformers",
    postdecoder_conf=dict(model_name_or_path="bert", output_size=8),
    transcript_token_list=WORDS,
)


@pytest.fixture
def bert(monkeypatch, tmp_path):
    """Random weights of the real modules, where a hub would give trained ones."""
    transformers = pytest.importorskip("transformers")
    pieces = "[PAD] [UNK] [CLS] [SEP] [MASK] turn on the light ##s please < > unk"
    (tmp_path / "vocab.txt").write_text("\n".join(pieces.split()) + "\n")

    def model(name):
        torch.manual_seed(1)
        return transformers.BertModel(
            transformers.BertConfig(
                vocab_size=len(pieces.split()),
                hidden_size=12,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=16,
            )
        )

    def tokenizer(name, use_fast):
        assert use_fast
        return transformers.BertTokenizerFast(str(tmp_path / "vocab.txt"))

    monkeypatch.setattr(transformers.AutoModel, "from_pretrained", model)
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", tokenizer)


def trained(directory, **choices):
    """Files of a tiny model with random weights."""
    from espnet2.tasks.slu import SLUTask

    config = {**SLUTask.get_default_config(), **asr_config(**choices)}
    model = build(SLUTask, config)
    sharpen(model)
    return save(model, config, directory, "model.pth")


def check(files, bundle, transcripts=None):
    from espnet2.bin.slu_inference import Speech2Understand as ESPnets

    theirs = ESPnets(str(files["config"]), str(files["file"]), **OPTIONS)
    ours = Speech2Understand(bundle, **OPTIONS)
    results = {}
    for key, wave in waves().items():
        given, ids = (), ()
        if transcripts is not None:
            given = (transcripts[key],)
            known = [w if w in WORDS else "<unk>" for w in given[0].split()]
            ids = (torch.tensor([WORDS.index(word) for word in known]).long(),)
        expected = theirs(wave.astype(np.float32), *ids)
        results[key] = ours(wave, *given)
        for mine, their in zip(results[key], expected, strict=True):
            assert mine[:3] == their[:3]
            assert mine[3].score == pytest.approx(float(their[3].score), abs=1e-3)
        if ids:
            again = ours(wave, ids[0].numpy())
            assert [r[2] for r in again] == [r[2] for r in results[key]]
    inputs = [
        (wave, *([transcripts[key]] if transcripts else []))
        for key, wave in waves().items()
    ]
    together = ours.batch([ours.prepare(*given) for given in inputs])
    assert [[r[2] for r in result] for result in together] == [
        [r[2] for r in result] for result in results.values()
    ]
    return results


@pytest.mark.parametrize(
    "choices",
    a_few(
        [
            dict(),
            dict(postencoder="transformer", postencoder_conf=TRANSFORMER),
            dict(postencoder="conformer", postencoder_conf=CONFORMER),
        ],
        keep=2,
    ),
    ids=["plain", "transformer", "conformer"],
)
def test_results_are_espnets(choices, tmp_path):
    files = trained(tmp_path / "slu", **choices)
    bundle = export_bundle(
        "slu", Checkpoints(files["config"], files["file"]), tmp_path / "fp32"
    )
    results = check(files, bundle)
    assert len({tuple(r[0][2]) for r in results.values()}) > 1


@pytest.mark.parametrize(
    "choices",
    [
        dict(deliberationencoder="conformer", deliberationencoder_conf=CONFORMER),
        dict(deliberationencoder="transformer", deliberationencoder_conf=TRANSFORMER),
        dict(),
    ],
    ids=["conformer", "transformer", "joined"],
)
def test_a_transcript_is_read_as_by_espnet(choices, bert, tmp_path):
    files = trained(tmp_path / "slu", **BERT, **choices)
    bundle = export_bundle(
        "slu", Checkpoints(files["config"], files["file"]), tmp_path / "fp32"
    )
    results = check(files, bundle, TRANSCRIPTS)
    other = Speech2Understand(bundle, **OPTIONS)(waves()["utt1"], "the lights on")
    assert other[0][3].score != results["utt1"][0][3].score


def test_the_commands(bert, tmp_path):
    import soundfile

    files = trained(
        tmp_path / "slu",
        deliberationencoder="transformer",
        deliberationencoder_conf=TRANSFORMER,
        **BERT,
    )
    bundle = export_bundle(
        "slu", Checkpoints(files["config"], files["file"]), tmp_path / "fp32"
    )
    scp, text = tmp_path / "wav.scp", tmp_path / "transcript"
    for key, wave in waves().items():
        soundfile.write(tmp_path / f"{key}.wav", wave, RATE)
    scp.write_text("".join(f"{k} {tmp_path}/{k}.wav\n" for k in TRANSCRIPTS))
    text.write_text("".join(f"{k} {v}\n" for k, v in TRANSCRIPTS.items()))
    common = ["--model_dir", str(bundle.path), "--calibration_scp", f"{scp},sound"]
    common += ["--calibration_transcript", str(text)]
    optimize.main([*common, "--output_dir", str(tmp_path / "optimized")])
    quantize.main(
        [*common, "--output_dir", str(tmp_path / "int8")]
        + ["--min_token_agreement", "0", "--max_wer_increase", "1000"]
    )
    written = {}
    for variant in ("fp32", "optimized", "int8"):
        slu_inference.main(
            ["--model_dir", str(tmp_path / variant), "--beam_size", "2"]
            + ["--output_dir", str(tmp_path / "out" / variant), "--batch_size", "3"]
            + ["--data_path_and_name_and_type", f"{scp},speech,sound"]
            + ["--data_path_and_name_and_type", f"{text},transcript,text"]
        )
        best = tmp_path / "out" / variant / "1best_recog"
        written[variant] = (best / "token_int").read_text()
        assert written[variant].count("\n") == len(TRANSCRIPTS)
    assert written["optimized"] == written["fp32"]
    # What decides the precision is read with the transcripts.
    source = Source(scp, "sound", others={"transcript": text})
    [first, *_] = RecognitionEvaluator(source).run(bundle, Device()).feeds["encoder"]
    prepared = Speech2Understand(bundle).prepare(waves()["utt0"], TRANSCRIPTS["utt0"])
    assert first["transcript"].tolist() == [prepared.others["transcript"].tolist()]


def test_what_is_not_supported_is_named(tmp_path):
    (tmp_path / "config.yaml").write_text("model_conf: {superb_setup: true}\n")
    (tmp_path / "model.pth").write_text("")
    with pytest.raises(PluginError, match="superb_setup"):
        export_bundle(
            "slu",
            Checkpoints(tmp_path / "config.yaml", tmp_path / "model.pth"),
            tmp_path / "fp32",
        )
