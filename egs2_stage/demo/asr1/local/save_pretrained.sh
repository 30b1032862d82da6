#!/usr/bin/env bash
# Replaces pretrained/, the model that ships with the recipe, by the one in exp/: what
# decoding needs and nothing else.
set -euo pipefail

files=(
    data/en_token_list/bpe_*/bpe.model
    data/en_token_list/bpe_*/tokens.txt
    exp/asr_stats_*/train/feats_stats.npz
    exp/asr_train_*/config.yaml
    exp/asr_train_*/valid.acc.ave.pth
    exp/lm_train_*/config.yaml
    exp/lm_train_*/valid.loss.ave.pth
)
for file in "${files[@]}"; do
    [ -f "${file}" ] || { echo "Error: ${file} does not exist; train first (stages 1 to 11)" >&2; exit 1; }
done
rm -rf pretrained
for file in "${files[@]}"; do
    mkdir -p "pretrained/$(dirname "${file}")"
    cp -L "${file}" "pretrained/${file}"
done
