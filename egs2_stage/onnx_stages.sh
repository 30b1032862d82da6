# shellcheck shell=bash
# Sourced after ESPnet's driver: the three ONNX stages. They read ESPnet's variables and
# what the adapter says of its template (see onnx_adapter.sh):
#   onnx_task            name of the task, as in bin.export --task
#   onnx_inference       name of the command that decodes, here and in ESPnet
#   onnx_exp             directory of the trained model
#   onnx_score_stages    numbers of the first and the last of ESPnet's scoring stages
#   onnx_tags            its options that name the directories of a decode, which are its
#                        variables too
#   onnx_logdir          where it puts the logs of a decode, in the decode's directory
#   onnx_found           files of a decode with a line for each utterance
#   onnx_merged          those that are made of what the jobs write; nothing for all
#   onnx_text            file of a data directory with the text that is to be found
#   onnx_speakers        what follows the name of each speaker's text and results, e.g.
#                        _spk1; nothing where there is one speaker
#   onnx_inputs          files of a data directory that the model reads besides the audio
#   onnx_checkpoints     files of the trained model, of which the tables give the size
#   onnx_export_args     what names the trained model to bin.export
#   onnx_reference_args  what names it to ESPnet's own inference
#   onnx_search_args     options of ESPnet's own inference for the search
#   onnx_unused          options that take out of it what this run does not use
#   onnx_needed          language and n-gram models that it uses, as the manifest calls them
#   onnx_quantize_args   what the quantization takes besides the validation set
#   onnx_report_args     what the tables take besides the decodes
#   onnx_streams         whether it decodes streams
#   onnx_driver          function that runs ESPnet's driver, with onnx_driver_args
# An adapter defines anew the functions below in which its template is another.
#
# Variables of ESPnet's driver, and commands of several words in one variable:
# shellcheck disable=SC2154,SC2086

