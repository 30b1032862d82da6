# shellcheck shell=bash
# Sourced by the adapters: the options of the ONNX stages, taken out of a recipe's
# command line. Everything here is called onnx or onnx_*, so that nothing meets the
# variables of ESPnet's driver, which is sourced into the same shell. They set
# onnx_plugin_root, the clone of the plugin, and onnx_template, the name of the driver.
#
# Variables that the adapters read:
# shellcheck disable=SC2034,SC2154

onnx=false
onnx_variants=default
onnx_export_config=${onnx_plugin_root}/conf/export.yaml
onnx_optimize_config=${onnx_plugin_root}/conf/optimize.yaml
onnx_quantize_config=${onnx_plugin_root}/conf/quantize.yaml
onnx_provider=cpu
onnx_threads=1
onnx_nj=
onnx_batch_bins=
onnx_dir=
onnx_asr_model_dir=
onnx_chunk_lengths=
onnx_max_failures=0
onnx_time_limit=
onnx_force=false
onnx_wait=false
onnx_trust_checkpoint=false

onnx_help_message="
    # ONNX, with --onnx true: stage 14 export, stage 15 optimize, stage 16 decode and score
    --onnx                 # Whether to run these stages in place of ESPnet's from 14 on (default=\"${onnx}\").
    --onnx_variants        # The models to make and to decode with (default=\"fp32 optimized int8\", with cuda without int8, with tensorrt fp32; also weight8 and weight4, with cuda tf32, fp16 and bf16, with tensorrt fp16).
    --onnx_export_config   # YAML for the export (default=\"${onnx_export_config}\").
    --onnx_optimize_config # YAML for the optimization (default=\"${onnx_optimize_config}\").
    --onnx_quantize_config # YAML for the quantization (default=\"${onnx_quantize_config}\").
    --onnx_provider        # Where to decode, cpu, cuda or tensorrt (default=\"${onnx_provider}\").
    --onnx_threads         # The number of threads of each decoding job (default=\"${onnx_threads}\").
    --onnx_nj              # The number of parallel jobs in decoding (default=\"${onnx_nj}\", that of inference_nj).
    --onnx_batch_bins      # Limit of the padded size of batches in decoding, as batch_bins in training: utterances times samples of the longest, or frames times dimensions of features (default=\"${onnx_batch_bins}\", batches of --batch_size).
    --onnx_dir             # Where models and tables go (default=\"${onnx_dir}\", \"onnx\" in the model's directory).
    --onnx_asr_model_dir   # Of tts.sh: an ASR model of these stages, to hear what is spoken (default=\"${onnx_asr_model_dir}\").
    --onnx_chunk_lengths   # With --use_streaming true: other values of sim_chunk_length that the last of the models decodes with, for a plot of error rate against latency (default=\"${onnx_chunk_lengths}\").
    --onnx_max_failures    # How many utterances of a test set may have no result; they are scored as silence, and where speech is made are left out (default=\"${onnx_max_failures}\").
    --onnx_time_limit      # Seconds after which a decoding job begins no further utterance; the stage, run again, goes on with the others (default=\"${onnx_time_limit}\", none).
    --onnx_force           # Whether to make anew what an earlier run has made of the same (default=\"${onnx_force}\").
    --onnx_wait            # Whether to wait where another run writes the same (default=\"${onnx_wait}\").
    --onnx_trust_checkpoint # Whether stages 14 and 16 load checkpoints that hold more than weights, which may run code: for those whose author you know (default=\"${onnx_trust_checkpoint}\")."

onnx_die() {
    echo "$0: $*" >&2
    exit 1
}

