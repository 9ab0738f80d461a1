#!/usr/bin/env bash
# Trains a recipe on any number of processes and nodes: scripts/train.sh RECIPE [--section.key VALUE ...]
#
#   SHARDING       what the processes share:
#                  none | fsdp | hsdp | fsdp_offload | zero1 | zero2 | zero3 | zero3_offload
#                  (default: fsdp on several GPUs, hsdp on several nodes with several GPUs each, else none)
#   DEEPSPEED      the same by its older name: zero0 (none) | zero1 | zero2 | zero3 | zero3_offload
#   NUM_PROCESSES  processes on this node (default: one per GPU, or 1 without a GPU)
#   NNODES, NODE_RANK, MASTER_ADDR, MASTER_PORT   several nodes (default: this node only)
#   PYTHON         the interpreter (default: .venv/bin/python of this checkout if it exists, else python3)
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
asked="SHARDING=${SHARDING:-}"
layout=${SHARDING:-}
if [[ -n ${DEEPSPEED:-} ]]; then
    asked="DEEPSPEED=$DEEPSPEED"
    layout=${DEEPSPEED/#zero0/none}
    if [[ -n ${SHARDING:-} && $SHARDING != "$layout" ]]; then
        echo "scripts/train.sh: SHARDING=$SHARDING and $asked are two layouts; set one of them" >&2
        exit 2
    fi
    if [[ $DEEPSPEED != zero[0-3] && $DEEPSPEED != zero3_offload ]]; then
        echo "scripts/train.sh: $asked is not known; use zero0, zero1, zero2, zero3 or zero3_offload" >&2
        exit 2
    fi
fi
case $layout in
    "" | none | fsdp | hsdp | fsdp_offload | zero1 | zero2 | zero3 | zero3_offload) ;;
    *)
        echo "scripts/train.sh: $asked is not known; use none, fsdp, hsdp, fsdp_offload, zero1, zero2, zero3 or zero3_offload" >&2
        exit 2
        ;;
esac
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
if [[ -z $layout ]]; then
    layout=none
    [[ $num_gpus -eq 0 || $((num_processes * nnodes)) -eq 1 ]] || layout=fsdp
    [[ $num_gpus -eq 0 || $num_processes -eq 1 || $nnodes -eq 1 ]] || layout=hsdp  # of one GPU a node shares nothing
    asked="SHARDING=$layout"
fi

if [[ -d $home/gpg_vl ]]; then  # a checkout; what is installed is found without
    export PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
fi
# Seconds that the launcher gives the ranks to save after a signal (docs/cluster.md has the formula; as in
# scripts/slurm/train.sbatch). Ranks that cannot save end by themselves.
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=${TORCH_ELASTIC_SHUTDOWN_TIMEOUT:-900}
num_threads=1
if [[ $layout == *_offload && -z ${OMP_NUM_THREADS:-} ]]; then  # there the optimizer runs on the processors
    num_threads=$(($(nproc) / num_processes))
fi
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((num_threads > 0 ? num_threads : 1))}
[[ $num_gpus -ne 0 ]] || export DS_ACCELERATOR=cpu
if [[ $layout == zero* ]]; then
    [[ $num_gpus -ne 0 ]] || unset ACCELERATE_USE_CPU  # accelerate would then silently ignore DeepSpeed
    unset GPG_VL_SHARDING
    export ACCELERATE_USE_DEEPSPEED=true ACCELERATE_DEEPSPEED_CONFIG_FILE=$home/scripts/deepspeed/$layout.json
else
    [[ $num_gpus -ne 0 ]] || export ACCELERATE_USE_CPU=true
    export GPG_VL_SHARDING=$layout
fi

train=(-m gpg_vl train "$@")
launch=("$PYTHON" -m gpg_vl.launch --nproc_per_node "$num_processes")
if [[ $layout == none && $num_processes -eq 1 && $nnodes -eq 1 ]]; then
    launch=("$PYTHON")
elif [[ $nnodes -gt 1 ]]; then
    launch+=(--nnodes "$nnodes" --node_rank "${NODE_RANK:?set it to 0 .. NNODES-1}"
             --master_addr "${MASTER_ADDR:?set it to the host of node 0}" --master_port "${MASTER_PORT:-29500}")
elif [[ -n ${MASTER_PORT:-} ]]; then
    launch+=(--master_addr "${MASTER_ADDR:-127.0.0.1}" --master_port "$MASTER_PORT")
else
    launch+=(--standalone)
fi

{ printf '+ %q' "$asked"; printf ' %q' "${launch[@]}" "${train[@]}"; echo; } >&2
exec "${launch[@]}" "${train[@]}"
