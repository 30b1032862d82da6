"""Text to token ids, as a TTS model of ESPnet does it."""

import argparse
import itertools
import json
import random
import sys
import types
import zipfile
from pathlib import Path
from typing import NamedTuple

import onnx
import pytest

from espnet_onnx_plugin.bundle import (
    Manifest,
    Speech,
    describe,
    new_bundle,
    read_bundle,
    write_manifest,
)
from espnet_onnx_plugin.bundle.search import Durations
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.tasks.tts_text import refuse_text, write_tts_text
from espnet_onnx_plugin.runtime.text.cleaner import CLEANERS, make_cleaner
from espnet_onnx_plugin.runtime.text.converter import TokenConverter
from espnet_onnx_plugin.runtime.text.openjtalk import OPENJTALK
from espnet_onnx_plugin.runtime.text.phonemes import G2PS, make_g2p

BPE = (
    Path(__file__).parents[1]
    / "egs2_stage/demo/asr1/pretrained/data/en_token_list/bpe_unigram80/bpe.model"
)

ENGLISH = (
    "(Hello-World);   &  jr. & dr.",
    "I have $250.50 in my pocket, e.g. on Jan. 3rd, 1999!",
    "I refuse to collect the refuse; naïve café?",
    "<laugh> one <laugh><noise> two <laughs>",
    " two  spaces and   three ",
    "zyxt\tΩ €",
    " ",
    "",
)
JAPANESE = ("こんにちは。今日は、いい天気ですか？", "ﾊﾝｶｸ　ＡＢＣ　１２３〜", " ", "")
CHINESE = ("你好，世界。", "女人去学院 春卷 ABC 123 了嗎？", "儿子 嗯 绿色！", " ", "")
KOREAN = (
    "안녕하세요 세계!",
    "나의 친구가 mp3 file 3개를 다운받고 있다.",
    "가,  (나)",
    " ",
    "",
)

#: Names of the package that a g2p or a cleaner needs: to import it, and to install it.
PACKAGES = {
    "g2p_en": ("g2p_en", "espnet-g2p-en"),
    "pyopenjtalk": ("pyopenjtalk", "pyopenjtalk"),
    "pypinyin": ("pypinyin", "pypinyin"),
    "espeak": ("phonemizer", "phonemizer"),
    "g2pk": ("g2pk", "g2pk"),
    "korean_jaso": ("jamo", "jamo"),
    "g2p_is": ("ice_g2p", "ice-g2p"),
    "tacotron": ("tacotron_cleaner", "espnet_tts_frontend"),
    "jaconv": ("jaconv", "jaconv"),
    "vietnamese": ("vietnamese_cleaner", "espnet_tts_frontend underthesea"),
    "whisper": ("whisper", "openai-whisper"),
}


def package(name):
    [found] = [both for prefix, both in PACKAGES.items() if name.startswith(prefix)]
    return found


def block(monkeypatch, name):
    """Let a package be one that cannot be imported."""
    loaded = [module for module in sys.modules if module.startswith(f"{name}.")]
    for module in (name, *loaded):
        monkeypatch.setitem(sys.modules, module, None)


def fake(monkeypatch, name, **content):
    """Put a module of this content in the place of what may not be installed."""
    module = types.ModuleType(name)
    vars(module).update(content)
    monkeypatch.setitem(sys.modules, name, module)


@pytest.fixture(scope="session")
def nltk_data(tmp_path_factory):
    """Data of NLTK that g2p_en reads, with a few words."""
    root = tmp_path_factory.mktemp("nltk_data")
    tagger, words = "averaged_perceptron_tagger_eng", "cmudict"
    parts = dict(
        weights={"bias": {"NN": 1.0}},
        tagdict={"have": "VB", "refuse": "VB", "i": "PRP"},
        classes=["NN", "PRP", "VB"],
    )
    (root / "taggers").mkdir()
    with zipfile.ZipFile(root / f"taggers/{tagger}.zip", "w") as z:
        for part, content in parts.items():
            z.writestr(f"{tagger}/{tagger}.{part}.json", json.dumps(content))
    (root / "corpora").mkdir()
    with zipfile.ZipFile(root / f"corpora/{words}.zip", "w") as z:
        z.writestr(f"{words}/{words}", "HELLO 1 HH AH0 L OW1\nWORLD 1 W ER1 L D\n")
    return root


