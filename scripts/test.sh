#!/usr/bin/env bash
# Lint and tests from a fresh clone. Without arguments: everything but gpu; arguments go to pytest (bash scripts/test.sh -m "not slow").
source "$(dirname "$0")/setup_env.sh" dev
ruff check .
ruff format --check .
if [ $# -eq 0 ]; then
    export OMP_NUM_THREADS=1 # one test a core
    python -m pytest -m "not slow and not gpu" --durations=5 --numprocesses auto --maxprocesses 4
    python -m pytest -m "slow and not gpu" --durations=10 --numprocesses auto --maxprocesses 4 --dist loadfile
else
    python -m pytest "$@"
fi
