#!/usr/bin/env bash
# The project in one command, on a machine with nothing but Debian and Python: decodes
# two synthetic test sets by PyTorch with the recogniser that ships in the demo recipe,
# exports, optimizes and quantizes it, decodes again by ONNX Runtime, and prints the
# table of both. Run again, it does what is left to do.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup_env.sh export,report
# shellcheck source=/dev/null
. .venv/bin/activate
cd egs2_stage/demo/asr1

# Each test is for the last file that the stages write
if ! [ -f dump/raw/test_noisy/audio_format ]; then
    ./run.sh --stage 1 --stop_stage 3 --skip_train true --eval_valid_set true --local_data_opts "--train false"
fi
if ! compgen -G "exp/asr_*/decode_asr_lm_*_asr_model_valid.acc.ave/test_noisy/score_ter/result.txt" > /dev/null; then
    ./run.sh --stage 12 --stop_stage 13 --onnx true
fi
tables=(exp/asr_*/onnx/RESULTS.md)
if [ -f "${tables[0]}" ]; then
    cat "${tables[0]}"
else
    ./run.sh --stage 14 --onnx true
fi
