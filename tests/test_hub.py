"""Models that wrap other packages, end to end: ESPnet's own inference against ours."""

import functools
import importlib

import numpy as np
import pytest
from conftest import (
    TOKENS,
    asr_config,
    build,
    build_asr,
    save,
    st_config,
    waves,
    write_data,
)
from hub_models import tiny_model, tiny_whisper, use_tiny_models

import espnet_onnx_plugin
from espnet_onnx_plugin.bin import asr_inference
from espnet_onnx_plugin.bundle import read_bundle
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.export import export_bundle
from espnet_onnx_plugin.export.layers.hub_text import needs_whisper
from espnet_onnx_plugin.export.tasks.exporter import find_exporter
from espnet_onnx_plugin.optimize.fuse import optimize
from espnet_onnx_plugin.quantize.quantize import quantize
from espnet_onnx_plugin.runtime.core.encoder import Encoded
from espnet_onnx_plugin.runtime.search.generate import GenerateConfig, HubSearch
from espnet_onnx_plugin.runtime.st import Speech2Text as Translator

#: A tiny Whisper has 12 positions, of which the primer takes 4.
WHISPER_OPTIONS = dict(ctc_weight=0.0, lm_weight=0.0, beam_size=4, maxlenratio=-8)


@pytest.fixture(scope="module")
def whisper_model(tmp_path_factory):
    """A tiny Whisper with LoRA and its tokens, as its recipes train it."""
    try:
        needs_whisper()
    except PluginError as e:
        pytest.skip(str(e))
    import whisper

    pytest.importorskip("loralib")
    pytest.importorskip("tokenizers")
    from espnet2.bin.whisper_export_vocabulary import export_vocabulary
    from espnet2.layers.create_adapter import create_adapter

    root = tmp_path_factory.mktemp("whisper")
    tokens = root / "tokens.txt"
    export_vocabulary(str(tokens), "whisper_multilingual", log_level="ERROR")
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


