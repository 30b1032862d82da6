#!/usr/bin/env bash
# The driver of the demo recipe. It stands where a recipe has the link to ESPnet's own
# asr.sh and keeps its stage numbers, options, variables and directories, for what the
# demo needs of them, so that the demo runs with the PyPI package of ESPnet alone.
# Sourced with --stage 100000 it runs nothing and leaves every variable set.
#
# Variables that only the plugin's stages read, and those of cmd.sh; options are words
# by design:
# shellcheck disable=SC2034,SC2086,SC2154
set -euo pipefail

log() {
    echo "$(date '+%Y-%m-%dT%H:%M:%S') (${BASH_SOURCE[1]##*/}:${BASH_LINENO[0]}:${FUNCNAME[1]}) $*"
}
fail() {
    echo "Error: asr.espnet.sh: $*" >&2
    exit 1
}

SECONDS=0

# General
stage=1
stop_stage=10000
skip_stages=
skip_data_prep=false
skip_train=false
skip_eval=false
skip_packing=true
skip_upload_hf=true
eval_valid_set=false
ngpu=1
nj=32
inference_nj=32
gpu_inference=false
dumpdir=dump
expdir=exp
python=python3
# Data
local_data_opts=
feats_type=raw
audio_format=flac
fs=16k
min_wav_duration=0.1
max_wav_duration=20
# Tokens
token_type=bpe
nbpe=30
bpemode=unigram
oov="<unk>"
blank="<blank>"
sos_eos="<sos/eos>"
nlsyms_txt=none
cleaner=none
hyp_cleaner=none
g2p=none
lang=noinfo
# Language model
use_lm=true
lm_tag=
lm_exp=
lm_stats_dir=
lm_config=
lm_args=
lm_train_text=
lm_dev_text=
lm_test_text=
lm_fold_length=150
use_ngram=false
ngram_exp=
inference_ngram=3gram.bin
# Speech recognition model
asr_task=asr
asr_tag=
asr_exp=
asr_stats_dir=
asr_config=
asr_args=
asr_speech_fold_length=800
asr_text_fold_length=150
# Decoding and scoring
batch_size=1
inference_tag=
inference_config=
inference_args=
inference_lm=valid.loss.ave.pth
inference_asr_model=valid.acc.ave.pth
score_opts=
# Sets
train_set=
valid_set=
test_sets=

help_message=$(cat << EOT
Usage: $0 --train_set SET --valid_set SET --test_sets "SET ..." [OPTION VALUE ...]

Stages: 1 data, 3 format, 4 lengths, 5 tokens, 6 LM statistics, 7 LM training,
8 perplexity, 10 ASR statistics, 11 ASR training, 12 decoding, 13 scoring.

Options, as in ESPnet's asr.sh, with their defaults:
  stages    --stage ${stage} --stop_stage ${stop_stage} --skip_stages "N ..."
            --skip_data_prep ${skip_data_prep} --skip_train ${skip_train} --skip_eval ${skip_eval} --eval_valid_set ${eval_valid_set}
            --skip_packing ${skip_packing} --skip_upload_hf ${skip_upload_hf} (the demo has neither stage)
  jobs      --ngpu ${ngpu} --nj ${nj} --inference_nj ${inference_nj} --gpu_inference ${gpu_inference} --python ${python}
  places    --dumpdir ${dumpdir} --expdir ${expdir} --lm_stats_dir --lm_exp --lm_tag --asr_stats_dir --asr_exp --asr_tag
  data      --local_data_opts --audio_format ${audio_format} --fs ${fs} --min_wav_duration ${min_wav_duration} --max_wav_duration ${max_wav_duration}
  tokens    --token_type ${token_type} (or char) --nbpe ${nbpe} --bpemode ${bpemode} --oov --blank --sos_eos
            --nlsyms_txt ${nlsyms_txt} --cleaner ${cleaner} --hyp_cleaner ${hyp_cleaner} --g2p ${g2p} --lang ${lang}
  LM        --use_lm ${use_lm} --lm_config --lm_args --lm_train_text --lm_dev_text --lm_test_text --lm_fold_length ${lm_fold_length}
            --use_ngram ${use_ngram} --ngram_exp --inference_ngram ${inference_ngram} (the file must be there: no stage makes it)
  ASR       --asr_task ${asr_task} --asr_config --asr_args --asr_speech_fold_length ${asr_speech_fold_length} --asr_text_fold_length ${asr_text_fold_length}
  decoding  --inference_config --inference_args --inference_tag --batch_size ${batch_size} --score_opts
            --inference_asr_model ${inference_asr_model} --inference_lm ${inference_lm}
EOT
)

