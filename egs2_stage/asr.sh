#!/usr/bin/env bash
# Takes the place of ESPnet's asr.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./asr.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run up to 13, and then ours: 14 export,
# 15 optimize, 16 decode and score.
#
# Variables of ESPnet's driver:
# shellcheck disable=SC2154
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
# shellcheck source=egs2_stage/onnx_options.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_options.sh
onnx_parse_options "$@"
onnx_check_options
[ -e ./asr.espnet.sh ] ||
    onnx_die "./asr.espnet.sh is missing: scripts/install_recipe.sh has not prepared" \
        "this directory"

# Sourced, not executed, so that it goes by its own name: ESPnet writes $0 into the
# run.sh files of its experiments, which must go on working after an uninstall.
onnx_driver() {
    bash -c '. ./asr.espnet.sh' "$0" "$@"
}

if "${onnx_wants_help}"; then
    onnx_driver "${onnx_driver_args[@]}"
    echo "${onnx_help_message}" >&2
    exit 0
fi
if ! "${onnx}"; then
    exec bash -c '. ./asr.espnet.sh' "$0" "${onnx_driver_args[@]}"
fi

# ESPnet's driver sets all of its variables and, at a stage past its last, runs nothing.
# What it says is of use only where it ends with an error.
onnx_driver_log=$(mktemp)
trap 'cat "${onnx_driver_log}" >&2; rm -f "${onnx_driver_log}"' EXIT
# shellcheck source=/dev/null
. ./asr.espnet.sh "${onnx_driver_args[@]}" --stage 100000 --skip_upload_hf true \
    > "${onnx_driver_log}"
trap - EXIT
rm -f "${onnx_driver_log}"

# Before any stage runs: training takes hours.
[ "${asr_task}" = asr ] ||
    onnx_die "--onnx true is not supported with --asr_task ${asr_task}, only with asr"
for onnx_name in use_k2 use_streaming use_word_lm; do
    [ "${!onnx_name:-false}" = false ] ||
        onnx_die "--onnx true is not supported with --${onnx_name} true"
done
[ "${num_inf:-1}" -eq 1 ] ||
    onnx_die "--onnx true is not supported with --num_inf ${num_inf}, only with 1"
if "${use_maskctc:-false}" && { "${use_lm}" || "${use_ngram}"; }; then
    onnx_die "Mask-CTC uses no language model, in ESPnet's own stages either: give" \
        "--use_lm false --use_ngram false with --use_maskctc true"
fi
# shellcheck source=egs2_stage/onnx_stages.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_stages.sh
onnx_check_environment

if [ "${onnx_stage}" -le 13 ]; then
    onnx_driver "${onnx_driver_args[@]}" \
        --stop_stage "$((onnx_stop_stage < 13 ? onnx_stop_stage : 13))"
fi

# What the stages have to know of this template.
onnx_task=asr
! "${use_maskctc:-false}" || onnx_inference=asr_inference_maskctc
onnx_exp=${asr_exp}
onnx_score_stage=13
onnx_checkpoints=("${asr_exp}/${inference_asr_model}")
onnx_export_args=(
    --train_config "${asr_exp}"/config.yaml
    --model_file "${asr_exp}/${inference_asr_model}"
)
onnx_reference_args=(
    --asr_train_config "${asr_exp}"/config.yaml
    --asr_model_file "${asr_exp}/${inference_asr_model}"
)
if "${use_lm}"; then
    onnx_lm_args=(
        --lm_train_config "${lm_exp}"/config.yaml
        --lm_file "${lm_exp}/${inference_lm}"
    )
    onnx_checkpoints+=("${lm_exp}/${inference_lm}")
    onnx_export_args+=("${onnx_lm_args[@]}")
    onnx_reference_args+=("${onnx_lm_args[@]}")
fi
if "${use_ngram}"; then
    onnx_checkpoints+=("${ngram_exp}/${inference_ngram}")
    onnx_export_args+=(--ngram_file "${ngram_exp}/${inference_ngram}")
    onnx_reference_args+=(--ngram_file "${ngram_exp}/${inference_ngram}")
fi
onnx_search_args=()
if [ -n "${inference_config}" ]; then
    onnx_search_args+=(--config "${inference_config}")
fi
# shellcheck disable=SC2206 # several options in one string, as ESPnet takes them
onnx_search_args+=(${inference_args})

onnx_run_stages
