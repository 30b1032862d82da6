#!/usr/bin/env bash
# Takes the place of ESPnet's slu.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./slu.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run up to 13, and then ours: 14 export,
# 15 optimize, 16 decode and score.
#
# Variables of ESPnet's driver:
# shellcheck disable=SC2154
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=slu
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

onnx_refuse_options use_word_lm

onnx_run_espnet
onnx_describe_model slu "${slu_exp}" "${inference_slu_model}"
if "${use_transcript}"; then
    # shellcheck disable=SC2034 # the stages read it
    onnx_inputs=(transcript)
fi
onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
onnx_add_model "${use_ngram}" ngram ngram_weight \
    --ngram_file "${ngram_exp-}/${inference_ngram-}"
onnx_run_stages
