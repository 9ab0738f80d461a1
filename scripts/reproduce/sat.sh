#!/usr/bin/env bash
# Spatial reasoning: SAT for training the base model Qwen2-VL-2B, CV-Bench for the test. scripts/reproduce/sat.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" sat Qwen/Qwen2-VL-2B "$@"

# As published: the first 15,000 rows, without those with two images.
convert sat train.parquet --source "$(source_of SAT array/SAT)" --limit 15000
convert cvbench test.parquet --source "$(source_of CV-Bench nyu-visionx/CV-Bench)"
train sat train.parquet ""
evaluate sat cvbench "" --data "$out/rows"
show_table cvbench
