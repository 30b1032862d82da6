"""A stand-in for NIST's sclite where it is not installed: jiwer in sclite's clothes.

It reads the same ``trn`` files, aligns them with jiwer, and prints the tables that
ESPnet's scoring stage and ``show_asr_result.sh`` read. What has a meaning of its own to
sclite has the same here, for a model may well say a brace: see :func:`_alternatives`.
Other options are refused.

jiwer counts the least number of errors (Levenshtein). sclite finds the cheapest
alignment at a cost of 4 for a substitution and 3 for a deletion or an insertion, so
that it prefers five of the latter (15) to four of the former (16). Hence both count the
same reference words everywhere and the same errors in every sentence with at most 3 of
them; in a worse one sclite may count more.
"""

from __future__ import annotations

import argparse
import re
import string
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts, Pair, align_words
from espnet_onnx_plugin.report.counts import STAND_IN
from espnet_onnx_plugin.runtime.io.lists import read_lines

# Of the ways to read a line with alternations, how many are tried.
MOST_ALTERNATIVES = 64
# Only ASCII white space separates words, as in C's isspace.
BLANKS = " \t\v\f\r"
# In an alternation braces and slashes are words wherever they stand.
PART = re.compile(rf"[{{}}/]|[^{{}}/{BLANKS}]+")
WORD = re.compile(rf"[^{BLANKS}]+")
ASCII_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


Words = tuple[str, ...]


@dataclass(frozen=True)
class Utterance:
    """A line of a trn file: ``words (speaker-utterance)``, and its alternatives."""

    utterance_id: str
    speaker: str
    alternatives: tuple[Words, ...]


@dataclass(frozen=True)
class Alignment:
    """One utterance's pairs of (reference word, hypothesis word), None for a gap."""

    utterance: Utterance
    pairs: tuple[Pair, ...]

    @property
    def counts(self) -> ErrorCounts:
        """Return the counts of this one sentence."""
        return ErrorCounts.of_sentence(self.pairs)


def read_trn(path: Path, fold: Callable[[str], str]) -> dict[str, Utterance]:
    """Read a trn file.

    Args:
        path: The file.
        fold: What is done to every line's case.

    Returns:
        Utterances by their id, in the file's order.

    Raises:
        PluginError: Where a line is no words and an id.
    """
    utterances = {}
    for number, line in enumerate(read_lines(path), 1):
        if line.startswith(";;"):  # a comment, to sclite
            continue
        where = f"{path}:{number}"
        text, left, utterance_id = fold(line).rstrip(BLANKS).rpartition("(")
        if not left or not utterance_id.endswith(")"):
            raise PluginError(f"{where}: no '(speaker-utterance)' at the line's end")
        utterance_id = utterance_id[:-1]
        separator = "-" if "-" in utterance_id else "_"
        if separator not in utterance_id:
            raise PluginError(f"{where}: no speaker in the id '{utterance_id}'")
        if utterance_id in utterances:
            raise PluginError(f"{where}: a second line for '{utterance_id}'")
        alternatives = tuple(_alternatives(text))
        speaker = utterance_id.partition(separator)[0]
        utterances[utterance_id] = Utterance(utterance_id, speaker, alternatives)
    if not utterances:
        raise PluginError(f"{path}: no utterance")
    return utterances


def _alternatives(text: str) -> list[Words]:
    """Return the ways in which sclite reads a text.

    A word that begins with a brace opens an alternation, ``{ a / b c }``, of which the
    part with the fewest errors counts; what follows a brace that is never closed is
    lost. ``@`` is no word, what follows ``;`` in one is a tag, ``\\`` escapes.
    """
    alternatives: list[Words] = [()]
    position = 0
    while match := WORD.search(text, position):
        if match[0].startswith("{"):
            parts, position = _alternation(text, match.start() + 1)
            if not position:
                break
        else:
            parts, position = [_word(match[0])], match.end()
        alternatives = _joined(alternatives, parts)
    return alternatives


def _alternation(text: str, position: int) -> tuple[list[Words], int]:
    """Return the parts of an alternation and where it ends, 0 if it does not."""
    parts: list[Words] = []
    part: list[Words] = []  # the alternatives of the current one, none before its words
    while match := PART.search(text, position):
        position = match.end()
        if match[0] in "/}":
            parts += part
            part = []
            if match[0] == "}":
                return parts or [()], position
            continue
        inner = [_word(match[0])]
        if match[0] == "{":
            inner, position = _alternation(text, position)
            if not position:
                break
        part = _joined(part or [()], inner)
    return [], 0


def _joined(firsts: list[Words], seconds: list[Words]) -> list[Words]:
    pairs = islice(product(firsts, seconds), MOST_ALTERNATIVES)
    return [first + second for first, second in pairs]


def _word(word: str) -> Words:
    if word == "@":
        return ()
    untagged = re.match(r"(?:\\.|[^;])*", word)[0]
    word = re.sub(r"\\(.?)", lambda m: m[1].strip("{}"), untagged)
    # sclite takes a closing asterisk off ("mispronounced").
    return (word[:-1] if len(word) > 1 and word.endswith("*") else word,)


