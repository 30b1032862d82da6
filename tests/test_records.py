"""Records of decoded utterances: what a killed job keeps, and what is done again."""

import errno
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import InUseError, remove_tree
from espnet_onnx_plugin.runtime.io.digests import InputDigests
from espnet_onnx_plugin.runtime.io.job import Job
from espnet_onnx_plugin.runtime.io.recipe_decode import (
    MARK,
    RecipeDecode,
    changed,
    read_mark,
)
from espnet_onnx_plugin.runtime.io.records import (
    RECORDS,
    Journal,
    Record,
    encoded,
    read_records,
)
from espnet_onnx_plugin.runtime.io.speech_writer import SpeechWriter
from espnet_onnx_plugin.runtime.io.writer import ResultWriter, job_writer
from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise

FACTS = {"bundle": "a", "options": {"beam_size": 5}}
KEYS = [f"u{n}" for n in range(8)]


@pytest.fixture
def audio(tmp_path):
    """A list of files, one for each utterance."""
    data = tmp_path / "data"
    data.mkdir()
    for key in KEYS:
        (data / f"{key}.wav").write_bytes(key.encode() * 100)
    lines = [f"{key} {data}/{key}.wav\n" for key in KEYS]
    (data / "wav.scp").write_text("".join(lines))
    return data / "wav.scp"


def digests(audio):
    return InputDigests([(audio, "sound")])


# Records


def test_a_torn_record_is_none(tmp_path):
    journal = Journal(tmp_path, FACTS)
    for key in KEYS:
        journal.append(Record(key, key, {"text": ["é\u2028 x"]}))
    journal.close()
    whole = (tmp_path / RECORDS).read_bytes()
    lines = whole.splitlines(keepends=True)
    first = sum(map(len, lines[:3]))
    for end in range(first, first + len(lines[3]) + 1):
        (tmp_path / RECORDS).write_bytes(whole[:end])
        facts, records = read_records(tmp_path)
        assert facts == FACTS
        assert list(records) == KEYS[: 2 + (end == first + len(lines[3]))]
        # The next one begins a line of its own.
        journal = Journal(tmp_path, FACTS)
        journal.append(Record("next", "x"))
        journal.close()
        assert list(read_records(tmp_path)[1])[-1] == "next"


@pytest.mark.parametrize("at", [0, 10, 100, 400])
def test_a_flipped_bit_is_noticed(tmp_path, at):
    journal = Journal(tmp_path, FACTS)
    for key in KEYS:
        journal.append(Record(key, key, {"text": ["some words that were said"]}))
    journal.close()
    data = bytearray((tmp_path / RECORDS).read_bytes())
    data[at] ^= 4
    (tmp_path / RECORDS).write_bytes(data)
    facts, records = read_records(tmp_path)
    assert facts != FACTS or len(records) == len(KEYS) - 1


def test_the_newest_record_counts(tmp_path):
    journal = Journal(tmp_path, FACTS)
    for text in ("old", "new"):
        journal.append(Record("u", "x", {"text": [text]}))
    journal.close()
    assert read_records(tmp_path)[1]["u"].lines == {"text": ["new"]}


