"""Results of a check: kept as they come, as JSON and as a page of Markdown."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TypeAlias

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.files import write_whole
from espnet_onnx_plugin.report.tables import (
    MISSING,
    markdown_escape,
    markdown_table,
)

Cell: TypeAlias = str | int | float | bool | None

#: A line of a part's table, by column.
Row: TypeAlias = dict[str, Cell]

OK, UNFINISHED = "ok", "unfinished"


@dataclass
class PartResult:
    """State of a part.

    Attributes:
        title: Heading of its table.
        status: ``ok``, ``unfinished`` while it runs, else why there is no more of it.
        date: When it began.
        seconds: How long it took.
        rows: Its table.
    """

    title: str
    status: str = UNFINISHED
    date: str = ""
    seconds: float = 0.0
    rows: list[Row] = field(default_factory=list)


class Results:
    """The parts of a check by name, in files that are written anew at every change.

    Args:
        output_dir: Of ``results.json`` and ``RESULTS.md``; what is there of parts that
            do not run now is kept.
        setting: What the figures are for: provider and sizes.

    Raises:
        PluginError: If the directory holds results for something else.
    """

    def __init__(self, output_dir: Path, setting: dict[str, Cell]):
        self._output_dir, self._setting = output_dir, setting
        self.parts: dict[str, PartResult] = {}
        self._path, self._written = output_dir / "results.json", ""
        if self._path.is_file():
            content = json.loads(self._path.read_text(encoding="utf-8"))
            if content["setting"] != setting:
                raise PluginError(
                    f"{self._path} holds results for {_words(content['setting'])}, not "
                    f"for {_words(setting)}; give another --output_dir"
                )
            for name, part in content["parts"].items():
                self.parts[name] = PartResult(**part)

    def begin(self, name: str, title: str) -> PartResult:
        """Put a part that begins in the place of an earlier run's."""
        result = PartResult(title, date=time.strftime("%Y-%m-%d %H:%M:%S"))
        self.parts[name] = result
        self.write()
        return result

    def write(self) -> None:
        """Write both files, where something has changed."""
        content = {
            "setting": self._setting,
            "parts": {name: asdict(part) for name, part in self.parts.items()},
        }
        text = json.dumps(content, indent=1) + "\n"
        if text == self._written:
            return
        self._output_dir.mkdir(parents=True, exist_ok=True)
        write_whole(self._path, text)
        write_whole(self._output_dir / "RESULTS.md", self.page())
        self._written = text

    def page(self) -> str:
        """Return the page."""
        lines = ["# Check of a provider", "", _words(self._setting)]
        for part in self.parts.values():
            lines += ["", f"## {markdown_escape(part.title)}", ""]
            lines.append(markdown_escape(f"{part.status}, {part.seconds:.0f} s"))
            if part.rows:
                lines += ["", *table(part.rows)]
        return "\n".join(lines) + "\n"


def _words(setting: dict[str, Cell]) -> str:
    return ", ".join(f"{name} {show(value)}" for name, value in setting.items())


def table(rows: Sequence[Row]) -> list[str]:
    """Return rows in Markdown; a column stands where it first comes up."""
    columns = list(dict.fromkeys(column for row in rows for column in row))
    cells = [[show(row.get(column)) for column in columns] for row in rows]
    return markdown_table(columns, cells)


def show(value: Cell) -> str:
    """Return what a table shows of a value."""
    if value is None:
        return MISSING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return str(value)