# onnx_parse_options ARGS...: sets the variables above; leaves what is ESPnet's in
# onnx_driver_args, untouched and in order. Reads ARGS as utils/parse_options.sh does.
onnx_parse_options() {
    local name
    onnx_driver_args=()
    onnx_wants_help=false
    onnx_stage=1
    onnx_stop_stage=10000
    onnx_skip_stages=
    while [ $# -gt 0 ]; do
        case $1 in
            --help | -h)
                onnx_wants_help=true
                break
                ;;
            --onnx=* | --onnx[-_]*=*)
                onnx_die "write '${1%%=*} ${1#*=}' instead of '$1'"
                ;;
            --*=*) break ;;
            --?*) ;;
            *) break ;;
        esac
        name=${1#--}
        name=${name//-/_}
        case ${name} in
            onnx | onnx_variants | onnx_export_config | onnx_optimize_config | \
                onnx_quantize_config | onnx_provider | onnx_threads | onnx_nj | \
                onnx_batch_bins | onnx_dir | onnx_asr_model_dir | onnx_chunk_lengths | \
                onnx_max_failures | onnx_time_limit | onnx_force | onnx_wait | \
                onnx_trust_checkpoint)
                [ $# -ge 2 ] || onnx_die "option $1 needs a value"
                printf -v "${name}" '%s' "$2"
                shift 2
                continue
                ;;
            onnx_*) onnx_die "unknown option $1; --help lists the options" ;;
            stage | stop_stage | skip_stages)
                printf -v "onnx_${name}" '%s' "${2-}"
                ;;
        esac
        onnx_driver_args+=("${@:1:2}")
        shift $(($# < 2 ? $# : 2))
    done
    # Where ESPnet's parser stops, or answers with an error or its help.
    onnx_driver_args+=("$@")
}

onnx_check_options() {
    local option value variants known="fp32 optimized int8 weight8 weight4 tf32 fp16 bf16"
    [[ ${onnx} =~ ^(true|false)$ ]] ||
        onnx_die "--onnx must be true or false, not '${onnx}'"
    [[ ${onnx_trust_checkpoint} =~ ^(true|false)$ ]] ||
        onnx_die "--onnx_trust_checkpoint must be true or false, not '${onnx_trust_checkpoint}'"
    # What loads checkpoints takes this besides.
    onnx_loader_args=()
    ! "${onnx_trust_checkpoint}" || onnx_loader_args=(--trust_checkpoint true)
    [[ ${onnx_provider} =~ ^(cpu|cuda|tensorrt)$ ]] ||
        onnx_die "--onnx_provider must be cpu, cuda or tensorrt, not '${onnx_provider}'"
    [[ ${onnx_threads} =~ ^[1-9][0-9]*$ ]] ||
        onnx_die "--onnx_threads must be a positive integer, not '${onnx_threads}'"
    [[ ${onnx_nj:-1} =~ ^[1-9][0-9]*$ ]] ||
        onnx_die "--onnx_nj must be a positive integer, not '${onnx_nj}'"
    [[ ${onnx_batch_bins:-1} =~ ^[1-9][0-9]*$ ]] ||
        onnx_die "--onnx_batch_bins must be a positive integer, not '${onnx_batch_bins}'"
    [[ ${onnx_max_failures} =~ ^[0-9]+$ ]] ||
        onnx_die "--onnx_max_failures must be a number, not '${onnx_max_failures}'"
    [[ ${onnx_time_limit:-1} =~ ^[1-9][0-9]*$ ]] ||
        onnx_die "--onnx_time_limit must be a positive integer, not '${onnx_time_limit}'"
    for option in onnx_force onnx_wait; do
        [[ ${!option} =~ ^(true|false)$ ]] ||
            onnx_die "--${option} must be true or false, not '${!option}'"
    done
    if [ "${onnx_variants}" = default ]; then
        case ${onnx_provider} in
            cpu) onnx_variants="fp32 optimized int8" ;;
            cuda) onnx_variants="fp32 optimized" ;;
            tensorrt) onnx_variants=fp32 ;;
        esac
    fi
    for value in ${onnx_variants}; do
        [[ " ${known} " == *" ${value} "* ]] ||
            onnx_die "--onnx_variants: '${value}' is none of ${known}"
        case ${onnx_provider}-${value} in
            cuda-int8 | cuda-weight? | tensorrt-int8 | tensorrt-weight?)
                onnx_die "--onnx_variants: ${value} is for the CPU, leave it out with" \
                    "--onnx_provider ${onnx_provider}"
                ;;
            tensorrt-optimized | tensorrt-tf32 | tensorrt-bf16)
                onnx_die "--onnx_variants: TensorRT does its own fusions, leave ${value}" \
                    "out with --onnx_provider tensorrt"
                ;;
            cpu-tf32 | cpu-fp16 | cpu-bf16)
                onnx_die "--onnx_variants: ${value} is for --onnx_provider cuda"
                ;;
        esac
    done
    variants=
    for value in ${known}; do
        [[ " ${onnx_variants} " != *" ${value} "* ]] || variants+="${value} "
    done
    onnx_variants=${variants% }
    [ -n "${onnx_variants}" ] ||
        onnx_die "--onnx_variants must name at least one of ${known}"
    for option in onnx_export_config onnx_optimize_config onnx_quantize_config; do
        [ -f "${!option}" ] ||
            onnx_die "--${option}: no such file: '${!option}'"
    done
    if [ -n "${onnx_asr_model_dir}" ]; then
        [ "${onnx_template}" = tts ] ||
            onnx_die "--onnx_asr_model_dir is for tts.sh, not ${onnx_template}.sh"
        [ -f "${onnx_asr_model_dir}"/manifest.yaml ] ||
            onnx_die "--onnx_asr_model_dir: no model in '${onnx_asr_model_dir}'"
    fi
    for value in ${onnx_chunk_lengths}; do
        [[ ${value} =~ ^[1-9][0-9]*$ ]] ||
            onnx_die "--onnx_chunk_lengths must be numbers of samples, not '${value}'"
    done
    for option in stage stop_stage; do
        value=onnx_${option}
        [[ ${!value} =~ ^[0-9]+$ ]] ||
            onnx_die "--${option} must be a number, not '${!value}'"
    done
}

