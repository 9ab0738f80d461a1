#!/usr/bin/env bash
# Objectives side by side, from the same start, data order and seeds: a table and a figure.
#
#   scripts/compare.sh RECIPE --objectives gpg,grpo,rloo [--seeds 0,1,2] [--held-out FILE ...] [--out DIR]
#                      [--section.key VALUE ...]
#
#   PYTHON   the interpreter (default: .venv/bin/python of this checkout if it exists, else python3)
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ ! -x $home/.venv/bin/python ]] || PYTHON=$home/.venv/bin/python
fi
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
exec "$PYTHON" "$home/scripts/compare.py" "$@"