def test_a_job_whose_directory_was_taken_away_ends(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    journal = Journal(work, FACTS)
    journal.append(Record("u", "x"))
    remove_tree(work)
    with pytest.raises(FileNotFoundError):
        journal.append(Record("v", "x"))
    work.mkdir(exist_ok=True)
    Journal(work, FACTS).close()  # of a later run
    with pytest.raises(FileNotFoundError):
        journal.append(Record("v", "x"))
    assert read_records(work)[1] == {}


# Inputs


def test_inputs_are_known_by_content(audio):
    before = {key: digests(audio).of(key) for key in KEYS}
    assert len(set(before.values())) == len(KEYS)
    (audio.parent / "u1.wav").write_bytes(b"u1" * 99 + b"u2")
    (audio.parent / "u2.wav").unlink()
    after = {key: digests(audio).of(key) for key in KEYS}
    assert after["u2"] is None
    others = [key for key in KEYS if after[key] == before[key]]
    assert others == [key for key in KEYS if key not in ("u1", "u2")]
    moved = audio.parent / "moved.wav"
    (audio.parent / "u3.wav").rename(moved)
    audio.write_text(f"u3 {moved}\n")
    assert digests(audio).of("u3") == before["u3"]


@pytest.mark.parametrize("kind", ["archive", "pipe"])
def test_archives_and_pipes_are_known_by_their_arrays(tmp_path, kind):
    import kaldiio

    def write(value):
        with kaldiio.WriteHelper(f"ark,scp:{tmp_path}/a.ark,{tmp_path}/a.scp") as f:
            f("u0", np.zeros((3, 2), np.float32))
            f("u1", np.full((3, 2), value, np.float32))
        if kind == "pipe":
            lines = (tmp_path / "a.scp").read_text().splitlines()
            piped = [f"{line.split()[0]} cat {tmp_path}/a.ark |" for line in lines]
            assert len(piped) == 2
        return InputDigests([(tmp_path / "a.scp", "kaldi_ark")])

    before = [write(1).of(key) for key in ("u0", "u1")]
    after = [write(2).of(key) for key in ("u0", "u1")]
    assert before[0] == after[0] and before[1] != after[1]


def test_texts_are_inputs(tmp_path):
    text = tmp_path / "text"
    text.write_text("u one two\nv one  two\n")
    first = InputDigests([(text, "text")])
    text.write_text("u one two\nv one three\n")
    second = InputDigests([(text, "text")])
    assert first.of("u") == second.of("u") and first.of("v") != second.of("v")
    assert first.of_all() != second.of_all() and first.of_all(1) == second.of_all(1)


# Jobs


def recognize(out, audio, keys=KEYS, stop=None, facts=FACTS, bad=(), **more):
    """A made-up job; returns the utterances that it decoded."""
    done = []
    job = Job(out, keys, facts, digests(audio), **more)
    with job_writer(ResultWriter, job) as writer:
        for key in keys:
            if writer.kept(key):
                continue
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(key)
            writer.results({"1best_recog/text": f"text of {key}"})
            if key in bad:
                writer.failure(key, ValueError(f"{key} is bad"))
            else:
                writer.record(key, {"total_seconds": 1})
    return done


def tree(directory):
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file()
    }


def test_a_killed_job_goes_on(tmp_path, audio):
    with pytest.raises(KeyboardInterrupt):
        recognize(tmp_path / "out", audio, stop=5)
    assert not (tmp_path / "out").exists()
    assert recognize(tmp_path / "out", audio) == KEYS[5:]
    assert recognize(tmp_path / "whole", audio) == KEYS
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    names = [path.name for path in tmp_path.iterdir()]
    assert sorted(names) == ["data", "out", "whole"]
    # And again, where nothing is to do.
    assert recognize(tmp_path / "out", audio) == []
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")


@pytest.mark.parametrize("whole", [True, False])
def test_what_has_changed_is_done_again(tmp_path, audio, whole):
    if whole:
        recognize(tmp_path / "out", audio)
    else:
        with pytest.raises(KeyboardInterrupt):
            recognize(tmp_path / "out", audio, stop=5)
    (audio.parent / "u1.wav").write_bytes(b"another recording")
    wanted = ["u1"] if whole else ["u1", *KEYS[5:]]
    assert recognize(tmp_path / "out", audio) == wanted
    other = {**FACTS, "options": {"beam_size": 4}}
    assert recognize(tmp_path / "out", audio, facts=other) == KEYS
    assert recognize(tmp_path / "out", audio, facts=other, force=True) == KEYS


