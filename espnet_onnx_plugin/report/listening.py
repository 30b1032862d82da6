"""A page to listen to what systems made, side by side.

The page and its files lie in one directory and refer to one another by relative links,
so that a copy of the directory, or of one that holds it, is complete.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from html import escape
from pathlib import Path

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.evaluate.speech_quality import f0_contour, read_wav
from espnet_onnx_plugin.files import held, new_directory, replace_directory
from espnet_onnx_plugin.report.plots import plot_spectrogram

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
    captions: Mapping[str, Mapping[str, str]] | None = None,
    utterances: int = UTTERANCES,
    with_f0: bool = False,
) -> Path:
    """Write a page with what each system made of the first utterances.

    Args:
        directory: Of the page and its files; one that is there is replaced.
        title: Of the page.
        texts: By utterance; an empty one is not shown.
        systems: Files by utterance, by the system's name.
        captions: What is to be said of them, by utterance, by the system's name; some
            may have none.
        utterances: How many to show at most.
        with_f0: Whether to draw the fundamental frequency over the spectrograms.

    Returns:
        The page's path.

    Raises:
        PluginError: If a system lacks an utterance, or a file cannot be read.
    """
    lines = [HEAD.format(title=escape(title))]
    with held(directory):
        aside = new_directory(directory)
        for number, key in enumerate(list(texts)[:utterances], 1):
            lines.append(f"<h2>{escape(key)}</h2>")
            if texts[key]:
                lines.append(f"<p>{escape(texts[key])}</p>")
            lines.append('<div class="systems">')
            files = {name: _file(name, wavs, key) for name, wavs in systems.items()}
            said = {name: (captions or {}).get(name, {}).get(key) for name in systems}
            lines += _figures(aside, str(number), files, said, with_f0)
            lines.append("</div>")
        lines += ["</body>", "</html>", ""]
        (aside / PAGE).write_text("\n".join(lines), encoding="utf-8")
        replace_directory(aside, directory)
    return directory / PAGE


def _file(system: str, wavs: Mapping[str, Path], key: str) -> Path:
    if key not in wavs:
        raise PluginError(f"{system} has no waveform of utterance '{key}'")
    return wavs[key]


def _figures(
    directory: Path,
    prefix: str,
    files: Mapping[str, Path],
    captions: Mapping[str, str | None],
    with_f0: bool,
) -> list[str]:
    """Write one utterance's files; their names are numbers, for names can be anything.

    Returns:
        Lines of HTML.
    """
    waves = {name: read_wav(path, channel=0) for name, path in files.items()}
    seconds = max(len(wave) / rate for wave, rate in waves.values())
    lines = []
    for number, (name, (wave, rate)) in enumerate(waves.items(), 1):
        suffix = re.sub(r"[^.A-Za-z0-9]", "_", files[name].suffix)
        audio = f"{prefix}_{number}{suffix}"
        image = f"{prefix}_{number}.png"
        shutil.copyfile(files[name], directory / audio)
        f0 = f0_contour(wave, rate) if with_f0 else None
        plot_spectrogram(directory / image, wave, rate, seconds, f0)
        caption = escape(name)
        if captions[name] is not None:
            caption += f"<br>{escape(captions[name])}"
        lines += [
            "<figure>",
            f"<figcaption>{caption}</figcaption>",
            f'<audio controls preload="none" src="{audio}"></audio>',
            f'<img src="{image}" alt="Spectrogram, {escape(name)}" loading="lazy">',
            "</figure>",
        ]
    return lines
