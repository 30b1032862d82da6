#!/usr/bin/env bash
# Runs the tests, the linters, mypy and shellcheck. Does its own set-up, see setup_env.sh.
# Tests of real recipes need an ESPnet checkout: ESPNET_ROOT=DIR scripts/test.sh
#
# Usage: scripts/test.sh [--espnet RELEASE] [--fast | --full] [PYTEST_ARGS]
#   --espnet: with this release of ESPnet, see setup_env.sh
#   --fast: what takes seconds, and one model of each task: minutes in all
#   --full: every setting of every architecture and every case: before a release
#   PYTEST_ARGS: -m espnet for what is compared with ESPnet's own results alone
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

venv=.venv
release=()
if [ "${1-}" = --espnet ]; then
    release=("${@:1:2}")
    venv=.venv-${2-}
    shift 2
fi
tier=()
if [ "${1-}" = --fast ]; then
    tier=(-m fast)
    shift
fi
scripts/setup_env.sh "${release[@]}" enh,export,ngram,optimize,report,s4,test,tts shellcheck qemu-x86_64=qemu-user sbatch=slurm-wlm munge
# shellcheck source=/dev/null
. "${venv}"/bin/activate
export PATH="${PATH}:/usr/lib/sctk/bin"
# As in ESPnet's recipes: the sums of more threads are others, and there are two tests at a time.
export OMP_NUM_THREADS=1

echo "== linters"
black --quiet --check espnet_onnx_plugin tests egs2_stage scripts
isort --quiet --check espnet_onnx_plugin tests egs2_stage scripts
ruff check --quiet espnet_onnx_plugin tests egs2_stage scripts
# What holds for shell: every tracked file that is a shell script.
mapfile -t scripts < <(git grep -lE '^(#!.*\b(ba)?sh\b|# shellcheck shell=)')
shellcheck "${scripts[@]}"

mypy

echo "== tests"
python -m pytest -n 2 --dist loadgroup "${tier[@]}" "$@"
