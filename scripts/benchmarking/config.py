"""The benchmark's configuration."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from benchmarking.settings import (
    BUNDLES,
    REFERENCE,
    BaseSetting,
    SeparationSetting,
    Setting,
    SongSetting,
    SpeechSetting,
    StreamSetting,
)

from espnet_onnx_plugin.bundle.typed import check_keys, parse
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.tasks import find

# Those whose search is ESPnet's beam search, text to speech, singing, and enhancement.
TASKS = ("asr", "st", "slu", "s2t", "tts", "svs", "enh")

#: Mean length of a token in the speech of random models of task tts.
FRAMES_PER_TOKEN = 6


def check_task(task: str) -> None:
    """Refuse a task that is not one of TASKS."""
    if task not in TASKS:
        raise PluginError(f"task '{task}' is none of {', '.join(TASKS)}")


def separates(task: str) -> bool:
    """Return whether a task's models make waveforms of mixtures."""
    return find(task).audio == "speech_mix"


def synthesizes(task: str) -> bool:
    """Return whether a task's models make speech of text, or sing."""
    return not find(task).audio


def sings(task: str) -> bool:
    """Return whether a task's models read scores."""
    return find(task).name == "svs"


@dataclass(frozen=True)
class RandomModel:
    """A model of one of ESPnet's tasks with random weights.

    Attributes:
        train_config, lm_train_config: Training configurations, of which the sizes
            matter.
        vocoder_config: Arguments of ESPnet's HiFi-GAN, for a model of tts that makes
            features. Models of svs make waveforms themselves (VISinger).
        task: One of TASKS.
        tokens: Size of the vocabulary.
        seed: Of the weights.
        sharpness: Factor of the output layers of decoder and CTC, whose choices are all
            alike where weights are random.
        channels: Of the mixtures of task enh.
    """

    train_config: Mapping[str, Any]
    lm_train_config: Mapping[str, Any] | None = None
    vocoder_config: Mapping[str, Any] | None = None
    task: str = "asr"
    tokens: int = 5000
    seed: int = 0
    sharpness: float = 1.0
    channels: int = 1

    def __post_init__(self) -> None:
        check_task(self.task)

    @property
    def has_lm(self) -> bool:
        """Return whether there is a language model."""
        return self.lm_train_config is not None


@dataclass(frozen=True)
class TrainedModel:
    """Files of a trained model, as bin.export and bin.optimize take them.

    Attributes:
        task: One of TASKS.
        calibration_scp: Of its validation set, as bin.optimize takes it.
        calibration_others: What belongs to that, likewise: labels and scores of songs.
        quantize_options: More options of bin.quantize.
    """

    train_config: Path
    model_file: Path
    lm_train_config: Path | None = None
    lm_file: Path | None = None
    vocoder_config: Path | None = None
    vocoder_file: Path | None = None
    task: str = "asr"
    calibration_scp: str | None = None
    calibration_others: tuple[str, ...] = ()
    quantize_options: tuple[str | int | float, ...] = ()

    def __post_init__(self) -> None:
        check_task(self.task)
        options = tuple(map(str, self.quantize_options))
        object.__setattr__(self, "quantize_options", options)

    @property
    def files(self) -> dict[str, Path]:
        """Return the files by the option of bin.export that names them."""
        names = ("train_config", "model_file", "lm_train_config", "lm_file")
        names += ("vocoder_config", "vocoder_file")
        return {name: path for name in names if (path := getattr(self, name))}

    @property
    def has_lm(self) -> bool:
        """Return whether there is a language model."""
        return self.lm_file is not None

    @property
    def weights(self) -> list[Path]:
        """Return the checkpoints."""
        files = (self.model_file, self.lm_file, self.vocoder_file)
        return [path for path in files if path]

    def espnet_options(self, with_lm: bool) -> dict[str, str]:
        """Return the files by the option of ESPnet's Speech2Text or Text2Speech."""
        if find(self.task).gives == "speech":
            files = {name: str(path) for name, path in self.files.items()}
            return {**files, "svs_task": "gan_svs"} if sings(self.task) else files
        options = {
            f"{self.task}_train_config": str(self.train_config),
            f"{self.task}_model_file": str(self.model_file),
        }
        if with_lm:
            options["lm_train_config"] = str(self.lm_train_config)
            options["lm_file"] = str(self.lm_file)
        return options


@dataclass(frozen=True)
class TestData:
    """A Kaldi data directory with wav.scp and text, and how much of it to decode.

    For task tts its text alone is read; there is none for svs.
    """

    __test__ = False  # no test case, whatever pytest thinks of its name

    dir: Path
    type: str = "sound"
    utterances: int = 20

    def describe(self) -> str:
        """Return what the tables call it."""
        return f"{self.dir}, up to {self.utterances} utterances spread over it"


