# shellcheck shell=bash
export PATH="${PWD}/utils:${PATH}"
export LC_ALL=C
export PYTHONIOENCODING=UTF-8
# Training takes two threads, and each of the parallel jobs one: see asr.espnet.sh.
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
