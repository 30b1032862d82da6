"""Models that wrap other packages, end to end: ESPnet's own inference against ours."""

import functools

import numpy as np
import pytest
from conftest import asr_config, build_asr, save, waves
from hub_models import tiny_whisper

import espnet_onnx_plugin
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.model import Checkpoints

#: A tiny Whisper has 12 positions, of which the primer takes 4.
WHISPER_OPTIONS = dict(ctc_weight=0.0, lm_weight=0.0, beam_size=4, maxlenratio=-8)


@pytest.fixture(scope="module")
def whisper_model(tmp_path_factory):
    """A tiny Whisper with LoRA and its tokens, as its recipes train it."""
    whisper = pytest.importorskip("whisper")
    pytest.importorskip("loralib")
    pytest.importorskip("tokenizers")
    from espnet2.bin.whisper_export_vocabulary import export_vocabulary
    from espnet2.layers.create_adapter import create_adapter

    root = tmp_path_factory.mktemp("whisper")
    tokens = root / "tokens.txt"
    try:
        export_vocabulary(str(tokens), "whisper_multilingual", log_level="ERROR")
    except AttributeError:
        pytest.skip("whisper is not ESPnet's copy, whose tokenizer ESPnet needs")
    lora = dict(rank=2, alpha=4, target_modules=["query", "key", "value", "attn.out"])
    config = asr_config(
        token_list=str(tokens),
        token_type="whisper_multilingual",
        bpemodel="whisper_multilingual",
        preprocessor_conf=dict(whisper_language="zh", whisper_task="transcribe"),
        frontend=None,
        input_size=1,
        normalize=None,
        encoder="whisper",
        encoder_conf=dict(whisper_model="tiny"),
        decoder="whisper",
        decoder_conf=dict(whisper_model="tiny"),
        model_conf=dict(
            ctc_weight=0.0, sym_sos="<|startoftranscript|>", sym_eos="<|endoftext|>"
        ),
        use_adapter=True,
        adapter="lora",
        adapter_conf=lora,
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper, "available_models", lambda: ["tiny"])
        patch.setattr(
            whisper, "load_model", functools.partial(tiny_whisper, n_vocab=51865)
        )
        model = build_asr(dict(config))
        create_adapter(model, "lora", lora)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data.normal_()
        model.decoder.decoders.token_embedding.weight.data *= 4.0
        files = save(model.eval(), config, root / "asr", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("asr", checkpoints, root / "fp32")
        yield dict(root=root, files=files, checkpoints=checkpoints, bundle=bundle.path)


def espnet(model, **options):
    from espnet2.bin.asr_inference import Speech2Text

    files = model["files"]
    return Speech2Text(str(files["config"]), str(files["file"]), **options)


def assert_same_results(ours, theirs, wave):
    """Same hypotheses, tokens and texts; returns the longest result's length."""
    results, expected = ours(wave), theirs(wave.astype(np.float32))
    assert len(results) == len(expected) > 0
    for (text, token, token_int, hyp), other in zip(results, expected):
        assert token_int == other[2]
        assert (text, token) == other[:2]
        assert hyp.score == pytest.approx(float(other[3].score), abs=1e-3)
        assert list(hyp.yseq) == [int(i) for i in other[3].yseq]
    return max(len(result[2]) for result in results)


@pytest.mark.parametrize(
    "prompt",
    [
        dict(),
        dict(lang_prompt_token="<|en|> <|translate|>"),
        dict(nlp_prompt_token="two words"),
        dict(lid_prompt=True),
    ],
    ids=lambda prompt: next(iter(prompt), "primer"),
)
def test_whisper_decodes_to_espnets_tokens(whisper_model, prompt):
    options = dict(WHISPER_OPTIONS, nbest=2, **prompt)
    theirs = espnet(whisper_model, **options)
    ours = espnet_onnx_plugin.Speech2Text(whisper_model["bundle"], **options)
    lengths = [assert_same_results(ours, theirs, w) for w in waves(3).values()]
    assert max(lengths) > 5


def test_whisper_ends_at_its_last_position(whisper_model):
    options = dict(WHISPER_OPTIONS, maxlenratio=0.0, minlenratio=-20)
    ours = espnet_onnx_plugin.Speech2Text(whisper_model["bundle"], **options)
    [(*_, hypothesis)] = ours(waves(1)["utt0"])
    assert len(hypothesis.yseq) <= 12 + 2


def test_texts_of_whisper_are_espnets(whisper_model):
    # The tiny model's own results are a few rare tokens.
    theirs = espnet(whisper_model, **WHISPER_OPTIONS)
    ours = espnet_onnx_plugin.Speech2Text(whisper_model["bundle"], **WHISPER_OPTIONS)
    for text in (" Hello, wörld's end .", "你好，世界", "😀 <|en|>half <|0.02|>"):
        ids = theirs.converter.tokenizer.tokenizer.encode(text)
        ids = [*ids, 50258, 50363, 51000, 160]  # special ones, half a character
        token = ours.converter.ids2tokens(ids)
        assert token == theirs.converter.ids2tokens(ids)
        assert ours.converter.tokens2text(token) == theirs.tokenizer.tokens2text(token)


def test_time_synchronous_search_is_not_for_whisper(whisper_model):
    with pytest.raises(PluginError, match="Whisper's tokens"):
        espnet_onnx_plugin.Speech2Text(
            whisper_model["bundle"], ctc_weight=0.0, time_sync=True
        )
