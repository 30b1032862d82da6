# shellcheck shell=bash
# Sourced by the adapters first, with their own arguments: hands on to ESPnet's driver
# what is its alone, and ends there; with "--onnx true" it comes back with every variable
# of the driver set. Adapters set onnx_plugin_root, the clone of the plugin, and
# onnx_template, the name of ESPnet's template (asr, st, ...), whose own driver is
# ./TEMPLATE.espnet.sh in the recipe.
#
# Variables of ESPnet's driver and of the adapters:
# shellcheck disable=SC2154,SC2034

# shellcheck source=egs2_stage/onnx_options.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_options.sh
onnx_parse_options "$@"
onnx_check_options
[ -e "./${onnx_template}.espnet.sh" ] ||
    onnx_die "./${onnx_template}.espnet.sh is missing: scripts/install_recipe.sh has not" \
        "prepared this directory"

# Sourced, not executed, so that it goes by its own name: ESPnet writes $0 into the
# run.sh files of its experiments, which must go on working after an uninstall.
onnx_driver() {
    bash -c ". ./${onnx_template}.espnet.sh" "$0" "$@"
}

if "${onnx_wants_help}"; then
    onnx_driver "${onnx_driver_args[@]}"
    echo "${onnx_help_message}" >&2
    exit 0
fi
if ! "${onnx}"; then
    exec bash -c ". ./${onnx_template}.espnet.sh" "$0" "${onnx_driver_args[@]}"
fi

# ESPnet's driver sets all of its variables and, at a stage past its last, runs nothing.
# What it says is of use only where it ends with an error.
onnx_driver_log=$(mktemp)
trap 'cat "${onnx_driver_log}" >&2; rm -f "${onnx_driver_log}"' EXIT
# shellcheck source=/dev/null
. "./${onnx_template}.espnet.sh" "${onnx_driver_args[@]}" --stage 100000 \
    --skip_upload_hf true > "${onnx_driver_log}"
trap - EXIT
rm -f "${onnx_driver_log}"
# shellcheck source=egs2_stage/onnx_stages.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_stages.sh

# Whether the recipe decodes streams; adapters of drivers that can set it.
onnx_streams=false

# onnx_refuse_options NAME...: ends where one of ESPnet's switches is on; before any
# stage runs, for training takes hours
onnx_refuse_options() {
    local name
    for name in "$@"; do
        [ "${!name:-false}" = false ] ||
            onnx_die "--onnx true is not supported with --${name} true"
    done
}

# onnx_need_commands REMEDY NAME...: ends where a command is missing
onnx_need_commands() {
    local remedy=$1 name
    shift
    for name in "$@"; do
        command -v "${name}" > /dev/null || onnx_die "${name} is missing: ${remedy}"
    done
}

# The last of ESPnet's own stages that are run; some templates score later.
onnx_last_stage=13

# onnx_run_espnet: ESPnet's own stages, up to its scoring
onnx_run_espnet() {
    onnx_check_words
    [ -z "${onnx_chunk_lengths}" ] || "${onnx_streams}" ||
        onnx_die "--onnx_chunk_lengths is for decoding streams: give --use_streaming true" \
            "to asr.sh or st.sh"
    if [ "${onnx_stop_stage}" -ge 14 ]; then
        onnx_need_modules onnx onnxruntime onnxscript jiwer
        onnx_need_provider
    fi
    onnx_find_scorer
    if [ "${onnx_stage}" -le 13 ]; then
        onnx_driver "${onnx_driver_args[@]}" --stop_stage \
            "$((onnx_stop_stage < 14 ? onnx_stop_stage : onnx_last_stage))"
    fi
}

# onnx_describe_model TASK EXP FILE: what the stages have to know of the trained model
onnx_describe_model() {
    onnx_task=$1
    onnx_inference=$1_inference
    onnx_exp=$2
    onnx_score_stages=(13 13)
    onnx_tags=(inference_tag)
    onnx_logdir=logdir
    onnx_found=(text)
    onnx_merged=
    onnx_text=text
    onnx_speakers=("")
    onnx_inputs=()
    onnx_checkpoints=("$2/$3")
    onnx_export_args=(--train_config "$2"/config.yaml --model_file "$2/$3")
    onnx_reference_args=(
        "--$1_train_config" "$2"/config.yaml "--$1_model_file" "$2/$3"
    )
    onnx_unused=()
    onnx_needed=()
    onnx_quantize_args=()
    onnx_report_args=()
    onnx_timing_args=()
    onnx_search_args=()
    if [ -n "${inference_config}" ]; then
        onnx_search_args+=(--config "${inference_config}")
    fi
    # shellcheck disable=SC2206 # several options in one string, as ESPnet takes them
    onnx_search_args+=(${inference_args})
}

# onnx_use_streaming: decodes as ESPnet does with --use_streaming true
onnx_use_streaming() {
    onnx_inference=${onnx_task}_inference_streaming
    onnx_quantize_args+=(--inference "${onnx_inference}")
}

# onnx_add_model USED NAME WEIGHT OPTION FILE...: a language or n-gram model, NAME in the
# manifest, whose files are given as OPTION FILE. Where the run does not use it, option
# WEIGHT takes it out of the search: a bundle may hold it.
onnx_add_model() {
    local used=$1
    if ! "${used}"; then
        onnx_unused+=("--$3" 0)
        return
    fi
    onnx_needed+=("$2")
    onnx_export_args+=("${@:4}")
    onnx_reference_args+=("${@:4}")
    onnx_checkpoints+=("${@: -1}")
}

# onnx_add_lm USED PREFIX DIR FILE: a language model, PREFIX "" or "src_"
onnx_add_lm() {
    local weight=lm_weight
    [ -z "$2" ] || weight=asr_lm_weight
    onnx_add_model "$1" "$2lm" "${weight}" \
        "--$2lm_train_config" "$3"/config.yaml "--$2lm_file" "$3/$4"
}
