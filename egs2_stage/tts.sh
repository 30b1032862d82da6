#!/usr/bin/env bash
# Takes the place of ESPnet's tts.sh in a recipe (scripts/install_recipe.sh), whose own
# is ./tts.espnet.sh next to it. Without "--onnx true" that one runs with every argument
# as it was given. With it, ESPnet's stages run, and then ours: 14 export, 15 optimize,
# 16 synthesize and compare.
#
# Variables of ESPnet's driver and of the stages:
# shellcheck disable=SC2154,SC2034
set -euo pipefail

onnx_plugin_root=$(dirname "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")")
onnx_template=tts
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

if [ "${onnx_stage}" -le 9 ] && [ "${onnx_stop_stage}" -ge 9 ] && ! "${skip_scoring}"; then
    onnx_python -c 'import versa' > /dev/null 2>&1 ||
        onnx_die "'${python}' lacks versa, by which ESPnet's stage 9 scores: run" \
            "ESPnet's tools/installers/install_versa.sh, or give --skip_scoring true"
fi

# What is spoken is compared by stage 16 itself.
onnx_find_scorer() {
    [ "${onnx_stop_stage}" -lt 16 ] ||
        onnx_need_modules pyworld ${onnx_asr_model_dir:+jiwer soxr}
}
onnx_score() { :; }

onnx_find_inputs() {
    local dset=${1##*/} speech inputs=("$1/text,text,text")
    onnx_find_data "$1"
    onnx_keys=$1/text
    speech=$1/${onnx_scp},speech,${onnx_type}
    if [ -n "${teacher_dumpdir}" ]; then
        inputs+=("${teacher_dumpdir}/${dset}/durations,durations,text_int")
        # The teacher's features stand for the speech where a model learnt from them.
        [ ! -e "${teacher_dumpdir}/${train_set}/probs" ] ||
            speech=${teacher_dumpdir}/${dset}/denorm/feats.scp,speech,npy
    fi
    inputs+=("${speech}")
    ! "${use_spk_embed}" ||
        inputs+=("${dumpdir}/${spk_embed_tag}/${dset}/${spk_embed_tag}.scp,spembs,kaldi_ark")
    ! "${use_sid}" || inputs+=("$1/utt2sid,sids,text_int")
    ! "${use_lid}" || inputs+=("$1/utt2lid,lids,text_int")
    onnx_input_args=("${inputs[@]/#/--data_path_and_name_and_type=}")
}

# shellcheck source=egs2_stage/onnx_synthesis.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_synthesis.sh

onnx_run_espnet
onnx_describe_synthesis tts "${tts_exp}" "${inference_model}"
onnx_reference_args+=("${onnx_vocoder_args[@]}")
onnx_quantize_args=(${onnx_asr_model_dir:+--asr_model_dir "${onnx_asr_model_dir}"})
onnx_report_args+=("${onnx_quantize_args[@]}")
onnx_run_stages
