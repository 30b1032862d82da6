# shellcheck shell=bash
# Sourced by the adapters of templates that speak or sing, after onnx_adapter.sh: the
# vocoder, and how ESPnet lays out what is made.
#
# Variables of ESPnet's driver, of the stages and of the adapters:
# shellcheck disable=SC2154,SC2034

onnx_take_validation_data() {
    # An export is checked on texts of its own.
    [ "$1" != --parity_scp ] || return 0
    onnx_find_inputs "$2"
    onnx_validation_args=("${onnx_input_args[@]}")
}

onnx_add_files() { cp "$1"/feats_type "$2"; }

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

# onnx_describe_synthesis TASK EXP FILE: as onnx_describe_model, with the vocoder
onnx_describe_synthesis() {
    onnx_describe_model "$@"
    onnx_logdir=log
    onnx_found=(wav/wav.scp)
    onnx_export_args+=("${onnx_vocoder_args[@]/#--vocoder_checkpoint/--vocoder_file}")
    onnx_reference_args=(--train_config "$2"/config.yaml --model_file "$2/$3")
    onnx_timing_args=(--time_first_audio true)
    onnx_report_args=(--data_dir "${data_feats}")
    if [ "${vocoder_file}" != none ]; then
        onnx_checkpoints+=("${vocoder_file}")
    fi
}
