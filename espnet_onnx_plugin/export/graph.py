"""From a torch module to an ONNX file with named tensors and free sizes."""

from __future__ import annotations

import contextlib
import gc
import inspect
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import onnx
import onnx_ir
import torch

from espnet_onnx_plugin.bundle import Graph, State, Tensor, describe, weights_path
from espnet_onnx_plugin.bundle.graph_file import THRESHOLD
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.parts import Part
from espnet_onnx_plugin.export.patches import one_operator_table, traceable
from espnet_onnx_plugin.export.sequences import SEQUENCE_INPUTS, SequenceModule
from espnet_onnx_plugin.export.steps import GraphModule, StepModule
from espnet_onnx_plugin.runtime.core.encoder import LENS

logger = logging.getLogger(__name__)

#: ONNX operator set of exported graphs: the newest that onnxruntime's optimizers and
#: quantizers of the supported range all know.
OPSET = 20

#: Sizes of the axes of traced steps; all differ, so that none is taken for another.
_SIZES = dict(
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


def _name_axes(
    values: Sequence[onnx.ValueInfoProto], tensors: Mapping[str, Sequence]
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


def _trace(module, example, shapes, inputs, outputs) -> torch.onnx.ONNXProgram:
    with torch.no_grad(), _quiet(), _no_collection(), one_operator_table():
        with traceable():
            exported = torch.export.export(
                module, tuple(example), dynamic_shapes=shapes, strict=False
            )
        return torch.onnx.export(
            exported,
            input_names=inputs,
            output_names=outputs,
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )


def export_graph(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    inputs: Mapping[str, Sequence],
    outputs: Mapping[str, Sequence],
    path: Path,
) -> None:
    """Trace a module and write it.

    Args:
        module: in eval mode.
        example: one tensor for each input; sizes of free axes are at least 2.
        inputs, outputs: axes by tensor name; an axis that is a string is free.
        path: the file to write.

    Raises:
        PluginError: if torch cannot trace or convert the module.
    """
    shapes = tuple(
        {
            i: torch.export.Dim.AUTO
            for i, axis in enumerate(axes)
            if isinstance(axis, str)
        }
        for axes in inputs.values()
    )
    if any(p.kind == p.VAR_POSITIONAL for p in _parameters(module)):
        fixed = sum(p.kind != p.VAR_POSITIONAL for p in _parameters(module))
        if len(shapes) > fixed:
            shapes = (*shapes[:fixed], shapes[fixed:])
    try:
        program = _trace(module, example, shapes, list(inputs), list(outputs))
    except PluginError:
        raise
    except Exception as e:  # whatever the model's code or torch's exporter raises
        logger.debug("torch's exporter failed", exc_info=True)
        reason = " ".join(str(e).split())[:300] or type(e).__name__
        raise PluginError(
            f"torch {torch.__version__} could not export {path.stem}: {reason} "
            "(--log_level DEBUG shows where)"
        )
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


def _parameters(module: torch.nn.Module):
    return list(inspect.signature(module.forward).parameters.values())


def _axes(tensors: Mapping[str, object]) -> dict[str, Sequence]:
    return {name: tensor.axes for name, tensor in tensors.items()}


def _zeros(tensor) -> torch.Tensor:
    shape = [_SIZES.get(axis, axis) for axis in tensor.axes]
    return torch.zeros(shape, dtype=getattr(torch, tensor.dtype))


def export_frontend(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    shape: Sequence[int],
    path: Path,
) -> Graph:
    """Write a frontend's graph; ``example`` is (speech, lengths) of two utterances.

    ``shape`` is that of a frame.
    A frontend that gives every utterance as many frames says so in ``frames``.
    """
    inputs = {
        "speech": Tensor("float32", ("utterances", "samples")),
        "speech_lengths": Tensor("int64", ("utterances",)),
    }
    frames = getattr(module, "frames", "frames_in")
    outputs = {
        "feats": Tensor("float32", ("utterances", frames, *shape)),
        "feats_lengths": Tensor("int64", ("utterances",)),
    }
    export_graph(module, example, _axes(inputs), _axes(outputs), path)
    return describe(path, inputs, outputs, {})


def export_encoder(
    module: torch.nn.Module,
    example: Sequence[torch.Tensor],
    path: Path,
    names: tuple[str, str] = ("feats", "feats_lengths"),
) -> Graph:
    """Write an encoder graph.

    Args:
        module: with its ``outputs`` and ``others``.
        example: what it reads and the lengths, of two utterances.
        path: the file to write.
        names: of these inputs.
    """
    inputs = {
        names[0]: Tensor("float32", ("utterances", "frames_in", *example[0].shape[2:])),
        names[1]: Tensor("int64", ("utterances",)),
        **{name: tensor for name, (tensor, _) in module.others.items()},
    }
    example = (*example, *(value for _, value in module.others.values()))
    outputs = module.outputs
    export_graph(module, example, _axes(inputs), _axes(outputs), path)
    return describe(path, inputs, outputs, {})


def export_memory(decoder: GraphModule, dim: int, path: Path) -> Graph:
    """Write the graph that projects the encoder's output for a decoder."""
    inputs, example = {}, []
    for name, frames in decoder.reads.items():
        inputs[name] = Tensor("float32", ("utterances", frames, dim))
        inputs[f"{name}{LENS}"] = Tensor("int64", ("utterances",))
        length = _SIZES[frames]
        example += [torch.zeros(2, length, dim), torch.tensor([length, length - 2])]
    outputs = decoder.memory_tensors
    export_graph(decoder.memory, example, _axes(inputs), _axes(outputs), path)
    return describe(path, inputs, outputs, {})


def export_step(step: StepModule, vocabulary: int, path: Path) -> Graph:
    """Write the graph of one decoding step."""
    inputs = {**step.inputs, **step.memory_tensors}
    outputs = {"log_probs": Tensor("float32", ("rows", vocabulary))}
    if step.returns_hidden:
        outputs["hidden"] = Tensor("float32", ("rows", step.hidden_size))
    states: dict[str, State] = dict(step.states)
    export_graph(
        step,
        [_zeros(tensor) for tensor in (*inputs.values(), *states.values())],
        {**_axes(inputs), **_state_axes(states, "previous")},
        {
            **_axes(outputs),
            **{
                f"next_{name}": axes
                for name, axes in _state_axes(states, "next").items()
            },
        },
        path,
    )
    return describe(path, inputs, outputs, states)


def export_part(part: Part, path: Path) -> Graph:
    """Write a graph of a text-to-speech model."""
    inputs, states = part.inputs, part.states
    example = part.example({**_SIZES, **part.sizes}, torch.Generator().manual_seed(0))
    export_graph(
        part,
        list(example.values()),
        {**_axes(inputs), **_state_axes(states, "previous")},
        {
            **_axes(part.outputs),
            **{
                f"next_{name}": axes
                for name, axes in _state_axes(states, "next").items()
            },
        },
        path,
    )
    return describe(path, inputs, part.outputs, states)


def export_sequence(decoder: SequenceModule, vocabulary: int, path: Path) -> Graph:
    """Write the graph of a decoder of whole sequences."""
    inputs = {**SEQUENCE_INPUTS, **decoder.memory_tensors}
    outputs = {"scores": Tensor("float32", ("utterances", "tokens", vocabulary))}
    example = [_zeros(tensor) for tensor in inputs.values()]
    export_graph(decoder, example, _axes(inputs), _axes(outputs), path)
    return describe(path, inputs, outputs, {})


def _state_axes(states: Mapping[str, State], when: str) -> dict[str, Sequence]:
    """Axes of states, of which each step has its own number of rows and nodes."""
    names = {axis: f"{when}_{axis}" for axis in ("rows", "nodes")}
    return {
        name: tuple(names.get(axis, axis) for axis in state.axes)
        for name, state in states.items()
    }
