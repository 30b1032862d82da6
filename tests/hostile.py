"""Files as a stranger may make them: each would do something, and is to be refused.

``make_pickles`` and the others write the corpus and say of each file what the line has
to name that refuses it. What a file would do, were it taken, is to make ``canary``.
"""

from __future__ import annotations

import functools
import io
import os
import pickle
import tarfile
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
import yaml
from onnx import TensorProto, helper


class Reduced:
    """Calls a function when a pickle of it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self._made = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self._made


class Stated:
    """Calls a function with its state when a pickle of it is loaded."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Stated, (), "state"

    def __setstate__(self, state: Any) -> None:
        raise AssertionError("the state of an object was set")


def _zipped(content: bytes) -> bytes:
    """A file as torch writes it, around a pickle."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", content)
        archive.writestr("archive/version", "3\n")
        archive.writestr("archive/byteorder", "little")
    return file.getvalue()


def _saved(content: Any, zipped: bool = True) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=zipped)
    return file.getvalue()


def _script() -> bytes:
    file = io.BytesIO()
    torch.jit.save(torch.jit.script(torch.nn.ReLU()), file)
    return file.getvalue()


def _tar() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            content = pickle.dumps(Reduced(os.system, "true"), 2)
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def make_pickles(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Checkpoints, each with the name of what it holds."""
    touch = f"touch '{canary}'"
    call = Reduced(os.system, touch)
    weights = {"ctc.ctc_lo.bias": torch.zeros(3)}
    chain = Reduced(getattr, Reduced(__import__, "os"), "system")
    inst = f'(S"{touch}"\nios\nsystem\n.'.encode()
    objects = np.empty(1, object)
    objects[0] = call
    system = "posix.system"
    return {
        "system": (_saved(call), system),
        "system_legacy": (_saved(call, zipped=False), system),
        "mkdir": (_saved({**weights, "x": Reduced(os.mkdir, str(canary))}), "mkdir"),
        "nested": (_saved(dict(model=dict(a=[(weights, {"b": call})]))), system),
        "key": (_saved({"model": weights, Reduced(os.getenv, touch): 1}), "os.getenv"),
        "of_numpy": (_saved(dict(model=weights, x=objects)), "ObjectDType"),
        "getattr": (_saved(chain), "(getattr)"),
        "partial": (_saved(functools.partial(os.system, touch)), "functools.partial"),
        "module": (_saved(torch.nn.Linear(1, 1)), "torch.nn.modules.linear.Linear"),
        "state": (_saved(Stated()), "hostile.Stated"),
        "eval": (_saved(Reduced(eval, f"open({str(canary)!r}, 'w')")), "(eval)"),
        "bare": (pickle.dumps(call, 2), system),
        "bare_protocol_4": (pickle.dumps(call, 4), system),
        "zip_protocol_4": (_zipped(pickle.dumps(call, 4)), system),
        "instance": (inst, "os.system"),
        "zip_instance": (_zipped(inst), "os.system"),
        "script": (_script(), "TorchScript"),
        "tar": (_tar(), "legacy .tar"),
    }


#: Paths that lead out of a directory, and what has to lie there for a link.
BAD_NAMES = {
    "absolute": lambda name, outside: str(outside / name),
    "parent": lambda name, outside: f"../{outside.name}/{name}",
    "below": lambda name, outside: f"sub/{name}",
    "link": lambda name, outside: name,
}


def files_in(content: Any) -> Iterator[dict[str, Any]]:
    """Every entry of a file in what a manifest holds."""
    if isinstance(content, dict):
        if set(content) == {"name", "size", "sha256"}:
            yield content
        for value in content.values():
            yield from files_in(value)


def _tensor(location: str, name: str = "w") -> TensorProto:
    tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", "4")):
        tensor.external_data.add(key=key, value=value)
    return tensor


def _model(nodes: Any, tensors: Any = (), **more: Any) -> onnx.ModelProto:
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])
    graph = helper.make_graph(nodes, "g", [], [output], list(tensors), **more)
    return helper.make_model(graph)


