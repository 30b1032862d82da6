"""Kills at any moment, full disks, two runs at once: nothing is lost, nothing is left.

The recipe is made up, the commands of stage 16 and what they run are real, with a tiny
model. Exports and optimizations are killed in processes of their own.
"""

import contextlib
import fcntl
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from recipes import make_data, make_recipe, run_onnx

from espnet_onnx_plugin.bundle import MANIFEST, read_bundle
from espnet_onnx_plugin.bundle.derive import derive
from espnet_onnx_plugin.runtime.io.recipe_decode import MARK, RUNS
from espnet_onnx_plugin.runtime.io.records import read_records

pytestmark = pytest.mark.faults

REALLY = "resume asr_inference merge sample report"
STAGE = ["--stage", "16", "--onnx_variants", "fp32", "--test_sets", "test_a"]
STAGE += ["--inference_args", "--beam_size 2 --lm_weight 0"]
KEYS = [f"utt{n}" for n in range(4)]

#: What depends on times, or on the moment of a kill.
TIMES = ("timing.jsonl", "records.jsonl", "RESULTS.", "setting", "todo.scp")


@pytest.fixture
def recipe(tmp_path, monkeypatch, tiny):
    """A made-up recipe with a real bundle and real audio."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("REALLY", REALLY)
    make_recipe("asr")
    make_data("test_a", KEYS, audio_format="wav")
    for name in KEYS:
        shutil.copy(tiny["data"] / f"{name}.wav", "dump/raw/test_a")
    lines = [f"{name} dump/raw/test_a/{name}.wav\n" for name in KEYS]
    Path("dump/raw/test_a/wav.scp").write_text("".join(lines))
    shutil.copytree(tiny["bundle"], "exp/asr/onnx/fp32")
    return tmp_path


DECODE = Path("exp/asr/tag_onnx_fp32/test_a")


def outputs():
    """Every file of the stage, with its content unless that tells the time."""
    return {
        str(path): b"" if any(t in path.name for t in TIMES) else path.read_bytes()
        for path in Path("exp/asr").rglob("*")
        if path.is_file() and "onnx/fp32" not in str(path)
        if path.suffix != ".log"  # the last run may have had fewer jobs
    }


def clean():
    """Remove what the stage has made."""
    for made in [*Path("exp/asr").glob("tag*"), *Path("exp/asr").glob(".tag*")]:
        shutil.rmtree(made) if made.is_dir() else made.unlink()
    for made in Path("exp/asr/onnx").iterdir():
        if made.name != "fp32":
            shutil.rmtree(made) if made.is_dir() else made.unlink()


def recorded():
    """The utterances of which there are records."""
    logdir = DECODE / "logdir"
    jobs = [logdir / "output", *logdir.glob(f"{RUNS}/output.*")]
    return {key for job in jobs for key in read_records(job)[1]}


@contextlib.contextmanager
def started(*args):
    """The stage, running in a session of its own."""
    words = ["./asr.sh", "--onnx", "true", "--python", "./mypython", *STAGE, *args]
    with open("stage.log", "wb") as log:
        process = subprocess.Popen(
            words, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.fixture
def undisturbed(recipe):
    """Outputs of an undisturbed run, and how long it takes."""
    start = time.monotonic()
    result = run_onnx(*STAGE)
    assert result.returncode == 0, result.stderr
    seconds = time.monotonic() - start
    expected = outputs()
    assert f"{DECODE}/{MARK}" in expected and f"{DECODE}/text" in expected
    return expected, seconds


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_stage_16_goes_on(undisturbed, seed):
    """Eight kills for each seed, of all processes or of the driver alone."""
    expected, seconds = undisturbed
    moments = random.Random(seed)
    clean()
    for _ in range(8):
        driver_alone = moments.random() < 0.3
        with started() as process:
            time.sleep(moments.uniform(0, seconds))
            if driver_alone:
                # Its jobs go on, while the next run begins.
                process.kill()
                process.wait()
            else:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            before = recorded()
            if moments.random() < 0.5:
                continue  # killed again
            result = run_onnx(*STAGE)
            assert result.returncode == 0, result.stderr
        # Nothing that was recorded is decoded again.
        todo = set((DECODE / "logdir/todo.scp").read_text().split())
        assert not todo & before
        assert outputs() == expected
        clean()


def test_two_runs_at_once(undisturbed):
    expected, seconds = undisturbed
    moments = random.Random(0)
    for n in range(4):
        clean()
        waits = ["--onnx_wait", "true"] if n % 2 else []
        with started(*waits) as process:
            time.sleep(moments.uniform(0, seconds))
            second = run_onnx(*STAGE, *waits)
            first = process.wait(300)
        if waits:
            assert (first, second.returncode) == (0, 0), second.stderr
        else:
            # The first, or both where the first had ended.
            assert 0 in (first, second.returncode)
            refused = Path("stage.log").read_text() if first else second.stderr
            if first or second.returncode:
                assert "being written by process" in refused and "since" in refused
        assert outputs() == expected


def test_a_holder_that_has_not_said_who_it_is(recipe):
    with open("exp/asr/.tag_onnx.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = run_onnx(*STAGE)
    assert result.returncode == 1
    assert "exp/asr/tag_onnx_* are being written by another process; let" in (
        result.stderr
    )


def test_a_vanished_file_is_named_and_the_others_are_kept(undisturbed):
    expected, _ = undisturbed
    clean()
    wav = Path("dump/raw/test_a/utt2.wav")
    content = wav.read_bytes()
    wav.unlink()
    Path("exp/asr/onnx/RESULTS.md").write_text("an old table")
    result = run_onnx(*STAGE)
    assert result.returncode == 1
    assert "1 of 4 utterances could not be decoded: 'utt2'" in result.stderr
    assert "--onnx_max_failures 1" in result.stderr
    assert not (DECODE / MARK).exists()
    assert not Path("exp/asr/onnx/RESULTS.md").exists()
    assert run_onnx(*STAGE, "--onnx_max_failures", "1").returncode == 0
    texts = (DECODE / "text").read_text().splitlines()
    assert [line.split()[0] for line in texts] == KEYS and texts[2].strip() == "utt2"
    wav.write_bytes(content)
    result = run_onnx(*STAGE)
    assert result.returncode == 0 and "kept 3 of 4; 1 to decode" in result.stdout
    assert outputs() == expected


def test_changed_audio_is_decoded_again(undisturbed):
    wav = Path("dump/raw/test_a/utt1.wav")
    data = bytearray(wav.read_bytes())
    data[-7] ^= 16
    wav.write_bytes(data)
    result = run_onnx(*STAGE)
    assert result.returncode == 0 and "kept 3 of 4; 1 to decode" in result.stdout


@pytest.mark.parametrize("name", ["text", "token", "token_int", "score"])
def test_a_dropped_line_is_put_back(undisturbed, name):
    expected, _ = undisturbed
    path = DECODE / name
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:1] + lines[2:]))
    result = run_onnx(*STAGE)
    assert result.returncode == 0 and "kept 4 of 4; 0 to decode" in result.stdout
    assert outputs() == expected


def test_tables_refuse_a_decode_that_was_changed_or_is_anothers(undisturbed, tiny):
    args = [
        "./mypython",
        "-m",
        "espnet_onnx_plugin.bin.report",
        "--test_sets",
        "test_a",
    ]
    args += ["--system", "fp32", "exp/asr/tag_onnx_fp32", "exp/asr/onnx/fp32"]
    args += ["--output_dir", "tables"]
    assert subprocess.run(args).returncode == 0
    manifest = Path("exp/asr/onnx/fp32", MANIFEST)
    texts = {"text": (DECODE / "text").read_text(), MARK: (DECODE / MARK).read_text()}

    def refused(message):
        result = subprocess.run(args, capture_output=True, text=True)
        assert result.returncode == 1
        assert message in result.stderr.splitlines()[-1]

    (DECODE / "text").write_text("utt0 another\n" + texts["text"].partition("\n")[2])
    refused("has another text than the decode has written; run stage 16 again")
    (DECODE / "text").write_text(texts["text"])
    (DECODE / MARK).unlink()
    refused(f"it has no {MARK}")
    (DECODE / MARK).write_text(texts[MARK])
    manifest.write_text(manifest.read_text() + "\n")
    refused("was decoded with another model than exp/asr/onnx/fp32 holds now")


def test_a_bundle_that_is_swapped_during_a_decode(undisturbed):
    """In the end there is another bundle than the jobs have decoded with."""
    clean()
    Path("job").rename("real_job")
    Path("job").write_text(
        """#!/usr/bin/env bash
