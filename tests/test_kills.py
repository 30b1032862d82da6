"""Stages 14 and 15 killed at any moment, or two at once: whole bundles, nothing left.

The commands are real, with a tiny model, in processes of their own.
"""

import os
import random
import shutil
import signal
import time

import commands
import pytest
import yaml

from espnet_onnx_plugin.bundle import MANIFEST, read_bundle

pytestmark = [pytest.mark.faults, pytest.mark.xdist_group("kills")]

#: Commands, and the bundles that they make.
MADE = {"export": "fp32", "optimize": "optimized", "quantize": "int8"}

#: Figures of a quantization that are times.
TIMES = ("seconds", "speed_ratio", "slower")


def content(bundle):
    """Files of a bundle, but for what depends on times."""
    files = {path.name: path.read_bytes() for path in bundle.iterdir()}
    manifest = yaml.safe_load(files.pop(MANIFEST))
    for name in TIMES:
        manifest["checks"].get("quantize", {}).pop(name, None)
    return files, manifest


class Stages:
    """The commands of stages 14 and 15 on one model, and what they make undisturbed.

    Attributes:
        bundles: directory of the bundles.
        expected: content of each, by command.
        seconds: how long each command takes, at most.
    """

    def __init__(self, tiny, root, graphs):
        self.bundles = root / "onnx"
        self.temporary = root / "temporary"
        self.temporary.mkdir()
        self._log, self._graphs = root / "log", graphs
        audio = ["--calibration_scp", f"{tiny['data'] / 'wav.scp'},sound"]
        model = ["--model_dir", str(self.bundles / "fp32")]
        self._args = {
            "export": [
                *("--train_config", str(tiny["asr"]["config"])),
                *("--model_file", str(tiny["asr"]["file"])),
                *("--lm_train_config", str(tiny["lm"]["config"])),
                *("--lm_file", str(tiny["lm"]["file"])),
            ],
            "optimize": [*model, *audio],
            "quantize": [*model, *audio, "--min_token_agreement", "0"],
        }
        self.expected, self.seconds = {}, {}
        self.run("export")  # which keeps the graphs
        shutil.rmtree(self.bundles)
        for command in MADE:
            start = time.monotonic()
            self.run(command)
            self.seconds[command] = time.monotonic() - start
            self.expected[command] = content(self.bundle(command))
        self.check()

    def bundle(self, command):
        return self.bundles / MADE[command]

    def start(self, command, *more, log=None):
        output = ["--output_dir", str(self.bundle(command))]
        args = [*self._args[command], *output, *more]
        log = self._log if log is None else log
        return commands.start(command, args, log, self.temporary, self._graphs)

    def run(self, command, *more):
        process = self.start(command, *more)
        process.join()
        assert process.exitcode == 0, self._log.read_text()[-3000:]

    def check(self):
        """All bundles are as ever, and nothing is left beside them."""
        for command, expected in self.expected.items():
            files, manifest = content(read_bundle(self.bundle(command)).path)
            assert manifest == expected[1]
            assert files == expected[0]
        names = {MADE[command] for command in self.expected}
        assert {path.name for path in self.bundles.iterdir()} == names
        assert not list(self.temporary.iterdir())

    def kill(self, command, moments):
        """Kill a command, look at what it leaves, and run it again.

        Returns:
            Whether it was killed before its end, and how many directories it left.
        """
        target, before = self.bundle(command), None
        begun = moments.choice(["new", "same", "other"])
        if begun != "same":
            shutil.rmtree(target)
        if begun == "other":
            shutil.copytree(self.bundles / MADE[self._other(command)], target)
        if target.exists():
            before = content(target)
        process = self.start(command, "--force", "true")
        time.sleep(moments.uniform(0, self.seconds[command]))
        process.kill()
        process.join()
        left = len(list(self.bundles.glob(".*.new-*")))
        after, version = None, None
        if target.exists():
            read_bundle(target)  # whole, or it is refused
            after, version = content(target), (target / MANIFEST).stat()
        assert after in (before, self.expected[command])
        self.run(command)
        if after == self.expected[command]:  # which is up to date
            assert os.path.samestat((target / MANIFEST).stat(), version)
        self.check()
        killed = process.exitcode == -signal.SIGKILL
        if not killed:  # the machine has become faster: no later next time
            self.seconds[command] *= 0.7
        return killed, left

    def _other(self, command):
        return next(name for name in MADE if name != command)

    def pair(self, command, apart, wait, logs):
        """Run a command twice, ``apart`` seconds one after the other.

        Returns:
            Their exit codes.
        """
        shutil.rmtree(self.bundle(command))
        more = ["--wait", "true"] if wait else []
        processes = []
        for log in logs:
            processes.append(self.start(command, *more, log=log))
            time.sleep(apart * (len(processes) == 1))
        for process in processes:
            process.join()
        codes = [process.exitcode for process in processes]
        said = [log.read_text() for log in logs]
        assert (
            0 in codes
            and set(codes) <= {0, 1}
            and not any("Traceback" in s for s in said)
        )
        if wait:
            assert codes == [0, 0], said
        for code, text, other in zip(codes, said, reversed(processes)):
            if code:
                [line] = [x for x in text.splitlines() if f"{command}: error:" in x]
                assert line == text.splitlines()[-1]
                assert f"is being written by process {other.pid} on " in line
                assert " since 2" in line and line.endswith("or give --wait true")
        if codes == [0, 0]:
            # One has made it, the other has let it be.
            assert sum("is up to date" in text for text in said) == 1, said
        self.check()
        return codes


@pytest.fixture(scope="module")
def stages(tiny, tmp_path_factory, shared_graphs):
    return Stages(tiny, tmp_path_factory.mktemp("stages"), shared_graphs)


@pytest.mark.parametrize("command, kills", [*zip(MADE, (8, 7, 5))])
def test_a_killed_command_leaves_a_whole_bundle(stages, command, kills):
    moments = random.Random(command)
    met = left = 0
    while met < kills:
        killed, directories = stages.kill(command, moments)
        met += killed
        left += directories
    assert left > 0


@pytest.mark.parametrize("wait", [False, True])
def test_two_runs_of_a_command_at_once(stages, tmp_path, wait):
    moments = random.Random(int(wait))
    logs = [tmp_path / "first.log", tmp_path / "second.log"]
    codes = [stages.pair("export", 0, wait, logs)]
    for command in ("optimize", "export", "optimize"):
        apart = moments.uniform(0, stages.seconds[command] / 2)
        codes.append(stages.pair(command, apart, wait, logs))
    assert wait or [0, 1] in map(sorted, codes)
