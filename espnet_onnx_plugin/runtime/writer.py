"""Result files of a decoding job, as ESPnet lays them out."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Mapping, Optional, Sequence, TextIO, Union

from espnet_onnx_plugin.errors import PluginError

TIMING = "timing.jsonl"


class ResultWriter:
    """Writes ``{n}best_recog/{token,token_int,score,text}`` and ``timing.jsonl``.

    Use :func:`result_writer`, which makes them appear only when they are whole.
    """

    def __init__(self, directory: Path):
        self._directory = directory
        self._files: Dict[str, TextIO] = {}

    def _line(self, name: str, line: str) -> None:
        if name not in self._files:
            path = self._directory / name
            path.parent.mkdir(parents=True, exist_ok=True)
            self._files[name] = open(path, "w", encoding="utf-8")
        self._files[name].write(line + "\n")

    def results(
        self,
        key: str,
        results: Sequence[Mapping[str, Union[str, Sequence[str]]]],
        interctc: Optional[Dict[int, List[str]]],
    ) -> None:
        """Write the n-best list of an utterance.

        Args:
            key: the utterance's id.
            results: of each, its line or lines by the file's name.
            interctc: tokens of each intermediate CTC, if the model has any.
        """
        for n, lines in enumerate(results, 1):
            for name, content in lines.items():
                for line in [content] if isinstance(content, str) else content:
                    self._line(f"{n}best_recog/{name}", f"{key} {line}")
        for layer, token in (interctc or {}).items():
            name = f"1best_recog/encoder_interctc_layer{layer}.txt"
            self._line(name, f"{key} {' '.join(token)}")

    def timing(self, **values: Union[str, float]) -> None:
        """Write one line of ``timing.jsonl``."""
        self._line(TIMING, json.dumps(values))

    def close(self) -> None:
        """Close every file."""
        for file in self._files.values():
            file.close()


def _remove_results(directory: Path) -> None:
    """Remove an earlier job's directory, and no directory that holds anything else."""
    for entry in directory.iterdir():
        if entry.name != TIMING and not entry.name.endswith("best_recog"):
            raise PluginError(
                f"{directory} holds {entry.name}, which no decoding job wrote; give "
                "another --output_dir"
            )
    shutil.rmtree(directory)


@contextlib.contextmanager
def result_writer(output_dir: Union[str, Path]) -> Iterator[ResultWriter]:
    """A writer whose files lie in ``output_dir`` once the block has ended well.

    On an exception nothing is left of them; results of an earlier run are removed
    first, so that they cannot be taken for this one's.
    """
    output_dir = Path(output_dir)
    if output_dir.exists():
        _remove_results(output_dir)
    output_dir.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{output_dir.name}.", dir=output_dir.parent))
    try:
        writer = ResultWriter(work)
        try:
            yield writer
        finally:
            writer.close()
        work.chmod(0o755)  # mkdtemp's is private; ESPnet's are not
        work.rename(output_dir)
    finally:
        if work.exists():
            shutil.rmtree(work)
