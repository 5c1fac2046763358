#!/usr/bin/env bash
# Downloads and verifies published weights (third_party/weights.yaml) into third_party/weights, or $PSEUDO_RIS_WEIGHTS.
# Usage: bash scripts/download_weights.sh [PRESET or NAME ...] [--from DIR]     PRESET: paper, default (when none is given) or ris
#        bash scripts/download_weights.sh --list                                --from DIR: without a network, files from DIR
# Stop it at any time: the same command goes on where it was.
started_in=$PWD
source "$(dirname "$0")/setup_env.sh" ""
code=0
command=download
if [ "${1:-}" = --list ]; then
    command=list
    shift
fi
files=$(cd "$started_in" && pseudo-ris weights $command "$@") || code=$?
[ -z "$files" ] || echo "$files"
wheel=$(grep '/en_core_web_lg-[^/]*\.whl$' <<<"$files" || true)
if [ -n "$wheel" ] && ! python -c 'import en_core_web_lg' 2>/dev/null; then
    python -m pip install --quiet --disable-pip-version-check --no-deps "$wheel"
fi
exit "$code"