def score(ref: Path, hyp: Path, case_sensitive: bool) -> list[Alignment]:
    """Align every hypothesis with its reference, in the hypotheses' order."""

    def fold(line: str) -> str:
        # sclite's default encoding is 8-bit ASCII: other letters keep their case.
        return line if case_sensitive else line.translate(ASCII_LOWER)

    references = read_trn(ref, fold)
    hypotheses = read_trn(hyp, fold)
    missing = hypotheses.keys() - references.keys()
    if missing:
        raise PluginError(f"{ref}: no reference for '{min(missing)}'")
    tried = [
        (utterance, ref_words, hyp_words)
        for name, utterance in hypotheses.items()
        for ref_words, hyp_words in islice(
            product(references[name].alternatives, utterance.alternatives),
            MOST_ALTERNATIVES,
        )
    ]
    utterances, ref_words, hyp_words = zip(*tried)
    best: dict[str, Alignment] = {}
    for utterance, pairs in zip(
        utterances, align_words(ref_words, hyp_words), strict=True
    ):
        found = Alignment(utterance, tuple(pairs))
        known = best.setdefault(utterance.utterance_id, found)
        if found.counts.errors < known.counts.errors:
            best[utterance.utterance_id] = found
    return list(best.values())


def format_report(alignments: list[Alignment], title: str) -> str:
    """Return what ``sclite -o all stdout`` prints, less its colour and its margins."""
    speakers: dict[str, ErrorCounts] = {}
    for alignment in alignments:
        speaker = alignment.utterance.speaker
        speakers[speaker] = speakers.get(speaker, ErrorCounts()) + alignment.counts
    total = sum(speakers.values(), ErrorCounts())
    percentages = [(name, *_percentages(c)) for name, c in speakers.items()]
    counts = [(name, *_raw(c)) for name, c in speakers.items()]
    lines = [
        STAND_IN,
        *_table(title, percentages, ("Sum/Avg", *_percentages(total))),
        *_table(title, counts, ("Sum", *_raw(total))),
    ]
    for alignment in alignments:
        lines += _pair_lines(alignment)
    return "\n".join(lines) + "\n"


def _raw(counts: ErrorCounts) -> tuple[str, ...]:
    values = (
        counts.sentences,
        counts.words,
        counts.correct,
        counts.substitutions,
        counts.deletions,
        counts.insertions,
        counts.errors,
        counts.sentence_errors,
    )
    return tuple(map(str, values))


def _percentages(counts: ErrorCounts) -> tuple[str, ...]:
    sentences, words, *rest, sentence_errors = _raw(counts)
    shares = [100 * int(value) / max(counts.words, 1) for value in rest]
    shares.append(100 * int(sentence_errors) / max(counts.sentences, 1))
    return (sentences, words, *(f"{share:.1f}" for share in shares))


def _table(
    title: str, rows: list[tuple[str, ...]], total: tuple[str, ...]
) -> Iterator[str]:
    header = ("SPKR", "# Snt", "# Wrd", "Corr", "Sub", "Del", "Ins", "Err", "S.Err")
    widths = [
        max(map(len, column)) for column in zip(header, *rows, total, strict=True)
    ]

    def line(cells: tuple[str, ...]) -> str:
        name = cells[0].ljust(widths[0])
        values = [c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True)]
        return f"| {name} | {' '.join(values[:2])} | {'  '.join(values[2:])} |"

    rule = "|" + "-" * (len(line(header)) - 2) + "|"
    yield from ("", "SYSTEM SUMMARY by SPEAKER", title, rule, line(header), rule)
    for row in rows:
        yield line(row)
    yield from (rule, line(total), rule)


def _pair_lines(alignment: Alignment) -> Iterator[str]:
    counts = alignment.counts
    ref, hyp, marks = [], [], []
    for ref_word, hyp_word in alignment.pairs:
        if ref_word is None:
            cells = ("*" * len(hyp_word), hyp_word.upper(), "I")
        elif hyp_word is None:
            cells = (ref_word.upper(), "*" * len(ref_word), "D")
        elif ref_word == hyp_word:
            cells = (ref_word, hyp_word, "")
        else:
            cells = (ref_word.upper(), hyp_word.upper(), "S")
        width = max(map(len, cells))
        for row, cell in zip((ref, hyp, marks), cells, strict=True):
            row.append(cell.ljust(width))
    yield ""
    yield f"id: ({alignment.utterance.utterance_id})"
    yield (
        f"Scores: (#C #S #D #I) {counts.correct} {counts.substitutions} "
        f"{counts.deletions} {counts.insertions}"
    )
    for name, row in (("REF: ", ref), ("HYP: ", hyp), ("Eval:", marks)):
        yield f"{name} {' '.join(row)}"


def get_parser() -> argparse.ArgumentParser:
    """Return the options of sclite that this stand-in knows."""
    parser = argparse.ArgumentParser(
        prog="sclite",
        add_help=False,
        allow_abbrev=False,
        description="Stand-in for sclite; install the original (Debian package sctk) "
        "for its other options.",
    )
    parser.add_argument("-r", nargs=2, required=True, metavar=("FILE", "trn"))
    parser.add_argument("-h", nargs=2, required=True, metavar=("FILE", "trn"))
    parser.add_argument("-i", required=True, choices=("rm", "spu_id", "swb"))
    parser.add_argument("-o", nargs=2, required=True, metavar=("all", "stdout"))
    parser.add_argument("-s", action="store_true", help="case-sensitive")
    return parser


def main(cmd: list[str] | None = None) -> None:
    """Score a hypothesis file and print the report."""
    parser = get_parser()
    args = parser.parse_args(cmd)
    for option, (_, file_format) in (("-r", args.r), ("-h", args.h)):
        if file_format != "trn":
            parser.error(f"{option}: only the format 'trn' is known: {file_format}")
    if sorted(args.o) != ["all", "stdout"]:
        parser.error(f"-o: only 'all stdout' is known: {' '.join(args.o)}")
    ref, hyp = Path(args.r[0]), Path(args.h[0])
    try:
        alignments = score(ref, hyp, args.s)
    except (OSError, UnicodeDecodeError, PluginError) as error:
        sys.exit(f"sclite (stand-in): {error}")
    sys.stdout.write(format_report(alignments, hyp.name))


if __name__ == "__main__":
    main()
