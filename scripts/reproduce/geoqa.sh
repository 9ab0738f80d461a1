#!/usr/bin/env bash
# GEOQA on Qwen2.5-VL-3B-Instruct: 8,031 training rows, 754 test questions. scripts/reproduce/geoqa.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" geoqa Qwen/Qwen2.5-VL-3B-Instruct "$@"

convert geoqa train.parquet --source "$(source_of GEOQA_R1V_Train_8K leonardPKU/GEOQA_R1V_Train_8K)"
convert geoqa test.parquet --source "$data/geoqa_test_prompts.jsonl" --images "$data/images.zip"
train geoqa train.parquet ""
evaluate geoqa geoqa "" --data "$out/rows"
show_table geoqa
