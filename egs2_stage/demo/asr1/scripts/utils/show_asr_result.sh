#!/usr/bin/env bash
# Prints the scores of every decoding in an experiment's directory, in Markdown.
set -euo pipefail

if [ $# -ne 1 ]; then
    echo "Usage: $0 ASR_EXP" >&2
    exit 1
fi
echo "# RESULTS"
echo "## Environments"
python3 - << 'EOT'
import platform
from importlib.metadata import version

print(f"- python version: `{platform.python_version()}`")
for package in ("espnet", "torch"):
    print(f"- {package} version: `{version(package)}`")
EOT
echo
echo "## $1"
for type in wer cer ter; do
    echo "### ${type^^}"
    echo
    echo "|dataset|Snt|Wrd|Corr|Sub|Del|Ins|Err|S.Err|"
    echo "|---|---|---|---|---|---|---|---|---|"
    # exp/TAG/SET or exp/TAG/org/SET
    find "$1" -path "*/score_${type}/result.txt" | sort | while read -r result; do
        name=${result#"$1/"}
        awk -v name="${name%/score_*}" '/Sum\/Avg/ {
            gsub(/\|/, " "); $1 = ""; $0 = $0; $1 = $1
            gsub(/ /, "|"); print "|" name "|" $0 "|"; exit
        }' "${result}"
    done
    echo
done
