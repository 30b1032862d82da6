"""The stand-in for sclite: jiwer's counts in sclite's tables."""

import random
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jiwer
import pytest

from espnet_onnx_plugin.evaluate.error_rate import ErrorCounts
from espnet_onnx_plugin.report.counts import read_result
from espnet_onnx_plugin.report.sclite import main

ROOT = Path(__file__).resolve().parents[1]
SCLITE = shutil.which("sclite") or shutil.which("sclite", path="/usr/lib/sctk/bin")
ARGS = ["-r", "ref.trn", "trn", "-h", "hyp.trn", "trn", "-i", "rm", "-o", "all"]


def run_stand_in(directory, refs, hyps, options=(), monkeypatch=None, capsys=None):
    (directory / "ref.trn").write_bytes(refs.encode("utf-8"))
    (directory / "hyp.trn").write_bytes(hyps.encode("utf-8"))
    monkeypatch.chdir(directory)
    main([*ARGS, "stdout", *options])
    (directory / "result.txt").write_text(capsys.readouterr().out)
    return read_result(directory / "result.txt")


@pytest.fixture
def stand_in(tmp_path, monkeypatch, capsys):
    def run(refs, hyps, *options):
        return run_stand_in(tmp_path, refs, hyps, options, monkeypatch, capsys)

    return run


def random_trn(seed, vocabulary, case_of_hypotheses=str):
    """Return a reference and a hypothesis file of a few speakers."""
    random.seed(seed)
    refs, hyps = [], []
    for i in range(100):
        ref = random.choices(vocabulary, k=random.randint(0, 12))
        hyp = random.choices(vocabulary, k=random.randint(0, 12))
        if i % 2:
            hyp = [random.choice([w, random.choice(vocabulary)]) for w in ref]
            hyp = hyp[: random.randint(0, 14)]
        refs.append(f"{' '.join(ref)}\t(spk{i % 3}-utt{i})")
        hyps.append(case_of_hypotheses(" ".join(hyp)) + f"\t(spk{i % 3}-utt{i})")
    return "\n".join(refs) + "\n", "\n".join(hyps) + "\n"


def test_counts(stand_in):
    counts, scorer = stand_in(
        "the cat sat\t(s1-u1)\nA b\t(s2-u2)\n", "the cat\t(s1-u1)\na c d\t(s2-u2)\n"
    )
    assert counts == ErrorCounts(2, 5, 3, 1, 1, 1, 2)
    assert scorer == "jiwer"


def test_case_counts_where_asked(stand_in):
    assert stand_in("A\t(s-1)\n", "a\t(s-1)\n")[0].errors == 0
    assert stand_in("A\t(s-1)\n", "a\t(s-1)\n", "-s")[0].errors == 1
    # sclite's default encoding knows no letters but ASCII's.
    assert stand_in("Ä\t(s-1)\n", "ä\t(s-1)\n")[0].errors == 1


def test_espnet_finds_its_lines(stand_in, tmp_path):
    stand_in("a b\t(s1-u1)\n", "a c\t(s1-u1)\n")
    text = (tmp_path / "result.txt").read_text()
    # Stage 13: grep -e Avg -e SPKR -m 2
    header, summary = [li for li in text.splitlines() if re.search("Avg|SPKR", li)][:2]
    assert "SPKR" in header and "Sum/Avg" in summary
    # show_asr_result.sh: grep Avg, and bars and blanks to one bar
    (line,) = [line for line in text.splitlines() if "Avg" in line]
    cells = re.sub(" +", "|", line.replace("Sum/Avg", "").replace("|", " "))
    assert cells.strip("|") == "1|2|50.0|50.0|0.0|0.0|50.0|100.0"


@pytest.mark.parametrize(
    "refs, hyps, message",
    [
        ("a\t(s-1)\n", "a\t(s-2)\n", "no reference for 's-2'"),
        ("a b\n", "a\t(s-1)\n", "ref.trn:1: no '(speaker-utterance)'"),
        ("a b\t(s1)\n", "a\t(s-1)\n", "no speaker in the id 's1'"),
        ("a\t(s-1)\nb\t(s-1)\n", "a\t(s-1)\n", "ref.trn:2: a second line"),
        ("a\t(s-1)\n", "", "no utterance"),
    ],
)
def test_what_it_does_not_know_it_refuses(stand_in, refs, hyps, message):
    with pytest.raises(SystemExit) as error:
        stand_in(refs, hyps)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("option", [["-F"], ["-C", "det"], ["-e", "utf-8"], ["-D"]])
