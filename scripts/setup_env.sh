# Sourced by the other scripts: makes .venv beside this repository's files and activates it; re-used while it is current.
# Usage: source scripts/setup_env.sh EXTRA          PYTHON=python3.12 chooses the interpreter of a new one.
# EXTRA is one of pyproject.toml's, or "" for none; without any word bash would hand on the calling script's own arguments.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    for candidate in ${PYTHON:-} python3 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "error: Python 3.10, 3.11 or 3.12 is needed; set PYTHON to one" >&2
    return 1
}

extra=$1
wanted=$(cat pyproject.toml constraints.txt | sha256sum)
if [ "$(cat ".venv/.installed-$extra" 2>/dev/null)" != "$wanted" ]; then
    if [ ! -x .venv/bin/python ]; then
        python=$(find_python)
        "$python" -m venv .venv
    fi
    echo "installing into .venv (some minutes the first time: torch is large)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".${extra:+[$extra]}"
    echo "$wanted" | tee .venv/.installed- > ".venv/.installed-$extra"
fi
source .venv/bin/activate