./real_job "$@" || exit 1
[[ "$*" != *asr_inference.JOB.log* ]] || echo >> exp/asr/onnx/fp32/manifest.yaml
"""
    )
    Path("job").chmod(0o755)
    result = run_onnx(*STAGE)
    assert result.returncode == 1
    assert "4 of 4 utterances were not decoded, or with another model" in result.stderr
    assert not (DECODE / MARK).exists()


# Bundles


def rewrite(tiny, output_dir, text):
    """Derive a bundle whose graphs are the parent's, slowly, file by file."""

    def copy(role, old, new):
        shutil.copyfile(old, new)
        weights = old.with_suffix(".weights")
        if weights.exists():
            shutil.copyfile(weights, new.with_suffix(".weights"))
        return True

    derive(read_bundle(tiny), output_dir, {"text": text}, copy, lambda bundle: {})


def rewrite_on(tiny, output_dir):
    for number in range(10**6):
        rewrite(tiny, output_dir, str(number))


def test_a_killed_derivation_leaves_a_whole_bundle(tiny, tmp_path):
    output_dir = tmp_path / "onnx" / "int8"
    rewrite(tiny["bundle"], output_dir, "first")
    moments = random.Random(1)
    context = multiprocessing.get_context("fork")
    left = 0
    for _ in range(25):
        process = context.Process(target=rewrite_on, args=(tiny["bundle"], output_dir))
        process.start()
        time.sleep(moments.uniform(0.01, 0.3))
        process.kill()
        process.join()
        read_bundle(output_dir)  # whole, or it is refused
        left += len(list(output_dir.parent.iterdir())) - 1
    assert left > 0  # the kills have met something
    rewrite(tiny["bundle"], output_dir, "last")
    assert [path.name for path in output_dir.parent.iterdir()] == ["int8"]