def make_graphs(location: str) -> dict[str, bytes]:
    """Graphs that read a file, named in each place where ONNX can name one."""
    identity = helper.make_node("Identity", ["w"], ["y"])
    tensor = _tensor(location)
    constant = helper.make_node("Constant", [], ["y"], value=tensor)
    several = helper.make_node("Other", [], ["y"], domain="x")
    several.attribute.append(helper.make_attribute("ts", [tensor]))
    branch = helper.make_graph(
        [constant], "b", [], [helper.make_tensor_value_info("y", 1, [1])]
    )
    choice = helper.make_node(
        "If", ["c"], ["y"], then_branch=branch, else_branch=branch
    )
    deep = helper.make_graph(
        [choice], "d", [], [helper.make_tensor_value_info("y", 1, [1])]
    )
    deep = helper.make_node("If", ["c"], ["y"], then_branch=deep, else_branch=deep)
    sparse = helper.make_sparse_tensor(
        tensor, helper.make_tensor("i", TensorProto.INT64, [1], [0]), [1]
    )
    of_nodes = helper.make_node("Constant", [], ["y"], sparse_value=sparse)
    function = helper.make_function("x", "F", [], ["y"], [constant], [])
    called = _model([helper.make_node("F", [], ["y"], domain="x")])
    called.functions.append(function)
    defaults = _model([identity])
    with_default = helper.make_function("x", "F", [], ["y"], [identity], [])
    with_default.attribute_proto.append(helper.make_attribute("v", tensor))
    defaults.functions.append(with_default)
    training = _model([identity])
    training.training_info.add().initialization.initializer.append(tensor)
    models = {
        "initializer": _model([identity], [tensor]),
        "constant": _model([constant]),
        "tensors": _model([several]),
        "subgraph": _model([choice]),
        "deep_subgraph": _model([deep]),
        "sparse_initializer": _model([identity], sparse_initializer=[sparse]),
        "sparse_constant": _model([of_nodes]),
        "function": called,
        "function_default": defaults,
        "training": training,
    }
    return {name: model.SerializeToString() for name, model in models.items()}


def make_yamls(canary: Path) -> dict[str, tuple[str, str]]:
    """Texts that are no data, or too much of it, with words of the line."""
    doubled = ["a0: &a0 {k: 1}"]
    doubled += [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 40)]
    merged = ["a0: &a0 {k: 1}"]
    merged += [f"a{i}: &a{i} {{<<: [*a{i - 1}, *a{i - 1}]}}" for i in range(1, 40)]
    return {
        "call": (f"a: !!python/object/apply:os.mkdir ['{canary}']", "os.mkdir"),
        "new": (f"a: !!python/object/new:os.mkdir ['{canary}']", "os.mkdir"),
        "name": ("a: !!python/name:os.system", "os.system"),
        "module": ("a: !!python/module:os", "module:os"),
        "custom": ("a: !x 1", "!x"),
        "itself": ("a: &a [*a]", "'a'"),
        "doubled": ("\n".join(doubled), "1,000,000 values"),
        "merged": ("\n".join(merged), "1,000,000 values"),
        "deep": ("a: " + "[" * 100_000, "nesting depth"),
        "less_deep": ("a: " + "[" * 40 + "]" * 40, "lie in each other"),
        "deep_blocks": (
            "\n".join(" " * i + "a:" for i in range(2000)),
            "lie in each other",
        ),
        "digits": ("a: " + "9" * 5000, "limit"),
        "date": ("a: 2001-99-99", "month"),
        "bytes": ("a: \x00", "no YAML of settings"),
    }


#: As above, of texts that are data, but not as this package writes them.
UNPLAIN = {
    "anchor": ("a: &x 1\nb: 2", "the anchor 'x'"),
    "alias": ("a: &x 1\nb: *x", "the anchor 'x'"),
    "tag": ("a: !!str 1", "the tag"),
    "twice": ("a: 1\nb: 2\na: 3", "key 'a' is there twice"),
    "twice_below": ("- {a: 1, 'a': 3}", "key 'a' is there twice"),
    "key": ("? [a, b]\n: 1", "a key is no text"),
}


#: Ids of utterances that no file may be named after.
IDS = {
    "parent": "../canary",
    "absolute": "/tmp/canary",
    "below": "a/b",
    "zero": "a\0b",
    "dot": ".",
    "dots": "..",
    "more_dots": "...",
    "dash": "-rf",
    "long": "a" * 251,
    "long_in_bytes": "ä" * 126,
}

#: Ids and texts that a page shows, and that would be part of it.
SHOWN = (
    "<script>alert(1)</script>",
    '"onmouseover="alert(1)',
    "'><img/src=x>",
    "&lt;&#x3c;",
    "{title}%s",
)


def meta(files: Mapping[str, str]) -> bytes:
    """A ``meta.yaml`` that names files."""
    config = {"asr_train_config": "config.yaml"}
    return yaml.safe_dump(dict(yaml_files=config, files=dict(files))).encode()