def arguments(**choices):
    """Options of a training that ESPnet's ``build_preprocess_fn`` reads."""
    defaults = dict(
        token_type="phn",
        token_list=["<blank>", "<unk>"],
        bpemodel=None,
        non_linguistic_symbols=None,
        cleaner=None,
        g2p=None,
        use_preprocessor=True,
    )
    return argparse.Namespace(**{**defaults, **choices})


def convert(args, directory):
    """A converter of a bundle that was written and read."""
    with new_bundle(directory) as work:
        text = write_tts_text(args, work)
        speech = Speech("waveform", 16000, 0, 1)
        search = Durations(rounding="round")
        graphs = {}
        for role in search.needs:  # which nothing runs
            empty = onnx.helper.make_graph([], role, [], [])
            onnx.save(onnx.helper.make_model(empty), work / f"{role}.onnx")
            graphs[role] = describe(work / f"{role}.onnx", {}, {}, {})
        write_manifest(work, Manifest("tts", graphs, speech, text, search))
    bundle = read_bundle(directory)
    assert bundle.manifest.text == text
    return TokenConverter(bundle)


def check(directory, sentences, **choices):
    """Compare with ESPnet's preprocessor; every fourth of the tokens is unknown."""
    from espnet2.tasks.tts import TTSTask

    args = arguments(**choices)
    theirs = TTSTask.build_preprocess_fn(args, train=False)
    tokens = {
        token
        for sentence in sentences
        for token in theirs.tokenizer.text2tokens(theirs.text_cleaner(sentence))
    }
    known = [token for i, token in enumerate(sorted(tokens)) if i % 4]
    args.token_list = ["<blank>", "<unk>", *known]
    theirs = TTSTask.build_preprocess_fn(args, train=False)
    ours = convert(args, directory)
    found = [ours.text2ids(sentence) for sentence in sentences]
    expected = [theirs("utt", {"text": s})["text"].tolist() for s in sentences]
    assert found == expected
    assert len(set(itertools.chain(*found))) > 2, "nothing but unknown tokens"


class Case(NamedTuple):
    """A g2p or cleaners, with sentences and the packages besides their own."""

    sentences: tuple
    g2p: str | None = None
    cleaner: None | str | list[str] = None
    needs: tuple = ()

    @property
    def cleaners(self):
        return [self.cleaner] if isinstance(self.cleaner, str) else self.cleaner or []