log "$0 $*"
# shellcheck source=/dev/null
. utils/parse_options.sh
[ $# -eq 0 ] || fail "no positional arguments are taken: $*"

# shellcheck source=/dev/null
. ./path.sh
# shellcheck source=/dev/null
. ./cmd.sh

[ -n "${valid_set}" ] || fail "--valid_set is required"
[ -n "${test_sets}" ] || fail "--test_sets is required"
"${skip_train}" || [ -n "${train_set}" ] || fail "--train_set is required"
[ "${feats_type}" = raw ] || fail "--feats_type must be raw, not '${feats_type}'"
[[ "${audio_format}" =~ ^(wav|flac)$ ]] || fail "--audio_format must be wav or flac, not '${audio_format}'"
data_feats=${dumpdir}/raw
ref_text_files=(text)
ref_text_names=(text)

lm_train_text=${lm_train_text:-${data_feats}/org/${train_set}/text}
lm_dev_text=${lm_dev_text:-${data_feats}/org/${valid_set}/text}
lm_test_text=${lm_test_text:-${data_feats}/${test_sets%% *}/text}

# Names made of the options, as ESPnet makes them
_lang=
[ "${lang}" = noinfo ] || _lang="${lang}_"
token_listdir=data/${_lang}token_list
_tokens=${_lang}${token_type}
if [ "${token_type}" = bpe ]; then
    _tokens=${_tokens}${nbpe}
    bpedir=${token_listdir}/bpe_${bpemode}${nbpe}
    bpemodel=${bpedir}/bpe.model
    token_list=${bpedir}/tokens.txt
elif [ "${token_type}" = char ]; then
    bpemodel=none
    token_list=${token_listdir}/char/tokens.txt
else
    fail "--token_type must be bpe or char, not '${token_type}'"
fi

# tag_of CONFIG ARGUMENTS DEFAULT SUFFIX: the name of an experiment
tag_of() {
    local name=$3
    [ -z "$1" ] || name=$(basename "$1" .yaml)
    echo "${name}$4$(sed -e 's/--/_/g' -e 's/[ |=/]//g' <<< "$2")"
}
[ -n "${asr_tag}" ] || asr_tag=$(tag_of "${asr_config}" "${asr_args}" train "_${feats_type}_${_tokens}")
[ -n "${lm_tag}" ] || lm_tag=$(tag_of "${lm_config}" "${lm_args}" train "_${_tokens}")
asr_stats_dir=${asr_stats_dir:-${expdir}/asr_stats_${feats_type}_${_tokens}}
lm_stats_dir=${lm_stats_dir:-${expdir}/lm_stats_${_tokens}}
asr_exp=${asr_exp:-${expdir}/asr_${asr_tag}}
lm_exp=${lm_exp:-${expdir}/lm_${lm_tag}}
ngram_exp=${ngram_exp:-${expdir}/ngram}

# file_tag FILE: a file's name as a part of the inference tag
file_tag() {
    sed -e 's/\//_/g' -e 's/\.[^.]*$//' <<< "$1"
}
if [ -z "${inference_tag}" ]; then
    inference_tag=inference
    [ -z "${inference_config}" ] || inference_tag=$(basename "${inference_config}" .yaml)
    inference_tag+=$(sed -e 's/--/_/g' -e 's/[ |=]//g' <<< "${inference_args}")
    "${use_lm}" && inference_tag+="_lm_$(basename "${lm_exp}")_$(file_tag "${inference_lm}")"
    "${use_ngram}" && inference_tag+="_ngram_$(basename "${ngram_exp}")_$(file_tag "${inference_ngram}")"
    inference_tag+="_asr_model_$(file_tag "${inference_asr_model}")"
fi

if "${skip_data_prep}"; then skip_stages+=" 1 2 3 4 5"; fi
if "${skip_train}"; then skip_stages+=" 2 4 5 6 7 8 9 10 11"; fi
if ! "${use_lm}"; then skip_stages+=" 6 7 8"; fi
if ! "${use_ngram}"; then skip_stages+=" 9"; fi
if "${skip_eval}"; then skip_stages+=" 12 13"; fi
if "${skip_packing}"; then skip_stages+=" 14"; fi
if "${skip_upload_hf}"; then skip_stages+=" 15"; fi
skip_stages=$(tr ' ' '\n' <<< "${skip_stages}" | sort -nu | xargs)
log "Skipped stages: ${skip_stages}"

# runs STAGE: whether the options ask for the stage
runs() {
    [ "${stage}" -le "$1" ] && [ "${stop_stage}" -ge "$1" ] && [[ " ${skip_stages} " != *" $1 "* ]]
}
# split_keys FILE MOST PREFIX: splits FILE into PREFIX.1.scp ... and prints how many,
# the fewer of MOST and the lines of FILE
split_keys() {
    local count files=()
    count=$(wc -l < "$1")
    [ "${count}" -le "$2" ] || count=$2
    [ "${count}" -gt 0 ] || fail "$1 is empty; run the stages before this one again"
    for n in $(seq "${count}"); do
        files+=("$3.${n}.scp")
    done
    utils/split_scp.pl "$1" "${files[@]}"
    echo "${count}"
}
# show_failed LOG ...: shows the ends of the logs of failed jobs and exits
show_failed() {
    grep -l "Ended (code [^0]" "$@" | xargs -r tail -n 30 >&2
    exit 1
}

# What every training and statistics command is given
_token_opts="--use_preprocessor true --bpemodel ${bpemodel} --token_type ${token_type} "
_token_opts+="--token_list ${token_list} --non_linguistic_symbols ${nlsyms_txt} "
_token_opts+="--cleaner ${cleaner} --g2p ${g2p} "
_lm_opts="${lm_config:+--config ${lm_config}} ${lm_args} "
_lm_opts+="--train_data_path_and_name_and_type ${data_feats}/lm_train.txt,text,text "
_lm_opts+="--valid_data_path_and_name_and_type ${lm_dev_text},text,text "
_asr_opts="${asr_config:+--config ${asr_config}} --frontend_conf fs=${fs} ${asr_args} "
for _part in "train ${train_set}" "valid ${valid_set}"; do
    _data="--${_part% *}_data_path_and_name_and_type ${data_feats}/${_part#* }"
    _asr_opts+="${_data}/wav.scp,speech,sound ${_data}/text,text,text "
done
if "${eval_valid_set}"; then
    _eval_sets="org/${valid_set} ${test_sets}"
else
    _eval_sets=${test_sets}
fi

if runs 1; then
    log "Stage 1: Data preparation for data/${train_set}, data/${valid_set}, etc."
    local/data.sh ${local_data_opts}
fi

if runs 3; then
    log "Stage 3: Format wav.scp: data/ -> ${data_feats}"
    _dsets=${test_sets}
    if ! "${skip_train}"; then
        _dsets="${train_set} ${valid_set} ${test_sets}"
    elif "${eval_valid_set}"; then
        _dsets="${valid_set} ${test_sets}"
    fi
    for dset in ${_dsets}; do
        _dir=${data_feats}/${dset}
        if [ "${dset}" = "${train_set}" ] || [ "${dset}" = "${valid_set}" ]; then
            _dir=${data_feats}/org/${dset}
        fi
        [ -f "data/${dset}/wav.scp" ] || fail "data/${dset}/wav.scp does not exist; run stage 1 for this set"
        mkdir -p "${_dir}"
        cp "data/${dset}"/{text,utt2spk,spk2utt} "${_dir}"
        ${python} pyscripts/audio/format_wav_scp.py --fs "${fs}" --audio_format "${audio_format}" \
            --scp "data/${dset}/wav.scp" --output_dir "${_dir}"
        echo "${feats_type}" > "${_dir}/feats_type"
        echo "${audio_format}" > "${_dir}/audio_format"
    done
fi

if runs 4; then
    log "Stage 4: Remove long/short data: ${data_feats}/org -> ${data_feats}"
    _rate=$(${python} -c "import humanfriendly; print(humanfriendly.parse_size('${fs}'))")
    for dset in "${train_set}" "${valid_set}"; do
        _org=${data_feats}/org/${dset}
        _dir=${data_feats}/${dset}
        mkdir -p "${_dir}"
        cp "${_org}"/{feats_type,audio_format} "${_dir}"
        # An utterance stays when its length is inside the bounds and its text not empty
        awk -v low="${min_wav_duration}" -v high="${max_wav_duration}" -v rate="${_rate}" '
            NR == FNR { if (NF > 1) spoken[$1] = 1; next }
            $2 > low * rate && $2 < high * rate && $1 in spoken' \
            "${_org}/text" "${_org}/utt2num_samples" > "${_dir}/utt2num_samples"
        for f in wav.scp text utt2spk; do
            awk 'NR == FNR { kept[$1] = 1; next } $1 in kept' \
                "${_dir}/utt2num_samples" "${_org}/${f}" > "${_dir}/${f}"
        done
        awk '{ utts[$2] = utts[$2] " " $1 } END { for (s in utts) print s utts[s] }' \
            "${_dir}/utt2spk" | sort > "${_dir}/spk2utt"
    done
    awk 'NF > 1' "${lm_train_text}" > "${data_feats}/lm_train.txt"
fi

if runs 5; then
    mkdir -p "$(dirname "${token_list}")"
    if [ "${token_type}" = bpe ]; then
        _text=${data_feats}/org/${train_set}/text
        log "Stage 5: Generate token_list from ${_text} using BPE"
        cut -d " " -f 2- "${_text}" > "${bpedir}/train.txt"
        ${python} -c 'import sys, sentencepiece as s; s.SentencePieceTrainer.Train(" ".join(sys.argv[1:]))' \
            "--input=${bpedir}/train.txt" "--vocab_size=${nbpe}" "--model_type=${bpemode}" \
            "--model_prefix=${bpedir}/bpe" --character_coverage=1.0 --minloglevel=1
        {
            echo "${blank}"
            echo "${oov}"
            awk 'NR > 3 { print $1 }' "${bpedir}/bpe.vocab"
            echo "${sos_eos}"
        } > "${token_list}"
    else
        log "Stage 5: Generate character level token_list from ${lm_train_text}"
        ${python} -m espnet2.bin.tokenize_text --token_type char --field 2- \
            --input "${data_feats}/lm_train.txt" --output "${token_list}" \
            --non_linguistic_symbols "${nlsyms_txt}" --cleaner "${cleaner}" --g2p "${g2p}" \
            --write_vocabulary true \
            --add_symbol "${blank}:0" --add_symbol "${oov}:1" --add_symbol "${sos_eos}:-1"
    fi
fi

# add_vocabulary_size SHAPES: "key length" -> "key length,size of the vocabulary"
add_vocabulary_size() {
    awk -v size="$(wc -l < "${token_list}")" '{ print $0 "," size }' "$1" > "$1.${token_type}"
}

# collect_stats TASK DIR OPTIONS TRAIN_KEYS VALID_KEYS: shapes and mean of both sets
collect_stats() {
    local logdir=$2/logdir jobs dirs=
    mkdir -p "${logdir}"
    jobs=$(split_keys "$4" "${nj}" "${logdir}/train")
    jobs=$(split_keys "$5" "${jobs}" "${logdir}/valid")
    log "${1^^} collect-stats started... log: '${logdir}/stats.*.log'"
    ${train_cmd} JOB=1:"${jobs}" "${logdir}/stats.JOB.log" \
        ${python} -m "espnet2.bin.$1_train" --collect_stats true ${_token_opts} $3 \
        --train_shape_file "${logdir}/train.JOB.scp" \
        --valid_shape_file "${logdir}/valid.JOB.scp" \
        --output_dir "${logdir}/stats.JOB" || show_failed "${logdir}"/stats.*.log
    for n in $(seq "${jobs}"); do
        dirs+="--input_dir ${logdir}/stats.${n} "
    done
    ${python} -m espnet2.bin.aggregate_stats_dirs ${dirs} --output_dir "$2"
    add_vocabulary_size "$2/train/text_shape"
    add_vocabulary_size "$2/valid/text_shape"
}

if runs 6; then
    log "Stage 6: LM collect stats: train_set=${data_feats}/lm_train.txt, dev_set=${lm_dev_text}"
    collect_stats lm "${lm_stats_dir}" "${_lm_opts}" "${data_feats}/lm_train.txt" "${lm_dev_text}"
fi

# Training is one job: it takes the threads that nj jobs would.
if runs 7; then
    log "Stage 7: LM Training: log: '${lm_exp}/train.log'"
    OMP_NUM_THREADS=${nj} ${cuda_cmd} --gpu "${ngpu}" "${lm_exp}/train.log" \
        ${python} -m espnet2.bin.lm_train --ngpu "${ngpu}" ${_token_opts} ${_lm_opts} \
        --train_shape_file "${lm_stats_dir}/train/text_shape.${token_type}" \
        --valid_shape_file "${lm_stats_dir}/valid/text_shape.${token_type}" \
        --fold_length "${lm_fold_length}" --resume true \
        --output_dir "${lm_exp}" || show_failed "${lm_exp}/train.log"
fi

if runs 8; then
    log "Stage 8: Calc perplexity: ${lm_test_text}"
    _log=${lm_exp}/perplexity_test/lm_calc_perplexity.log
    ${cuda_cmd} --gpu "${ngpu}" "${_log}" \
        ${python} -m espnet2.bin.lm_calc_perplexity --ngpu "${ngpu}" \
        --data_path_and_name_and_type "${lm_test_text},text,text" \
        --train_config "${lm_exp}/config.yaml" --model_file "${lm_exp}/${inference_lm}" \
        --output_dir "${lm_exp}/perplexity_test" || show_failed "${_log}"
    log "PPL: ${lm_test_text}: $(cat "${lm_exp}/perplexity_test/ppl")"
fi

if runs 10; then
    log "Stage 10: ASR collect stats: train_set=${data_feats}/${train_set}, valid_set=${data_feats}/${valid_set}"
    collect_stats "${asr_task}" "${asr_stats_dir}" "${_asr_opts}" \
        "${data_feats}/${train_set}/wav.scp" "${data_feats}/${valid_set}/wav.scp"
fi

if runs 11; then
    log "Stage 11: ASR Training: log: '${asr_exp}/train.log'"
    OMP_NUM_THREADS=${nj} ${cuda_cmd} --gpu "${ngpu}" "${asr_exp}/train.log" \
        ${python} -m "espnet2.bin.${asr_task}_train" --ngpu "${ngpu}" ${_token_opts} ${_asr_opts} \
        --normalize global_mvn \
        --normalize_conf "stats_file=${asr_stats_dir}/train/feats_stats.npz" \
        --train_shape_file "${asr_stats_dir}/train/speech_shape" \
        --train_shape_file "${asr_stats_dir}/train/text_shape.${token_type}" \
        --valid_shape_file "${asr_stats_dir}/valid/speech_shape" \
        --valid_shape_file "${asr_stats_dir}/valid/text_shape.${token_type}" \
        --fold_length "$((asr_speech_fold_length * 100))" \
        --fold_length "${asr_text_fold_length}" --resume true \
        --output_dir "${asr_exp}" || show_failed "${asr_exp}/train.log"
fi

if runs 12; then
    log "Stage 12: Decoding: training_dir=${asr_exp}"
    _cmd=${decode_cmd}
    _ngpu=0
    if "${gpu_inference}"; then
        _cmd=${cuda_cmd}
        _ngpu=1
    fi
    _opts="${inference_config:+--config ${inference_config}} "
    _lm_file=
    if "${use_lm}"; then
        _lm_file=${lm_exp}/${inference_lm}
        _opts+="--lm_train_config ${lm_exp}/config.yaml --lm_file ${_lm_file} "
    fi
    "${use_ngram}" && _opts+="--ngram_file ${ngram_exp}/${inference_ngram} "
    for f in "${asr_exp}/${inference_asr_model}" ${_lm_file}; do
        [ -f "${f}" ] || fail "${f} does not exist; train first (stages 1 to 11)"
    done
    for dset in ${_eval_sets}; do
        _data=${data_feats}/${dset}
        _dir=${asr_exp}/${inference_tag}/${dset}
        _logdir=${_dir}/logdir
        [ -f "${_data}/wav.scp" ] || fail "${_data}/wav.scp does not exist; run stages 1 and 3 for this set"
        mkdir -p "${_logdir}"
        rm -f "${_logdir}"/asr_inference.*.log
        _nj=$(split_keys "${_data}/wav.scp" "${inference_nj}" "${_logdir}/keys")
        log "Decoding started... log: '${_logdir}/asr_inference.*.log'"
        ${_cmd} --gpu "${_ngpu}" JOB=1:"${_nj}" "${_logdir}/asr_inference.JOB.log" \
            ${python} -m "espnet2.bin.${asr_task}_inference" --batch_size "${batch_size}" --ngpu "${_ngpu}" \
            --data_path_and_name_and_type "${_data}/wav.scp,speech,sound" \
            --key_file "${_logdir}/keys.JOB.scp" \
            --asr_train_config "${asr_exp}/config.yaml" \
            --asr_model_file "${asr_exp}/${inference_asr_model}" \
            --output_dir "${_logdir}/output.JOB" \
            ${_opts} ${inference_args} || show_failed "${_logdir}"/asr_inference.*.log
        for f in token token_int score text; do
            for n in $(seq "${_nj}"); do
                cat "${_logdir}/output.${n}/1best_recog/${f}"
            done | sort -k1 > "${_dir}/${f}"
        done
    done
fi

# write_trn NAME TEXT_DIR UNIT SCORE_DIR OPTIONS: brings TEXT_DIR/SET/text of every set
# into sclite's form, "words (speaker-id)", as SCORE_DIR/NAME.trn of the set. All sets in
# one call: most of its time is the start of Python.
write_trn() {
    local dset lines
    lines=$(for dset in ${_eval_sets}; do
        awk -v dir="${asr_exp}/${inference_tag}/${dset}/$4" '
            NR == FNR { speaker[$1] = $2; next }
            { print dir, "(" speaker[$1] "-" $1 ")", $0 }' \
            "${data_feats}/${dset}/utt2spk" "$2/${dset}/text"
    done)
    paste <(cut -d " " -f 1-2 <<< "${lines}") \
        <(${python} -m espnet2.bin.tokenize_text --field 4- --input - --output - --token_type "$3" $5 <<< "${lines}") |
        awk -F '[ \t]' -v name="$1.trn" '{
            file = $1 "/" name; id = $2; sub(/^[^\t]*\t/, ""); print $0 "\t" id > file
        }'
}

