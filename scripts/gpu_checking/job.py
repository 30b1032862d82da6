"""A part's surroundings: what it is to measure, its models, and where its rows go."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from benchmarking.config import Config, TrainedModel, read_config
from benchmarking.models import make_random_model
from gpu_checking.results import Cell
from gpu_checking.sizes import FULL, TINY, Sizes

from espnet_onnx_plugin.bundle import Bundle, read_bundle
from espnet_onnx_plugin.errors import PluginError

CONF = Path(__file__).parents[2] / "conf" / "benchmark"

#: Made of every model.
VARIANTS = ("fp32", "optimized", "fp16")


@dataclass(frozen=True)
class Job:
    """A part's arguments, as its process is given them.

    Attributes:
        provider: Where PyTorch and the bundles run.
        tiny: Whether the sizes only show that it works.
        work_dir: Of models and inputs.
        rows: File of the part's rows.
        end: Time of the clock at which it is ended.
    """

    provider: str
    tiny: bool
    work_dir: Path
    rows: Path
    end: float

    @staticmethod
    def from_json(text: str) -> Job:
        """Return what :meth:`to_json` was called on."""
        content = json.loads(text)
        paths = {name: Path(content[name]) for name in ("work_dir", "rows")}
        return Job(**{**content, **paths})

    def to_json(self) -> str:
        """Return it as text."""
        return json.dumps(vars(self), default=str)

    @property
    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.time()

    @property
    def sizes(self) -> Sizes:
        """Return the sizes of models and inputs."""
        return TINY if self.tiny else FULL

    def add(self, **row: Cell) -> None:
        """Write a row down."""
        with open(self.rows, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")

    def model(self, name: str) -> Model:
        """Return one of the sizes' models."""
        return Model(self, self.sizes.models[name])


@dataclass(frozen=True)
class Model:
    """A model with random weights and its bundles.

    Attributes:
        job: What it is made for.
        name: Of its configuration in conf/benchmark.
    """

    job: Job
    name: str

    @property
    def directory(self) -> Path:
        """Return where its files are."""
        return self.job.work_dir / "models" / self.name

    @property
    def config(self) -> Config:
        """Return its configuration."""
        return read_config(CONF / f"{self.name}.yaml")

    @property
    def state(self) -> Path:
        """Return the file that says what was made of it, by variant."""
        return self.directory / f"made_for_{self.job.provider}.json"

    def made(self) -> dict[str, float | str] | None:
        """Return seconds that each variant took, or why it was not made.

        Returns:
            None where nothing is decided yet.
        """
        if not self.state.is_file():
            return None
        return json.loads(self.state.read_text(encoding="utf-8"))

    def forget_failures(self) -> None:
        """Have a model made again of which a variant was not made."""
        made = self.made()
        if made is not None and not all(
            isinstance(made.get(variant), float) for variant in VARIANTS
        ):
            self.state.unlink()

    def checkpoints(self) -> TrainedModel:
        """Return the checkpoints, which are there."""
        log = self.directory / "model.log"
        return make_random_model(self.config.model, self.directory / "model", log)

    def bundle(self, variant: str) -> Bundle:
        """Return a bundle.

        Raises:
            PluginError: If it was not made.
        """
        made = self.made()
        took = "the time was over" if made is None else made.get(variant, "not made")
        if isinstance(took, str):
            raise PluginError(f"no {variant} bundle of {self.name}: {took}")
        return read_bundle(self.directory / "bundles" / variant)


def make_audio(seconds: float, rate: int, seed: int) -> np.ndarray:
    """Return noise and tones (samples,) that change five times in a second."""
    random = np.random.default_rng(seed)
    pieces = []
    length = round(seconds * rate)
    for _ in range(0, length, rate // 5):
        times = np.arange(rate // 5) / rate
        tones = np.sin(2 * np.pi * random.uniform(100, rate / 2.5, (3, 1)) * times)
        loudness = random.uniform(0.0, 0.15, (3, 1))
        pieces.append((loudness * tones).sum(axis=0))
    audio = np.concatenate(pieces)[:length]
    audio += 0.03 * random.standard_normal(length)
    return audio.astype(np.float32)
