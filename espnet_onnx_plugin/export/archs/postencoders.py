"""Encoders over an encoder's output: SLU's ``postencoder`` and ``deliberationencoder``.

``transformer`` and ``conformer`` in both roles; ESPnet has one class for the two.
"""

from __future__ import annotations

from espnet_onnx_plugin.export.registry import Arch, as_it_is, register

_TINY = dict(output_size=8, attention_heads=2, linear_units=12, num_blocks=1)
_CONFORMER = dict(_TINY, rel_pos_type="latest", macaron_style=True, cnn_module_kernel=3)

for _role in ("postencoder", "deliberationencoder"):
    register(
        Arch(role=_role, name="transformer", wrap=as_it_is, tiny={"linear": _TINY})
    )
    register(
        Arch(role=_role, name="conformer", wrap=as_it_is, tiny={"latest": _CONFORMER})
    )
