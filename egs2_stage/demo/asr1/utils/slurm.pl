#!/usr/bin/env bash
# Runs a command as a job of Slurm, or one job for each number of JOB=1:N, and waits for
# them: run.pl, see there, on the nodes of a cluster. conf/slurm.conf says what an option
# such as --mem 4G becomes for sbatch, as in ESPnet's recipes; --config names another file
# and --max-jobs-run N is how many run at once. Slurm's own words go to q/ beside the logs.
set -euo pipefail

fail() {
    echo "Error: slurm.pl: $*" >&2
    exit 1
}

config=conf/slurm.conf
range=
limit=
declare -A options=()
while [ $# -gt 0 ]; do
    case "$1" in
        -*)
            [ $# -ge 2 ] || fail "option $1 needs a value"
            case "$1" in
                --config) config=$2 ;;
                --max-jobs-run) limit=$2 ;;
                *)
                    name=${1##*--}
                    options[${name//-/_}]=$2 ;;
            esac
            shift 2 ;;
        *=*)
            range=$1
            shift ;;
        *)
            break ;;
    esac
done
[ $# -ge 2 ] || fail "usage: slurm.pl [OPTION VALUE ...] [JOB=FIRST:LAST] LOG COMMAND [ARG ...]"

# The lines of the configuration: command COMMAND, default NAME=VALUE, option NAME=VALUE
# ARGUMENTS, and option NAME=* ARGUMENTS with $0 for the value
sbatch=()
declare -A arguments=()
while read -r kind setting rest; do
    name=${setting%%=*}
    value=${setting#*=}
    case "${kind}" in
        "" | \#*) ;;
        command) read -ra sbatch <<< "${setting} ${rest%%#*}" ;;
        default) options[${name}]=${options[${name}]-${value}} ;;
        option) arguments[${name}=${value}]=${rest%%#*} ;;
        *) fail "${config}: unknown line '${kind} ${setting}'" ;;
    esac
done < "${config}"
[ "${#sbatch[@]}" -gt 0 ] || fail "${config} has no line 'command sbatch'"
for name in "${!options[@]}"; do
    value=${options[${name}]}
    found=${arguments["${name}=${value}"]-${arguments["${name}=*"]-none}}
    [ "${found}" != none ] || fail "${config} says nothing of --${name//_/-} ${value}"
    read -ra words <<< "${found//\$0/${value}}"
    sbatch+=("${words[@]}")
done

task=()
if [ -n "${range}" ]; then
    numbers=${range#*=}
    sbatch+=("--array=${numbers/:/-}${limit:+%${limit}}")
    task=("${range%%=*}=\${SLURM_ARRAY_TASK_ID}") # which is known on the node
fi
log=$1
logs=$(dirname "${log}")/q
name=$(basename "${log}" .log)
name=${name%".${range%%=*}"}
mkdir -p "${logs}"
{
    echo "#!/usr/bin/env bash"
    printf 'cd %q\n. ./path.sh\nexec utils/run.pl' "${PWD}"
    [ "${#task[@]}" -eq 0 ] || printf ' %s' "${task[@]}"
    printf ' %q' "$@"
    echo
} > "${logs}/${name}.sh"

"${sbatch[@]}" --parsable --wait --open-mode=append --output "${logs}/${name}.log" \
    "${logs}/${name}.sh" > "${logs}/${name}.id" &
waited=$!
trap 'scancel "$(< "${logs}/${name}.id")"; exit 130' INT TERM
wait "${waited}" || fail "jobs failed, logs are in ${log}, Slurm's in ${logs}/${name}.log"
