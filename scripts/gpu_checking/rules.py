"""Parts: what rules of the optimization gain on the provider, and what 8 bits do."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarking.models import environment, last_line
from gpu_checking.job import Job
from gpu_checking.speed import refuse

SCRIPTS = Path(__file__).parents[1]

#: Graphs whose rules are measured, in which precision, what takes the most time first.
GRAPHS = (("encoder", "fp32"), ("decoder", "fp32"), ("encoder", "fp16"), ("lm", "fp32"))


def rules(job: Job) -> None:
    """Measure one rule after the other, by scripts/measure_rules.py."""
    bundle = job.model("librispeech").bundle("fp32").path
    failed: list[str] = []
    for role, precision in GRAPHS:
        options = ["--provider", job.provider, "--precision", precision]
        name = f"{role} in {precision}"
        if not _run(job, "measure_rules", name, [bundle, role, *options]):
            failed.append(name)
    refuse(failed)


def integers(job: Job) -> None:
    """Measure an encoder in 8-bit integers and floats, by scripts/measure_qdq.py."""
    bundle = job.model("librispeech").bundle("fp32").path
    options = ["--provider", job.provider]
    if not _run(job, "measure_qdq", "encoder", [bundle, "encoder", *options]):
        refuse(["encoder"])


def _run(job: Job, script: str, graph: str, arguments: Sequence[str | Path]) -> bool:
    """Run a script and write its rows as they come; return whether it succeeded."""
    directory = job.work_dir / "rules"
    directory.mkdir(parents=True, exist_ok=True)
    name = f"{script}_{graph.replace(' ', '_')}"
    file, log = directory / f"{name}.json", directory / f"{name}.log"
    file.unlink(missing_ok=True)
    command = [sys.executable, SCRIPTS / f"{script}.py", *arguments, "--json", file]
    with open(log, "wb") as output:
        process = subprocess.Popen(
            list(map(str, command)),
            stdout=output,
            stderr=output,
            env=environment(1),
        )
    told, code = 0, None
    while code is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            code = process.wait(timeout=0.5)
        # It may be half written, or not there yet.
        with contextlib.suppress(OSError, ValueError):
            rows = json.loads(file.read_text(encoding="utf-8"))
            for row in rows[told:]:
                job.add(**{"graph": graph, **row})
            told = len(rows)
    if code:
        job.add(graph=graph, failed=last_line(log)[:200])
    return code == 0
