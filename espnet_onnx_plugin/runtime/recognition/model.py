"""Base of the classes that recognize speech, whole utterances and streams."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Generic, Protocol, TypeVar

from espnet_onnx_plugin.bundle import Speech
from espnet_onnx_plugin.bundle import search as kinds
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.opening import OpenedModel
from espnet_onnx_plugin.runtime.recognition.options import DecodeOptions
from espnet_onnx_plugin.runtime.recognition.results import Timing
from espnet_onnx_plugin.runtime.recognition.scoring import SearchBuilder
from espnet_onnx_plugin.runtime.text.converter import TokenConverter


class _Options(Protocol):
    @property
    def nbest(self) -> int:
        """Length of the n-best list."""


OptionsT = TypeVar("OptionsT", bound=_Options)
SearchT = TypeVar("SearchT", bound=kinds.Search)


class RecognitionModel(OpenedModel[OptionsT], ABC, Generic[OptionsT, SearchT]):
    """A bundle's model that recognizes speech.

    It is generic in the decoding options and the kind of search that the manifest
    describes.

    Args:
        model_dir, provider, threads, session, options: see :class:`.OpenedModel`.

    Attributes:
        speech: the input of the bundle's first graph.
        nbest: length of the n-best list.
        timing: of the newest call.
    """

    #: Kind of the search that the manifests of the bundles describe.
    kind: type[SearchT] | tuple[type[SearchT], ...]
    #: Reason to refuse a bundle that describes another kind.
    other_kind = "describes another kind of search; export the bundle again"

    def _open(self) -> None:
        path, manifest = self.bundle.path, self.bundle.manifest
        if not isinstance(manifest.search, self.kind):
            raise PluginError(f"{path} {self.other_kind}")
        if manifest.speech is None:
            raise PluginError(f"{path} reads no speech; export the bundle again")
        self.speech: Speech = manifest.speech
        #: The search as the manifest describes it.
        self._described = manifest.search
        self.converter = TokenConverter(self.bundle)
        self.nbest = self._options.nbest
        self.timing = Timing(*[0.0] * len(Timing._fields))

    @property
    @abstractmethod
    def _has_ctc(self) -> bool:
        """Whether the encoder gives scores of a CTC."""

    def _builder(
        self, search: kinds.LabelSynchronous, options: DecodeOptions
    ) -> SearchBuilder:
        """A builder of label-synchronous searches over the model's scorers."""
        tokens, has_ctc = self.converter.token_list, self._has_ctc
        return SearchBuilder(self.bundle, self.device, search, options, tokens, has_ctc)
