"""The rules, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import onnx_ir as ir

from espnet_onnx_plugin.optimize.editor import Editor, infer_shapes
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
    residual_norm,
    scale,
    softmax_mask,
    split_conv,
    transpose,
    transposed_conv,
)

_ALL = ("cpu", "cuda", "tensorrt")


@dataclass(frozen=True)
class Rule:
    """A rewriting.

    Attributes:
        name: what the manifest and the tables call it.
        apply: rewrites a graph wherever the rule matches; returns how often.
        providers: where it pays and can run.
        for_floats: whether the quantizer has to see a graph without it.
        unmeasured: where it can run and nobody has measured yet whether it pays: there
            ``scripts/measure_rules.py`` alone applies it.
    """

    name: str
    apply: Callable[[Editor], int]
    providers: tuple[str, ...] = _ALL
    for_floats: bool = False
    unmeasured: tuple[str, ...] = ()

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
    Rule("attention", attention.apply, ("cpu",), unmeasured=("cuda",)),
    Rule("merged_projections", merged_projections.apply),
    Rule("softmax_mask", softmax_mask.apply),
    Rule("position_table", position_table.apply, ("cpu",)),
    Rule("residual_norm", residual_norm.apply, ("cuda",), for_floats=True),
)


def on_trial(provider: str) -> tuple[Rule, ...]:
    """The rules for a provider, and those that have not been measured on it."""
    return tuple(
        replace(rule, providers=(*rule.providers, provider))
        for rule in RULES
        if provider in (*rule.providers, *rule.unmeasured)
    )


def apply_rules(
    model: ir.Model, provider: str, rules: tuple[Rule, ...] = RULES
) -> tuple[ir.Model, dict[str, int]]:
    """Rewrite a graph for a provider.

    Products with constant weights stay MatMul and Gemm, which onnxruntime's quantizer
    knows; the rest may become operators of onnxruntime's own where the provider has
    them.

    Args:
        model: the graph with its weights; it stays as it is.
        provider: where it will run.
        rules: those to apply, in order.

    Returns:
        The new graph, and how often each rule for this provider matched.
    """
    editor = Editor(model.clone())
    infer_shapes(editor.model)
    counts = {}
    for rule in rules:
        if provider in rule.providers:
            counts[rule.name] = rule.apply(editor)
            editor.tidy()
    # Shapes of what was rewritten would be wrong; onnxruntime infers them again.
    made = [value for node in editor.graph for value in node.outputs]
    for value in (*editor.graph.initializers.values(), *made):
        if not value.is_graph_output():
            value.type = value.shape = None
    return editor.model, counts
