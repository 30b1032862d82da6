"""Generators that ask and are answered, run side by side."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from typing import TypeVar

AskT = TypeVar("AskT")
AnswerT = TypeVar("AnswerT")
ResultT = TypeVar("ResultT")


def side_by_side(
    searches: Sequence[Generator[AskT, AnswerT, ResultT]],
    answer: Callable[[Mapping[int, AskT]], Mapping[int, AnswerT]],
) -> list[ResultT]:
    """Run searches to their ends, none of which knows of the others.

    Args:
        searches: each yields a question and is sent the answer.
        answer: gives answers to questions that are open, by search: to one at least;
            the others are asked again, beside what the answered ones ask next.

    Returns:
        What each search returns.
    """
    results: dict[int, ResultT] = {}
    asks: dict[int, AskT] = {}
    answers: Mapping[int, AnswerT | None] = dict.fromkeys(range(len(searches)))
    while answers:
        for i, given in answers.items():
            asks.pop(i, None)
            try:
                asks[i] = searches[i].send(given)  # type: ignore[arg-type]
            except StopIteration as end:
                results[i] = end.value
        answers = answer(asks)
    return [results[i] for i in range(len(searches))]