# onnx_need_modules MODULE...: ends where the recipe's python lacks one
onnx_need_modules() {
    local missing
    missing=$(onnx_python -c '
import sys
from importlib.util import find_spec
print(*[name for name in sys.argv[1:] if find_spec(name) is None])' "$@")
    [ -z "${missing}" ] ||
        onnx_die "'${python}' lacks ${missing}: run ${python} -m pip install ${missing}"
}

# onnx_need_provider: ends where the recipe's python has no onnxruntime for a GPU; whether
# there is one is known where the jobs run
onnx_need_provider() {
    local refused
    refused=$(onnx_python -c '
import sys
from espnet_onnx_plugin.runtime.core.device import Device
Device(sys.argv[1])' "${onnx_provider}" 2>&1) || onnx_die "${refused##*Error: }"
}

# onnx_find_scorer: finds what ESPnet's scoring needs, or ends
onnx_find_scorer() { onnx_find_sclite; }

onnx_find_sclite() {
    if command -v sclite > /dev/null; then
        return
    fi
    if [ -x /usr/lib/sctk/bin/sclite ]; then
        export PATH=${PATH}:/usr/lib/sctk/bin
    else
        onnx_need_modules jiwer
        export PATH=${PATH}:${onnx_plugin_root}/egs2_stage/bin
        export ONNX_PYTHON=${python}
    fi
}

# onnx_python ARGS...: the recipe's python, with this clone of the plugin importable
onnx_python() {
    "${onnx_plugin_root}"/egs2_stage/bin/with_plugin ${python} "$@"
}

# onnx_job COMMAND LOG MODULE ARGS...: runs a module as a job of COMMAND, which may hold
# options; shows the last line of its log, or its end where the job fails
onnx_job() {
    local cmd=$1 log_file=$2 module=$3
    shift 3
    mkdir -p "$(dirname "${log_file}")"
    rm -f "${log_file}" # an earlier job's, where this one never starts
    ${cmd} "${log_file}" "${onnx_plugin_root}"/egs2_stage/bin/with_plugin \
        ${python} -m "espnet_onnx_plugin.bin.${module}" "$@" 200>&- ||
        onnx_show_failure "${log_file}"
    log "$(grep -v '^#' "${log_file}" | tail -n 1)"
}

# onnx_ask_memory COMMAND MIB [FACTOR PATH...]: prints COMMAND with --mem: MIB mebibytes and
# FACTOR times the size of the files; where COMMAND says --mem, as cmd.sh may, that holds.
# The figures below are measured ones with room: with 110 million parameters, export took
# 2.3 GiB, quantization 1.2; to decode 10, 30 and 60 s of speech 0.6, 0.7 and 1.0, and in
# PyTorch 1.8, 2.1 and 3.5.
onnx_ask_memory() {
    local cmd=$1 mib=$2 bytes
    if [ $# -gt 2 ]; then
        bytes=$(find -L "${@:4}" -type f -printf '%s\n' 2> /dev/null | awk '{ n += $1 } END { print n + 0 }')
        mib=$((mib + $3 * bytes / 1048576))
    fi
    # CUDA and its libraries.
    [[ ${cmd} != *" --gpu 1"* ]] || mib=$((mib + 4096))
    # The conf/slurm.conf and conf/queue.conf of ESPnet's recipes take it for each thread.
    if [[ ${cmd} != *pbs.pl* && ${cmd} =~ .*--num-threads\ +([0-9]+) ]]; then
        mib=$(((mib + BASH_REMATCH[1] - 1) / BASH_REMATCH[1]))
    fi
    [[ ${cmd} == *" --mem "* ]] || cmd+=" --mem ${mib}M"
    echo "${cmd}"
}

# onnx_ask_decoding_memory MIB PATH...: prints the command of jobs that decode with a model
# of these files; MIB is what their program takes
onnx_ask_decoding_memory() {
    local mib=$((512 * ${batch_size:-1}))
    # As much for a minute, which is 960,000 samples.
    [ -z "${onnx_batch_bins}" ] || mib=$((512 + onnx_batch_bins / 1875))
    onnx_ask_memory "${onnx_cmd}" "$(($1 + mib))" 2 "${@:2}"
}

# onnx_end_code LOG: prints the exit code at the end of a job's log, as run.pl writes it or
# as slurm.pl, queue.pl and pbs.pl do; nothing where the log has no end
onnx_end_code() {
    sed -nE 's/^# (Ended \(code|Finished at .* with status) ([0-9]+)\)?( .*)?$/\2/p' "$1" 2> /dev/null |
        tail -n 1 || true # there may be no log
}

# onnx_show_failure LOG...: shows why jobs failed, each reason with the number of jobs that
# give it, and ends; where none is given, the end of the first failed job's log
onnx_show_failure() {
    local failed=() log_file reason reasons=() code queue_log
    for log_file; do
        code=$(onnx_end_code "${log_file}")
        [ "${code}" != 0 ] || continue
        failed+=("${log_file}")
        reason=$(grep -sE '^[a-z0-9_]+: error: ' "${log_file}" | tail -n 1 || true)
        if [ -n "${reason}" ]; then
            :
        elif [ ! -s "${log_file}" ]; then
            reason="a job never started: it has no log"
        elif [ -z "${code}" ] && grep -q '^# Started at' "${log_file}"; then
            reason="a job was lost: its log has no end; run the stage again"
        elif [[ ${code} == 13[07] || ${code} == 143 ]]; then
            reason="a job was killed (code ${code}): for its memory or time, or by hand;"
            reason+=" --mem or --time in cmd.sh gives it more"
        fi
        [ -z "${reason}" ] || reasons+=("${reason}")
    done
    [ "${#failed[@]}" -gt 0 ] ||
        onnx_die "jobs were given up, though their logs end well: run the stage again"
    if [ "${#reasons[@]}" -gt 0 ]; then
        printf '%s\n' "${reasons[@]}" | LC_ALL=C sort | uniq -c | LC_ALL=C sort -k1,1nr >&2
    else
        tail -n 50 "${failed[0]}" >&2
    fi
    # What the scheduler says of its own, such as a limit, the death of a node or, where
    # there is no other log, why it has refused the job.
    log_file=${failed[0]}
    queue_log=${log_file%.log}
    queue_log=$(dirname "${queue_log}")/q/$(basename "${queue_log%.[0-9]*}").log
    grep -sE 'error: |^Unable to run job' "${queue_log}" | tail -n 5 >&2 || true
    [ -e "${log_file}" ] || [ ! -e "${queue_log}" ] || log_file=${queue_log}
    onnx_die "${#failed[@]} of $# job(s) failed, see ${log_file}"
}

# onnx_find_data DIR: sets onnx_scp and onnx_type, the data file of DIR and its type, as
# ESPnet's decoding stage chooses them
onnx_find_data() {
    local dir_audio_format=${audio_format}
    [ -f "$1"/feats_type ] || onnx_die "$1/feats_type is missing: prepare the data first"
    if [ -f "$1"/audio_format ]; then
        dir_audio_format=$(< "$1"/audio_format)
    fi
    onnx_scp=wav.scp
    if [ "$(< "$1"/feats_type)" != raw ]; then
        onnx_scp=feats.scp
        onnx_type=kaldi_ark
    elif [[ ${audio_format} == *ark* ]]; then
        onnx_type=kaldi_ark
    elif [[ ${dir_audio_format} == *multi* ]]; then
        onnx_type=multi_columns_sound
    else
        onnx_type=sound
    fi
}

# onnx_find_inputs DIR: sets onnx_input_args, what an inference is given of DIR, and
# onnx_keys, the file that lists its utterances
onnx_find_inputs() {
    local name
    onnx_find_data "$1"
    onnx_keys=$1/${onnx_scp}
    onnx_input_args=(--data_path_and_name_and_type "$1/${onnx_scp},speech,${onnx_type}")
    for name in "${onnx_inputs[@]}"; do
        onnx_input_args+=(--data_path_and_name_and_type "$1/${name},${name},text")
    done
}

# onnx_find_validation_data OPTION: sets onnx_validation_args, what the command with
# OPTION is given of the validation set, and onnx_validation_texts, its texts; to nothing
# where the recipe has none
onnx_find_validation_data() {
    local dir
    onnx_validation_args=()
    onnx_validation_texts=()
    for dir in "${data_feats}/org/${valid_set}" "${data_feats}/${valid_set}"; do
        if [ -n "${valid_set}" ] && [ -f "${dir}"/feats_type ]; then
            onnx_take_validation_data "$1" "${dir}"
            return
        fi
    done
    log "Warning: no validation set in ${data_feats}: going on without it"
}

# onnx_take_validation_data OPTION DIR: sets them to OPTION FILE,TYPE, with what the model
# reads besides the audio where that is asked for
onnx_take_validation_data() {
    local name speaker
    onnx_find_data "$2"
    onnx_validation_args=("$1" "$2/${onnx_scp},${onnx_type}")
    for name in "${onnx_inputs[@]}"; do
        # An export is checked on texts of its own.
        [ "$1" = --parity_scp ] ||
            onnx_validation_args+=("--calibration_${name}" "$2/${name}")
    done
    for speaker in "${onnx_speakers[@]}"; do
        [ ! -f "$2/${onnx_text}${speaker}" ] ||
            onnx_validation_texts+=("$2/${onnx_text}${speaker}")
    done
}

# onnx_need_bundle VARIANT: ends where the stages before have not made the bundle
onnx_need_bundle() {
    onnx_describe_decode "$1"
    [ -f "${onnx_bundle}"/manifest.yaml ] ||
        onnx_die "no model in ${onnx_bundle}: run stages 14 and 15 with $1 in --onnx_variants"
}

# onnx_need_scorers VARIANT: ends where the bundle lacks a model that the search uses
onnx_need_scorers() {
    local manifest name what
    onnx_describe_decode "$1"
    manifest=${onnx_bundle}/manifest.yaml
    for name in "${onnx_needed[@]}"; do
        if [[ ${name} == *lm ]]; then
            what=language
            ! grep -q "^  ${name}:" "${manifest}" || continue
        else
            what="n-gram"
            grep -q "^${name}: null" "${manifest}" || continue
        fi
        onnx_die "${onnx_bundle} has no ${what} model: run stages 14 and 15 again, or use" \
            "--use_${name} false"
    done
}

onnx_export() {
    log "Stage 14: Export: ${onnx_exp} -> ${onnx_dir}/fp32, log: '${onnx_dir}/export.log'"
    onnx_find_validation_data --parity_scp
    onnx_job "$(onnx_ask_memory "${decode_cmd}" 2048 4 "${onnx_checkpoints[@]}")" \
        "${onnx_dir}"/export.log export \
        --task "${onnx_task}" "${onnx_export_args[@]}" "${onnx_validation_args[@]}" \
        --config "${onnx_export_config}" "${onnx_loader_args[@]}" \
        --output_dir "${onnx_dir}"/fp32 "${onnx_made_args[@]}"
}

onnx_optimize() {
    local variant cmd search_args=${inference_args}
    if [ "${onnx_variants}" = fp32 ]; then
        log "Stage 15: Nothing to do for --onnx_variants fp32"
        return
    fi
    onnx_need_bundle fp32
    onnx_find_validation_data --calibration_scp
    cmd=$(onnx_ask_memory "${onnx_cmd}" 1024 4 "${onnx_dir}"/fp32)
    if [[ ${onnx_variants} == *optimized* || ${onnx_variants} == *tf32* ]]; then
        log "Stage 15: Optimize: ${onnx_dir}/fp32 -> ${onnx_dir}/optimized, log: '${onnx_dir}/optimize.log'"
        onnx_job "${cmd}" "${onnx_dir}"/optimize.log optimize \
            --model_dir "${onnx_dir}"/fp32 --output_dir "${onnx_dir}"/optimized \
            --provider "${onnx_provider}" "${onnx_validation_args[@]}" \
            --config "${onnx_optimize_config}" "${onnx_made_args[@]}"
    fi
    if [ "${#onnx_validation_texts[@]}" -gt 0 ]; then
        onnx_validation_args+=(--calibration_text "${onnx_validation_texts[@]}")
    fi
    # The search of the recipe, on which the budget is measured.
    search_args+=${onnx_unused:+" ${onnx_unused[*]}"}
    for variant in ${onnx_variants}; do
        [[ " fp32 optimized tf32 " != *" ${variant} "* ]] || continue
        # From the exported graphs: fused operators have no quantized form.
        log "Stage 15: Quantize: ${onnx_dir}/fp32 -> ${onnx_dir}/${variant}, log: '${onnx_dir}/quantize_${variant}.log'"
        onnx_job "${cmd}" "${onnx_dir}/quantize_${variant}".log quantize \
            --model_dir "${onnx_dir}"/fp32 --output_dir "${onnx_dir}/${variant}" \
            --precision "${variant}" --provider "${onnx_provider/tensorrt/cuda}" \
            "${onnx_validation_args[@]}" "${onnx_quantize_args[@]}" \
            ${inference_config:+--inference_config "${inference_config}"} \
            --inference_args="${search_args}" --config "${onnx_quantize_config}" \
            "${onnx_made_args[@]}"
    done
}

# onnx_list_keys FILE: the first word of each line, as the decoding commands read them:
# without a byte order mark, and with the last line where no newline ends it
onnx_list_keys() {
    LC_ALL=C awk 'NR == 1 { sub(/^\357\273\277/, "") } { sub(/\r$/, "") } NF { print $1 }' "$1"
}

# A *decode* is a variant's: VARIANT, or of streams also VARIANT[_exact][_chunkN], with
# the exact front end in place of ESPnet's, or N for the recipe's sim_chunk_length.

# onnx_list_decodes: sets onnx_decodes. The other ways to cut streams are those of the
# last variant alone, which is the fastest as a rule.
onnx_list_decodes() {
    local last=${onnx_variants##* } length
    read -ra onnx_decodes <<< "${onnx_variants}"
    "${onnx_streams}" || return 0
    if onnx_has_exact "${last}"; then
        onnx_decodes+=("${last}_exact")
    else
        log "Warning: no decoding with the exact front end: the features of this model" \
            "depend on the whole utterance"
    fi
    for length in ${onnx_chunk_lengths}; do
        onnx_decodes+=("${last}_chunk${length}")
        ! onnx_has_exact "${last}" || onnx_decodes+=("${last}_exact_chunk${length}")
    done
}

# onnx_has_exact VARIANT: whether the bundle's features have an exact form on streams:
# not where the whole utterance normalizes them, or frames are not those of one window
onnx_has_exact() {
    local manifest
    onnx_describe_decode "$1"
    manifest=${onnx_bundle}/manifest.yaml
    ! grep -q '^  normalize: utterance_mvn$' "${manifest}" &&
        { ! grep -q '^  frontend:' "${manifest}" || ! grep -q '^ *n_fft: null$' "${manifest}"; }
}

# onnx_describe_decode DECODE: sets onnx_variant; onnx_bundle, its directory; and
# onnx_cut_args, options of its own: TF32 is the optimized model's arithmetic, and streams
# may be cut in another way than the recipe's
onnx_describe_decode() {
    onnx_variant=${1%%_*}
    onnx_bundle=${onnx_dir}/${onnx_variant/tf32/optimized}
    onnx_cut_args=()
    [ "${onnx_variant}" != tf32 ] || onnx_cut_args+=(--tf32 true)
    [[ $1 != *_exact* ]] || onnx_cut_args+=(--frontend exact)
    [[ $1 != *_chunk* ]] || onnx_cut_args+=(--sim_chunk_length "${1##*_chunk}")
}

# onnx_results TAG DSET: prints the directory of a test set's results, as ESPnet's
# decoding stage names it
onnx_results() {
    echo "${onnx_exp}/$1/$2"
}

# onnx_all_results TAG: prints that directory as bin.report takes it, for any test set
onnx_all_results() {
    local dir
    dir=$(onnx_results "$1" "{test_set}")
    echo "${dir%"/{test_set}"}"
}

# onnx_decode DECODE DSET: decodes what an earlier run has not, and puts it together
onnx_decode() {
    local data=${data_feats}/$2 dir logdir run cmd count n inference split_scps=()
    dir=$(onnx_results "${inference_tag}_onnx_$1" "$2")
    logdir=${dir}/${onnx_logdir}
    onnx_describe_decode "$1"
    onnx_find_inputs "${data}"
    if ! mkdir -p "${logdir}" || ! onnx_list_keys "${onnx_keys}" > "${logdir}"/keys.scp; then
        onnx_die "${logdir} cannot be written: free some space and run again"
    fi
    [ -s "${logdir}"/keys.scp ] || onnx_die "${onnx_keys} is empty: prepare the data again"
    # Scores of an earlier run, beside which ESPnet's scoring of diarization fails; they are
    # directories, while score_spk1 is a file of the decode.
    rm -rf "${dir}"/score_*/ "${dir}"/scoring
    inference=(
        --model_dir "${onnx_bundle}"
        "${onnx_decode_args[@]}" "${onnx_cut_args[@]}" "${onnx_input_args[@]}"
    )
    log "Decoding ${data} with ${onnx_bundle}, log: '${logdir}/${onnx_inference}.*.log'"
    cmd=$(onnx_ask_memory "${decode_cmd}" 1024)
    onnx_job "${cmd}" "${logdir}"/resume.log resume \
        --decode_dir "${dir}" --todo "${logdir}"/todo.scp --force "${onnx_force}" \
        "${onnx_inference}" "${inference[@]}" \
        --key_file "${logdir}"/keys.scp --output_dir "${logdir}"
    # The mark of a whole decode, see runtime/io/recipe_decode.py. It is opened, for NFS
    # may still list what another machine has removed.
    if { : < "${dir}"/onnx_decode.json; } 2> /dev/null; then
        return 0
    fi
    count=$(wc -l < "${logdir}"/todo.scp)
    if [ "${count}" -gt 0 ]; then
        [ "${count}" -lt "${onnx_nj}" ] || count=${onnx_nj}
        # Jobs of another run than this one, if they still run, write elsewhere.
        run=${logdir}/run.$(date +%s).$$
        for n in $(seq "${count}"); do
            split_scps+=("${run}/keys.${n}.scp")
        done
        if ! mkdir "${run}" || ! utils/split_scp.pl "${logdir}"/todo.scp "${split_scps[@]}"; then
            onnx_die "${run} cannot be written: free some space and run again"
        fi
        rm -f "${logdir}/${onnx_inference}".*.log
        # Which failures are too many is known when all jobs have ended.
        $(onnx_ask_decoding_memory 512 "${onnx_bundle}") \
            JOB=1:"${count}" "${logdir}/${onnx_inference}".JOB.log \
            "${onnx_plugin_root}"/egs2_stage/bin/with_plugin \
            ${python} -m "espnet_onnx_plugin.bin.${onnx_inference}" "${inference[@]}" \
            --key_file "${run}"/keys.JOB.scp --batch_size "${batch_size:-1}" \
            ${onnx_batch_bins:+--batch_bins "${onnx_batch_bins}"} \
            ${onnx_time_limit:+--time_limit "${onnx_time_limit}"} \
            --max_failures "$(wc -l < "${logdir}"/keys.scp)" \
            --earlier_dir "${logdir}"/output --output_dir "${run}"/output.JOB 200>&- ||
            onnx_show_failure "${logdir}/${onnx_inference}".*.log
    fi
    onnx_add_files "${data}" "${dir}"
    onnx_job "${cmd}" "${logdir}"/merge.log merge \
        --decode_dir "${dir}" --max_failures "${onnx_max_failures}" \
        ${onnx_merged:+--files "${onnx_merged}"} \
        "${onnx_inference}" "${inference[@]}" \
        --key_file "${logdir}"/keys.scp --output_dir "${logdir}"
}

# onnx_add_files DATA DIR: what a template's decode of DATA has besides the results
onnx_add_files() { :; }

# onnx_find_scored_data DECODE: sets onnx_scored_args, options of ESPnet's driver that name
# what DECODE is scored against, where that is not all of the recipe's data
onnx_find_scored_data() { onnx_scored_args=(); }

# onnx_score DECODE: ESPnet's own scoring
onnx_score() {
    local log_file tag args=()
    log_file=$(onnx_results "${inference_tag}_onnx_$1" score.log)
    for tag in "${onnx_tags[@]}"; do
        args+=("--${tag}" "${!tag}_onnx_$1")
    done
    # Not every driver has this option.
    [ -z "${skip_stages+set}" ] || args+=(--skip_stages "")
    onnx_find_scored_data "$1"
    log "Scoring by ESPnet's stage ${onnx_score_stages[0]}, log: '${log_file}'"
    onnx_driver "${onnx_driver_args[@]}" "${args[@]}" "${onnx_scored_args[@]}" \
        --stage "${onnx_score_stages[0]}" --stop_stage "${onnx_score_stages[1]}" \
        > "${log_file}" 2>&1 || onnx_show_failure "${log_file}"
}

# onnx_time SYSTEM DSET: times PyTorch, or a decode, on the sample of a test set, in one
# process; nothing where it has been timed with the same files and options
onnx_time() {
    local data=${data_feats}/$2 tag=${inference_tag} module=reference
    local keys=${onnx_dir}/timing/$2/keys.scp files=("${onnx_checkpoints[@]}") args=()
    local reference dir setting cmd
    reference=$(onnx_results "${inference_tag}" "$2")/onnx_timing/setting
    if [ "$1" = PyTorch ]; then
        args=(
            --inference "${onnx_inference}"
            --ngpu "$([ "${onnx_provider}" = cpu ] && echo 0 || echo 1)"
            --num_threads "${onnx_threads}"
            "${onnx_reference_args[@]}" "${onnx_search_args[@]}"
            "${onnx_loader_args[@]}"
        )
        cmd=$(onnx_ask_decoding_memory 3072 "${files[@]}")
    else
        tag+=_onnx_$1
        module=${onnx_inference}
        onnx_describe_decode "$1"
        args=(
            --model_dir "${onnx_bundle}"
            "${onnx_decode_args[@]}" "${onnx_cut_args[@]}" "${onnx_timing_args[@]}"
            --max_failures "${onnx_max_failures}"
        )
        files=("${onnx_bundle}"/manifest.yaml)
        cmd=$(onnx_ask_decoding_memory 512 "${onnx_bundle}")
        # The time to compare with must not be of another day than this one.
        [ ! -f "${reference}" ] || files+=("${reference}")
    fi
    dir=$(onnx_results "${tag}" "$2")/onnx_timing
    onnx_find_inputs "${data}"
    args+=(
        "${onnx_input_args[@]}"
        --key_file "${keys}" --output_dir "${dir}"/output
    )
    files+=(${inference_config:+"${inference_config}"})
    setting="${args[*]} $(cksum < "${keys}") $(stat -L -c '%n %s %y' "${files[@]}")"
    if [ -f "${dir}"/setting ] && [ "$(< "${dir}"/setting)" = "${setting}" ]; then
        return
    fi
    rm -rf "${dir}"
    log "Timing $1 on some of ${data}, log: '${dir}/${module}.log'"
    onnx_job "${cmd}" "${dir}/${module}".log "${module}" "${args[@]}"
    echo "${setting}" > "${dir}"/setting
}

# onnx_need_writable DIR: makes DIR, and ends where nothing can be written there
onnx_need_writable() {
    if ! mkdir -p "$1" 2> /dev/null || [ ! -w "$1" ]; then
        onnx_die "$1 cannot be written: free some space, or give a directory that can be"
    fi
}

# onnx_hold NAME: be the only run that writes the decodes NAME_*; ends, or waits with
# --onnx_wait, where another one does. The kernel lets go of what a killed run has held:
# its jobs, which may go on, do not have the lock's descriptor, 200.
onnx_hold() {
    local file=${onnx_exp}/.$1.lock who code
    onnx_need_writable "${onnx_exp}"
    while true; do
        exec 200<> "${file}"
        code=0
        flock --nonblock 200 2> /dev/null || code=$?
        if [ "${code}" -eq 1 ]; then
            # It may have ended by now, or not yet have said so.
            who=$(cat "${file}" 2> /dev/null || true)
            [ -n "${who#gone}" ] || who="another process"
            "${onnx_wait}" || onnx_die "${onnx_exp}/$1_* are being written by ${who}; let" \
                "that end, or give --onnx_wait true"
            log "Waiting for ${who}, which writes ${onnx_exp}/$1_*"
            flock 200 2> /dev/null || continue
        fi
        # The one before may have removed the file between the two calls. On NFS its name
        # may go on here for some seconds; what it says is read anew after a lock.
        who=$(cat <&200 2> /dev/null || true)
        if [ "${who}" = gone ] || [ ! "${file}" -ef /dev/fd/200 ]; then
            sleep 0.1
            continue
        fi
        [ "${code}" -le 1 ] || log "Warning: ${file}: this file system has no locks: two" \
            "runs at once are not noticed"
        break
    done
    echo "process $$ on $(hostname) since $(date '+%Y-%m-%d %H:%M:%S')" > /dev/fd/200
    onnx_lock_file=${file}
}

# onnx_let_go: lets go of what onnx_hold has taken
onnx_let_go() {
    rm -f "${onnx_lock_file}"
    echo gone > /dev/fd/200 # to those that wait for it
    exec 200>&-
}

# onnx_list_sets: prints the sets that ESPnet's decoding and scoring stages take
onnx_list_sets() {
    if "${eval_valid_set:-false}"; then
        echo "org/${valid_set} ${test_sets}"
    else
        echo "${test_sets}"
    fi
}

onnx_decode_and_score() {
    local dsets variant decode dset system systems=() reference=() versions cmd
    cmd=$(onnx_ask_memory "${decode_cmd}" 1024)
    dsets=$(onnx_list_sets)
    log "Stage 16: Decode and score: ${onnx_variants}"
    onnx_hold "${inference_tag}_onnx"
    # Tables of an earlier run must not be taken for this one's.
    rm -f "${onnx_tables}"/RESULTS.*
    onnx_decode_args=(
        --provider "${onnx_provider}" --num_threads "${onnx_threads}"
        "${onnx_search_args[@]}" "${onnx_unused[@]}"
    )
    for variant in ${onnx_variants}; do
        onnx_need_bundle "${variant}"
        onnx_need_scorers "${variant}"
    done
    onnx_list_decodes
    for decode in "${onnx_decodes[@]}"; do
        for dset in ${dsets}; do
            onnx_decode "${decode}" "${dset}"
        done
        onnx_score "${decode}"
        onnx_describe_decode "${decode}"
        systems+=(
            --system "${onnx_variant}"
            "$(onnx_all_results "${inference_tag}_onnx_${decode}")" "${onnx_bundle}"
        )
    done
    reference=(
        --reference PyTorch "$(onnx_all_results "${inference_tag}")"
        "${onnx_checkpoints[@]}"
    )
    for dset in ${dsets}; do
        if [ ! -f "$(onnx_results "${inference_tag}" "${dset}")/${onnx_found[0]}" ]; then
            log "Warning: no decoding of ${dset} by PyTorch to compare with: run ESPnet's" \
                "own stages before this one"
            reference=()
            break
        fi
    done
    # One after the other, so that each has the machine as the others have it.
    for dset in ${dsets}; do
        onnx_find_data "${data_feats}/${dset}"
        onnx_job "${cmd}" "${onnx_dir}/timing/${dset}"/sample.log sample \
            --scp "${data_feats}/${dset}/${onnx_scp},${onnx_type}" \
            --output_file "${onnx_dir}/timing/${dset}"/keys.scp
        for system in ${reference:+PyTorch} "${onnx_decodes[@]}"; do
            onnx_time "${system}" "${dset}"
        done
    done
    versions=$(onnx_python -c '
import importlib.metadata, espnet2
others = [f"{name} {importlib.metadata.version(name)}" for name in ("torch", "onnxruntime")]
print(f"ESPnet {espnet2.__version__}", *others, sep=", ")')
    onnx_job "${cmd}" "${onnx_tables}"/report.log report \
        "${reference[@]}" "${systems[@]}" --test_sets ${dsets} "${onnx_report_args[@]}" \
        --fact "model" "${onnx_exp}" --fact "decoding" "${inference_tag}" \
        --fact "versions" "${versions}" \
        --fact "jobs" "${onnx_nj} in parallel, threads in each: ${onnx_threads}, on ${onnx_provider}" \
        --output_dir "${onnx_tables}" --wait true
    cat "${onnx_tables}"/RESULTS.md
    onnx_let_go
}

# onnx_evaluate: stage 16, whose tables go to onnx_tables
onnx_evaluate() { onnx_decode_and_score; }

onnx_run_stages() {
    onnx_dir=${onnx_dir:-${onnx_exp}/onnx}
    onnx_tables=${onnx_dir}
    onnx_nj=${onnx_nj:-${inference_nj}}
    onnx_made_args=()
    ! "${onnx_force}" || onnx_made_args+=(--force true)
    ! "${onnx_wait}" || onnx_made_args+=(--wait true)
    onnx_cmd="${decode_cmd} --gpu 0"
    if [ "${onnx_provider}" != cpu ]; then
        onnx_cmd="${cuda_cmd} --gpu 1"
    fi
    if [ "${onnx_threads}" -gt 1 ]; then
        onnx_cmd+=" --num-threads ${onnx_threads}"
    fi
    [ -d "${onnx_exp}" ] || onnx_die "${onnx_exp} is missing: train the model first"
    onnx_need_writable "${onnx_dir}"
    if onnx_wants_stage 14; then onnx_export; fi
    if onnx_wants_stage 15; then onnx_optimize; fi
    if onnx_wants_stage 16 && ! "${skip_eval:-false}"; then onnx_evaluate; fi
    log "Successfully finished. [elapsed=${SECONDS}s]"
}