def test_failures_are_counted_and_tried_again(tmp_path, audio):
    out = tmp_path / "out"
    message = (
        r"2 of 8 utterances could not be decoded: 'u1' \(u1 is bad\), 'u3' \(.*\); "
        rf"the results of the others are in {out}\.incomplete"
    )
    with pytest.raises(PluginError, match=message):
        recognize(out, audio, bad=("u1", "u3"))
    assert recognize(out, audio, bad=("u1",), max_failures=1) == ["u1", "u3"]
    assert (out / "failed").read_text() == "u1 u1 is bad\n"
    texts = (out / "1best_recog/text").read_text().splitlines()
    assert texts == [f"{key} text of {key}" for key in KEYS]


def keep_open_files(monkeypatch):
    """Let files that NFS keeps, .nfsXXXX, be busy."""
    unlink = os.unlink

    def busy(path, **kwargs):
        if Path(path).name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(path))
        unlink(path, **kwargs)

    monkeypatch.setattr(os, "unlink", busy)


@pytest.mark.parametrize("force", [False, True])
def test_files_that_nfs_keeps_are_in_nobodys_way(tmp_path, audio, monkeypatch, force):
    """A removed file that is open lives on as .nfsXXXX, and cannot be removed."""
    recognize(tmp_path / "out", audio)
    (tmp_path / "out.incomplete").mkdir()
    for directory in ("out", "out.incomplete"):
        (tmp_path / directory / ".nfs01").write_text("open in another process")
    keep_open_files(monkeypatch)
    assert recognize(tmp_path / "out", audio, force=force) == (KEYS if force else [])
    texts = (tmp_path / "out/1best_recog/text").read_text().splitlines()
    assert texts == [f"{key} text of {key}" for key in KEYS]


def test_no_two_jobs_write_one_directory(tmp_path, audio):
    job = Job(tmp_path / "out", KEYS, FACTS, digests(audio))
    with pytest.raises(KeyboardInterrupt):
        with job_writer(ResultWriter, job), ThreadPoolExecutor() as other:
            with pytest.raises(InUseError):
                other.submit(recognize, tmp_path / "out", audio).result()
            raise KeyboardInterrupt
    assert recognize(tmp_path / "out", audio) == KEYS


def speak(out, audio, keys=KEYS, stop=None, seed=0, **more):
    """A made-up job whose utterances draw from one generator."""
    done, noise = [], Noise(seed)
    job = Job(out, keys, FACTS, digests(audio), **more)
    with job_writer(SpeechWriter, job) as writer:
        for number, key in enumerate(keys):
            if writer.kept(key, noise):
                continue
            if len(done) == stop:
                raise KeyboardInterrupt
            done.append(key)
            before = encoded(noise)
            wav = noise.normal(11 + number) / 10
            writer.utterance(key, {"wav": wav}, 8000)
            writer.record(key, {"total_seconds": 1}, before, noise)
    return done


def test_draws_go_on_where_they_were(tmp_path, audio):
    with pytest.raises(KeyboardInterrupt):
        speak(tmp_path / "out", audio, stop=3)
    assert speak(tmp_path / "out", audio) == KEYS[3:]
    speak(tmp_path / "whole", audio)
    assert tree(tmp_path / "out") == tree(tmp_path / "whole")
    # Another recording in the middle is another one alone: it draws as much.
    (audio.parent / "u4.wav").write_bytes(b"another text")
    assert speak(tmp_path / "out", audio) == ["u4"]
    # With another order, or another seed, utterances draw others.
    assert speak(tmp_path / "out", audio, keys=KEYS[1:]) == KEYS[1:]
    assert speak(tmp_path / "out", audio, seed=1) == KEYS


def test_a_file_that_is_not_as_it_was_is_made_again(tmp_path, audio):
    with pytest.raises(KeyboardInterrupt):
        speak(tmp_path / "out", audio, stop=5)
    wave = tmp_path / "out.incomplete/wav/u2.wav"
    wave.write_bytes(wave.read_bytes()[:-2])
    stale = wave.with_name("u7.wav")
    stale.write_bytes(b"half of a file")
    assert speak(tmp_path / "out", audio) == ["u2", *KEYS[5:]]
    speak(tmp_path / "whole", audio)
    ours, theirs = tree(tmp_path / "out"), tree(tmp_path / "whole")
    del ours[RECORDS], theirs[RECORDS]  # which has two of u2
    assert ours == theirs


