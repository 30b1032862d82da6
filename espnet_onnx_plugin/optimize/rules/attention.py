"""Attention as one operator."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import (
    CONTRIB,
    Editor,
    attribute,
    biased_linear,
    constant,
    made_by,
    only_user,
    scalar,
    split_operands,
    tail,
)

#: A masked score: its exponential is 0, and a position's bias added to it is finite.
_MASKED = -1e30


def apply(editor: Editor) -> int:
    """Scores, mask, softmax and weighted sum become MultiHeadAttention.

    The biases of the projections go into it, the position scores (ESPnet's) or biases
    (WavLM's) are its attention_bias, and the two biases of a relative-position query
    (ESPnet's pos_bias_u and pos_bias_v) leave one addition. Saves the transposes and
    every pass over the scores. CPU: measured there only.
    """
    count = 0
    for node in editor.nodes("Softmax"):
        found = _match(node)
        if found is not None:
            _rewrite(editor, found)
            count += 1
    return count


@dataclass
class _Heads:
    """A tensor split in heads: its source, the split's target shape, and what is added.

    Attributes:
        source: (batch, time, heads * d).
        shape: the Reshape's target (batch, time, heads, d).
        heads, d: its last two numbers.
        perm: from (batch, time, heads, d) to the operand of the product.
        added: the constant (heads * d,) added after the split, or None.
    """

    source: ir.Value
    shape: ir.Value
    heads: int
    d: int
    perm: tuple[int, ...]
    added: np.ndarray | None = None


@dataclass
class _Attention:
    """Operands; ``positions`` is added to the scores, after ``positions_scale``."""

    output: ir.Value
    output_shape: ir.Value
    q: _Heads
    k: _Heads
    v: _Heads
    mask: ir.Value | None
    scale: float
    positions: ir.Value | None
    positions_scale: float


def _match(softmax: ir.Node) -> _Attention | None:
    if attribute(softmax, "axis", -1) not in (-1, 3):
        return None
    scores, mask = softmax.inputs[0], None
    before = made_by(scores, "Where")
    probabilities = softmax.outputs[0]
    after = only_user(probabilities)
    if after is None:
        return None
    if before is not None:
        mask, lowest, scores = before.inputs
        if (scalar(lowest) or 0.0) > -1e30 or not _is_key_mask(mask):
            return None
        if after.op_type == "Where":
            if after.inputs[0] is not mask or scalar(after.inputs[1]) != 0.0:
                return None
            probabilities = after.outputs[0]
    positions, positions_scale = None, 1.0
    found = _scaled_product(scores)
    if found is None and made_by(scores, "Add") is not None:
        split = split_operands(scores.producer(), _scaled_product)
        positions, found = split if split is not None else (None, None)
        if positions is not None and _has_one_query(positions):
            return None  # MultiHeadAttention takes no bias that all queries share
    if found is None:
        return None
    product, scale = found
    if positions is None and made_by(product, "Add") is not None:
        # Both are products: the keys' is the one whose operands are split in heads.
        found = split_operands(product.producer(), _query_and_key)
        if found is None:
            return None
        positions, (q, k) = found
        positions_scale = scale
    else:
        found = _query_and_key(product)
        if found is None:
            return None
        q, k = found
    output = _output(probabilities)
    if output is None:
        return None
    v, merged = output
    if not q.heads == k.heads == v.heads:
        return None
    return _Attention(
        merged.outputs[0],
        merged.inputs[1],
        q,
        k,
        v,
        mask,
        scale,
        positions,
        positions_scale,
    )


def _has_one_query(bias: ir.Value) -> bool:
    """Whether a bias is (batch, heads, 1, keys)."""
    return bias.shape is not None and len(bias.shape) == 4 and bias.shape[2] == 1


def _scaled_product(value: ir.Value) -> tuple[ir.Value, float] | None:
    """Find the value that another is a multiple of, and the factor."""
    node = made_by(value, "Div", "Mul")
    number = None if node is None else scalar(node.inputs[1])
    if number is None:
        return None
    return node.inputs[0], 1.0 / number if node.op_type == "Div" else number


def _output(probabilities: ir.Value) -> tuple[_Heads, ir.Node] | None:
    product = only_user(probabilities, "MatMul")
    if product is None or product.inputs[0] is not probabilities:
        return None
    v = _heads(product.inputs[1])
    if v is None or v.perm != (0, 2, 1, 3):
        return None
    transpose = only_user(product.outputs[0], "Transpose")
    if transpose is None or list(attribute(transpose, "perm", ())) != [0, 2, 1, 3]:
        return None
    merged = only_user(transpose.outputs[0], "Reshape")
    if merged is None or tail(merged.inputs[1], 1) != (v.heads * v.d,):
        return None
    return (v, merged) if _rank(merged.inputs[1]) == 3 else None


def _query_and_key(product: ir.Value) -> tuple[_Heads, _Heads] | None:
    node = made_by(product, "MatMul")
    if node is None:
        return None
    q, k = _heads(node.inputs[0]), _heads(node.inputs[1])
    if q is None or k is None or k.added is not None:
        return None
    if q.perm != (0, 2, 1, 3) or k.perm != (0, 2, 3, 1):
        return None
    # The position table is split in heads too, but once for the whole batch.
    batch = tail(k.shape, 4)
    return None if batch is not None and batch[0] == 1 else (q, k)


def _heads(value: ir.Value) -> _Heads | None:
    perm: tuple[int, ...] = (0, 1, 2, 3)
    while (node := made_by(value, "Transpose")) is not None:
        step = attribute(node, "perm", ())
        if len(step) != 4:
            return None
        perm = tuple(step[i] for i in perm)
        value = node.inputs[0]
    added = None
    if made_by(value, "Add") is not None:
        found = split_operands(value.producer(), constant)
        if found is None or found[1].ndim != 2:
            return None
        value, added = found
    node = made_by(value, "Reshape")
    if node is None or _rank(node.inputs[1]) != 4:
        return None
    last = tail(node.inputs[1], 2)
    if last is None or min(last) < 1 or (added is not None and added.shape != last):
        return None
    flat = None if added is None else added.reshape(-1)
    return _Heads(node.inputs[0], node.inputs[1], *last, perm, flat)


def _rank(shape: ir.Value) -> int | None:
    size = shape.shape[0] if shape.shape is not None and len(shape.shape) else None
    return size if isinstance(size, int) else None


def _is_key_mask(mask: ir.Value) -> bool:
    """Whether a mask is (batch, 1, 1, keys)."""
    shape = mask.shape
    return shape is not None and len(shape) == 4 and shape[1] == shape[2] == 1


def _rewrite(editor: Editor, found: _Attention) -> None:
    q, k, v = found.q, found.k, found.v
    inputs: list[ir.Value | None] = []
    biases: list[np.ndarray] = []
    for heads in (q, k, v):
        source, bias = heads.source, np.zeros(heads.heads * heads.d, np.float32)
        layer = biased_linear(source)
        if layer is not None:
            source, bias = layer[0].outputs[0], layer[1]
        if heads.added is not None:
            bias = bias + heads.added
        inputs.append(_merged_heads(editor, heads, source))
        biases.append(bias)
    bias = np.concatenate(biases)
    mask = None
    if found.mask is not None:
        mask = editor.once(_key_mask, found.mask)
    positions = found.positions
    if positions is not None and found.positions_scale != 1.0:
        positions = _scaled(editor, positions, found.positions_scale)
    y = editor.put(
        "MultiHeadAttention",
        *inputs,
        editor.add_constant(bias) if bias.any() else None,
        mask,
        positions,
        domain=CONTRIB,
        num_heads=q.heads,
        scale=float(found.scale),
        mask_filter_value=_MASKED,
    )
    editor.replace(found.output, y)


def _merged_heads(editor: Editor, heads: _Heads, source: ir.Value) -> ir.Value:
    """(batch, time, heads * d), whatever axes the source has before its last."""
    shape = editor.once(_merged_shape, heads.shape, heads.heads * heads.d)
    return editor.put("Reshape", source, shape)


def _merged_shape(editor: Editor, shape: ir.Value, size: int) -> ir.Value:
    rows = editor.put("Slice", shape, editor.ints(0), editor.ints(2))
    return editor.put("Concat", rows, editor.ints(size), axis=0)


def _key_mask(editor: Editor, mask: ir.Value) -> ir.Value:
    keys = editor.put("Squeeze", editor.put("Not", mask), editor.ints(1, 2))
    return editor.put("Cast", keys, to=ir.DataType.INT32.value)


def _scaled(editor: Editor, value: ir.Value, factor: float) -> ir.Value:
    """A value times a number, which goes into constant weights where there are any."""
    node = value.producer()
    if node is not None and only_user(value) is not None:
        if node.op_type in ("Reshape", "Transpose", "Slice"):
            _rescale(editor, node, 0, factor)
            return value
        if node.op_type == "MatMul":
            weight = constant(node.inputs[1])
            if weight is None:
                _rescale(editor, node, 1, factor)
            else:
                scaled = editor.add_constant((weight * factor).astype(weight.dtype))
                node.replace_input_with(1, scaled)
            return value
    by = editor.add_constant(np.array(factor, np.float32))
    return editor.put("Mul", value, by)


def _rescale(editor: Editor, node: ir.Node, index: int, factor: float) -> None:
    node.replace_input_with(index, _scaled(editor, node.inputs[index], factor))
