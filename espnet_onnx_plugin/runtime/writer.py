"""Result files of a decoding job, as ESPnet lays them out."""

import contextlib
import json
import shutil
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Optional, TextIO, Union

from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.asr import Result

TIMING = "timing.jsonl"


class ResultWriter:
    """Writes ``{n}best_recog/{token,token_int,score,text}`` and ``timing.jsonl``.

    Of several speakers, each has files of its own: ``token_spk1``, ``token_spk2``, ...

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
        results: Union[List[Result], List[List[Result]]],
        interctc: Optional[Dict[int, List[str]]],
    ) -> None:
        """Write the n-best list of an utterance, or one for each of its speakers."""
        if results and isinstance(results[0], list):
            for speaker, nbest in enumerate(results, 1):
                self._nbest(key, nbest, f"_spk{speaker}")
        else:
            self._nbest(key, results)
        for layer, token in (interctc or {}).items():
            name = f"1best_recog/encoder_interctc_layer{layer}.txt"
            self._line(name, f"{key} {' '.join(token)}")

    def _nbest(self, key: str, results: List[Result], suffix: str = "") -> None:
        for n, (text, token, token_int, hypothesis) in enumerate(results, 1):
            values = dict(
                token=" ".join(token),
                token_int=" ".join(map(str, token_int)),
                score=hypothesis.score,
            )
            if text is not None:
                values["text"] = text
            for name, value in values.items():
                self._line(f"{n}best_recog/{name}{suffix}", f"{key} {value}")

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
