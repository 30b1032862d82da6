"""Progress of a long job: a bar on a terminal, a line now and then in a log."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from espnet_onnx_plugin.errors import PluginError

T = TypeVar("T")

LOG_EVERY_SECONDS = 60.0


def _in_time(items: Iterable[T], total: int, time_limit: int) -> Iterator[T]:
    start = time.monotonic()
    for done, item in enumerate(items):
        if done and time.monotonic() - start >= time_limit:
            raise PluginError(
                f"the time limit of {time_limit} s is over with {total - done} of "
                f"{total} utterances left; what is done is kept, run it again to go on"
            )
        yield item


def progress(
    items: Iterable[T], total: int, time_limit: int | None = None
) -> Iterator[T]:
    """Yield the items and show how far it is.

    Args:
        items: utterances, or what stands for them.
        total: their number.
        time_limit: seconds after which none is begun; None: any time.

    Raises:
        PluginError: when the time is over before the items are.
    """
    if time_limit is not None:
        items = _in_time(items, total, time_limit)
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
