"""ESPnet's options of diarization."""

from __future__ import annotations

from dataclasses import dataclass

from espnet_onnx_plugin.bundle.typed import option
from espnet_onnx_plugin.errors import PluginError


@dataclass(frozen=True)
class DiarOptions:
    """Options of ``diar_inference``, with the names and defaults of ESPnet's class."""

    segment_size: float | None = option(
        None,
        "seconds of a segment; longer recordings are diarized in such, each by itself, "
        "or, with enh_s2t_task, separated in such",
    )
    hop_size: float | None = option(
        None,
        "seconds from one segment to the next of a separation, which without it is of "
        "the whole",
    )
    num_spk: int | None = option(
        None, "how many speakers there are; default: they are counted"
    )
    enh_s2t_task: bool = option(False, "whether the model also separates the speakers")
    normalize_segment_scale: bool = option(
        False,
        "whether the outputs of a segment are brought to the energy of the mixture",
    )
    normalize_output_wav: bool = option(
        False, "whether outputs are scaled to a peak of 0.9"
    )
    multiply_diar_result: bool = option(
        False,
        "whether outputs are multiplied by the activities that are most like them",
    )

    def __post_init__(self) -> None:
        if self.num_spk is not None and self.num_spk < 1:
            raise PluginError(f"num_spk {self.num_spk} must be 1 or more")
        if self.segment_size is not None and not self.segment_size > 0:
            raise PluginError(f"segment_size {self.segment_size} must be above 0")
        if self.segments is not None:
            size, hop = self.segments
            if not 0 < hop < size:
                raise PluginError(
                    f"hop_size {hop} must be above 0, and below segment_size {size}: "
                    "segments are put together by what they have in common"
                )

    @property
    def segments(self) -> tuple[float, float] | None:
        """Seconds of a segment of a separation, and from one to the next, or None."""
        if not self.enh_s2t_task or self.segment_size is None or self.hop_size is None:
            return None
        return self.segment_size, self.hop_size