if runs 13; then
    log "Stage 13: Scoring"
    command -v sclite > /dev/null ||
        fail "sclite is not on PATH; install it (Debian and Ubuntu: apt-get install sctk) and add /usr/lib/sctk/bin to PATH"
    for dset in ${_eval_sets}; do
        _text=${asr_exp}/${inference_tag}/${dset}/text
        [ -f "${_text}" ] || fail "${_text} does not exist; run stage 12 for this set"
    done
    for _unit in char word bpe; do
        _type=${_unit:0:1}er
        _opts="--non_linguistic_symbols ${nlsyms_txt} --remove_non_linguistic_symbols true"
        if [ "${_unit}" = bpe ]; then
            [ -f "${bpemodel}" ] || continue
            _type=ter
            _opts="--bpemodel ${bpemodel}"
        fi
        for dset in ${_eval_sets}; do
            mkdir -p "${asr_exp}/${inference_tag}/${dset}/score_${_type}"
        done
        write_trn ref "${data_feats}" "${_unit}" "score_${_type}" "${_opts} --cleaner ${cleaner}" &
        write_trn hyp "${asr_exp}/${inference_tag}" "${_unit}" "score_${_type}" "${_opts} --cleaner ${hyp_cleaner}"
        wait $!
        for dset in ${_eval_sets}; do
            _scoredir=${asr_exp}/${inference_tag}/${dset}/score_${_type}
            sclite ${score_opts} -r "${_scoredir}/ref.trn" trn -h "${_scoredir}/hyp.trn" trn \
                -i rm -o all stdout > "${_scoredir}/result.txt"
            log "Write ${_type} result in ${_scoredir}/result.txt"
            grep -e Avg -e SPKR -m 2 "${_scoredir}/result.txt"
        done
    done
    scripts/utils/show_asr_result.sh "${asr_exp}" > "${asr_exp}/RESULTS.md"
    cat "${asr_exp}/RESULTS.md"
fi

log "Successfully finished. [elapsed=${SECONDS}s]"
