"""Small disks of their own, for tests of full ones and of those not to be written."""

import subprocess

import pytest


@pytest.fixture
def disk(tmp_path):
    """A directory that is a disk of its own, and what changes its options."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(options, *more):
        words = ["mount", "-t", "tmpfs", "-o", options, *more, "tmpfs", str(where)]
        return subprocess.run(words, capture_output=True).returncode

    if mount("size=64k") != 0:
        pytest.skip("needs to mount a disk, as root")
    yield where, lambda options: mount(f"remount,{options}")
    # A session that has not been collected yet may have its weights mapped.
    subprocess.run(["umount", "--lazy", str(where)], check=True)
