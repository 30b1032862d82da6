# shellcheck shell=bash disable=SC2034
# How jobs are run: run.pl runs them on this machine. On a cluster, name slurm.pl or
# queue.pl here with its options; nothing else changes.
train_cmd=run.pl
cuda_cmd=run.pl
decode_cmd=run.pl
