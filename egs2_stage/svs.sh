#!/usr/bin/env bash
# Takes the place of ESPnet's svs.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./svs.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run up to its scoring, and then ours: 14
# export, 15 optimize, 16 sing, score and compare.
#
# Variables of ESPnet's driver and of the stages:
# shellcheck disable=SC2154,SC2034
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=svs
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh
# shellcheck source=egs2_stage/onnx_synthesis.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_synthesis.sh

# What ESPnet's stage 8 scores by, besides versa
onnx_find_scorer() {
    if { [ "${onnx_stage}" -le 8 ] && [ "${onnx_stop_stage}" -ge 8 ]; } ||
        [ "${onnx_stop_stage}" -ge 16 ]; then
        "${skip_versa}" || onnx_python -c 'import versa' > /dev/null 2>&1 ||
            onnx_die "'${python}' lacks versa, by which ESPnet's stage 8 scores: run" \
                "ESPnet's tools/installers/install_versa.sh, or give --skip_versa true"
        onnx_need_modules pysptk pyworld fastdtw librosa
    fi
}

onnx_find_inputs() {
    local dset=${1##*/} singing inputs
    onnx_find_data "$1"
    onnx_keys=$1/text
    singing=$1/${onnx_scp},singing,${onnx_type}
    inputs=("$1/text,text,text" "$1/label,label,duration" "$1/score.scp,score,score")
    if [ -n "${teacher_dumpdir}" ]; then
        inputs+=("${teacher_dumpdir}/${dset}/durations,durations,text_int")
        # The teacher's features stand for the song where a model learnt from them.
        [ ! -e "${teacher_dumpdir}/${train_set}/probs" ] ||
            singing=${teacher_dumpdir}/${dset}/denorm/feats.scp,singing,npy
    fi
    inputs+=("${singing}")
    ! "${use_xvector}" ||
        inputs+=("${dumpdir}/xvector/${dset}/xvector.scp,spembs,kaldi_ark")
    ! "${use_sid}" || inputs+=("$1/utt2sid,sids,text_int")
    ! "${use_lid}" || inputs+=("$1/utt2lid,lids,text_int")
    onnx_input_args=("${inputs[@]/#/--data_path_and_name_and_type=}")
}

onnx_run_espnet
onnx_describe_synthesis svs "${svs_exp}" "${inference_model}"
onnx_score_stages=(8 8)
onnx_reference_args+=(
    --svs_task "${svs_task}" "${onnx_vocoder_args[@]/#--vocoder_file/--vocoder_checkpoint}"
)
onnx_run_stages
