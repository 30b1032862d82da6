#!/usr/bin/env python3
"""Write the README's table of supported architectures from the registry.

Usage: scripts/support_table.py          (needs the extra export)
"""

from pathlib import Path

from espnet_onnx_plugin.export.registry import all_archs

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- support table: made by scripts/support_table.py -->\n"
END = "<!-- end of the support table -->\n"
ROLES = (
    "frontend",
    "normalize",
    "preencoder",
    "encoder",
    "postencoder",
    "deliberationencoder",
    "decoder",
    "postdecoder",
    "transducer_block",
    "transducer_decoder",
    "lm",
    "tts",
    "svs",
    "separator",
    "separator_nomask",
    "mask_module",
    "attractor",
    "extractor",
    "diffusion",
    "vocoder",
    "feats_extract",
)


def table() -> str:
    """The table in Markdown."""
    lines = ["| `config.yaml` | choice | limits |\n", "|---|---|---|\n"]
    archs = sorted(all_archs(), key=lambda a: (ROLES.index(a.role), a.name))
    lines += [f"| `{a.role}` | `{a.name}` | {a.limits} |\n" for a in archs]
    return "".join(lines)


def with_table(readme: str) -> str:
    """The README with the table of today."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + table() + END + after


if __name__ == "__main__":
    README.write_text(with_table(README.read_text(encoding="utf-8")), encoding="utf-8")
