"""A CUDA that counts: the real onnxruntime-gpu on a machine without a GPU.

NVIDIA's libraries are replaced by ``counting_cuda.c``. onnxruntime opens graphs, puts
their nodes where they would run, copies, and launches what it would launch; what the
kernels would have computed is whatever lies in memory. So nothing is known of results
and of time, but of everything that a graph has done on its way.

As a program, with onnxruntime-gpu on its path: ``counting_cuda.py LIBRARIES NAME PATH
...`` prints as JSON what a function here counts: ``search``, ``search_again``,
``speak`` or ``place`` of bundles, ``repeat`` of step graphs.
LIBRARIES is a directory where the libraries are, or will be.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

#: In the order in which they are loaded: the second and later ones count in the first.
LIBRARIES = {
    "cudart": "libcudart.so.13",
    "cuda": "libcuda.so.1",
    "curand": "libcurand.so.10",
    "cublas": "libcublas.so.13",
    "cublasLt": "libcublasLt.so.13",
    "cudnn": "libcudnn.so.9",
}

COUNTED = (
    "launches",
    "plans",
    "to_gpu",
    "to_host",
    "bytes_to_host",
    "waits",
    "recorded",
    "repeated",
    "unfit",
)

#: Steps of a search.
STEPS = 10


class Counts(ctypes.Structure):
    """Counters of the libraries."""

    _fields_ = [(name, ctypes.c_long) for name in COUNTED]


def build(directory: Path) -> None:
    """Compile the libraries with the functions that the onnxruntime-gpu looks for."""
    directory.mkdir(parents=True, exist_ok=True)
    package = Path(importlib.util.find_spec("onnxruntime").origin).parent
    wanted = _symbols(package / "capi" / "libonnxruntime_providers_cuda.so")
    source = Path(__file__).with_suffix(".c")
    for part, name in LIBRARIES.items():
        # A function with a body in the source takes the place of these.
        weak = directory / f"{part}.c"
        weak.write_text(
            "".join(
                f"__attribute__((weak)) long {function}(void) {{ return 0; }}\n"
                for function in sorted(wanted[part])
            )
        )
        options = ["-w", "-O1", "-shared", "-fPIC", f"-DPART_{part}"]
        if part not in ("cuda", "cudnn"):  # their functions have no version
            versions = directory / f"{part}.map"
            versions.write_text(f"{name} {{ global: *; }};\n")
            options.append(f"-Wl,--version-script={versions}")
        if part != "cudart":
            options += [f"-L{directory}", f"-l:{LIBRARIES['cudart']}"]
        command = ["gcc", str(source), str(weak), *options, f"-Wl,-soname,{name}"]
        subprocess.run([*command, "-o", str(directory / name)], check=True)


def _symbols(provider: Path) -> dict[str, set[str]]:
    """Functions of each library that onnxruntime's provider calls."""
    listed = subprocess.run(
        ["nm", "-D", "--undefined-only", str(provider)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found: dict[str, set[str]] = {part: set() for part in LIBRARIES}
    parts = {name: part for part, name in LIBRARIES.items()}
    for name, library in re.findall(r" U (\w+)@(\S+)", listed):
        if library in parts:
            found[parts[library]].add(name)
    driver = ("cuInit", "cuDevicePrimaryCtxRetain", "cuDevicePrimaryCtxRelease_v2")
    found["cuda"] = {*re.findall(r" U (cu[A-Z]\w+)$", listed, re.MULTILINE), *driver}
    # What is looked up by name when it is needed.
    names = re.findall(rb"\b(cudnn[A-Z][a-z]\w+)\b", provider.read_bytes())
    found["cudnn"] = {name.decode() for name in names}
    return found


def load(directory: Path) -> Counts:
    """Put the libraries where onnxruntime will find them; returns what they count."""
    loaded = [
        ctypes.CDLL(str(directory / name), mode=ctypes.RTLD_GLOBAL)
        for name in LIBRARIES.values()
    ]
    counts = Counts.in_dll(loaded[0], "counts")

    import onnxruntime

    from espnet_onnx_plugin.runtime.core import gpu

    # Real ones may lie in packages that torch has brought.
    onnxruntime.preload_dlls = lambda *_, **__: None
    gpu._nvidia = lambda: []
    return counts


def watch_runs(counts: Counts) -> dict[str, Counter[str]]:
    """Counts of all runs of each graph from now on, by its name."""
    import numpy as np

    from espnet_onnx_plugin.runtime.core import replay, runner

    found: dict[str, Counter[str]] = {}
    plain, replayed = runner.Runner.run, replay.Replay.run

    def counted(name, call, *args, **kwargs):
        before = [getattr(counts, of) for of in COUNTED]
        made = call(*args, **kwargs)
        mine = found.setdefault(name, Counter())
        mine["runs"] += 1
        for of, value in zip(COUNTED, before):
            mine[of] += getattr(counts, of) - value
        return made

    def run(self, *args, **kwargs):
        made = counted(self.name, plain, self, *args, **kwargs)
        # What no kernel has computed: nothing, and lengths for which there is room.
        for name, value in made.items():
            if isinstance(value, np.ndarray):
                of = made.get(re.sub("_len(s|gths)$", "", name))
                value[...] = 0 if of is value else runner.shape_of(of)[1]
        return made

    def run_in_places(self, *args):
        return counted(self._runner.name, replayed, self, *args)

    runner.Runner.run, replay.Replay.run = run, run_in_places
    return found


def search(
    counts: Counts, path: str, warm_up: int = 1, cuda_graphs: bool = False
) -> dict[str, Counter[str]]:
    """A beam search of six utterances, after those that warm up."""
    import numpy as np

    from espnet_onnx_plugin import Speech2Text

    options = dict(beam_size=4, ctc_weight=0.3, maxlenratio=-STEPS, lm_weight=0.5)
    device = dict(cuda_graphs=cuda_graphs)
    speech2text = Speech2Text(path, "cuda", session=device, **options)
    random = np.random.default_rng(0)
    found = watch_runs(counts)
    for _ in range(warm_up + 1):
        found.clear()
        batch = [random.standard_normal(6000 - 300 * i) for i in range(6)]
        speech2text.batch([speech2text.prepare(one) for one in batch])
    return found


def search_again(counts: Counts, path: str) -> dict[str, Counter[str]]:
    """A beam search of six utterances, whose steps were all recorded before."""
    return search(counts, path, 3, True)


def repeat(counts: Counts, *paths: str) -> dict[str, dict[str, int]]:
    """Four runs of each step graph, on the same sizes."""
    import numpy as np
    import onnxruntime

    from espnet_onnx_plugin.runtime.core import gpu
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.runtime.core.replay import Replay
    from espnet_onnx_plugin.runtime.core.runner import Runner
    from espnet_onnx_plugin.runtime.core.session import open_graph
    from espnet_onnx_plugin.runtime.core.values import DTYPES

    gpu.start("cuda")
    sizes = dict(utterances=3, hypotheses=4, rows=12, kept=9, nodes=21, seen=21)
    found = {}
    for path in paths:
        session = open_graph(Path(path), Device("cuda"), "fp32", replays=True)
        feeds = {
            each.name: np.ones(
                [sizes.get(a, 17) if isinstance(a, str) else a for a in each.shape],
                DTYPES[each.type],
            )
            for each in session.get_inputs()
        }
        names = [output.name for output in session.get_outputs()]
        made = onnxruntime.InferenceSession(path).run(names, feeds)
        described = {n: (a.dtype.type, a.shape) for n, a in zip(names, made)}
        steps = Replay(Runner(session, "cuda", path), "cuda")
        before = [getattr(counts, name) for name in COUNTED]
        for _ in range(4):
            steps.run(feeds, described)
        found[path] = {
            name: getattr(counts, name) - value for name, value in zip(COUNTED, before)
        }
    return found


def speak(counts: Counts, path: str) -> dict[str, Counter[str]]:
    """Speech of two lengths, after some that warms up."""
    import numpy as np

    from espnet_onnx_plugin.runtime.synthesis import vocoder
    from espnet_onnx_plugin.runtime.synthesis.torch_rng import Noise
    from espnet_onnx_plugin.runtime.tts import Text2Speech

    ours = Text2Speech(path, "cuda").vocoder
    dim = ours._session.graph.inputs["feats"].axes[1]
    found = watch_runs(counts)
    for frames in (700, 500, 320):
        feats = np.zeros((frames, dim), np.float32)
        ours(vocoder.VocoderInputs(feats), Noise(0))
        if frames == 700:
            found.clear()
    return found


def place(counts: Counts, *paths: str) -> dict[str, list[str]]:
    """Operators that get something from the GPU though they run on the host."""
    import tempfile

    import onnx
    import onnxruntime

    from espnet_onnx_plugin.bundle import read_bundle
    from espnet_onnx_plugin.runtime.core import gpu
    from espnet_onnx_plugin.runtime.core.device import Device
    from espnet_onnx_plugin.runtime.core.providers import providers
    from espnet_onnx_plugin.runtime.core.session import session_options

    device, found = Device("cuda"), {}
    gpu.start("cuda")
    for path in paths:
        bundle = read_bundle(path)
        for role, graph in bundle.manifest.graphs.items():
            options = session_options(device)
            with tempfile.TemporaryDirectory() as directory:
                placed = Path(directory) / "placed.onnx"
                options.optimized_model_filepath = str(placed)
                onnxruntime.InferenceSession(
                    str(bundle.file(graph.file.name)),
                    options,
                    providers=providers(device, graph),
                    enable_fallback=0,
                )
                nodes = onnx.load(placed, load_external_data=False).graph.node
            copied = {n.output[0] for n in nodes if n.op_type == "MemcpyToHost"}
            found[f"{path} {role}"] = sorted(
                node.op_type for node in nodes if copied & {*node.input}
            )
    return found


def main() -> None:
    """Count, in this process."""
    directory, name, *paths = sys.argv[1:]
    libraries = Path(directory)
    if not all((libraries / library).is_file() for library in LIBRARIES.values()):
        build(libraries)
    counted = globals()[name](load(libraries), *paths)
    print(json.dumps(counted))


if __name__ == "__main__":
    main()
