"""A page to listen to synthesized speech, the systems side by side.

The page and its files lie in one directory and refer to one another by relative links,
so that a copy of the directory, or of one that holds it, is complete.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from html import escape
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.speech_quality import Measures, read_wav
from espnet_onnx_plugin.report.plots import plot_spectrogram
from espnet_onnx_plugin.report.tables import MISSING

PAGE = "index.html"
UTTERANCES = 5
HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font-family: sans-serif; margin: 2em; }}
.systems {{ display: grid; gap: 1em; grid-template-columns: repeat(auto-fit, 24em); }}
figure {{ margin: 0; }}
audio, img {{ display: block; width: 100%; }}
</style>
</head>
<body>
<h1>{title}</h1>
"""


def write_page(
    directory: Path,
    title: str,
    texts: Mapping[str, str],
    systems: Mapping[str, Mapping[str, Path]],
    measures: Mapping[str, Mapping[str, Measures]] | None = None,
    utterances: int = UTTERANCES,
) -> Path:
    """Write a page with what each system made of the first utterances' texts.

    Args:
        directory: Of the page and its files; one that is there is replaced.
        title: Of the page.
        texts: By utterance.
        systems: Files by utterance, by the system's name.
        measures: Distances to the reference by utterance, by the system's name; the
            reference has none.
        utterances: How many to show at most.

    Returns:
        The page's path.

    Raises:
        PluginError: If a system lacks an utterance, or a file cannot be read.
    """
    lines = [HEAD.format(title=escape(title))]
    with tempfile.TemporaryDirectory(
        dir=directory.parent, prefix=f".{directory.name}."
    ) as temporary:
        aside = Path(temporary) / directory.name
        aside.mkdir()
        for number, key in enumerate(list(texts)[:utterances], 1):
            lines += [f"<h2>{escape(key)}</h2>", f"<p>{escape(texts[key])}</p>"]
            lines.append('<div class="systems">')
            files = {name: _file(name, wavs, key) for name, wavs in systems.items()}
            measured = {
                name: (measures or {}).get(name, {}).get(key) for name in systems
            }
            lines += _figures(aside, str(number), files, measured)
            lines.append("</div>")
        lines += ["</body>", "</html>", ""]
        (aside / PAGE).write_text("\n".join(lines), encoding="utf-8")
        shutil.rmtree(directory, ignore_errors=True)
        aside.rename(directory)
    return directory / PAGE


def _file(system: str, wavs: Mapping[str, Path], key: str) -> Path:
    if key not in wavs:
        raise PluginError(f"{system} has no waveform of utterance '{key}'")
    return wavs[key]


def _figures(
    directory: Path,
    prefix: str,
    files: Mapping[str, Path],
    measures: Mapping[str, Measures | None],
) -> list[str]:
    """Write one utterance's files; their names are numbers, for names can be anything.

    Returns:
        Lines of HTML.
    """
    waves = {name: read_wav(path) for name, path in files.items()}
    seconds = max(len(wave) / rate for wave, rate in waves.values())
    lines = []
    for number, (name, (wave, rate)) in enumerate(waves.items(), 1):
        audio = f"{prefix}_{number}{files[name].suffix}"
        image = f"{prefix}_{number}.png"
        shutil.copyfile(files[name], directory / audio)
        plot_spectrogram(directory / image, wave, rate, seconds)
        caption = escape(name)
        if measures[name] is not None:
            caption += f"<br>{_describe(measures[name])}"
        lines += [
            "<figure>",
            f"<figcaption>{caption}</figcaption>",
            f'<audio controls preload="none" src="{audio}"></audio>',
            f'<img src="{image}" alt="Spectrogram, {escape(name)}" loading="lazy">',
            "</figure>",
        ]
    return lines


def _describe(measures: Measures) -> str:
    mcd, rmse = measures.mcd, measures.log_f0_rmse
    return (
        f"MCD {MISSING if mcd is None else f'{mcd:.2f} dB'}, "
        f"log-F0 RMSE {MISSING if rmse is None else f'{rmse:.3f}'}"
    )
