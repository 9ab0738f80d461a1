#!/usr/bin/env bash
# Runs lmms-eval on a checkpoint, for the many benchmarks that the kit does not have. Its environment: make setup-lmms
#   eval/lmms.sh [--smoke] MODEL TASKS OUT [option of lmms-eval ...]      eval/lmms.sh runs/mine/checkpoint-500 mmmu_val,mme out
# --smoke prints the command and checks the model folder, but runs nothing.
set -euo pipefail
smoke=0
if [ "${1:-}" = --smoke ]; then
    smoke=1
    shift
fi
if [ $# -lt 3 ]; then
    echo "usage: eval/lmms.sh [--smoke] MODEL TASKS OUT [option of lmms-eval ...]" >&2
    exit 2
fi
model=$1 tasks=$2 out=$3
shift 3
if [ ! -f "$model/config.json" ] || { [ ! -f "$model/preprocessor_config.json" ] && [ ! -f "$model/processor_config.json" ]; }; then
    echo "eval/lmms.sh: $model is not a model folder with config.json and a processor; merge a LoRA adapter: gpg-vl merge" >&2
    exit 2
fi
if ! grep -q '"vision_config"' "$model/config.json"; then
    echo "eval/lmms.sh: $model is not a vision-language model: its config.json has no vision_config" >&2
    exit 2
fi
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$home/.venv-lmms/bin/python}
command=("$PYTHON" -m eval.lmms_model --model gpg_vl --model_args "pretrained=$model"
    --tasks "$tasks" --batch_size 1 --log_samples --output_path "$out" "$@")
printf '%q ' "${command[@]}"
echo
[ "$smoke" = 0 ] || exit 0
if ! command -v "$PYTHON" > /dev/null; then
    echo "eval/lmms.sh: $PYTHON is not there; make its environment: make setup-lmms" >&2
    exit 2
fi
mkdir -p "$out"
start=$(mktemp)
trap 'rm -f "$start"' EXIT
PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH} "${command[@]}"
# lmms-eval ends with code 0 after an error, too
if [ -z "$(find "$out" -name '*results.json' -newer "$start")" ]; then
    echo "eval/lmms.sh: lmms-eval wrote no results to $out; its last lines above say why" >&2
    exit 1
fi
