"""From text to phonemes, as ESPnet's ``PhonemeTokenizer`` does it.

Source: ``espnet2/text/phoneme_tokenizer.py``.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Callable, Iterator

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.packages import import_package
from espnet_onnx_plugin.runtime.text.openjtalk import OPENJTALK, make_openjtalk

SPACE = "<space>"

G2p = Callable[[str], list[str]]

#: espeak-ng's names of the languages that ESPnet knows by words.
_ESPEAK = {
    "arabic": "ar",
    "dutch": "nl",
    "finnish": "fi",
    "french": "fr-fr",
    "german": "de",
    "greek": "el",
    "hindi": "hi",
    "hungarian": "hu",
    "italian": "it",
    "polish": "pl",
    "russian": "ru",
    "spanish": "es",
}

#: Letters that begin, make and end a syllable, and punctuation: all that
#: ``korean_jaso`` keeps.
_JASO = {
    *map(chr, range(0x1100, 0x1113)),
    *map(chr, range(0x1161, 0x1176)),
    *map(chr, range(0x11A8, 0x11C3)),
    *"!'(),-.:;? ",
}


def _split(text: str) -> list[str]:
    """Tokens between spaces; where there are three in a row, the second is a token."""
    if "   " not in text:
        return text.split(" ")
    tokens = text.replace("   ", f" {SPACE} ").split(" ")
    return [token.replace(SPACE, " ") for token in tokens]


@contextlib.contextmanager
def _reading_nltk(g2p: str, data: str) -> Iterator[None]:
    """Name the data of NLTK that are missing, for which it raises a LookupError."""
    try:
        yield
    except (KeyError, IndexError):
        raise
    except LookupError:
        raise PluginError(
            f"g2p '{g2p}' reads NLTK's {data}, not all of which are here: python -m "
            f"nltk.downloader {data}, or set NLTK_DATA to a directory that has them"
        )


def _english(g2p: str, spaces: bool = True) -> G2p:
    package = import_package("g2p_en", f"g2p '{g2p}'", "espnet-g2p-en")
    reading = functools.partial(
        _reading_nltk, g2p, "averaged_perceptron_tagger_eng cmudict"
    )
    with reading():
        convert = package.G2p()

    def phonemes(text: str) -> list[str]:
        with reading():
            return [p for p in convert(text) if spaces or p != " "]

    return phonemes


def _korean(g2p: str, space: str = " ") -> G2p:
    package = import_package("g2pk", f"g2p '{g2p}'", "g2pk")
    with _reading_nltk(g2p, "cmudict"):
        convert = package.G2p()
    return lambda text: [
        space if letter == " " else letter
        for letter in convert(text, to_syl=False)
        if letter != " " or space
    ]


def _jaso(g2p: str, space: str = SPACE) -> G2p:
    jamo = import_package("jamo", f"g2p '{g2p}'", "jamo")
    return lambda text: [
        space if letter == " " else letter
        for letter in jamo.hangul_to_jamo(text)
        if letter in _JASO and (letter != " " or space)
    ]


def _pinyin(g2p: str) -> G2p:
    pypinyin = import_package("pypinyin", f"g2p '{g2p}'", "pypinyin")
    tone = pypinyin.Style.TONE3
    return lambda text: [first for first, *_ in pypinyin.pinyin(text, style=tone)]


def _pinyin_phone(g2p: str) -> G2p:
    """Initials, and finals with their tone."""
    syllables = _pinyin(g2p)
    style = import_package("pypinyin.style._utils", f"g2p '{g2p}'", "pypinyin")

    def final(syllable: str) -> str:
        end = syllable[-1]
        if end.isdigit():
            return style.get_finals(syllable[:-1], strict=True) + end
        if end.isalnum():
            return style.get_finals(syllable, strict=True)
        return syllable

    return lambda text: [
        part
        for syllable in syllables(text)
        for part in (style.get_initials(syllable, strict=True), final(syllable))
        if part and not part.isdigit()  # no tone by itself
    ]


def _pinyin_without_prosody(g2p: str) -> G2p:
    """Syllables, initial and final joined, without their tone."""
    pypinyin = import_package("pypinyin", f"g2p '{g2p}'", "pypinyin")
    style = import_package("pypinyin.style._utils", f"g2p '{g2p}'", "pypinyin")
    umlauts = {"un": "vn", "uan": "van", "u": "v"}

    def phoneme(syllable: str) -> str:
        initial = style.get_initials(syllable, strict=False)
        final = style.get_finals(syllable, strict=False)
        if not initial:
            return final
        if initial in "xyjq":
            final = umlauts.get(final, final)
        return f"{initial}_{'ve' if final == 'ue' else final}"

    return lambda text: [
        phoneme(first)
        for first, *_ in pypinyin.pinyin(
            text, style=pypinyin.Style.NORMAL, strict=False
        )
    ]


def _espeak(g2p: str, language: str, characters: bool = False) -> G2p:
    """By espeak-ng, through phonemizer.

    Args:
        language: espeak-ng's name.
        characters: whether each character is a token, words apart, as in VITS.
    """
    backend = import_package("phonemizer.backend", f"g2p '{g2p}'", "phonemizer")
    separator = import_package("phonemizer.separator", f"g2p '{g2p}'", "phonemizer")
    word, phone = (" ", "") if characters else (None, " ")
    separator = separator.Separator(word=word, syllable=None, phone=phone)
    logger = logging.getLogger(f"{__name__}.espeak")
    logger.setLevel(logging.ERROR)  # it warns of every word in another language
    try:
        espeak = backend.BACKENDS["espeak"](
            language, preserve_punctuation=True, with_stress=True, logger=logger
        )
    except RuntimeError as e:
        raise PluginError(
            f"g2p '{g2p}' cannot be used ({e}): install espeak-ng (Debian and Ubuntu: "
            "apt-get install espeak-ng)"
        )

    def phonemes(text: str) -> list[str]:
        [line] = espeak.phonemize([text], separator, strip=characters) or [""]
        if characters:
            return [SPACE if character == " " else character for character in line]
        return line.split()

    return phonemes


def _icelandic(g2p: str) -> G2p:
    transcriber = import_package("ice_g2p.transcriber", f"g2p '{g2p}'", "ice-g2p")
    convert = transcriber.Transcriber(
        use_dict=True,
        syllab_symbol=".",
        stress_label=True,
        word_sep=",",
        lang_detect=True,
    )
    return lambda text: convert.transcribe(text).split()


#: Makers of functions from text to tokens, by ESPnet's name of it, which each is given.
#: ESPnet offers ``espeak_ng_ukrainian`` too, but has nothing behind it.
G2PS: dict[str | None, Callable[[str], G2p]] = {
    None: lambda g2p: _split,
    "g2p_en": _english,
    "g2p_en_no_space": functools.partial(_english, spaces=False),
    **{name: make_openjtalk for name in OPENJTALK},
    "pypinyin_g2p": _pinyin,
    "pypinyin_g2p_phone": _pinyin_phone,
    "pypinyin_g2p_phone_without_prosody": _pinyin_without_prosody,
    **{
        f"espeak_ng_{name}": functools.partial(_espeak, language=language)
        for name, language in _ESPEAK.items()
    },
    "espeak_ng_english_us_vits": functools.partial(
        _espeak, language="en-us", characters=True
    ),
    "g2pk": _korean,
    "g2pk_no_space": functools.partial(_korean, space=""),
    "g2pk_explicit_space": functools.partial(_korean, space=SPACE),
    "korean_jaso": _jaso,
    "korean_jaso_no_space": functools.partial(_jaso, space=""),
    "g2p_is": _icelandic,
    "g2p_is_north": _icelandic,  # ESPnet does not hand the dialect on
}


def make_g2p(name: str | None) -> G2p:
    """A function from text to phonemes.

    Args:
        name: of :data:`G2PS`.

    Raises:
        PluginError: if a package or its data are missing; of some data it is raised
            where the function is called.
    """
    return G2PS[name](name or "")