def test_the_state_of_a_generator_is_all_of_it():
    one, other = Noise(3), Noise(4)
    one.normal(7)  # leaves one of a pair
    other.restore(one.state())
    assert other.state() == one.state()
    for size in (1, 5, 100):
        np.testing.assert_array_equal(one.normal(size), other.normal(size))
        np.testing.assert_array_equal(one.keep(0.5, size), other.keep(0.5, size))


# Decodes of recipes


def recipe(tmp_path, audio, kind=ResultWriter, facts=FACTS, keys=KEYS):
    directory = tmp_path / "decode" / "test"
    return RecipeDecode(
        directory, directory / "logdir", kind, keys, facts, digests(audio)
    )


def run_jobs(decode, audio, number, name, job=recognize, **more):
    """Decode what is left in so many jobs; returns what they did."""
    left, done = decode.left(), []
    for n in range(number):
        keys = left[n * len(left) // number : (n + 1) * len(left) // number]
        out = decode.log_dir / f"run.{name}" / f"output.{n + 1}"
        if keys:
            done += job(out, audio, keys, earlier=decode.store, **more)
    return done


@pytest.mark.parametrize(
    "kind, job", [(ResultWriter, recognize), (SpeechWriter, speak)]
)
def test_a_decode_goes_on_with_another_number_of_jobs(tmp_path, audio, kind, job):
    decode = recipe(tmp_path, audio, kind)
    with pytest.raises(KeyboardInterrupt):
        run_jobs(decode, audio, 2, "a", job, stop=3)
    with pytest.raises(PluginError, match="5 of 8 utterances were not decoded"):
        decode.merge(0)
    assert not (decode.directory / MARK).exists()
    done = run_jobs(decode, audio, 3, "b", job)
    # Utterances that draw depend on those before them in a job.
    assert done == (KEYS[3:] if kind is ResultWriter else KEYS[2:])
    decode.merge(0)
    mark = read_mark(decode.directory)
    assert mark["utterances"] == 8 and not changed(decode.directory, mark)
    name = "text" if kind is ResultWriter else "wav/wav.scp"
    lines = (decode.directory / name).read_text().splitlines()
    assert [line.split()[0] for line in lines] == KEYS
    assert sorted(p.name for p in decode.log_dir.iterdir()) == ["output"]
    assert decode.left() == [] and (decode.directory / MARK).exists()
    if kind is SpeechWriter:
        waves = {path.stem for path in (decode.directory / "wav").glob("*.wav")}
        assert waves == set(KEYS)
        whole = recipe(tmp_path / "other", audio, kind)
        run_jobs(whole, audio, 3, "a", speak)
        whole.merge(0)
        ours, theirs = (tree(d.directory / "wav") for d in (decode, whole))
        del ours["wav.scp"], theirs["wav.scp"]
        assert ours == theirs


def merged(tmp_path, audio):
    decode = recipe(tmp_path, audio)
    run_jobs(decode, audio, 2, "a")
    decode.merge(0)
    return decode


def test_a_merge_leaves_what_nfs_keeps(tmp_path, audio, monkeypatch):
    decode = recipe(tmp_path, audio, SpeechWriter)
    run_jobs(decode, audio, 2, "a", speak)
    decode.merge(0)
    kept = decode.directory / "wav/.nfs01"
    kept.write_text("open in another process")
    keep_open_files(monkeypatch)
    decode.forget()
    run_jobs(decode, audio, 1, "b", speak)
    decode.merge(0)
    assert kept.exists() and not changed(decode.directory, read_mark(decode.directory))


@pytest.mark.parametrize("what", ["line", "file", "mark", "record"])
def test_what_is_lost_is_noticed_and_mended(tmp_path, audio, what):
    decode = merged(tmp_path, audio)
    expected = tree(decode.directory)
    text = decode.directory / "text"
    if what == "line":
        text.write_text("".join(text.read_text().splitlines(keepends=True)[1:]))
        assert changed(decode.directory, read_mark(decode.directory)) == ["text"]
    elif what == "file":
        text.unlink()
        assert changed(decode.directory, read_mark(decode.directory)) == ["text"]
    elif what == "mark":
        (decode.directory / MARK).write_text("{}")
        assert read_mark(decode.directory) is None
    else:
        records = decode.store / RECORDS
        lines = records.read_bytes().splitlines(keepends=True)
        records.write_bytes(b"".join([*lines[:2], *lines[3:]]))
    assert decode.left() == (["u1"] if what == "record" else [])
    assert not (decode.directory / MARK).exists()
    run_jobs(decode, audio, 1, "b")
    decode.merge(0)
    found = tree(decode.directory)
    if what == "record":  # it is the newest now
        for files in (found, expected):
            del files[f"logdir/output/{RECORDS}"]
    assert found == expected


def test_another_bundle_during_a_decode_is_noticed(tmp_path, audio):
    decode = recipe(tmp_path, audio)
    decode.left()
    jobs = decode.log_dir / "run.a"
    recognize(jobs / "output.1", audio, KEYS[:4])
    other = {**FACTS, "bundle": "b"}
    recognize(jobs / "output.2", audio, KEYS[4:], facts=other)
    with pytest.raises(PluginError, match="4 of 8 utterances .* another model .*'u4'"):
        decode.merge(0)
    assert not (decode.directory / MARK).exists()
    assert decode.left() == KEYS[4:]
    # With the other one, all of them.
    assert recipe(tmp_path, audio, facts=other).left() == KEYS


def test_failures_of_a_decode(tmp_path, audio):
    decode = recipe(tmp_path, audio)
    run_jobs(decode, audio, 2, "a", bad=("u1", "u6"), max_failures=8)
    message = "2 of 8 .*'u1' .*'u6' .*--onnx_max_failures 2"
    with pytest.raises(PluginError, match=message):
        decode.merge(1)
    assert not (decode.directory / MARK).exists()
    decode.merge(2)
    assert read_mark(decode.directory)["failed"].keys() == {"u1", "u6"}
    assert run_jobs(decode, audio, 1, "b") == ["u1", "u6"]
    decode.merge(0)
    assert read_mark(decode.directory)["failed"] == {}


def test_a_file_without_an_utterance_is_refused(tmp_path, audio):
    decode = recipe(tmp_path, audio)
    left = decode.left()
    job = Job(decode.log_dir / "run.a/output.1", left, FACTS, digests(audio))
    with job_writer(ResultWriter, job) as writer:
        for key in left:
            names = ["text", "token_int"] if key != "u5" else ["text"]
            writer.results({f"1best_recog/{name}": "x" for name in names})
            writer.record(key, {})
    with pytest.raises(PluginError, match="token_int lacks 'u5'"):
        decode.merge(0)
    assert not (decode.directory / MARK).exists()


def test_files_of_an_earlier_decode_go(tmp_path, audio):
    decode = recipe(tmp_path, audio)
    left = decode.left()
    job = Job(decode.log_dir / "run.a/output.1", left, FACTS, digests(audio))
    with job_writer(ResultWriter, job) as writer:
        for key in left:
            names = ["text", "stream"]
            writer.results({f"1best_recog/{name}": "x" for name in names})
            writer.record(key, {})
    decode.merge(0)
    assert (decode.directory / "stream").exists()
    (decode.directory / "notes").write_text("the user's")
    other = recipe(tmp_path, audio, facts={**FACTS, "command": "asr_inference"})
    run_jobs(other, audio, 1, "b", facts=other.facts)
    other.merge(0)
    names = {path.name for path in decode.directory.iterdir()}
    assert names == {"text", "notes", "logdir", MARK}


def test_a_mark_says_what_made_the_decode(tmp_path, audio):
    decode = merged(tmp_path, audio)
    mark = json.loads((decode.directory / MARK).read_text())
    assert mark["facts"] == FACTS and list(mark["files"]) == ["text"]
