#!/usr/bin/env bash
# Takes the place of ESPnet's enh_asr.sh in a recipe (scripts/install_recipe.sh), whose
# own is ./enh_asr.espnet.sh next to it. Without "--onnx true" that one runs with every
# argument as it was given. With it, ESPnet's stages run, its scoring in 14 and 15 among
# them where it decodes, and then ours: 14 export, 15 optimize, 16 decode and score, both
# the words and the enhanced speech.
#
# Variables of ESPnet's driver and of the stages:
# shellcheck disable=SC2154,SC2034
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=enh_asr
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh
# shellcheck source=egs2_stage/onnx_enhancement.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_enhancement.sh

onnx_refuse_options use_k2 use_word_lm
[ -z "${inference_enh_config}" ] ||
    onnx_die "--inference_enh_config is not supported by enh_asr.sh with --onnx true"

onnx_find_scorer() {
    onnx_find_sclite
    local first=16
    [ "${onnx_stage}" -gt 13 ] || first=14
    if "${use_speech_ref}" && [ "${onnx_stop_stage}" -ge "${first}" ]; then
        onnx_need_enhancement_scorer
    fi
}

onnx_evaluate() {
    onnx_decode_and_score
    onnx_turn_to_enhancement
    onnx_decode_and_score
}

# The enhanced speech, which is scored where there is clean speech
onnx_turn_to_enhancement() {
    inference_tag=${inference_enh_tag}
    inference_config=
    inference_args=${enh_inference_args}
    onnx_describe_model enh "${enh_asr_exp}" "${inference_enh_asr_model}"
    onnx_describe_enhancement "${spk_num}" ""
    onnx_search_args+=(--enh_s2t_task true)
    onnx_tags=(inference_enh_tag)
    onnx_score_stages=(15 15)
    "${use_speech_ref}" || onnx_score() { :; }
    onnx_report_args=(--mixture_dir "${data_feats}")
    onnx_tables=${onnx_dir}/enhancement
    onnx_find_inputs() { onnx_find_mixtures "$1"; }
    onnx_results() { echo "${enh_asr_exp}/$1_$2"; }
}

# Without clean speech ESPnet's stage 15 is an error.
onnx_last_stage=14
! "${use_speech_ref}" || onnx_last_stage=15
inference_args=${asr_inference_args}
onnx_run_espnet
onnx_describe_model asr "${enh_asr_exp}" "${inference_enh_asr_model}"
onnx_task=enh_asr
onnx_search_args+=(--enh_s2t_task true)
onnx_score_stages=(14 14)
mapfile -t onnx_speakers < <(printf '_spk%s\n' $(seq "${spk_num}"))
onnx_found=("${onnx_speakers[@]/#/text}")
onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
onnx_add_model "${use_ngram}" ngram ngram_weight \
    --ngram_file "${ngram_exp}/${inference_ngram}"
onnx_run_stages
