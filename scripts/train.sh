#!/usr/bin/env bash
# Trains a recipe on any number of processes and nodes: scripts/train.sh RECIPE [--section.key VALUE ...]
#
#   DEEPSPEED      zero0 | zero1 | zero2 | zero3 | zero3_offload: a file of scripts/deepspeed/ (default zero0)
#   NUM_PROCESSES  processes on this node (default: one per GPU, or 1 without a GPU)
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   several nodes (default: this node only)
#   PYTHON         the interpreter (default: .venv/bin/python of this checkout if it exists, else python3)
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
deepspeed=${DEEPSPEED:-zero0}
config=$home/scripts/deepspeed/$deepspeed.json
if [[ ! -f $config ]]; then
    echo "scripts/train.sh: DEEPSPEED=$deepspeed is not known; use zero0, zero1, zero2, zero3 or zero3_offload" >&2
    exit 2
fi
if [[ $# -eq 0 ]]; then
    echo "usage: scripts/train.sh RECIPE [--section.key VALUE ...]" >&2
    exit 2
fi

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ ! -x $home/.venv/bin/python ]] || PYTHON=$home/.venv/bin/python
fi
num_gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
num_processes=${NUM_PROCESSES:-$((num_gpus > 0 ? num_gpus : 1))}
nnodes=${NNODES:-1}
for number in "NUM_PROCESSES=$num_processes" "NNODES=$nnodes"; do
    if [[ ! ${number#*=} =~ ^[1-9][0-9]*$ ]]; then
        echo "scripts/train.sh: $number is not a whole number of at least 1" >&2
        exit 2
    fi
done

if [[ -d $home/gpg_vl ]]; then  # a checkout; what is installed is found without
    export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
fi
# Seconds that the launcher gives the ranks to save after a signal. Ranks that cannot save end by themselves.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-120}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
if [[ $num_gpus -eq 0 ]]; then
    export DS_ACCELERATOR=cpu
    if [[ $deepspeed == zero0 ]]; then
        export ACCELERATE_USE_CPU=true  # not with DeepSpeed: accelerate would then silently ignore DeepSpeed
    else
        unset ACCELERATE_USE_CPU
    fi
fi
if [[ $deepspeed != zero0 ]]; then
    export ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_CONFIG_FILE=$config
fi

train=(-m gpg_vl train "$@")
launch=("$PYTHON" -m gpg_vl.launch --nproc_per_node "$num_processes")
if [[ $deepspeed == zero0 && $num_processes -eq 1 && $nnodes -eq 1 ]]; then
    launch=("$PYTHON")
elif [[ $nnodes -gt 1 ]]; then
    launch+=(--nnodes "$nnodes" --node_rank "${NODE_RANK:?set it to 0 .. NNODES-1}"
             --master_addr "${MASTER_ADDR:?set it to the host of node 0}" --master_port "${MASTER_PORT:-29500}")
elif [[ -n ${MASTER_PORT:-} ]]; then
    launch+=(--master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$MASTER_PORT")
else
    launch+=(--standalone)
fi

{ printf '+ DEEPSPEED=%q' "$deepspeed"; printf ' %q' "${launch[@]}" "${train[@]}"; echo; } >&2
exec "${launch[@]}" "${train[@]}"
