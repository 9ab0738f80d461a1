#!/usr/bin/env bash
# Reasoning grounding: ReasonSeg's 239 pictures for training, val and test. scripts/reproduce/lisa.sh --help
# SAM names a SAM model of transformers, to compute gIoU; without it only boxes are scored.
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" lisa Qwen/Qwen2-VL-2B-Instruct "$@"

# The published box is that of the first polygon. The test uses only the first instruction, as published.
convert lisa train.parquet --source "$data/ReasonSeg/train" --box published
for split in val test; do
    convert lisa "$split.parquet" --source "$data/ReasonSeg/$split" --box published --instructions first
done
train lisa train.parquet ""
evaluate lisa lisa "" --data "$out/rows" ${SAM:+--sam "$SAM"}
show_table lisa
