"""The task of ``asr.sh``: speech recognition."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from espnet_onnx_plugin.bundle.search import MaskCTC, Search
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.export.checkpoints import Checkpoints, read_config
from espnet_onnx_plugin.export.sequences import SequenceModule
from espnet_onnx_plugin.export.steps import DecoderModule
from espnet_onnx_plugin.export.tasks.recognition import RecognitionExporter


class ASRExporter(RecognitionExporter):
    """An ``ESPnetASRModel``, or its subclass ``MaskCTCModel``."""

    espnet_task = ("espnet2.tasks.asr", "ASRTask")
    models = ("espnet", "pit_espnet", "maskctc")
    streams = ("espnet",)

    def __init__(self, checkpoints: Checkpoints):
        uses_lm = checkpoints.lm_file or checkpoints.ngram_file
        if uses_lm and read_config(checkpoints.train_config).get("model") == "maskctc":
            raise PluginError(
                "Mask-CTC uses no language model: leave out --lm_train_config, "
                "--lm_file and --ngram_file"
            )
        super().__init__(checkpoints)

    def refuse(self, config: Mapping[str, Any]) -> None:
        """Refuse also a Mask-CTC model without its decoder or its CTC."""
        super().refuse(config)
        model, decoder = config.get("model", "espnet"), config.get("decoder")
        if (model == "maskctc") != (decoder == "mlm"):
            raise PluginError(
                f"model '{model}' with decoder '{decoder}' is not supported: model "
                "maskctc and decoder mlm go together"
            )
        weight = (config.get("model_conf") or {}).get("ctc_weight")
        if model == "maskctc" and weight in (0.0, 1.0):
            raise PluginError(
                f"model 'maskctc' with ctc_weight {weight} is not supported: it needs "
                "a CTC and a decoder"
            )

    def wrap_decoders(self) -> dict[str, DecoderModule]:
        """Decoders by role; that of Mask-CTC has one of its own."""
        decoders = super().wrap_decoders()
        if isinstance(decoders.get("decoder"), SequenceModule):
            return {"mask_decoder": decoders["decoder"]}
        return decoders

    @property
    def search(self) -> Search:
        """Settings of Mask-CTC, or of the search of other models."""
        if "mask_decoder" in self.decoders:
            return MaskCTC(blank=0, mask=self.model.mask_token)
        return super().search
