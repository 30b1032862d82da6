"""Graphs that several tests need are exported once: an export takes seconds.

Two modules are the same where every layer, setting and weight of theirs is. The sizes
that a graph is traced with do not count: those of fixed axes stand in the axes, and a
free axis that came out fixed is refused.
"""

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import tempfile
import types
import weakref
from pathlib import Path

import pytest


class Fingerprint(pickle.Pickler):
    """Pickles modules and tensors as what they hold: torch writes addresses and ids."""

    def reducer_override(self, obj):
        import torch

        if isinstance(obj, torch.nn.Module):
            held = [item for item in vars(obj).items() if "state_dict" not in item[0]]
            return dict, ([("type", type(obj)), *held],)
        if isinstance(obj, torch.Tensor):
            array = obj.detach().resolve_conj().resolve_neg().numpy()
            content = hashlib.sha256(array.tobytes()).hexdigest()
            return str, (f"{type(obj)} {obj.dtype} {obj.shape} {content}",)
        if isinstance(obj, types.MethodType):  # of a module, which holds it again
            return str, (obj.__qualname__,)
        if isinstance(obj, weakref.ref):  # a recurrent layer's, to weights it holds too
            return str, ("",)
        return NotImplemented


def fingerprint(*values):
    """A name for values that hold the same; None where one cannot be pickled."""
    written = io.BytesIO()
    pickler = Fingerprint(written)
    pickler.fast = True  # equal strings are alike, whether they are one object or two
    try:
        pickler.dump(values)
    except (pickle.PicklingError, AttributeError, TypeError, ValueError):
        return None
    return hashlib.sha256(written.getvalue()).hexdigest()


@contextlib.contextmanager
def sharing(root):
    """Export no module of which ``root`` has the graph, and keep the others there."""
    from espnet_onnx_plugin.export import graph

    write_graph = graph.write_graph

    def write_once(spec, path):
        tensors = [dict(t) for t in (spec.inputs, spec.outputs, spec.states)]
        name = fingerprint(spec.module, tensors, path.name)
        if name is None:
            write_graph(spec, path)
            return
        kept = root / name
        if not kept.exists():
            aside = Path(tempfile.mkdtemp(dir=root))
            write_graph(spec, aside / path.name)
            with contextlib.suppress(OSError):  # another worker was faster
                aside.rename(kept)
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)
        path.parent.chmod(0o755)  # copytree gave it that of what it has copied

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "write_graph", write_once)
        yield


@pytest.fixture(scope="session", autouse=True)
def shared_graphs(tmp_path_factory):
    """Directory of the graphs that this run of the tests has exported.

    A module that was exported before, by any worker, is not exported again.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' common one
    root = root / "graphs"
    root.mkdir(exist_ok=True)
    with sharing(root):
        yield root
