#!/usr/bin/env bash
# Runs every benchmark with rows in DATA/NAME, then prints the table next to the paper's numbers. Works from any folder.
#   eval/all.sh MODEL DATA OUT [--section.key VALUE ...]
set -euo pipefail
if [ $# -lt 3 ]; then
    echo "usage: eval/all.sh MODEL DATA OUT [--section.key VALUE ...]" >&2
    exit 2
fi
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$home/.venv/bin/python" ] && echo "$home/.venv/bin/python" || echo python3)}
export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
model=$1 data=$2 out=$3
shift 3
num_run=0
for name in geoqa superclevr cvbench lisa fine_grained detection refcoco; do
    if [ -d "$data/$name" ]; then
        echo "== $name"
        "$PYTHON" -m "eval.$name" --model "$model" --data "$data/$name" --out "$out/$name" "$@"
        num_run=$((num_run + 1))
    else
        echo "== $name: not run: $data/$name does not exist"
    fi
done
if [ "$num_run" = 0 ]; then
    echo "eval/all.sh: no benchmark has rows in $data" >&2
    exit 2
fi
"$PYTHON" -m eval.table "$out" --out "$out/table.md"
