"""The task of ``asr.sh``: speech recognition."""

from espnet_onnx_plugin.export.task import TaskModel


class Model(TaskModel):
    """An ``ESPnetASRModel``."""

    espnet_task = ("espnet2.tasks.asr", "ASRTask")
