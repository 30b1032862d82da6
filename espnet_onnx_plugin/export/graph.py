"""A graph to be, and its export: from a torch module to an ONNX file."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx
import onnx_ir
import torch

from espnet_onnx_plugin.bundle import (
    Axis,
    Graph,
    State,
    Tensor,
    describe,
    weights_path,
)
from espnet_onnx_plugin.bundle.graph_file import THRESHOLD
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.operators import replace_prelu
from espnet_onnx_plugin.export.patches import (
    one_operator_table,
    small_numbers_kept,
    traceable,
)

logger = logging.getLogger(__name__)

#: ONNX operator set of exported graphs: the newest that onnxruntime's optimizers and
#: quantizers of the supported range all know.
OPSET = 20

#: Sizes of the axes of modules while they are traced; all differ, so that none is taken
#: for another.
SIZES = dict(
    utterances=2,
    hypotheses=3,
    rows=5,
    kept=4,
    seen=4 + 2 * 3,  # what is kept and the rows
    nodes=9,
    tokens=6,
    frames=7,
    frames_of_text=8,
    prompt=10,
    symbols=12,
    frames_out=14,
    history=15,
)


@dataclass(frozen=True)
class GraphSpec:
    """A graph to be: a module, and its tensors by name.

    The module takes the inputs and then the states, each by its place, and gives the
    outputs and then the states of the next step.

    Attributes:
        module: in eval mode.
        inputs, outputs: the tensors that are not states, in order; an axis that is a
            string is free.
        states: the recurrent states, in order.
        sizes: of free axes while the module is traced, at least 2, where they are not
            those of :data:`SIZES`.
    """

    module: torch.nn.Module
    inputs: Mapping[str, Tensor]
    outputs: Mapping[str, Tensor]
    states: Mapping[str, State] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)

    def example(self) -> list[torch.Tensor]:
        """Inputs and states of these sizes; a trace sees no values."""
        sizes = {**SIZES, **self.sizes}
        return [
            torch.zeros(
                [
                    sizes[axis] if isinstance(axis, str) else axis
                    for axis in tensor.axes
                ],
                dtype=getattr(torch, tensor.dtype),
            )
            for tensor in (*self.inputs.values(), *self.states.values())
        ]

    def input_axes(self) -> dict[str, Sequence[Axis]]:
        """Axes of what the graph reads."""
        axes = {name: tensor.axes for name, tensor in self.inputs.items()}
        return axes | {
            name: self._axes_of_step(state, "previous")
            for name, state in self.states.items()
        }

    def output_axes(self) -> dict[str, Sequence[Axis]]:
        """Axes of what the graph gives."""
        axes = {name: tensor.axes for name, tensor in self.outputs.items()}
        return axes | {
            f"next_{name}": self._axes_of_step(state, "next")
            for name, state in self.states.items()
        }

    def _axes_of_step(self, state: State, when: str) -> Sequence[Axis]:
        """Axes of a state: each step has its own number of rows and nodes.

        That of the inputs, if they have rows as well: the states are theirs.
        """
        shared = {axis for tensor in self.inputs.values() for axis in tensor.axes}
        names = {a: f"{when}_{a}" for a in ("rows", "nodes") if a not in shared}
        return tuple(names.get(axis, axis) for axis in state.axes)


class GraphModule(torch.nn.Module):
    """A module that becomes one graph, see :class:`GraphSpec`.

    Attributes:
        inputs, outputs: its tensors by name.
        states: recurrent states by name.
        sizes: of axes, where the trace needs others than usual.
    """

    inputs: Mapping[str, Tensor] = {}
    outputs: Mapping[str, Tensor] = {}
    states: Mapping[str, State] = {}
    sizes: Mapping[str, int] = {}

    def graph_spec(self) -> GraphSpec:
        """The graph."""
        return GraphSpec(self, self.inputs, self.outputs, self.states, self.sizes)


def export_graphs(specs: Mapping[str, GraphSpec], directory: Path) -> dict[str, Graph]:
    """Write graphs by role, see :func:`export_graph`."""
    graphs = {}
    for role, spec in specs.items():
        logger.info("exporting the %s", role)
        graphs[role] = export_graph(spec, directory / f"{role}.onnx")
    return graphs


def export_graph(spec: GraphSpec, path: Path) -> Graph:
    """Trace a module, write it, and describe what was written.

    Raises:
        PluginError: if torch cannot trace or convert the module.
    """
    write_graph(spec, path)
    return describe(path, spec.inputs, spec.outputs, spec.states)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress and advice for its developers off the log."""
    loggers = [
        logging.getLogger(n)
        for n in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")
    ]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels):
                logger.setLevel(level)


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Collect no garbage, for the time of the block.

    A trace makes very many objects that live until it ends. With the table of operators
    it is a quarter of the time of a tiny graph, a twentieth of a large one's.
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


