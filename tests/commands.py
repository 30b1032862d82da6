"""Commands in processes of their own, which can be killed, with imports shared."""

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
from multiprocessing.process import BaseProcess
from pathlib import Path

from shared_graphs import sharing

#: Imported once, in a process that runs nothing and from which others are forked.
IMPORTED = """torch onnxruntime onnxscript jiwer espnet2.tasks.asr espnet2.tasks.lm
espnet_onnx_plugin.export.export espnet_onnx_plugin.export.tasks.asr
espnet_onnx_plugin.export.model_zoo
espnet_onnx_plugin.quantize.quantize espnet_onnx_plugin.runtime.asr
espnet_onnx_plugin.bin.export espnet_onnx_plugin.bin.optimize
espnet_onnx_plugin.bin.quantize commands shared_graphs""".split()

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(IMPORTED)


def start(
    command: str, args: list[str], log: Path, temporary: Path, graphs: Path | None
) -> BaseProcess:
    """Start a command.

    Args:
        command: its name, e.g. ``export``.
        args: its options.
        log: file of what it says.
        temporary: its directory of temporary files.
        graphs: see ``shared_graphs.sharing``; None: export them all.
    """
    given = (command, args, log, temporary, graphs)
    process = _context.Process(target=_run, args=given)
    process.start()
    return process


def _run(
    command: str, args: list[str], log: Path, temporary: Path, graphs: Path | None
) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    tempfile.tempdir = os.environ["TMPDIR"] = str(temporary)
    module = importlib.import_module(f"espnet_onnx_plugin.bin.{command}")
    with contextlib.nullcontext() if graphs is None else sharing(graphs):
        module.main(args)