@pytest.fixture(scope="module")
def whisper_translator(tmp_path_factory):
    """Whisper's decoder and tokens behind another encoder, in task st."""
    try:
        needs_whisper()
    except PluginError as e:
        pytest.skip(str(e))
    import whisper
    from espnet2.bin.whisper_export_vocabulary import export_vocabulary
    from espnet2.tasks.st import STTask

    root = tmp_path_factory.mktemp("whisper_st")
    tokens = root / "tokens.txt"
    export_vocabulary(str(tokens), "whisper_multilingual", log_level="ERROR")
    config = st_config(
        token_list=str(tokens),
        token_type="whisper_multilingual",
        bpemodel="whisper_multilingual",
        preprocessor_conf=dict(whisper_language=["zh", "de"]),
        decoder="whisper",
        decoder_conf=dict(whisper_model="tiny"),
        model_conf=dict(
            tgt_sym_sos="<|startoftranscript|>", tgt_sym_eos="<|endoftext|>"
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(whisper, "available_models", lambda: ["tiny"])
        patch.setattr(
            whisper, "load_model", functools.partial(tiny_whisper, n_vocab=51865)
        )
        model = build(STTask, dict(config))
        model.decoder.decoders.token_embedding.weight.data *= 4.0
        files = save(model, config, root / "st", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("st", checkpoints, root / "fp32")
        yield dict(files=files, bundle=bundle.path)


def test_whisper_translates_to_espnets_tokens(whisper_translator):
    options = dict(WHISPER_OPTIONS, nbest=2)
    theirs = espnet(whisper_translator, "st", **options)
    ours = Translator(whisper_translator["bundle"], **options)
    assert ours.converter.hub.tokens2ids(["<|de|>", "<|translate|>"]) == [
        *ours.bundle.manifest.search.primer[1:3]
    ]
    lengths = [assert_same_results(ours, theirs, w) for w in waves(3).values()]
    assert max(lengths) > 5


def espnet(model, task="asr", **options):
    inference = importlib.import_module(f"espnet2.bin.{task}_inference")

    files = model["files"]
    return inference.Speech2Text(str(files["config"]), str(files["file"]), **options)


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


def test_whisper_is_optimized_and_quantized(whisper_model):
    bundle, root = read_bundle(whisper_model["bundle"]), whisper_model["root"]
    optimized = optimize(bundle, root / "optimized", "cpu", None)
    nodes = optimized.manifest.checks["optimize"]["nodes"]
    assert nodes["encoder"]["rules"]["attention"] == 2
    quantized = quantize(bundle, root / "int8")
    ours, fused, small = (
        espnet_onnx_plugin.Speech2Text(b, **WHISPER_OPTIONS)
        for b in (bundle, optimized, quantized)
    )
    for wave in waves(2).values():
        assert fused(wave)[0][2] == ours(wave)[0][2]
        assert small(wave)
    differences = quantized.manifest.checks["quantize"]["differences"]
    assert 0 < min(differences[role] for role in ("encoder", "decoder"))
    assert max(differences.values()) < 0.1


def test_whisper_ends_at_its_last_position(whisper_model):
    options = dict(WHISPER_OPTIONS, maxlenratio=0.0, minlenratio=-5)
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
        espnet_onnx_plugin.Speech2Text(whisper_model["bundle"], time_sync=True)


class WholePrefixes:
    """A decoder of transformers as this package's full scorer."""

    def __init__(self, model):
        self.model = model

    def start(self, encoded, primers):
        return [(memory, [()]) for memory in encoded["encoder_out"]]

    def score(self, tokens, parents, state):
        import torch
        from transformers.modeling_outputs import BaseModelOutput

        scores, new = [], []
        for row, origins, (memory, past) in zip(tokens, parents, state):
            prefixes = [(*past[p], int(t)) for t, p in zip(row, origins)]
            out = torch.from_numpy(memory).expand(len(prefixes), -1, -1)
            with torch.no_grad():
                logits = self.model(
                    decoder_input_ids=torch.tensor(prefixes),
                    encoder_outputs=BaseModelOutput(last_hidden_state=out),
                ).logits[:, -1]
            scores.append(torch.log_softmax(logits, dim=-1).numpy())
            new.append((memory, prefixes))
        return np.stack(scores), new

    def select(self, utterances, state):
        return [state[i] for i in utterances]


SETTINGS = [
    dict(num_beams=1),
    dict(num_beams=1, no_repeat_ngram_size=2, min_length=6),
    dict(num_beams=3),
    dict(num_beams=4, early_stopping=True, no_repeat_ngram_size=3),
    dict(num_beams=4, early_stopping="never", length_penalty=2.0),
    dict(num_beams=2, length_penalty=-1.0, min_length=5),
    dict(num_beams=5, forced_bos_token_id=7, forced_eos_token_id=2, max_length=6),
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_search_is_that_of_generate(settings):
    pytest.importorskip("transformers")
    import torch
    from transformers.modeling_outputs import BaseModelOutput

    model = tiny_model("facebook/mbart-large-50", with_head=True)
    model.lm_head.weight.data *= 3.0
    model.final_logits_bias[0, 2] -= 3.0  # an end that does not come at once
    settings = {"max_length": 14, **settings}
    memory = np.random.default_rng(0).standard_normal((6, 9, 8)).astype(np.float32)
    config = GenerateConfig(start=2, eos=(2,), max_length=14, forced_eos_token_id=2)
    config = config.overridden(settings)
    search = HubSearch(config, WholePrefixes(model))
    results = search(Encoded(encoder_out=memory, encoder_out_lens=np.full(6, 9)))
    lengths = set()
    for [hypothesis], one in zip(results, torch.from_numpy(memory)):
        expected = model.generate(
            encoder_outputs=BaseModelOutput(last_hidden_state=one[None]),
            decoder_start_token_id=2,
            **settings,
        )
        assert list(hypothesis.yseq) == expected[0].tolist()
        lengths.add(len(hypothesis.yseq))
    assert max(lengths) > 3


@pytest.fixture(scope="module")
def hub_model(tmp_path_factory):
    """mBART's encoder and decoder on top of an encoder, as recipes of SLU train it."""
    hub = pytest.importorskip("transformers")
    tokenizers = pytest.importorskip("tokenizers")
    root = tmp_path_factory.mktemp("hub")
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    letters = ["\u0120", ".", ",", "?", "\u00c3", "\u00b6", *"abcdefghijklmnopqrst"]
    tokens = special + letters
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.BPE({t: i for i, t in enumerate(tokens)}, [])
    )
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    hub.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=True,
    ).save_pretrained(root / "tokenizer")
    config = asr_config(
        token_list=tokens,
        token_type="hugging_face",
        bpemodel=str(root / "tokenizer"),
        postencoder="hugging_face_transformers",
        postencoder_conf=dict(
            model_name_or_path="facebook/mbart-large-50",
            length_adaptor_n_layers=1,
            lang_token_id=3,
        ),
        decoder="hugging_face_transformers",
        decoder_conf=dict(model_name_or_path="facebook/mbart-large-50"),
        model_conf=dict(
            ctc_weight=0.0,
            ignore_id=1,
            sym_blank="<pad>",
            sym_sos="<s>",
            sym_eos="</s>",
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        model = build_asr(dict(config))
        model.decoder.lm_head.weight.data *= 3.0
        files = save(model, config, root / "asr", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("asr", checkpoints, root / "fp32")
        yield dict(root=root, files=files, checkpoints=checkpoints, bundle=bundle.path)


@pytest.mark.parametrize("conf", [dict(), dict(num_beams=1, min_length=7)], ids=str)
def test_hub_decoder_decodes_to_espnets_tokens(hub_model, conf):
    options = dict(ctc_weight=0.0, hugging_face_decoder=True)
    theirs = espnet(hub_model, **options, hugging_face_decoder_conf=dict(conf))
    ours = espnet_onnx_plugin.Speech2Text(
        hub_model["bundle"], **options, hugging_face_decoder_conf=conf
    )
    lengths = [assert_same_results(ours, theirs, w) for w in waves(3).values()]
    assert max(lengths) > 4
    prepared = [ours.prepare(wave) for wave in waves(3).values()]
    together = ours.batch(prepared)
    assert [r[0][2] for r in together] == [ours.batch([p])[0][0][2] for p in prepared]


def test_decoding_configurations_of_recipes_are_taken(hub_model, tmp_path):
    data, config = write_data(tmp_path / "data"), tmp_path / "decode_asr_hf.yaml"
    config.write_text("beam_size: 5\nctc_weight: 0.0\nhugging_face_decoder: true\n")
    files = f"{data / 'wav.scp'},speech,sound"
    common = ["--model_dir", str(hub_model["bundle"]), "--config", str(config)]
    common += ["--data_path_and_name_and_type", files]
    conf = ["--hugging_face_decoder_conf", "num_beams=1,max_length=6"]
    longest = {}
    for name, args in (("recipe", []), ("greedy", conf)):
        asr_inference.main([*common, "--output_dir", str(tmp_path / name), *args])
        best = tmp_path / name / "1best_recog"
        assert len((best / "text").read_text().splitlines()) == len(waves())
        tokens = (best / "token_int").read_text().splitlines()
        longest[name] = max(len(line.split()) - 1 for line in tokens)
    assert longest["greedy"] <= 4 < longest["recipe"]


def test_texts_of_a_hub_are_espnets(hub_model):
    from espnet2.text.build_tokenizer import build_tokenizer

    ours = espnet_onnx_plugin.Speech2Text(
        hub_model["bundle"], hugging_face_decoder=True
    )
    theirs = build_tokenizer("hugging_face", str(hub_model["root"] / "tokenizer"))
    ids = [0, 4, 10, 4, 5, 8, 9, 4, 6, 3, 11, 4, 7, 8, 2, 1]
    token = ours.converter.ids2tokens(ids)
    assert ours.converter.tokens2text(token) == theirs.tokens2text(token)


def test_a_hub_decoder_needs_its_search(hub_model):
    with pytest.raises(PluginError, match="hugging_face_decoder: true"):
        espnet_onnx_plugin.Speech2Text(hub_model["bundle"])
    with pytest.raises(PluginError, match="do_sample is not supported"):
        espnet_onnx_plugin.Speech2Text(
            hub_model["bundle"],
            hugging_face_decoder=True,
            hugging_face_decoder_conf=dict(do_sample=True),
        )


@pytest.fixture(scope="module")
def prompted_model(tmp_path_factory):
    """A language model that reads the speech as a prompt."""
    pytest.importorskip("transformers")
    root = tmp_path_factory.mktemp("prompted")
    config = asr_config(
        decoder="hugging_face_transformers",
        decoder_conf=dict(
            model_name_or_path="huggyllama/llama-7b",
            causal_lm=True,
            prefix="ab",
            postfix="c",
        ),
    )
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        model = build_asr(dict(config))
        model.decoder.lm_head.weight.data *= 3.0
        model.ctc.ctc_lo.weight.data *= 6.0
        files = save(model, config, root / "asr", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("asr", checkpoints, root / "fp32")
        yield dict(files=files, bundle=bundle.path)


@pytest.mark.parametrize(
    "conf",
    [
        dict(max_new_tokens=12),
        dict(num_beams=1, max_length=80, min_length=66, no_repeat_ngram_size=2),
        dict(num_beams=4, max_new_tokens=9, length_penalty=2.0, early_stopping=True),
    ],
    ids=str,
)
def test_a_prompted_model_decodes_to_espnets_tokens(prompted_model, conf):
    theirs = espnet(
        prompted_model, hugging_face_decoder=True, hugging_face_decoder_conf=dict(conf)
    )
    ours = espnet_onnx_plugin.Speech2Text(
        prompted_model["bundle"],
        hugging_face_decoder=True,
        hugging_face_decoder_conf=conf,
    )
    audio = list(waves(3).values())
    lengths = [assert_same_results(ours, theirs, wave) for wave in audio]
    assert max(lengths) > 4
    together = ours.batch([ours.prepare(wave) for wave in audio])
    assert [r[0][2] for r in together] == [ours(wave)[0][2] for wave in audio]


def test_a_prompted_model_is_optimized_and_quantized(prompted_model, tmp_path):
    bundle = read_bundle(prompted_model["bundle"])
    optimized = optimize(bundle, tmp_path / "optimized", "cpu", None)
    figures = optimized.manifest.checks["optimize"]
    assert figures["identical"] == figures["utterances"] > 0
    figures = quantize(bundle, tmp_path / "int8").manifest.checks["quantize"]
    assert 0 < figures["differences"]["decoder"] < 0.2


def test_the_ctc_of_a_prompted_model_decodes_alone(prompted_model):
    options = dict(beam_size=3, ctc_weight=1.0)
    theirs = espnet(prompted_model, **options)
    ours = espnet_onnx_plugin.Speech2Text(prompted_model["bundle"], **options)
    assert assert_same_results(ours, theirs, waves()["utt0"]) > 2


def test_a_prompt_longer_than_the_longest_hypothesis_is_told(prompted_model):
    ours = espnet_onnx_plugin.Speech2Text(
        prompted_model["bundle"],
        hugging_face_decoder=True,
        hugging_face_decoder_conf=dict(max_length=5),
    )
    with pytest.raises(PluginError, match="may have 5; raise max_length"):
        ours(waves()["utt0"])


def test_a_hub_decoder_translates_to_espnets_tokens(tmp_path):
    pytest.importorskip("transformers")
    from espnet2.tasks.st import STTask

    config = st_config(
        decoder="hugging_face_transformers",
        decoder_conf=dict(model_name_or_path="facebook/mbart-large-50"),
        model_conf=dict(st_mtlalpha=0.3, tgt_sym_eos=TOKENS[2]),
    )
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        model = build(STTask, dict(config))
        model.decoder.lm_head.weight.data *= 3.0
        files = save(model, config, tmp_path / "st", "model.pth")
        checkpoints = Checkpoints(files["config"], files["file"])
        bundle = export_bundle("st", checkpoints, tmp_path / "fp32")
        with pytest.raises(PluginError, match="hugging_face_decoder: true"):
            Translator(bundle)
        for ctc_weight in (0.0, 0.3):
            options = dict(beam_size=4, ctc_weight=ctc_weight, normalize_length=True)
            options.update(hugging_face_decoder=True, nbest=2)
            theirs = espnet(dict(files=files), "st", **options)
            ours = Translator(bundle, **options)
            lengths = [assert_same_results(ours, theirs, w) for w in waves(3).values()]
            assert max(lengths) > 4


@pytest.mark.parametrize(
    "task, conf, message",
    [
        ("asr", dict(causal_lm=True, separate_lm_head=True), "leaves the trained"),
        ("st", dict(causal_lm=True), "with causal_lm is not supported in task st"),
    ],
)
def test_settings_of_a_hub_decoder_are_refused(task, conf, message, tmp_path):
    pytest.importorskip("transformers")
    from espnet2.tasks.asr import ASRTask
    from espnet2.tasks.st import STTask

    config = dict(asr=asr_config, st=st_config)[task](
        decoder="hugging_face_transformers",
        decoder_conf=dict(model_name_or_path="huggyllama/llama-7b", **conf),
    )
    with pytest.MonkeyPatch.context() as patch:
        use_tiny_models(patch)
        model = build(dict(asr=ASRTask, st=STTask)[task], dict(config))
        files = save(model, config, tmp_path / "model", "model.pth")
        with pytest.raises(PluginError, match=message):
            find_exporter(task)(Checkpoints(files["config"], files["file"]))
