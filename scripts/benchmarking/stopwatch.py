"""Where the time of ESPnet's own inference goes."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any


class Stopwatch:
    """Seconds by part of what ESPnet runs; a part within another counts once.

    Args:
        synchronize: Waits for the device, where what is called only queues its work.
    """

    def __init__(self, synchronize: Callable[[], object] | None = None) -> None:
        self.seconds: Counter[str] = Counter()
        self._synchronize = synchronize
        self._running: list[str] = []
        self._since = 0.0

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside for a part, and not for the one around it."""
        self._switch()
        self._running.append(name)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        if self._synchronize is not None:
            self._synchronize()
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def watch(self, name: str, owner: Any, *methods: str) -> None:
        """Count an object's methods, those that it has, for a part."""

        def timed(method: Callable[..., Any]) -> Callable[..., Any]:
            def call(*args: Any, **kwargs: Any) -> Any:
                with self.part(name):
                    return method(*args, **kwargs)

            return call

        for method in methods:
            if hasattr(owner, method):
                setattr(owner, method, timed(getattr(owner, method)))
