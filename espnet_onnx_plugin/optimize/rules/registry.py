"""The rules, in the order in which they run."""

from dataclasses import dataclass
from typing import Callable, Dict, Tuple

import onnx
import onnx_ir as ir

from espnet_onnx_plugin.optimize.rules import (
    attention,
    conv1d,
    depthwise_conv,
    flatten_order,
    merged_projections,
    minimal_filtering,
    pointwise_conv,
    position_table,
    rel_shift,
    scale,
    softmax_mask,
    split_conv,
    transpose,
    transposed_conv,
)
from espnet_onnx_plugin.optimize.rules.graph import Graph, with_shapes

_ALL = ("cpu", "cuda")


@dataclass(frozen=True)
class Rule:
    """A rewriting.

    Attributes:
        name: what the manifest and the tables call it.
        apply: rewrites a graph wherever the rule matches; returns how often.
        providers: where it pays and can run.
        for_floats: whether the quantizer has to see a graph without it.
    """

    name: str
    apply: Callable[[Graph], int]
    providers: Tuple[str, ...] = _ALL
    for_floats: bool = False

    @property
    def what(self) -> str:
        """The first line of the rule's docstring."""
        return (self.apply.__doc__ or "").strip().splitlines()[0]


RULES = (
    Rule("pointwise_conv", pointwise_conv.apply),
    Rule("depthwise_conv", depthwise_conv.apply, ("cpu",)),
    Rule("transpose", transpose.apply),
    Rule("split_conv", split_conv.apply),
    Rule("minimal_filtering", minimal_filtering.apply, ("cpu",), for_floats=True),
    Rule("transposed_conv", transposed_conv.apply, ("cpu",)),
    Rule("conv1d", conv1d.apply, ("cpu",)),
    Rule("flatten_order", flatten_order.apply, ("cpu",)),
    Rule("scale", scale.apply),
    Rule("rel_shift", rel_shift.apply),
    Rule("attention", attention.apply, ("cpu",)),
    Rule("merged_projections", merged_projections.apply),
    Rule("softmax_mask", softmax_mask.apply),
    Rule("position_table", position_table.apply),
)


def apply_rules(
    model: onnx.ModelProto, provider: str, rules: Tuple[Rule, ...] = RULES
) -> Tuple[onnx.ModelProto, Dict[str, int]]:
    """Rewrite a graph for a provider.

    Products with constant weights stay MatMul and Gemm, which onnxruntime's quantizer
    knows; the rest may become operators of onnxruntime's own where the provider has
    them.

    Args:
        model: the graph with its weights; it stays as it is.
        provider: where it will run, ``cpu`` or ``cuda``.
        rules: those to apply, in order.

    Returns:
        The new graph, and how often each rule for this provider matched.
    """
    rewritten = with_shapes(model)
    graph = Graph(rewritten)
    counts = {}
    for rule in rules:
        if provider in rule.providers:
            counts[rule.name] = rule.apply(graph)
            graph.remove_unused()
    graph.sort()
    result = ir.to_proto(rewritten)
    # Shapes of what was rewritten would be wrong; onnxruntime infers them again.
    del result.graph.value_info[:]
    return result, counts
