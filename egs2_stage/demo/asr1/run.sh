#!/usr/bin/env bash
# The demo: train a small recogniser on synthetic speech (stages 1 to 11), or take the
# one that ships with the recipe (--stage 12 and later), decode and score.
set -euo pipefail

# Stages past training need a model: without one of its own the recipe takes the one it
# ships with.
stage=1
for ((i = 1; i < $#; i++)); do
    if [ "${!i}" = --stage ]; then
        i=$((i + 1))
        stage=${!i}
    fi
done
if [ "${stage}" -ge 12 ]; then
    local/use_pretrained.sh
fi

./asr.sh \
    --lang en \
    --ngpu 0 \
    --nj 2 \
    --inference_nj 2 \
    --audio_format wav \
    --token_type bpe \
    --nbpe 80 \
    --train_set train \
    --valid_set valid \
    --test_sets "test_clean test_noisy" \
    --lm_train_text data/lm_train/text \
    --lm_config conf/train_lm_transformer.yaml \
    --asr_config conf/train_asr_conformer.yaml \
    --inference_config conf/decode_asr.yaml \
    "$@"
