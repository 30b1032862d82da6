#!/usr/bin/env bash
# Makes data/{train,valid,test_clean,test_noisy} and the text of the language model.
set -euo pipefail

train=true # false: no training data, only what decoding needs
nj=2
# shellcheck disable=SC2034 # read by parse_options.sh
help_message="Usage: $0 [--train true|false] [--nj N]"
# shellcheck source=/dev/null
. utils/parse_options.sh
# shellcheck source=/dev/null
. ./path.sh

sets=(valid test_clean test_noisy)
if "${train}"; then
    sets+=(train)
fi
python3 local/synthesize.py --nj "${nj}" --sets "${sets[@]}"