# onnx_check_words: ends where a variable holds what run.pl, slurm.pl and queue.pl do not
# pass on unchanged. They write the words of a job into a shell's script: one without
# blanks as it is, others within double quotes, or single ones where it holds double
# ones; the name of a log always as it is; and in all the number of the job for JOB. So
# exp/$(command) would run. Called when ESPnet's variables are set.
onnx_check_words() {
    local name
    for name in $(compgen -v); do
        case ${name} in
            # In names of logs too.
            onnx_dir | *_exp | *inference*_tag | test_sets | valid_set)
                onnx_check_word "${name}" '[]["#$&'\''()*;<>?`{|}~\[:cntrl:]]'
                [[ ${name} == test_sets || ${!name-} != *" "* ]] ||
                    onnx_die "--${name} '${!name-}' holds a blank, which the recipe's job" \
                        "scripts do not pass on: name it without"
                ;;
            onnx_*_config | onnx_asr_model_dir | onnx_plugin_root | python | data_feats | \
                dumpdir | teacher_dumpdir | train_set | inference*_config | vocoder_file | \
                inference*_model | inference*lm | inference*ngram | spk_embed_tag)
                onnx_check_word "${name}" '[]["#$&'\''()*;<>?`{|}~\[:cntrl:]]'
                ;;
            *inference_args) onnx_check_arguments "${name}" ;;
        esac
    done
}

# onnx_check_word NAME REGEX: ends where the variable NAME matches, or holds JOB
onnx_check_word() {
    local LC_ALL=C value=${!1-}
    [[ ! ${value} =~ $2 && ! ${value} =~ JOB ]] ||
        onnx_die "--$1 ${value@Q} holds ${BASH_REMATCH[0]@Q}, which the recipe's job scripts" \
            "(run.pl, slurm.pl, queue.pl) do not pass on: name it without"
}

# onnx_check_arguments NAME: likewise of a variable with several options, in which ESPnet's
# users put quotes around what the scripts' shell would take for its own: '<eng>'
onnx_check_arguments() {
    local value=${!1-} bare=${!1-} special='[]["#&'\''()*;<>?{|}~]'
    onnx_check_word "$1" '[$`\[:cntrl:]]'
    [[ ${bare} != *\'* || ${bare} != *\"* ]] ||
        onnx_die "--$1 ${value@Q} holds quotes of both kinds, which the recipe's job scripts do" \
            "not pass on: put these options into a file, --inference_config"
    while [[ ${bare} =~ \"[^\"[:blank:]]*\"|\'[^\'[:blank:]]*\' ]]; do
        bare=${bare/"${BASH_REMATCH[0]}"/}
    done
    [[ ! ${bare} =~ ${special} ]] ||
        onnx_die "--$1 ${value@Q} holds '${BASH_REMATCH[0]}', which the recipe's job scripts do not" \
            "pass on: put these options into a file, --inference_config"
}

# onnx_wants_stage N: whether the options ask for our stage N
onnx_wants_stage() {
    [ "${onnx_stage}" -le "$1" ] && [ "${onnx_stop_stage}" -ge "$1" ] &&
        [[ " ${onnx_skip_stages} " != *" $1 "* ]]
}
