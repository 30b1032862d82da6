# shellcheck shell=bash disable=SC2034
# How jobs are run: run.pl runs them on this machine. On a cluster of Slurm, name slurm.pl
# here with its options, and the partitions in conf/slurm.conf; nothing else changes.
train_cmd=run.pl
cuda_cmd=run.pl
decode_cmd=run.pl