SPANISH = ("¡Hola, señor! ¿Qué hora es?", "  uno,  dos  3 ", "U.S.A.")
CASES = [
    Case(ENGLISH),
    Case(ENGLISH, cleaner=["tacotron", "korean_cleaner"]),
    Case(ENGLISH, "g2p_en", "tacotron"),
    Case(JAPANESE, cleaner="jaconv"),
    Case(ENGLISH, "g2p_en_no_space"),
    *(Case(JAPANESE, g2p, "jaconv") for g2p in OPENJTALK),
    *(Case(CHINESE, g2p) for g2p in G2PS if g2p and g2p.startswith("pypinyin")),
    *(Case(KOREAN, g2p, "korean_cleaner") for g2p in G2PS if g2p and "jaso" in g2p),
    *(Case(KOREAN, g2p) for g2p in G2PS if g2p and g2p.startswith("g2pk")),
    Case(ENGLISH[:3], "espeak_ng_english_us_vits"),
    *(Case(SPANISH, f"espeak_ng_{name}") for name in ("spanish", "german", "polish")),
    Case(("Góðan daginn, hvað segir þú?",), "g2p_is"),
    Case(("Hoà bình,  thuý 3.",), cleaner="vietnamese", needs=("underthesea",)),
    Case(ENGLISH, cleaner="whisper_en"),
    Case(ENGLISH, cleaner="whisper_basic"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda c: f"{c.g2p}-{c.cleaner}")
def test_ids_are_espnets(case, tmp_path, nltk_data, monkeypatch):
    names = [case.g2p] if case.g2p else []
    names += [name for name in case.cleaners if name != "korean_cleaner"]
    for module in [*(package(name)[0] for name in names), *case.needs]:
        pytest.importorskip(module)
    if "g2p_en" in str(case.g2p) or "g2pk" in str(case.g2p):
        import nltk

        monkeypatch.setattr(nltk.data, "path", [str(nltk_data)])
    check(tmp_path / "b", case.sentences, g2p=case.g2p, cleaner=case.cleaner)


@pytest.mark.parametrize("token_type", ["char", "word", "bpe"])
def test_other_tokens_are_espnets(token_type, tmp_path):
    symbols = tmp_path / "nlsyms.txt"
    symbols.write_text("<laugh>\n<noise> \n")
    check(
        tmp_path / "b",
        ENGLISH,
        token_type=token_type,
        bpemodel=str(BPE),
        non_linguistic_symbols=str(symbols),
        cleaner="korean_cleaner",
        g2p="g2p_en",  # not asked
    )


def test_symbols_inside_phonemes_change_nothing(tmp_path):
    symbols = tmp_path / "nlsyms.txt"
    symbols.write_text("<laugh>\n")
    check(tmp_path / "b", ENGLISH, non_linguistic_symbols=str(symbols))


def test_the_longest_symbol_is_the_token(tmp_path):
    symbols = tmp_path / "nlsyms.txt"
    symbols.write_text("<a\n\n<a>\n")
    ours = convert(
        arguments(
            token_type="char",
            token_list=["<a", "<a>", "<space>", "<unk>"],
            non_linguistic_symbols=str(symbols),
        ),
        tmp_path / "b",
    )
    assert ours.text2ids("<a> <ax") == [1, 2, 0, 3]


def test_a_model_without_preprocessor_takes_ids(tmp_path):
    ours = convert(arguments(use_preprocessor=False), tmp_path / "b")
    with pytest.raises(PluginError, match="give token ids"):
        ours.text2ids("one")


def labels(seed):
    """Full-context labels of a made-up utterance: what ESPnet reads of them."""
    draw = random.Random(seed)
    form = (
        "xx^xx-{}+xx=xx/A:{}+{}+{}/B:xx-xx_xx/C:06_xx+xx/D:10+7_2/E:{}-xx"
        "/F:{}_{}#0_xx@1_1|1_5/G:5_4%1_0_xx/H:1_5/I:1-5@1+1&1-1|1+5/J:1_5/K:1+1-5"
    )
    silence = ("xx", "xx", "xx", "xx_xx!xx_xx", "xx", "xx")
    result = [form.format("sil", *silence)]
    for _ in range(draw.randint(2, 5)):
        moras = draw.randint(1, 5)
        accent = draw.randint(1, moras)
        for mora in range(1, moras + 1):
            for phone in draw.choice(
                ["k a", "N", "cl", "sh I", "e", "ts U", "e N"]
            ).split():
                place = (mora - accent, mora, moras - mora + 1)
                result.append(form.format(phone, *place, "3_1!0_xx", moras, accent))
        if draw.random() < 0.4:
            result.append(form.format("pau", *silence))
    ending = ("xx", "xx", "xx", f"{moras}_{accent}!{seed % 2}_xx", "xx", "xx")
    return [*result, form.format("sil", *ending)]


@pytest.mark.parametrize("g2p", OPENJTALK)
def test_japanese_labels_become_espnets_tokens(g2p, monkeypatch):
    from espnet2.text.phoneme_tokenizer import PhonemeTokenizer

    spoken = {f"{seed}": labels(seed) for seed in range(20)} | {"": []}
    fake(
        monkeypatch,
        "pyopenjtalk",
        __version__="0.4.1",
        extract_fullcontext=spoken.__getitem__,
        run_frontend=lambda text: text,
        make_label=spoken.__getitem__,
        g2p=lambda text, kana: "カナ" if kana else "k a n a",
    )
    ours, theirs = make_g2p(g2p), PhonemeTokenizer(g2p)
    for text in spoken:
        assert ours(text) == theirs.text2tokens(text)


class Settings:
    """In the place of a package's class: answers with what it was made and asked by."""

    def __init__(self, *args, logger=None, **settings):
        self._settings = (args, sorted(settings.items()))

    def __call__(self, text, **settings):
        return list(f"a b {text} {self._settings} {sorted(settings.items())}")

    def transcribe(self, text):
        return "".join(self(text))

    def phonemize(self, texts, separator, strip, njobs=1):
        if texts == [""]:
            return []  # as phonemizer
        return ["".join(self(t, separator=vars(separator), strip=strip)) for t in texts]


def espeak(language, **settings):
    return Settings(language=language, **settings)


@pytest.mark.parametrize(
    "g2p", [n for n in G2PS if n and n.startswith(("espeak", "g2pk", "g2p_is"))]
)
def test_packages_are_asked_as_espnet_asks_them(g2p, monkeypatch):
    from espnet2.text.phoneme_tokenizer import PhonemeTokenizer

    fake(monkeypatch, "g2pk", G2p=korean)
    fake(monkeypatch, "ice_g2p")
    fake(monkeypatch, "ice_g2p.transcriber", Transcriber=Settings)
    fake(monkeypatch, "phonemizer")
    fake(monkeypatch, "phonemizer.backend", BACKENDS={"espeak": espeak})
    fake(monkeypatch, "phonemizer.separator", Separator=types.SimpleNamespace)
    ours, theirs = make_g2p(g2p), PhonemeTokenizer(g2p)
    for text in ("a  b c", " "):
        assert ours(text) == theirs.text2tokens(text)
    if g2p.startswith("espeak"):
        assert ours("") == []  # ESPnet fails


def korean():
    def convert(text, descriptive=False, group_vowels=False, to_syl=True):
        return f"{text} {descriptive} {group_vowels} {to_syl}"

    return convert


def test_every_g2p_of_espnets_is_known():
    from espnet2.text.phoneme_tokenizer import PhonemeTokenizer, g2p_choices

    unknown = set(g2p_choices) - set(G2PS)
    assert unknown == {"espeak_ng_ukrainian"}
    with pytest.raises(NotImplementedError):
        PhonemeTokenizer("espeak_ng_ukrainian")


@pytest.mark.parametrize("g2p", [name for name in G2PS if name])
def test_a_missing_package_of_a_g2p_is_named(g2p, monkeypatch):
    module, install = package(g2p)
    block(monkeypatch, module)
    with pytest.raises(PluginError, match=f"'{g2p}' .*{module}.*install {install}$"):
        make_g2p(g2p)


@pytest.mark.parametrize("cleaner", sorted(set(CLEANERS) - {"korean_cleaner"}))
def test_a_missing_package_of_a_cleaner_is_named(cleaner, monkeypatch):
    module, install = package(cleaner)
    block(monkeypatch, module)
    with pytest.raises(PluginError, match=f"'{cleaner}' .*{module}.*install {install}"):
        make_cleaner([cleaner])


def test_missing_data_are_named(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk.data, "path", [])

    def missing(*args):
        nltk.data.find("corpora/cmudict")

    remedy = "nltk.downloader averaged_perceptron_tagger_eng cmudict"
    fake(monkeypatch, "g2p_en", G2p=missing)
    with pytest.raises(PluginError, match=remedy):
        make_g2p("g2p_en")
    fake(monkeypatch, "g2p_en", G2p=lambda: missing)
    with pytest.raises(PluginError, match=remedy):
        make_g2p("g2p_en")("one")
    fake(monkeypatch, "g2pk", G2p=missing)
    with pytest.raises(PluginError, match="nltk.downloader cmudict,"):
        make_g2p("g2pk")
    fake(monkeypatch, "g2p_en", G2p=lambda: {}.__getitem__)
    with pytest.raises(KeyError):  # not of NLTK
        make_g2p("g2p_en")("one")


def test_missing_programs_and_dictionaries_are_named(monkeypatch):
    def missing(*args, **settings):
        raise RuntimeError("espeak not installed on your system")

    fake(monkeypatch, "phonemizer")
    fake(monkeypatch, "phonemizer.backend", BACKENDS={"espeak": missing})
    fake(monkeypatch, "phonemizer.separator", Separator=types.SimpleNamespace)
    with pytest.raises(PluginError, match="apt-get install espeak-ng"):
        make_g2p("espeak_ng_german")

    def offline(text):
        raise OSError("no network")

    fake(monkeypatch, "pyopenjtalk", extract_fullcontext=offline)
    with pytest.raises(PluginError, match="no network.*OPEN_JTALK_DICT_DIR"):
        make_g2p("pyopenjtalk_prosody")("はい")


def test_what_is_not_supported_is_refused_by_name(tmp_path):
    refuse_text(dict(token_type="phn", cleaner="tacotron", g2p="g2p_en"))
    refuse_text(dict(token_type="char", cleaner=["jaconv", "tacotron"]))
    for key, value in (
        ("token_type", "qwen2audio"),
        ("cleaner", "soap"),
        ("g2p", "espeak_ng_ukrainian"),
    ):
        with pytest.raises(PluginError, match=f"{key} '{value}' is not supported"):
            refuse_text({key: value})
    args = arguments(token_type="char", non_linguistic_symbols=str(tmp_path / "none"))
    with pytest.raises(PluginError, match="none, which does not exist"):
        write_tts_text(args, tmp_path)
