"""Files and directories that are there whole or not at all, and who is writing them.

A process may be killed between any two of its instructions, and a machine may lose its
power. So what counts is written under another name, brought to the disk and renamed;
and what a killed process leaves behind, the next one that writes there removes.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import errno
import fcntl
import glob
import logging
import os
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError

logger = logging.getLogger(__name__)

#: How NFS begins the name of a removed file while a process of the machine has it open.
REMOVED = ".nfs"

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
#: What a file system says that cannot exchange two names, or a libc without the call.
_CANNOT_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP, errno.EPERM)
#: What it says that cannot lock.
_CANNOT_LOCK = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP)

#: What this process holds.
_held: contextvars.ContextVar[Path | None] = contextvars.ContextVar(
    "held", default=None
)

#: What a lock file says that was removed.
_GONE = "gone"


class InUseError(PluginError):
    """Another process is writing there."""


def sync(path: Path) -> None:
    """Bring a file, or the names in a directory, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(directory: Path) -> None:
    """Bring a directory and everything in it to the disk."""
    for at, _, names in os.walk(directory):
        for name in names:
            sync(Path(at, name))
        sync(Path(at))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write a file that others see as it was, or whole."""
    data = content.encode() if isinstance(content, str) else content
    new = path.with_name(f".{path.name}.new")
    try:
        with open(new, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        new.replace(path)
    except BaseException as e:
        with contextlib.suppress(OSError):
            new.unlink()
        if isinstance(e, OSError):  # nobody knows of the other name
            raise OSError(e.errno, e.strerror, str(path)) from e
        raise
    sync(path.parent)


def new_directory(target: Path) -> Path:
    """An empty directory beside ``target``, for :func:`replace_directory`."""
    target.parent.mkdir(parents=True, exist_ok=True)
    work = tempfile.mkdtemp(prefix=f".{target.name}.new-", dir=target.parent)
    os.chmod(work, 0o755)  # mkdtemp's is private; ESPnet's are not
    return Path(work)


def replace_directory(work: Path, target: Path) -> None:
    """Put ``work`` in the place of ``target``, which may be there, and remove that.

    At every instant one of them is there whole. Only where a file system cannot
    exchange two names, as NFS, is there none for the time between two calls; killed
    there, the old one lies beside it until the next :func:`held` brings it back.
    """
    sync_tree(work)
    if not target.exists():
        work.rename(target)
    elif _exchange(work, target):
        sync(target.parent)
        remove_tree(work)
    else:
        old = _old(target)
        target.rename(old)
        work.rename(target)
        sync(target.parent)
        old.rename(work)
        remove_tree(work)
    sync(target.parent)


@contextlib.contextmanager
def temporary_directory() -> Iterator[Path]:
    """A directory for the time of the block.

    It lies beside what this process holds, so that the next one that holds that removes
    what a killed one has left; where it holds nothing, among the system's temporary
    files.
    """
    target = _held.get()
    if target is None:
        with tempfile.TemporaryDirectory() as work:
            yield Path(work)
        return
    beside = new_directory(target)
    try:
        yield beside
    finally:
        # On NFS it stays while a file in it is open, until the holder ends.
        shutil.rmtree(beside, ignore_errors=True)


def remove_tree(directory: Path) -> None:
    """Remove a directory and all in it.

    On NFS a removed file that a process of this machine has open lives on as
    ``.nfsXXXX``, until that closes it. The directory stays with those alone.
    """
    shutil.rmtree(directory, ignore_errors=True)
    left = [name for _, _, names in os.walk(directory) for name in names]
    if not left or not all(name.startswith(REMOVED) for name in left):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(directory)  # it says why it cannot


@contextlib.contextmanager
def held(target: Path) -> Iterator[None]:
    """Be the only one that writes ``target`` during the block.

    What killed processes have left of their work on it is removed. The kernel lets go
    of what a killed process has held, on NFS the server does, so that there are no
    stale holders. It needs a lock file, which is gone afterwards. A block within the
    block may hold the same.

    Raises:
        InUseError: saying who holds it and since when.
        PluginError: if it is the working directory.
        OSError: if its directory cannot be written.
    """
    if _held.get() == target:
        yield
        return
    if not target.name:
        raise PluginError(f"{target} cannot be written anew; give another directory")
    target.parent.mkdir(parents=True, exist_ok=True)
    path = target.with_name(f".{target.name}.lock")
    with contextlib.ExitStack() as stack:
        descriptor = _lock(path, target)
        stack.callback(_let_go, descriptor, path)
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _holder().encode(), 0)
        _clear(target)
        stack.callback(_clear, target)
        token = _held.set(target)
        stack.callback(_held.reset, token)
        yield


def _clear(target: Path) -> None:
    """Bring back what :func:`replace_directory` has put aside; remove the rest."""
    old = _old(target)
    if old.exists():
        # Its name has to be free, even where not all of it can be removed.
        old.rename(new_directory(target) if target.exists() else target)
    for left in target.parent.glob(f".{glob.escape(target.name)}.new-*"):
        logger.info("removing %s, which a process has left that ended early", left)
        shutil.rmtree(left, ignore_errors=True)


def _lock(path: Path, target: Path) -> int:
    """The descriptor of the lock file, locked."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError as e:  # the directory's: nobody knows of the file
            raise OSError(e.errno, e.strerror, str(path.parent)) from e
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            who = _content(descriptor).removeprefix(_GONE)
            os.close(descriptor)
            raise InUseError(
                f"{target} is being written by {who or 'another process'}; let it end, "
                "or give --wait true"
            )
        except OSError as e:
            if e.errno in _CANNOT_LOCK:
                logger.warning(
                    "%s: this file system has no locks (%s): two runs at once are not "
                    "noticed",
                    path,
                    e.strerror,
                )
                return descriptor
            if e.errno != errno.ESTALE:
                os.close(descriptor)
                raise
        # The one before may have removed the file between the two calls. On NFS its
        # name may go on for some seconds; what it says is read anew after a lock.
        if _content(descriptor) != _GONE and is_named(descriptor, path):
            return descriptor
        os.close(descriptor)
        time.sleep(0.01)


def _let_go(descriptor: int, path: Path) -> None:
    """Remove the lock file, let others know that it is, and let go of the lock."""
    path.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, _GONE.encode(), 0)
    os.close(descriptor)


def is_named(descriptor: int, path: Path) -> bool:
    """Whether an open file is the one that a path names now.

    On NFS it is stale where another machine has removed it.
    """
    try:
        other = os.open(path, os.O_RDONLY)
        try:
            return os.path.samestat(os.fstat(descriptor), os.fstat(other))
        finally:
            os.close(other)
    except OSError as e:
        if e.errno not in (errno.ENOENT, errno.ESTALE):
            raise
        return False


def _content(descriptor: int) -> str:
    """Content of an open lock file; nothing where it is gone."""
    with contextlib.suppress(OSError):
        return os.pread(descriptor, 500, 0).decode("utf-8", "replace").strip()
    return ""


def _holder() -> str:
    """This process, as an error of another one names it."""
    since = time.strftime("%Y-%m-%d %H:%M:%S")
    return f"process {os.getpid()} on {socket.gethostname()} since {since}\n"


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two names in one step; False where the file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    names = os.fsencode(one), os.fsencode(other)
    if rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0:
        return True
    if (code := ctypes.get_errno()) in _CANNOT_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))
