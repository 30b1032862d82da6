#!/usr/bin/env bash
# Splits a list into files of consecutive lines, as even as can be.
set -euo pipefail

if [ $# -lt 2 ]; then
    echo "Usage: split_scp.pl IN OUT1 [OUT2 ...]" >&2
    exit 1
fi
list=$1
shift
lines=$(wc -l < "${list}")
if [ "${lines}" -lt $# ]; then
    echo "Error: split_scp.pl: ${list} has ${lines} lines, too few for $# files" >&2
    exit 1
fi
files=$#
for n in $(seq "${files}"); do
    start=$(((n - 1) * lines / files + 1))
    end=$((n * lines / files))
    sed -n "${start},${end}p" "${list}" > "$1"
    shift
done