@dataclass(frozen=True)
class Config:
    """A benchmark: one model, and the settings to measure it in.

    Attributes:
        provider: Where PyTorch and the bundles run, ``cpu`` or ``cuda``.
    """

    title: str
    model: RandomModel | TrainedModel
    data: TestData | None
    settings: Sequence[BaseSetting]
    provider: str = "cpu"


def read_config(path: Path) -> Config:
    """Read a configuration.

    Names of files in ``random_model`` are relative to the configuration, all others to
    the working directory, as those in a recipe's training configuration are.
    ``use_streaming``, an option of ESPnet's ``asr.sh``, measures streams.

    Raises:
        PluginError: Naming the key that is wrong.
    """
    content = _read_yaml(path)
    known = ("title", "random_model", "model", "data", "defaults", "settings")
    check_keys(content, (*known, "provider", "use_streaming"), str(path))
    provider = content.get("provider", "cpu")
    if provider not in BUNDLES:
        names = " or ".join(BUNDLES)
        raise PluginError(f"{path}: provider '{provider}' is not {names}")
    if ("random_model" in content) == ("model" in content):
        raise PluginError(f"{path}: give one of random_model and model")
    if "model" in content:
        model = parse(TrainedModel, content["model"], f"{path}: model")
    else:
        sizes = content["random_model"]
        if isinstance(sizes, dict):
            sizes = {
                k: _sizes(v, path) if k.endswith("_config") else v
                for k, v in sizes.items()
            }
        model = parse(RandomModel, sizes, f"{path}: random_model")
    data = None
    if "data" in content:
        data = parse(TestData, content["data"], f"{path}: data")
    cls = SpeechSetting if synthesizes(model.task) else Setting
    cls = SongSetting if sings(model.task) else cls
    cls = SeparationSetting if separates(model.task) else cls
    if content.get("use_streaming", False):
        if model.task != "asr":
            raise PluginError(f"{path}: use_streaming is for task asr")
        cls = StreamSetting
    if data is not None and sings(model.task):
        raise PluginError(f"{path}: task svs sings made-up songs: leave out data")
    settings = _settings(cls, content, path, (REFERENCE, *BUNDLES[provider]))
    for setting in settings:
        if setting.audio_seconds is None and data is None:
            raise PluginError(
                f"{path}: '{setting.name}' has neither audio_seconds nor test data: "
                "give one of them (data: dir)"
            )
        if setting.audio_seconds is None and getattr(setting, "streams", 1) > 1:
            raise PluginError(
                f"{path}: '{setting.name}': test data is recognized one stream at a "
                "time; set audio_seconds, or streams to 1"
            )
        if getattr(setting, "lm_weight", 0.0) and not model.has_lm:
            raise PluginError(f"{path}: '{setting.name}' needs a language model")
    title = str(content.get("title", path.stem))
    return Config(title, model, data, settings, provider)


def _settings(
    cls: type[BaseSetting],
    content: Mapping[str, Any],
    path: Path,
    variants: Sequence[str],
) -> list[BaseSetting]:
    entries, defaults = content.get("settings"), content.get("defaults", {})
    if not isinstance(entries, list) or not entries:
        raise PluginError(f"{path}: settings is no list")
    settings: list[BaseSetting] = []
    for number, entry in enumerate(entries, 1):
        where = f"{path}: setting {number}"
        if not isinstance(entry, dict) or not isinstance(defaults, dict):
            raise PluginError(f"{where} and defaults must hold options")
        entry = {"variants": list(variants), **defaults, **entry}
        settings.append(parse(cls, entry, where))
        if foreign := [v for v in settings[-1].variants if v not in variants]:
            raise PluginError(
                f"{where}: {foreign[0]} is not for this provider, which takes "
                + ", ".join(variants)
            )
        if settings[-1].name in [setting.name for setting in settings[:-1]]:
            raise PluginError(f"{where}: a second '{settings[-1].name}': set its name")
    return settings


def _sizes(value: Any, path: Path) -> Any:
    return _read_yaml(path.parent / value) if isinstance(value, str) else value


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as e:
        raise PluginError(f"cannot read {path}: {e}")
    except yaml.YAMLError as e:
        raise PluginError(f"{path} is not YAML: {' '.join(str(e).split())}")
    if not isinstance(content, dict):
        raise PluginError(f"{path} does not hold options: {content!r}")
    return content
