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
onnx_template=asr
# shellcheck source=egs2_stage/onnx_adapter.sh
. "${onnx_plugin_root}"/egs2_stage/onnx_adapter.sh

onnx_refuse_options use_k2 use_word_lm
case ${asr_task} in
    asr) ;;
    asr_transducer) onnx_refuse_options use_maskctc use_ngram ;;
    *)
        onnx_die "--onnx true is not supported with --asr_task ${asr_task}, only with asr" \
            "and asr_transducer"
        ;;
esac
# Not every driver knows several speakers.
onnx_num_ref=${num_ref:-1}
onnx_num_inf=${num_inf:-${onnx_num_ref}}
[ "${onnx_num_inf}" -eq "${onnx_num_ref}" ] ||
    onnx_die "--num_inf ${onnx_num_inf} is not supported with --num_ref ${onnx_num_ref}: ESPnet's" \
        "decoding and scoring take as many speakers as references"
# Not every driver decodes streams; of the stand-alone transducers an option of theirs does.
onnx_streams=${use_streaming:-false}
[ "${asr_task}" = asr ] || onnx_streams=false
if "${onnx_streams}" && "${use_ngram}"; then
    onnx_die "ESPnet's streaming decoding takes no n-gram model: give --use_ngram false" \
        "with --use_streaming true"
fi
if ! "${onnx_streams}" && "${use_maskctc:-false}" && { "${use_lm}" || "${use_ngram}"; }; then
    onnx_die "Mask-CTC uses no language model, in ESPnet's own stages either: give" \
        "--use_lm false --use_ngram false with --use_maskctc true"
fi

onnx_run_espnet
onnx_describe_model asr "${asr_exp}" "${inference_asr_model}"
if [ "${onnx_num_ref}" -gt 1 ]; then
    mapfile -t onnx_speakers < <(printf '_spk%s\n' $(seq "${onnx_num_ref}"))
    # shellcheck disable=SC2034 # the stages read it
    onnx_found=("${onnx_speakers[@]/#/text}")
fi
if "${onnx_streams}"; then
    onnx_use_streaming
    onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
elif "${use_maskctc:-false}"; then
    onnx_inference=asr_inference_maskctc # which takes no weights of other models
elif [ "${asr_task}" = asr_transducer ]; then
    onnx_task=asr_transducer
    onnx_inference=asr_transducer_inference # which takes no weight of an n-gram model
    onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
else
    onnx_add_lm "${use_lm}" "" "${lm_exp}" "${inference_lm}"
    onnx_add_model "${use_ngram}" ngram ngram_weight \
        --ngram_file "${ngram_exp-}/${inference_ngram-}"
fi
onnx_run_stages
