"""ESPnet's options of enhancement and separation."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class ExtractionOptions:
    """Options of ``enh_tse_inference``, with the names and defaults of ESPnet's class.

    Those that ``option`` makes are the command's too
    (:func:`~espnet_onnx_plugin.bundle.typed.option`).
    """

    segment_size: float | None = option(
        None, "seconds of a segment; longer mixtures are cut into such"
    )
    hop_size: float | None = option(
        None, "seconds from one segment to the next; both or none have to be given"
    )
    normalize_segment_scale: bool = option(
        False,
        "whether the outputs of a segment are brought to the energy of the mixture",
    )
    normalize_output_wav: bool = option(
        False, "whether outputs are scaled to a peak of 0.9"
    )
    ref_channel: int | None = option(
        None, "channel that the outputs stand for, in the place of the model's"
    )
    seed: int = option(0, "of all that is drawn")

    def __post_init__(self) -> None:
        if self.segment_size is None or self.hop_size is None:
            return
        if not 0 < self.hop_size <= self.segment_size:
            raise PluginError(
                f"hop_size {self.hop_size} must be above 0, and not above segment_size "
                f"{self.segment_size}"
            )

    @property
    def segments(self) -> tuple[float, float] | None:
        """Seconds of a segment, and from one to the next; None: there are none."""
        if self.segment_size is None or self.hop_size is None:
            return None
        return self.segment_size, self.hop_size


@dataclass(frozen=True)
class EnhOptions(ExtractionOptions):
    """Options of ``enh_inference``, as :class:`ExtractionOptions`."""

    normalize_segment_scale: bool = option(
        False,
        "whether the outputs of a segment are brought to the energy of the mixture",
        command=True,
    )
    enh_s2t_task: bool = option(
        False, "whether the model also recognizes the speech that it makes"
    )


@dataclass(frozen=True)
class EnhStreamingOptions:
    """Options of ``enh_inference_streaming``, as :class:`EnhOptions`."""

    ref_channel: int | None = option(
        None, "channel that the outputs stand for; without effect on one channel"
    )
