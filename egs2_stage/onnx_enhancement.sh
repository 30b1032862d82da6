# shellcheck shell=bash
# Sourced by the adapters of templates that enhance, after onnx_adapter.sh: how ESPnet's
# enhancement is named, asked for and scored.
#
# Variables of ESPnet's driver, of the stages and of the adapters:
# shellcheck disable=SC2154,SC2034

onnx_input=--data_path_and_name_and_type

# onnx_need_enhancement_scorer: ends where ESPnet's scoring of waveforms cannot run
onnx_need_enhancement_scorer() {
    # One source: mir_eval 0.7 fails there with numpy 2.
    onnx_python -c '
import numpy, pystoi
from mir_eval.separation import bss_eval_sources
bss_eval_sources(numpy.eye(1, 9), numpy.eye(1, 9))' > /dev/null 2>&1 ||
        onnx_die "'${python}' lacks pystoi or a mir_eval that scores sources, by which" \
            "ESPnet scores: run ${python} -m pip install pystoi 'mir_eval==0.8.*'"
}

# onnx_find_mixtures DIR: as onnx_find_inputs, of the mixtures alone
onnx_find_mixtures() {
    onnx_find_data "$1"
    onnx_keys=$1/${onnx_scp}
    onnx_input_args=("${onnx_input}=$1/${onnx_scp},speech_mix,${onnx_type}")
}

# onnx_find_scored_data DECODE: as of all stages. ESPnet's scoring is an error where clean
# speech has mixtures that were not enhanced, as --onnx_max_failures allows: it gets
# directories with the others alone.
onnx_find_scored_data() {
    local tag=${inference_tag}_onnx_$1 dset data dir scored file enhanced failed=false
    local dump=${onnx_dir}/scored/${tag}
    onnx_scored_args=()
    rm -rf "${dump}"
    for dset in $(onnx_list_sets); do
        data=${data_feats}/${dset}
        dir=$(onnx_results "${tag}" "${dset}")
        scored=${dump}${data_feats#"${dumpdir}"}/${dset}
        enhanced=${scored}.keys
        mkdir -p "${scored}"
        onnx_list_keys "${dir}/${onnx_found[0]}" > "${enhanced}"
        [ -s "${enhanced}" ] || onnx_die "${dir}: no mixture was enhanced, nothing is scored"
        ln -s "$(realpath "${data}")"/* "${scored}"
        for file in "${data}"/wav.scp "${data}"/spk*.scp; do
            [ -e "${file}" ] || continue
            rm "${scored}/${file##*/}"
            LC_ALL=C awk 'NR == FNR { found[$1]; next } $1 in found' "${enhanced}" "${file}" \
                > "${scored}/${file##*/}"
        done
        [ "$(wc -l < "${scored}"/wav.scp)" -eq "$(wc -l < "${data}"/wav.scp)" ] || failed=true
    done
    if ! "${failed}"; then
        rm -rf "${dump}"
        return
    fi
    # Mixtures are scored with all of the data.
    for file in RESULTS RESULTS_ASR RESULTS_enh ENH_RESULTS; do
        : > "${dump}${data_feats#"${dumpdir}"}/${file}.md"
    done
    onnx_scored_args=(--dumpdir "${dump}")
}

# onnx_add_clean_speech DIR SPEAKERS: adds that of DIR to onnx_validation_args
onnx_add_clean_speech() {
    local n
    for n in $(seq "$2"); do
        onnx_validation_args+=("${onnx_input}=$1/spk${n}.scp,speech_ref${n},${onnx_type}")
    done
}

# onnx_describe_enhancement SPEAKERS CONFIG: after onnx_describe_model, what the stages
# have to know of a model that enhances; CONFIG changes it for the inference
onnx_describe_enhancement() {
    mapfile -t onnx_found < <(printf 'spk%s.scp\n' $(seq "$1"))
    onnx_merged=${onnx_found[*]}
    onnx_search_args=(--fs "${fs}" "${onnx_search_args[@]}")
    onnx_reference_args=("${onnx_export_args[@]}")
    if [ -n "$2" ]; then
        onnx_export_args+=(--inference_enh_config "$2")
        onnx_reference_args+=(--inference_config "$2")
    fi
}
