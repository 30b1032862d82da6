"""Models of the task enh_tse: extraction of speakers who are enrolled."""

from __future__ import annotations

from typing import Any

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.export.checkpoints import Checkpoints, build
from espnet_onnx_plugin.export.enh_module import Ends
from espnet_onnx_plugin.export.parity.enhancement import check_enhancement
from espnet_onnx_plugin.export.parity.tolerance import Parity
from espnet_onnx_plugin.export.registry import find
from espnet_onnx_plugin.export.tasks.enh import EnhExporter
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.enh_tse import SeparateSpeech
from espnet_onnx_plugin.runtime.io.data import Source


class TSEExporter(EnhExporter):
    """A trained extraction model.

    Args:
        checkpoints: the files of the model.

    Raises:
        PluginError: if something in them is not supported or cannot be read.
    """

    def __init__(self, checkpoints: Checkpoints):
        from espnet2.tasks.enh_tse import TargetSpeakerExtractionTask

        config, file = checkpoints.train_config, checkpoints.model_file
        self.model, self.args = build(TargetSpeakerExtractionTask, config, file)
        self.joint = self._follows_rate = False
        model, args = self.model, self.args
        ends = Ends(
            None if args.encoder == "same" else model.encoder,
            None if args.decoder == "same" else model.decoder,
        )
        arch = find("extractor", args.extractor)
        self.wrapped = arch.wrap(model.extractor, ends, model.share_encoder)
        for module in self.wrapped.modules.values():
            module.eval()

    def check_parity(
        self, bundle: Bundle, device: Device, source: Source | None = None
    ) -> Parity:
        """Compare what the bundle makes with what ESPnet makes, of made-up mixtures.

        Raises:
            PluginError: if a difference is above the tolerance.
        """
        ours = SeparateSpeech(bundle, device.provider, device.threads)
        return check_enhancement(ours.enhancement, ours, self.espnet())

    def espnet(self, **options: Any) -> Any:
        """ESPnet's ``SeparateSpeech`` of the model, see :class:`.EnhGraphs`."""
        from espnet2.bin.enh_tse_inference import SeparateSpeech as Theirs

        theirs = Theirs.__new__(Theirs)
        vars(theirs).update(vars(super().espnet(**options)))
        return theirs
