#!/usr/bin/env bash
# Takes the place of ESPnet's s2t.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./s2t.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run up to 13, and then ours: 14 export,
# 15 optimize, 16 decode and score.
#
# Variables of ESPnet's driver:
# shellcheck disable=SC2154
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=s2t
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

onnx_refuse_options use_streaming use_word_lm
# ESPnet's s2t_inference tells no speakers apart: with more, its stage 13 fails.
[ "${num_inf:-1}" -eq 1 ] ||
    onnx_die "--onnx true is not supported with --num_inf ${num_inf}, only with 1"

onnx_run_espnet
onnx_describe_model s2t "${s2t_exp}" "${inference_s2t_model}"
if "${s2t_ctc:-false}"; then # an option of ESPnet after 202511
    # shellcheck disable=SC2034 # the stages read them
    onnx_task=s2t_ctc onnx_inference=s2t_inference_ctc
fi
onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
onnx_add_model "${use_ngram}" ngram ngram_weight \
    --ngram_file "${ngram_exp-}/${inference_ngram-}"
onnx_run_stages
