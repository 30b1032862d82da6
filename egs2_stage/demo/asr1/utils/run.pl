#!/usr/bin/env bash
# Runs a command on this machine, or one copy of it for each number of JOB=1:N, all at
# once. "JOB" in the log's name and in the command stands for the number. Each log
# begins with the command and ends with the exit status. Options for clusters, such as
# --gpu 1 or --mem 4G, are accepted and ignored. Fails when a job fails.
set -euo pipefail

usage="Usage: run.pl [OPTION VALUE ...] [JOB=FIRST:LAST] LOG COMMAND [ARG ...]"
name=
first=1
last=1
while [ $# -gt 0 ]; do
    case "$1" in
        -*)
            [ $# -ge 2 ] || { echo "Error: run.pl: option $1 needs a value" >&2; exit 2; }
            shift 2 ;;
        *=*:*)
            name=${1%%=*}
            first=${1#*=}
            last=${first#*:}
            first=${first%%:*}
            shift ;;
        *=*)
            name=${1%%=*}
            first=${1#*=}
            last=${first}
            shift ;;
        *)
            break ;;
    esac
done
[ $# -ge 2 ] || { echo "${usage}" >&2; exit 2; }
if ! [[ "${first}" =~ ^[0-9]+$ && "${last}" =~ ^[0-9]+$ ]] || [ "${first}" -gt "${last}" ]; then
    echo "Error: run.pl: bad range of jobs ${name}=${first}:${last}" >&2
    exit 2
fi

# run_job NUMBER LOG COMMAND [ARG ...]
run_job() {
    local number=$1 log=$2 status=0
    shift 2
    if [ -n "${name}" ]; then
        log=${log//${name}/${number}}
        set -- "${@//${name}/${number}}"
    fi
    mkdir -p "$(dirname "${log}")"
    {
        echo "# $*"
        echo "# Started at $(date)"
        echo "#"
    } > "${log}"
    local start=${SECONDS}
    "$@" >> "${log}" 2>&1 &
    local child=$!
    trap 'kill "${child}" 2> /dev/null' TERM
    wait "${child}" || status=$?
    {
        echo "# Accounting: time=$((SECONDS - start)) threads=1"
        echo "# Ended (code ${status}) at $(date), elapsed time $((SECONDS - start)) seconds"
    } >> "${log}"
    if [ "${status}" -ne 0 ]; then
        echo "run.pl: job failed with status ${status}, log is in ${log}" >&2
    fi
    return "${status}"
}

pids=()
# Jobs in the background do not hear the interrupt key: pass it on.
trap 'kill "${pids[@]}" 2> /dev/null; exit 130' INT TERM
for number in $(seq "${first}" "${last}"); do
    run_job "${number}" "$@" &
    pids+=("$!")
done
failed=0
for pid in "${pids[@]}"; do
    wait "${pid}" || failed=$((failed + 1))
done
if [ "${failed}" -gt 0 ]; then
    echo "run.pl: ${failed} of ${#pids[@]} jobs failed" >&2
    exit 1
fi
