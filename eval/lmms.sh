#!/usr/bin/env bash
# Runs lmms-eval on a checkpoint, for the many benchmarks that the kit does not have.
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
if [ ! -f "$model/config.json" ] || [ ! -f "$model/preprocessor_config.json" ] && [ ! -f "$model/processor_config.json" ]; then
    echo "eval/lmms.sh: $model is not a model folder with config.json and a processor" >&2
    exit 2
fi
case $(grep -o '"model_type": *"qwen2[_a-z0-9]*vl"' "$model/config.json" | head -n 1) in
    *qwen2_5_vl*) family=qwen2_5_vl ;;
    *qwen2_vl*) family=qwen2_vl ;;
    *) echo "eval/lmms.sh: $model is not a Qwen2-VL or Qwen2.5-VL model" >&2; exit 2 ;;
esac
home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
PYTHON=${PYTHON:-$([ -x "$home/.venv/bin/python" ] && echo "$home/.venv/bin/python" || echo python3)}
command=("$PYTHON" -m lmms_eval --model "$family" --model_args "pretrained=$model,max_pixels=401408"
    --tasks "$tasks" --batch_size 1 --log_samples --output_path "$out" "$@")
printf '%q ' "${command[@]}"
echo
[ "$smoke" = 1 ] || exec "${command[@]}"
