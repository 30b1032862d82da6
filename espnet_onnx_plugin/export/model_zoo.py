"""Models that others packed or published: a zip, a tag, a vocoder of a tag."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.archive import refuse_listed, unpack
from espnet_onnx_plugin.export.checkpoints import Checkpoints
from espnet_onnx_plugin.export.replace import replaced
from espnet_onnx_plugin.files import temporary_directory
from espnet_onnx_plugin.tasks import find


@contextlib.contextmanager
def zoo_checked() -> Iterator[None]:
    """Let espnet_model_zoo unpack with :func:`unpack`, for the time of the block.

    What it downloads of a hub it does not unpack; it writes beside the files that
    ``meta.yaml`` names, which are looked at before.
    """
    try:
        from espnet_model_zoo import downloader
    except ImportError:
        yield
        return
    download = downloader.snapshot_download

    def checked(*args: Any, **kwargs: Any) -> str:
        directory = download(*args, **kwargs)
        refuse_listed(directory)
        return directory

    with replaced(downloader, "unpack", unpack):
        with replaced(downloader, "snapshot_download", checked):
            yield


@contextlib.contextmanager
def from_tag(task: str, tag: str, **others: Path | None) -> Iterator[Checkpoints]:
    """Files of a packed model: a local zip, or a tag of espnet_model_zoo.

    Args:
        task: of the model.
        tag: the zip or the tag.
        others: files that are not packed with it, by name of :class:`Checkpoints`.

    Raises:
        PluginError: if it is neither, or holds no model of the task.
    """
    with temporary_directory() as work:
        files = unpack(tag, work) if Path(tag).is_file() else _download(tag)
        # ESPnet packs models of tts under shorter names than those of other tasks, and
        # the CTC models of s2t.sh under those of its other models.
        prefix = find(task).packed
        names = [f"{prefix}train_config", f"{prefix}model_file"]
        if not set(names) <= set(files):
            raise PluginError(
                f"{tag} is no model of task {task}: it holds {', '.join(sorted(files))}"
            )
        lm = {
            name: Path(files[name])
            for name in Checkpoints.__dataclass_fields__
            if "lm_" in name and name in files
        }
        yield Checkpoints(
            *(Path(files[name]) for name in names),
            **others,
            **lm,
        )


def _download(tag: str) -> dict[str, str]:
    try:
        from espnet_model_zoo import downloader
    except ImportError:
        raise PluginError(
            f"--model_tag {tag} is no file, and a tag needs espnet_model_zoo: pip "
            "install espnet_model_zoo"
        )
    try:
        with zoo_checked():
            return downloader.ModelDownloader().download_and_unpack(tag)
    except PluginError:
        raise
    except Exception as e:  # network and hub errors of several packages
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise PluginError(
            f"--model_tag {tag} is no file and could not be fetched from the model "
            f"zoo: {reason}"
        )


def vocoder_from_tag(tag: str) -> dict[str, Path]:
    """Files of a vocoder that parallel_wavegan offers, by name of :class:`Checkpoints`.

    Args:
        tag: as ESPnet's ``--vocoder_tag``, ``parallel_wavegan/NAME``.

    Raises:
        PluginError: if there is none of this name, or it cannot be fetched.
    """
    library, _, name = tag.partition("/")
    if library != "parallel_wavegan" or not name:
        raise PluginError(f"--vocoder_tag {tag} does not begin with parallel_wavegan/")
    try:
        from parallel_wavegan.utils import download_pretrained_model
    except ImportError:
        raise PluginError(
            f"--vocoder_tag {tag} needs parallel_wavegan: pip install parallel_wavegan"
        )
    try:
        file = Path(download_pretrained_model(name))
    except Exception as e:  # network errors of several packages
        reason = str(e).splitlines()[0] if str(e) else type(e).__name__
        raise PluginError(f"--vocoder_tag {tag} could not be fetched: {reason}")
    return {"vocoder_file": file, "vocoder_config": file.parent / "config.yml"}
