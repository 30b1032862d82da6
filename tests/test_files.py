"""Files and directories that are there whole or not at all, and locks."""

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from espnet_onnx_plugin import files
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import (
    InUseError,
    held,
    new_directory,
    remove_tree,
    replace_directory,
    temporary_directory,
    write_whole,
)


@pytest.fixture
def directories(tmp_path):
    """A new directory and the one that it replaces."""
    target = tmp_path / "int8"
    for directory, text in ((target, "old"), (new_directory(target), "new")):
        directory.mkdir(exist_ok=True)
        for name in "abc":
            (directory / name).write_text(text)
    [work] = tmp_path.glob(".int8.new-*")
    return work, target


def contents(directory):
    return {path.read_text() for path in directory.iterdir()}


@pytest.mark.parametrize("exchange", [True, False])
def test_a_directory_is_replaced_whole(directories, monkeypatch, exchange):
    work, target = directories
    if not exchange:  # as on NFS
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    replace_directory(work, target)
    assert contents(target) == {"new"}
    assert [path.name for path in target.parent.iterdir()] == ["int8"]


def test_at_every_instant_one_is_there(directories):
    """A reader beside a writer that replaces the directory again and again."""
    work, target = directories
    code = f"""
import shutil
from pathlib import Path
from espnet_onnx_plugin.files import new_directory, replace_directory
target = Path({str(target)!r})
for number in range(300):
    work = new_directory(target)
    for name in "abc":
        (work / name).write_text(str(number))
    replace_directory(work, target)
"""
    seen = 0
    with subprocess.Popen([sys.executable, "-c", code]) as writer:
        while writer.poll() is None:
            descriptor = os.open(target, os.O_RDONLY)  # or there is none
            os.close(descriptor)
            seen += 1
    assert writer.returncode == 0 and seen > 100
    assert contents(target) == {"299"}


def test_a_kill_between_two_renames_is_mended(directories, monkeypatch):
    work, target = directories
    monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    rename = Path.rename

    def killed(self, other):
        if self == work:
            raise KeyboardInterrupt
        return rename(self, other)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", killed)
        with pytest.raises(KeyboardInterrupt):
            replace_directory(work, target)
    assert not target.exists()
    with held(target):
        assert contents(target) == {"old"}
    assert [path.name for path in target.parent.iterdir()] == ["int8"]


def test_what_is_left_of_others_is_not_touched(tmp_path):
    others = [".int8x.new-1", ".int8.yaml", "int8.new-1"]
    for name in others:
        (tmp_path / name).mkdir()
    with held(tmp_path / "int8"):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(others)


def test_temporary_directories_lie_beside_what_is_held(tmp_path, monkeypatch):
    """A killed process leaves them; the next one that holds the same removes them."""
    monkeypatch.setattr(files.tempfile, "tempdir", str(tmp_path / "system"))
    (tmp_path / "system").mkdir()
    target = tmp_path / "exp" / "int8"
    with held(target), temporary_directory() as work:
        assert work.parent == target.parent
        left = target.with_name(work.name + "left")
        shutil.copytree(work, left)
    assert not work.exists() and not left.exists()
    left.mkdir()
    with held(target):  # the next one
        assert not left.exists()
    with temporary_directory() as work:
        assert work.parent == tmp_path / "system"
    assert not work.exists() and not list(target.parent.iterdir())


def test_the_working_directory_is_not_replaced(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PluginError, match="cannot be written anew; give another"):
        with held(Path(".")):
            pass


def test_a_holder_may_hold_the_same_again(tmp_path):
    with held(tmp_path / "int8"):
        with held(tmp_path / "int8"), held(tmp_path / "fp32"):
            pass
        assert [path.name for path in tmp_path.iterdir()] == [".int8.lock"]
    assert not list(tmp_path.iterdir())


def test_a_file_is_there_as_it_was_or_whole(tmp_path, monkeypatch):
    path = tmp_path / "RESULTS.md"
    write_whole(path, "old\n")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", full)
        with pytest.raises(OSError):
            write_whole(path, "new\n")
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["RESULTS.md"]
    write_whole(path, "new\n")
    assert path.read_text() == "new\n"


def hold(target, entered):
    with held(Path(target)):
        entered.set()
        time.sleep(60)


@pytest.fixture
def holder(tmp_path):
    """A process that holds a directory."""
    context = multiprocessing.get_context("spawn")
    entered = context.Event()
    process = context.Process(target=hold, args=(str(tmp_path / "int8"), entered))
    process.start()
    assert entered.wait(60)
    yield process
    process.kill()
    process.join()


