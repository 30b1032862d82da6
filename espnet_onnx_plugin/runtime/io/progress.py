"""Progress of a long job: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

LOG_EVERY_SECONDS = 60.0


def progress(items: Iterable[T], total: int) -> Iterator[T]:
    """Yield the items and show how far it is."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        yield from tqdm(items, total=total, unit="utt")
        return
    start = last = time.monotonic()
    for done, item in enumerate(items):
        now = time.monotonic()
        if now - last >= LOG_EVERY_SECONDS:
            last = now
            left = (now - start) / done * (total - done) if done else float("nan")
            logging.info(
                "progress: %d of %d utterances, %.0f s left", done, total, left
            )
        yield item
