#!/usr/bin/env bash
# Takes the place of ESPnet's enh_diar.sh in a recipe (scripts/install_recipe.sh), whose
# own is ./enh_diar.espnet.sh next to it. Without "--onnx true" that one runs with every
# argument as it was given. With it, ESPnet's stages run up to its scoring, and then
# ours: 14 export, 15 optimize, 16 diarize, separate and score.
#
# Variables of ESPnet's driver and of the stages:
# shellcheck disable=SC2154,SC2034
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=enh_diar
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh
# shellcheck source=egs2_stage/onnx_enhancement.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_enhancement.sh

[ -z "${download_model}" ] ||
    onnx_die "--download_model is not supported by enh_diar.sh with --onnx true"

onnx_find_scorer() {
    if { [ "${onnx_stage}" -le 8 ] && [ "${onnx_stop_stage}" -ge 7 ]; } ||
        [ "${onnx_stop_stage}" -ge 16 ]; then
        onnx_need_enhancement_scorer
        if ! command -v md-eval.pl > /dev/null && [ -x /usr/lib/sctk/bin/md-eval.pl ]; then
            export PATH=${PATH}:/usr/lib/sctk/bin
        fi
        onnx_need_commands "install sctk, of which it is a part" md-eval.pl
    fi
}

# ESPnet decodes into the directory of the model; ours are below that, as if they were of
# other models, so that its scoring finds them by --diar_tag.
onnx_results() {
    local dir=${diar_exp}
    [ "$1" = "${inference_tag}" ] || dir+=/$1
    echo "${dir}/diarized_enhanced_$2"
}

# The configuration says the same, or ESPnet's own stage fails.
inference_args="--enh_s2t_task true"
onnx_run_espnet
onnx_describe_model diar "${diar_exp}" "${inference_model}"
onnx_task=enh_diar
onnx_reference_args=("${onnx_export_args[@]}")
onnx_search_args=(--fs "${fs}" "${onnx_search_args[@]}")
onnx_score_stages=(7 8)
diar_tag+=/${inference_tag}
onnx_tags=(diar_tag)
onnx_found=(diarize.scp)
onnx_merged="diarize.scp $(printf 'spk%s.scp ' $(seq "${spk_num}"))"
onnx_text=
onnx_report_args=(--mixture_dir "${data_feats}" --diarization)
onnx_run_stages
