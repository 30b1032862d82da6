"""Graphs that several tests need are exported once: an export takes seconds.

Two modules are the same where every layer, setting and weight of theirs is. Of the
example that a graph is traced with, the types count: a trace sees no values, sizes of
fixed axes stand in the axes, and a free axis that came out fixed is refused.
"""

import contextlib
import hashlib
import io
import os
import pickle
import shutil
import weakref

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


@pytest.fixture(scope="session", autouse=True)
def shared_graphs(tmp_path_factory):
    """A module that was exported before, by any worker, is not exported again."""
    from espnet_onnx_plugin.export import graph

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the workers' common one
    root = root / "graphs"
    root.mkdir(exist_ok=True)
    export_graph = graph.export_graph

    def export_once(module, example, inputs, outputs, path):
        types = [str(tensor.dtype) for tensor in example]
        name = fingerprint(module, types, dict(inputs), dict(outputs), path.name)
        if name is None:
            export_graph(module, example, inputs, outputs, path)
            return
        kept = root / name
        if not kept.exists():
            aside = tmp_path_factory.mktemp("graph")
            export_graph(module, example, inputs, outputs, aside / path.name)
            with contextlib.suppress(OSError):  # another worker was faster
                aside.rename(kept)
        shutil.copytree(kept, path.parent, dirs_exist_ok=True)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "export_graph", export_once)
        yield
