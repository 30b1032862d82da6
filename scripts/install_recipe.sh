#!/usr/bin/env bash
# Puts the ONNX stages into an ESPnet recipe, or takes them out again.
set -euo pipefail

plugin_root=$(dirname "$(dirname "$(readlink -f "$0")")")
usage="Usage: $0 [--uninstall] ESPNET/egs2/CORPUS/TASK1"
# Drivers of ESPnet's templates; an adapter of the same name is in egs2_stage/.
drivers="asr st slu s2t tts svs enh enh_asr enh_diar"

die() {
    echo "$0: $*" >&2
    exit 1
}

# is_adapter LINK NAME: whether LINK leads to the adapter of some clone of this plugin,
# which may have gone
is_adapter() {
    [ -L "$1" ] && [[ $(readlink -m "$1") == */egs2_stage/"$2".sh ]]
}

uninstall=false
recipe=
while [ $# -gt 0 ]; do
    case $1 in
        --uninstall) uninstall=true ;;
        --help | -h)
            echo "${usage}"
            exit 0
            ;;
        -*) die "unknown option $1. ${usage}" ;;
        *)
            [ -z "${recipe}" ] || die "one recipe at a time, not '${recipe}' and '$1'"
            recipe=$1
            ;;
    esac
    shift
done
[ -n "${recipe}" ] || die "which recipe? ${usage}"
[ -d "${recipe}" ] || die "no such directory: '${recipe}'"
cd "${recipe}"
[ "$(basename "$(dirname "$(pwd -P)")")" != TEMPLATE ] ||
    die "'${recipe}' is ESPnet's template of all recipes, not a recipe"

driver=
supported=
for name in ${drivers}; do
    supported+="${supported:+, }${name}.sh"
    if [ -e "${name}.sh" ] || [ -L "${name}.sh" ] || [ -e "${name}.espnet.sh" ]; then
        driver=${name}
    fi
done
[ -n "${driver}" ] || die "'${recipe}' is not a recipe with one of these drivers: ${supported}"
adapter=${plugin_root}/egs2_stage/${driver}.sh

ours=${driver}.sh
espnets=${driver}.espnet.sh
if is_adapter "${ours}" "${driver}"; then
    [ -e "${espnets}" ] ||
        die "'${recipe}' is half installed: ESPnet's driver ${espnets} is gone;" \
            "link ${ours} to ../../TEMPLATE/${driver}1/${driver}.sh again"
    installed=true
elif [ -e "${espnets}" ] || [ -L "${espnets}" ]; then
    [ -e "${ours}" ] || [ -L "${ours}" ] ||
        die "'${recipe}' is half installed: ${ours} is gone; rename ${espnets} to ${ours}"
    die "'${recipe}' has a ${espnets} that is not ours: rename it first"
else
    [ -e "${ours}" ] || die "'${recipe}': ${ours} is a broken link"
    installed=false
fi

if "${uninstall}"; then
    if "${installed}"; then
        mv -f "${espnets}" "${ours}"
        echo "Took the ONNX stages out of ${recipe}"
    else
        echo "${recipe} does not have the ONNX stages: nothing to do"
    fi
elif "${installed}" && [ "$(readlink -m "${ours}")" = "${adapter}" ]; then
    echo "${recipe} has the ONNX stages already"
else
    # The recipe has a driver at every moment: the link is made aside and renamed.
    ln -s "${adapter}" ".${ours}.$$"
    "${installed}" || cp -a "${ours}" "${espnets}"
    mv -f ".${ours}.$$" "${ours}"
    echo "Put the ONNX stages into ${recipe}: ./run.sh --stage 14 --onnx true"
fi