def test_a_second_one_is_told_who_holds_it_since_when(tmp_path, holder):
    who = rf"process {holder.pid} on \S+ since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d"
    with pytest.raises(InUseError, match=rf"int8 is being written by {who}; .*--wait"):
        with held(tmp_path / "int8"):
            pass
    with held(tmp_path / "fp32"):  # another one
        pass


def test_a_killed_holder_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with held(tmp_path / "int8"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_on_a_file_that_is_gone_is_none(tmp_path, monkeypatch):
    """The one before removes its file after it was opened here."""
    flock, calls = files.fcntl.flock, []

    def removed(descriptor, how):
        flock(descriptor, how)
        if not calls:
            (tmp_path / ".x.lock").unlink()
        calls.append(descriptor)

    monkeypatch.setattr(files.fcntl, "flock", removed)
    with held(tmp_path / "x"):
        assert (tmp_path / ".x.lock").exists()
    assert len(calls) == 2


def test_a_lock_on_a_file_that_says_it_is_gone_is_none(tmp_path, monkeypatch):
    """On NFS the name of a file that another machine has removed may go on."""
    flock, calls = files.fcntl.flock, []

    def removed(descriptor, how):
        flock(descriptor, how)
        if not calls:
            os.pwrite(descriptor, b"gone", 0)
        elif len(calls) == 1:
            (tmp_path / ".x.lock").unlink()
        calls.append(descriptor)

    monkeypatch.setattr(files.fcntl, "flock", removed)
    with held(tmp_path / "x"):
        assert (tmp_path / ".x.lock").read_text().startswith("process ")
        waiting = open(tmp_path / ".x.lock")
    assert len(calls) == 3
    assert waiting.read() == "gone"
    waiting.close()


def stale_once(monkeypatch, name):
    """Have a function of files.os say once what NFS does of a file that is gone."""
    function, calls = getattr(os, name), []

    def stale(*args, **kwargs):
        calls.append(args)
        if len(calls) == 1:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return function(*args, **kwargs)

    monkeypatch.setattr(files.os, name, stale)


def test_a_lock_on_a_stale_file_is_none(tmp_path, monkeypatch):
    stale_once(monkeypatch, "fstat")
    with held(tmp_path / "x"):
        assert (tmp_path / ".x.lock").exists()


def test_a_file_system_without_locks_is_told(tmp_path, monkeypatch, caplog):
    def none(descriptor, how):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(files.fcntl, "flock", none)
    with held(tmp_path / "x"):
        pass
    assert "x.lock: this file system has no locks" in caplog.text


@pytest.mark.parametrize("exchange", [True, False])
def test_files_that_live_on_are_left(directories, monkeypatch, exchange):
    """NFS keeps what was removed as .nfsXXXX while it is open."""
    work, target = directories
    (target / ".nfs01").write_text("open in another process")
    unlink = os.unlink

    def busy(path, **kwargs):
        if Path(path).name.startswith(".nfs"):
            raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), path)
        unlink(path, **kwargs)

    if not exchange:
        monkeypatch.setattr(files, "_exchange", lambda one, other: False)
    with monkeypatch.context() as patch:
        patch.setattr(shutil.os, "unlink", busy)
        replace_directory(work, target)
        assert contents(target) == {"new"}
        assert [path.name for path in work.iterdir()] == [".nfs01"]
        with held(target):  # the next one; it is still open
            pass
    with held(target):
        pass
    assert [path.name for path in target.parent.iterdir()] == ["int8"]


def test_what_cannot_be_removed_is_told(tmp_path, monkeypatch):
    (tmp_path / "x").mkdir()
    (tmp_path / "x/a").write_text("")

    def refused(path, **kwargs):
        raise PermissionError(errno.EACCES, "Permission denied", path)

    monkeypatch.setattr(shutil.os, "unlink", refused)
    with pytest.raises(PermissionError):
        remove_tree(tmp_path / "x")


def test_many_hold_it_one_after_the_other(tmp_path):
    """The lock file is removed and made again; no two are inside at once."""
    code = f"""
import time
from pathlib import Path
from espnet_onnx_plugin.files import InUseError, held
target, inside = Path({str(tmp_path / "x")!r}), Path({str(tmp_path / "inside")!r})
done = 0
while done < 40:
    try:
        with held(target):
            inside.mkdir()
            time.sleep(0.001)
            inside.rmdir()
            done += 1
    except InUseError:
        time.sleep(0.0005)
"""
    processes = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [process.wait(120) for process in processes] == [0] * 4
    assert list(tmp_path.iterdir()) == []
