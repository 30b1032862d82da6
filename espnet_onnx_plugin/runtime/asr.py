"""Speech to text with a bundle: the counterpart of ``espnet2.bin.asr_inference``."""

import logging
from typing import Any, Dict, List, Optional

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Generate, MaskCTC
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.releases import conventions
from espnet_onnx_plugin.runtime.recognition.engine import SpeechModel
from espnet_onnx_plugin.runtime.recognition.options import AsrOptions as DecodeOptions
from espnet_onnx_plugin.runtime.search.beam import BeamSearch
from espnet_onnx_plugin.runtime.search.generate import (
    NOT_ASKED_FOR,
    GenerateConfig,
    HubSearch,
)
from espnet_onnx_plugin.runtime.search.time_sync import TimeSyncSearch

logger = logging.getLogger(__name__)


class Speech2Text(SpeechModel):
    """Recognize speech; a drop-in for ESPnet's class of the same name.

    Args:
        model_dir, provider, threads, session: see :class:`.model.SpeechModel`.
        options: ESPnet's decoding options, see :class:`DecodeOptions`.

    Raises:
        PluginError: if the bundle cannot be read or an option cannot be met.

    Examples:
        >>> speech2text = Speech2Text("exp/asr_train/onnx/int8", beam_size=10)
        >>> speech2text(speech)
        [(text, token, token_int, hypothesis), ...]
    """

    task = "asr"
    options_class: Any = DecodeOptions

    @staticmethod
    def check_options(bundle: Bundle, beam_size: int) -> Dict[str, Any]:
        """See :class:`.model.SpeechModel`."""
        manifest = bundle.manifest
        if getattr(manifest.search, "generate", None) is not None:
            conf = dict(max_new_tokens=20, do_sample=False)
            return dict(hugging_face_decoder=True, hugging_face_decoder_conf=conf)
        checked = SpeechModel.check_options(bundle, beam_size)
        return {**checked, "multi_asr": manifest.speakers is not None}

    @property
    def multi_asr(self) -> bool:
        """See :class:`.model.SpeechModel`."""
        return self._options.multi_asr

    def _build_search(self) -> Any:
        if isinstance(self.bundle.manifest.search, MaskCTC):
            raise PluginError(
                f"{self.bundle.path} is a Mask-CTC model, which has no beam search: "
                "use asr_inference_maskctc"
            )
        options, search = self._options, self.bundle.manifest.search
        if search.generate is not None:
            if options.hugging_face_decoder:
                return self._build_hub_search(search.generate)
            if options.weights["decoder"] or options.time_sync:
                raise PluginError(NOT_ASKED_FOR)
        if options.time_sync:
            self._check_time_sync()
        return super()._build_search()

    def _check_time_sync(self) -> None:
        if self._primer() is not None:
            raise PluginError(
                "time_sync is not for models of Whisper's tokens, in ESPnet either: "
                "that search begins with the start symbol alone"
            )
        if "decoder" in self.bundle.manifest.search.together:
            raise PluginError(
                "time_sync is not for this model's decoder, in ESPnet either: that "
                "search scores one hypothesis at a time"
            )
        if not self._has_ctc:
            raise PluginError(
                "the model has no CTC: set ctc_weight to 0 and time_sync to false"
            )

    @property
    def _search_class(self) -> type:
        return TimeSyncSearch if self._options.time_sync else BeamSearch

    @property
    def _ctc_window_margin(self) -> int:
        margin = self._options.ctc_window_margin
        if margin is None:
            return conventions(self.bundle.manifest.espnet).ctc_window_margin
        return margin

    def _build_hub_search(self, settings: Generate) -> HubSearch:
        """The search for a decoder of Hugging Face's hub."""
        config = GenerateConfig(**vars(settings))
        config = config.overridden(self._options.hugging_face_decoder_conf)
        logger.info("HubSearch implementation is selected.")
        return HubSearch(config, self._scorer("decoder"))

    def _primer(self) -> Optional[List[int]]:
        """What hypotheses begin with, Whisper's prompts taken into account."""
        options, hub = self._options, self.converter.hub
        primer = super()._primer()
        if primer is None:
            return None
        if options.lang_prompt_token is not None:
            prompt = options.lang_prompt_token.split()
            return [primer[0], *hub.tokens2ids(prompt), *primer[3:]]
        if options.nlp_prompt_token is not None:
            prompt = hub.text2tokens(options.nlp_prompt_token)
            return [*primer[:2], *hub.tokens2ids(prompt), *primer[3:]]
        return primer[:1] if options.lid_prompt else primer