def test_unknown_options_are_refused(stand_in, option, capsys):
    with pytest.raises(SystemExit) as error:
        stand_in("a\t(s-1)\n", "a\t(s-1)\n", *option)
    assert error.value.code == 2
    assert option[0] in capsys.readouterr().err


def test_as_a_command(tmp_path):
    (tmp_path / "ref.trn").write_text("a b\t(s-1)\n")
    (tmp_path / "hyp.trn").write_text("a c\t(s-1)\n")
    result = subprocess.run(
        [ROOT / "egs2_stage/bin/sclite", *ARGS, "stdout"],
        cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin", "ONNX_PYTHON": sys.executable},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    assert "Sum/Avg" in result.stdout


def scores(text):
    """Return (#C, #S, #D, #I) of each utterance."""
    found = re.findall(r"^id: (.*)\nScores: \(#C #S #D #I\) (.*)$", text, re.M)
    return {name: tuple(map(int, counts.split())) for name, counts in found}


@pytest.mark.parametrize("vocabulary", ["a b c", "one two x\u00a0y é É <space> ( )"])
def test_same_counts_as_jiwers(stand_in, vocabulary):
    refs, hyps = random_trn(vocabulary, vocabulary.split(" "))
    counts, _ = stand_in(refs, hyps, "-s")
    split = jiwer.ReduceToListOfListOfWords()
    expected = jiwer.process_words(
        [line.rpartition("\t")[0] for line in refs.splitlines()],
        [line.rpartition("\t")[0] for line in hyps.splitlines()],
        split,
        split,
    )
    assert counts.correct == expected.hits
    assert counts.substitutions == expected.substitutions
    assert counts.deletions == expected.deletions
    assert counts.insertions == expected.insertions
    assert counts.words == sum(map(len, expected.references))
    assert counts.sentences == len(expected.references) == 100


#: Pairs of a reference and a hypothesis with what sclite reads as more than words, and
#: sclite's (#C, #S, #D, #I).
SPECIAL = {
    ("a b c", "a {b c"): (1, 0, 2, 0),
    ("a b c", "a { b c"): (1, 0, 2, 0),
    ("a b c", "{"): (0, 0, 3, 0),
    ("a b c", "a {{ b c"): (1, 0, 2, 0),
    ("a b c", "a } c"): (2, 1, 0, 0),
    ("a b c", "a b} c"): (2, 1, 0, 0),
    ("a b c", "a { b / x } c"): (3, 0, 0, 0),
    ("a x c", "a {b/x} c"): (3, 0, 0, 0),
    ("a c", "a { b / @ } c"): (2, 0, 0, 0),
    ("a c", "a { b / } c"): (2, 0, 0, 1),
    ("a y c", "a { b / { x / y } } c"): (3, 0, 0, 0),
    ("a b c", "a { b / { x / y } c"): (1, 0, 2, 0),
    ("a b c", "{ a / x } { b / y } c"): (3, 0, 0, 0),
    ("a {b / x y} c", "a x y c"): (4, 0, 0, 0),
    ("a {b c", "a b c"): (1, 0, 0, 2),
    ("a / c", "a / c"): (3, 0, 0, 0),
    ("a b c", "a b;x c"): (3, 0, 0, 0),
    ("a b;x c", "a b;y c"): (3, 0, 0, 0),
    ("a b c", "a ;x c"): (2, 1, 0, 0),
    ("a ;x c", "a ; c"): (3, 0, 0, 0),
    ("a b c", "a b\\;x c"): (2, 1, 0, 0),
    ("a b c", "a b\\ c"): (3, 0, 0, 0),
    ("a b c", "a \\ c"): (2, 1, 0, 0),
    ("a bc d", "a b\\c d"): (3, 0, 0, 0),
    ("a {b} c", "a \\{b\\} c"): (3, 0, 0, 0),
    ("a @ c", "a c"): (2, 0, 0, 0),
    ("a b c", "a b @ c"): (3, 0, 0, 0),
    ("a b c", "a b@ c"): (2, 1, 0, 0),
}


def lines_of(texts):
    return "".join(f"{text}\t(s-{i})\n" for i, text in enumerate(texts))


def test_what_means_more_than_words_is_scored_as_by_the_original(stand_in, tmp_path):
    refs, hyps = (lines_of(texts) for texts in zip(*SPECIAL))
    stand_in(refs, hyps, "-s")
    result = (tmp_path / "result.txt").read_text()
    assert list(scores(result).values()) == list(SPECIAL.values())
    assert "\0" not in result  # or grep takes it for no text


@pytest.mark.skipif(SCLITE is None, reason="sclite (Debian package sctk) is missing")
def test_what_means_more_than_words_is_what_the_original_says(tmp_path):
    refs, hyps = (lines_of(texts) for texts in zip(*SPECIAL))
    (tmp_path / "ref.trn").write_text(refs)
    (tmp_path / "hyp.trn").write_text(hyps)
    command = [SCLITE, "-s", *ARGS, "stdout"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert list(scores(result.stdout).values()) == list(SPECIAL.values())


@pytest.mark.parametrize("hyp", ["a{b c", "{}", "a {} b", "{ / / }", "a{b} {" * 30])
def test_a_hypothesis_that_the_original_cannot_read_is_scored(stand_in, hyp):
    assert stand_in("a b\t(s-1)\n", f"{hyp}\t(s-1)\n")[0].words == 2


def test_many_alternations_take_no_time_without_end(stand_in):
    hyp = "{ a / b } " * 40
    assert stand_in("a b\t(s-1)\n", f"{hyp}\t(s-1)\n")[0].insertions == 38


def test_a_comment_is_no_utterance(stand_in):
    refs, hyps = "a\t(s-1)\nb\t(s-2)\n", ";; a\t(s-1)\nb\t(s-2)\n"
    assert stand_in(refs, hyps)[0] == ErrorCounts(1, 1, 1, 0, 0, 0, 0)


def test_lines_of_a_trn_end_at_newlines_alone(stand_in):
    refs, hyps = "\ufeffa\rb\u2028\t(s-1)", "a b\u2028\t(s-1)\r\n"
    assert stand_in(refs, hyps)[0] == ErrorCounts(1, 2, 2, 0, 0, 0, 0)


@pytest.mark.skipif(SCLITE is None, reason="sclite (Debian package sctk) is missing")
@pytest.mark.parametrize("options", [[], ["-s"]])
@pytest.mark.parametrize("vocabulary", ["a b c", "one Two x* é É <space> ( ) half-"])
def test_as_the_original_but_for_its_costs(stand_in, tmp_path, vocabulary, options):
    refs, hyps = random_trn(vocabulary, vocabulary.split(), str.upper)
    ours, _ = stand_in(refs, hyps, *options)
    original = subprocess.run(
        [SCLITE, *options, *ARGS, "stdout"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    (tmp_path / "original.txt").write_text(original)
    theirs, scorer = read_result(tmp_path / "original.txt")
    assert scorer == "sclite"
    assert (ours.words, ours.sentences) == (theirs.words, theirs.sentences)
    assert ours.sentence_errors == theirs.sentence_errors
    expected = scores(original)
    found = scores((tmp_path / "result.txt").read_text())
    assert found.keys() == expected.keys() and len(found) == 100
    for name, (_, *errors) in found.items():
        if sum(errors) <= 3:
            assert sum(errors) == sum(expected[name][1:])
        else:
            assert sum(errors) <= sum(expected[name][1:])


def test_without_jiwer_the_remedy_is_told(stand_in, monkeypatch):
    monkeypatch.setitem(sys.modules, "jiwer", None)
    with pytest.raises(SystemExit) as error:
        stand_in("a\t(s-1)\n", "a\t(s-1)\n")
    assert str(error.value).endswith("jiwer is missing: pip install jiwer")
