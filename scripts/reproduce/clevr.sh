#!/usr/bin/env bash
# Counting: CLEVR for training, 200 SuperCLEVR pictures for the test. scripts/reproduce/clevr.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" clevr Qwen/Qwen2-VL-2B-Instruct "$@"

convert clevr train.parquet --source "$(source_of clevr_cogen_a_train leonardPKU/clevr_cogen_a_train)"
convert clevr test.parquet --source "$data/superclevr_test200_counting_problems.jsonl" --images "$data/images.zip"
train clevr train.parquet ""
evaluate clevr superclevr "" --data "$out/rows"
show_table superclevr
