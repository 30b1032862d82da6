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

onnx_take_validation_data() {
    # An export is checked on texts of its own.
    [ "$1" != --parity_scp ] || return 0
    onnx_find_inputs "$2"
    onnx_validation_args=("${onnx_input_args[@]}")
}

onnx_collect() {
    local name outputs=("$2/${onnx_logdir}"/output.*)
    cp "$1"/feats_type "$2"
    rm -rf "$2"/{norm,denorm,wav,att_ws,probs}
    for name in norm denorm; do
        onnx_merge "$2" "${name}"/feats.scp "${name}"/feats.scp
    done
    for name in speech_shape durations focus_rates; do
        onnx_merge "$2" "${name}/${name}" "${name}"
    done
    for name in wav att_ws probs; do
        [ -d "${outputs[0]}/${name}" ] || continue
        mkdir "$2/${name}"
        find "${outputs[@]/%//${name}}" -type f -exec mv -t "$2/${name}" {} +
        rm -r "${outputs[@]/%//${name}}"
    done
    find "$2"/wav -name '*.wav' -printf '%f %p\n' | sed 's/\.wav / /' |
        LC_ALL=C sort -k1 > "$2"/wav/wav.scp
}

# The vocoder becomes part of the bundle: what inference_args say of it is not for our
# synthesis, but for the export and for ESPnet's own.
onnx_vocoder_args=()
if [ "${vocoder_file}" != none ]; then
    onnx_vocoder_args+=(--vocoder_file "${vocoder_file}")
fi
onnx_vocoder_option='--vocoder_[a-z]+[ =]+[^ ]+'
# shellcheck disable=SC2207 # several options in one string, as ESPnet takes them
onnx_vocoder_args+=($(grep -oE -- "${onnx_vocoder_option}" <<< "${inference_args}" || true))
inference_args=$(sed -E "s/${onnx_vocoder_option}//g" <<< "${inference_args}")

onnx_run_espnet
onnx_describe_model tts "${tts_exp}" "${inference_model}"
onnx_logdir=log
onnx_found=(wav/wav.scp)
onnx_export_args+=("${onnx_vocoder_args[@]}")
onnx_reference_args=("${onnx_export_args[@]}")
onnx_quantize_args=(${onnx_asr_model_dir:+--asr_model_dir "${onnx_asr_model_dir}"})
onnx_timing_args=(--time_first_audio true)
onnx_report_args=(--data_dir "${data_feats}" "${onnx_quantize_args[@]}")
if [ "${vocoder_file}" != none ]; then
    onnx_checkpoints+=("${vocoder_file}")
fi
onnx_run_stages
