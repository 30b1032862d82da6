"""Attributes that are something else for the time of a block."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


@contextlib.contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Give an attribute another value, for the time of the block.

    Args:
        owner: a class, a module or another object.
        name: of the attribute, which may be inherited.
        value: what stands there.
    """
    getattr(owner, name)  # or there is nothing to replace
    inherited = name not in vars(owner)
    before = vars(owner).get(name)  # not by getattr, which binds static methods
    setattr(owner, name, value)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, name)
        else:
            setattr(owner, name, before)