# Disks


@pytest.mark.parametrize("number", range(3))
def test_a_full_disk_while_decoding(undisturbed, disk, number):
    expected, _ = undisturbed
    clean()
    where, remount = disk
    Path("exp/asr/tag_onnx_fp32").symlink_to(where)
    assert remount(f"size={8 << number}k") == 0
    result = run_onnx(*STAGE)
    assert result.returncode == 1, result.stdout
    assert not list(where.rglob(MARK))
    assert remount("size=8m") == 0
    result = run_onnx(*STAGE)
    assert result.returncode == 0, result.stderr
    link = Path("exp/asr/tag_onnx_fp32")
    link.unlink()
    shutil.copytree(where, link)
    assert outputs() == expected


@pytest.mark.parametrize("share", [0.2, 0.6, 0.95, 1])
def test_a_full_disk_while_a_bundle_is_written(tiny, disk, share):
    where, remount = disk
    size = sum(f.stat().st_size for f in tiny["bundle"].iterdir())
    assert remount("size=64m") == 0
    rewrite(tiny["bundle"], where / "int8", "first")
    before = (where / "int8" / MANIFEST).read_bytes()
    assert remount(f"size={int(size * (1 + share)) >> 10}k") == 0
    with pytest.raises(OSError):
        rewrite(tiny["bundle"], where / "int8", "second")
    read_bundle(where / "int8")
    assert (where / "int8" / MANIFEST).read_bytes() == before
    assert [path.name for path in where.iterdir()] == ["int8"]