def write_graph(spec: GraphSpec, path: Path) -> None:
    """Trace a module and write it, see :func:`export_graph`."""
    inputs, outputs = spec.input_axes(), spec.output_axes()
    try:
        program = _trace(spec, inputs, outputs)
    except PluginError:
        raise
    except Exception as e:  # whatever the model's code or torch's exporter raises
        logger.debug("torch's exporter failed", exc_info=True)
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise PluginError(
            f"torch {torch.__version__} could not export {path.stem}: {reason} "
            "(--log_level DEBUG shows where)"
        )
    replace_prelu(program.model)
    # An input that nothing reads is left out: nobody has to bring it to the device.
    given = program.model.graph.inputs
    given[:] = [value for value in given if value.uses() or value.is_graph_output()]
    # The graph is edited without its weights, which may be large.
    onnx_ir.save(
        program.model,
        path,
        external_data=weights_path(path).name,
        size_threshold_bytes=THRESHOLD,
    )
    model = onnx.load(path, load_external_data=False)
    _name_axes(model.graph.input, inputs)
    _name_axes(model.graph.output, outputs)
    # Shapes in between were worked out from the exporter's own symbols; onnxruntime
    # infers them again from the named axes.
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    onnx.save(model, path)


def _trace(
    spec: GraphSpec, inputs: Mapping[str, Sequence[Axis]], outputs: Iterable[str]
) -> torch.onnx.ONNXProgram:
    with torch.no_grad(), _quiet(), _no_collection():
        with traceable():
            exported = torch.export.export(
                spec.module,
                tuple(spec.example()),
                dynamic_shapes=_dynamic_shapes(spec.module, inputs.values()),
                strict=False,
            )
        with one_operator_table(), small_numbers_kept():
            return torch.onnx.export(
                exported,
                input_names=list(inputs),
                output_names=list(outputs),
                opset_version=OPSET,
                dynamo=True,
                verbose=False,
            )


def _dynamic_shapes(
    module: torch.nn.Module, inputs: Iterable[Sequence[Axis]]
) -> tuple[object, ...]:
    """Free axes as torch.export wants them: those of ``*args`` in a tuple of theirs."""
    shapes: tuple[object, ...] = tuple(
        {
            i: torch.export.Dim.AUTO
            for i, axis in enumerate(axes)
            if isinstance(axis, str)
        }
        for axes in inputs
    )
    kinds = [p.kind for p in inspect.signature(module.forward).parameters.values()]
    variadic = kinds.count(inspect.Parameter.VAR_POSITIONAL)
    fixed = len(kinds) - variadic
    if variadic and len(shapes) > fixed:
        return (*shapes[:fixed], shapes[fixed:])
    return shapes


def _name_axes(
    values: Iterable[onnx.ValueInfoProto], tensors: Mapping[str, Sequence[Axis]]
) -> None:
    for value in values:
        dims = value.type.tensor_type.shape.dim
        axes = tensors[value.name]
        if len(dims) != len(axes):
            raise PluginError(
                f"{value.name} came out with {len(dims)} axes, not {axes}"
            )
        for dim, axis in zip(dims, axes):
            if isinstance(axis, str):
                if dim.HasField("dim_value"):
                    raise PluginError(
                        f"axis {axis} of {value.name} came out fixed to "
                        f"{dim.dim_value}: the graph would take no other size"
                    )
                dim.dim_param = axis
