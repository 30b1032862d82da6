"""Text before it becomes tokens, as ESPnet's ``TextCleaner`` makes it.

Source: ``espnet2/text/cleaner.py`` and ``espnet2/text/korean_cleaner.py``.
"""

from __future__ import annotations

import functools
import string
from collections.abc import Callable, Iterable
from typing import Any

from espnet_onnx_plugin.packages import import_package

Cleaner = Callable[[str], str]

#: Names of the digits and of the Latin letters in Korean.
_DIGITS = "영일이삼사오육칠팔구"
_LETTERS = (
    "에이 비 씨 디 이 에프 지 에이치 아이 제이 케이 엘 엠 "
    "엔 오 피 큐 알 에스 티 유 브이 더블유 엑스 와이 지"
).split()


def _imported(name: str, module: str, attribute: str, install: str) -> Any:
    return getattr(import_package(module, f"cleaner '{name}'", install), attribute)


def _packaged(name: str, module: str, function: str, install: str) -> Cleaner:
    return _imported(name, module, function, install)


def _whisper(name: str, normalizer: str) -> Cleaner:
    return _imported(name, "whisper.normalizers", normalizer, "openai-whisper")()


def _korean(name: str) -> Cleaner:
    readings = str.maketrans(
        dict(
            zip(
                string.digits + string.ascii_uppercase + string.ascii_lowercase,
                [*_DIGITS, *_LETTERS, *_LETTERS],
            )
        )
    )
    return lambda text: text.strip().translate(readings)


#: Makers of cleaners, by ESPnet's name of it, which each is given. Those of Whisper
#: import torch, as that package does; ESPnet's TTS recipes do not offer them.
CLEANERS: dict[str, Callable[[str], Cleaner]] = {
    "tacotron": functools.partial(
        _packaged,
        module="tacotron_cleaner.cleaners",
        function="custom_english_cleaners",
        install="espnet_tts_frontend",
    ),
    "jaconv": functools.partial(
        _packaged, module="jaconv", function="normalize", install="jaconv"
    ),
    "vietnamese": functools.partial(
        _packaged,
        module="vietnamese_cleaner.vietnamese_cleaners",
        function="vietnamese_cleaner",
        install="espnet_tts_frontend underthesea",
    ),
    "korean_cleaner": _korean,
    "whisper_en": functools.partial(_whisper, normalizer="EnglishTextNormalizer"),
    "whisper_basic": functools.partial(_whisper, normalizer="BasicTextNormalizer"),
}


def make_cleaner(names: Iterable[str]) -> Cleaner:
    """A function that applies cleaners one after another.

    Args:
        names: of :data:`CLEANERS`.

    Raises:
        PluginError: if a package is missing.
    """
    cleaners = [CLEANERS[name](name) for name in names]
    return lambda text: functools.reduce(lambda t, clean: clean(t), cleaners, text)
