"""The search of a transducer's bundle."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from espnet_onnx_plugin.bundle import Bundle
from espnet_onnx_plugin.bundle.search import Transducer
from espnet_onnx_plugin.bundle.typed import parse
from espnet_onnx_plugin.errors import PluginError
from espnet_onnx_plugin.runtime.core.device import Device
from espnet_onnx_plugin.runtime.core.session import Session
from espnet_onnx_plugin.runtime.recognition.options import TransducerOptions
from espnet_onnx_plugin.runtime.recognition.scoring import check_times
from espnet_onnx_plugin.runtime.search.graph_scorer import open_scorer
from espnet_onnx_plugin.runtime.search.transducer import TransducerSearch
from espnet_onnx_plugin.runtime.search.transducer_hypotheses import TransducerConfig
from espnet_onnx_plugin.runtime.search.transducer_networks import GraphNetworks

logger = logging.getLogger(__name__)


def build_transducer(
    bundle: Bundle,
    device: Device,
    search: Transducer,
    options: TransducerOptions,
    tokens: Sequence[str],
) -> TransducerSearch:
    """Build the search of a bundle that decoding options ask for.

    Its language model is in evaluation mode. ESPnet leaves it in training mode beside a
    transducer, so that its scores there are drawn at random if it has dropout.

    Raises:
        PluginError: if an option is unknown or cannot be met.
    """
    config = parse(TransducerConfig, options.transducer_conf or {}, "transducer_conf")
    check_times(bundle, options)
    graphs = bundle.manifest.graphs
    roles = ("decoder", "joint", "joint_memory")
    networks = GraphNetworks(*(Session(bundle, role, device) for role in roles))
    greedy = options.beam_size <= 1 or config.search_type == "mbg"
    lm = None
    if "lm" in graphs and options.lm_weight:
        if greedy:
            logger.warning("LM is provided but not used, since this is greedy search.")
        elif "kept" in graphs["lm"].inputs and config.search_type != "default":
            raise PluginError(
                f"search_type {config.search_type} is not for language models of self-"
                "attention, in ESPnet either: set search_type to default or lm_weight "
                "to 0"
            )
        else:
            lm = open_scorer(bundle, "lm", device)
    return TransducerSearch(
        config,
        networks,
        search,
        options.beam_size,
        tokens,
        lm,
        options.lm_weight,
    )
