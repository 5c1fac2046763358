#!/usr/bin/env bash
# Lint and tests from a fresh clone. Without arguments: everything but gpu; arguments go to pytest (bash scripts/test.sh -m "not slow").
source "$(dirname "$0")/setup_env.sh" dev
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive} # as commands set it, see pseudo_ris/io/threads.py
ruff check .
ruff format --check .
lint-imports # the rooms import only downward, see docs/architecture.md

# Runs a tier of tests and says how long it took: NAME, then arguments of pytest.
tier() {
    local name=$1 began=$SECONDS code=0
    shift
    python -m pytest "$@" || code=$?
    echo "$name: $((SECONDS - began)) s"
    return $code
}

if [ $# -eq 0 ]; then
    export OMP_NUM_THREADS=1 # one test a core
    tier "fast tests" -m "not slow and not gpu" --durations=5 --numprocesses auto --maxprocesses 4
    # Neighbours stay together, since they share what a module's fixtures make, until a process has nothing left to do.
    tier "slow tests" -m "slow and not gpu" --durations=10 --numprocesses auto --maxprocesses 4 --dist worksteal
else
    python -m pytest "$@"
fi
