#!/usr/bin/env bash
# Takes the place of ESPnet's enh.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./enh.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run up to its scoring, and then ours: 14
# export, 15 optimize, 16 enhance and score. Likewise with "--is_tse_task true", for the
# extraction of speakers.
#
# Variables of ESPnet's driver and of the stages:
# shellcheck disable=SC2154,SC2034
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=enh
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

# Its options are those of inference_args alone.
inference_config=
# ESPnet's own enhancement and scoring take as many speakers for every mixture.
onnx_refuse_options variable_num_refs

# shellcheck source=egs2_stage/onnx_enhancement.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_enhancement.sh

onnx_find_scorer() {
    if { [ "${onnx_stage}" -le 8 ] && [ "${onnx_stop_stage}" -ge 8 ]; } ||
        [ "${onnx_stop_stage}" -ge 16 ]; then
        onnx_need_enhancement_scorer
    fi
    ! "${score_with_asr}" || onnx_find_sclite
}

# Of the mixtures and, where speakers are extracted, of their enrollments
onnx_find_inputs() {
    local n
    onnx_find_mixtures "$1"
    if "${is_tse_task}"; then
        for n in $(seq "${ref_num}"); do
            onnx_input_args+=("${onnx_input}=$1/enroll_spk${n}.scp,enroll_ref${n},text")
        done
    fi
    [ ! -e "$1"/utt2category ] ||
        onnx_input_args+=("${onnx_input}=$1/utt2category,category,text")
    [ ! -e "$1"/utt2fs ] || onnx_input_args+=("${onnx_input}=$1/utt2fs,fs,text_int")
}

onnx_take_validation_data() {
    # An export is checked on mixtures of its own.
    [ "$1" != --parity_scp ] || return 0
    onnx_find_inputs "$2"
    onnx_validation_args=("${onnx_input_args[@]}")
    [ "${inf_num}" -ne "${ref_num}" ] || onnx_add_clean_speech "$2" "${ref_num}"
}

onnx_results() {
    echo "${enh_exp}/$1_$2"
}

# The validation set too, which may be one of the test sets
onnx_list_sets() {
    local name
    echo "${valid_set}"
    for name in ${test_sets}; do
        [ "${name}" = "${valid_set}" ] || echo "${name}"
    done
}

onnx_run_espnet
if "${is_tse_task}"; then
    onnx_describe_model enh_tse "${enh_exp}" "${inference_model}"
else
    onnx_describe_model enh "${enh_exp}" "${inference_model}"
fi
onnx_describe_enhancement "${inf_num}" "${inference_enh_config}"
onnx_score_stages=(8 8)
onnx_report_args=(--mixture_dir "${data_feats}")
if "${score_with_asr}"; then
    onnx_score_stages=(8 10)
    onnx_tags+=(inference_asr_tag)
    onnx_report_args+=(--asr_dir PyTorch "${enh_exp}/${inference_asr_tag}")
    for onnx_variant in ${onnx_variants}; do
        onnx_report_args+=(
            --asr_dir "${onnx_variant}"
            "${enh_exp}/${inference_asr_tag}_onnx_${onnx_variant}"
        )
    done
fi
onnx_run_stages
