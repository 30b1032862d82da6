#!/usr/bin/env bash
# Takes the place of ESPnet's st.sh in a recipe (scripts/install_recipe.sh), whose own is
# ./st.espnet.sh next to it. Without "--onnx true" that one runs with every argument as it
# was given. With it, ESPnet's stages run up to 13, and then ours: 14 export, 15 optimize,
# 16 decode and score.
#
# Variables of ESPnet's driver:
# shellcheck disable=SC2154
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=st
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

# ESPnet's st.sh says nowhere where an n-gram model of the source language is.
onnx_refuse_options use_k2 use_word_lm use_src_word_lm use_src_ngram
onnx_streams=${use_streaming:-false}
if "${onnx_streams}" && { "${use_ngram}" || "${use_src_lm}"; }; then
    onnx_die "ESPnet's streaming decoding takes no n-gram model and no model of the" \
        "source language: give --use_ngram false --use_src_lm false with --use_streaming true"
fi
if [ "${onnx_stop_stage}" -ge 13 ] && ! "${skip_eval}"; then
    # The driver's own scoring runs them.
    onnx_need_commands "run ${python} -m pip install sacrebleu" sacrebleu
    onnx_need_commands "run ESPnet's tools/installers/install_moses.sh" detokenizer.perl
fi

onnx_run_espnet
onnx_describe_model st "${st_exp}" "${inference_st_model}"
# The text that was to be found, by which the quantization's budget is measured.
# shellcheck disable=SC2034 # the stages read it
onnx_text=text.${tgt_case}.${tgt_lang}
onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
if "${onnx_streams}"; then
    onnx_use_streaming
else
    onnx_add_lm "${use_src_lm}" src_ "${src_lm_exp}" \
        "${src_inference_lm-${inference_asr_lm}}"
    onnx_add_model "${use_ngram}" ngram ngram_weight \
        --ngram_file "${ngram_exp-}/${inference_ngram-}"
fi
onnx_run_stages
