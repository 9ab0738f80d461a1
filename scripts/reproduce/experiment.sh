# Sourced by the scripts in this folder: source experiment.sh NAME MODEL "$@". Reads the options and defines convert, train,
# evaluate and show_table. A finished step is not repeated; a killed training or evaluation resumes.
set -euo pipefail

home=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
name=$1 default_model=$2
shift 2

usage() {
    cat << END
usage: scripts/reproduce/$name.sh [--variant gpg|gpg-official|grpo|sft|base] [--smoke]

Converts the published data, trains, evaluates, and prints the results next to the paper's. See docs/reproduce.md.
  --variant   gpg: as in the paper (default); gpg-official: as in the official code; base: the untrained model
  --smoke     the same steps on a tiny random model and a few generated rows, on a CPU
environment:
  DATA        folder with the published files (default data/published)
  MODEL       model folder or name on the hub (default $default_model)
  OUT         output folder (default runs/reproduce/$name; with --smoke $name-smoke)
  PYTHON      the interpreter (default .venv/bin/python of this checkout if it exists, else python3)
END
}

variant=gpg smoke=
while [[ $# -gt 0 ]]; do
    case $1 in
        --variant) variant=${2:-}; shift ;;
        --smoke) smoke=yes ;;
        -h | --help) usage; exit 0 ;;
        *) echo "unknown argument: $1" >&2; usage >&2; exit 2 ;;
    esac
    shift
done
case $variant in
    gpg | gpg-official | grpo | sft | base) ;;
    *) echo "--variant: '$variant' is not known; use gpg, gpg-official, grpo, sft or base" >&2; exit 2 ;;
esac

if [[ -z ${PYTHON:-} ]]; then
    PYTHON=python3
    [[ ! -x $home/.venv/bin/python ]] || PYTHON=$home/.venv/bin/python
fi
export PYTHON PYTHONPATH=$home${PYTHONPATH:+:$PYTHONPATH}
data=${DATA:-data/published}
model=${MODEL:-$default_model}
out=${OUT:-runs/reproduce/$name${smoke:+-smoke}}
train_words=() eval_words=()

run() {
    { printf '+'; printf ' %q' "$@"; echo; } >&2
    "$@"
}

if [[ -n $smoke ]]; then
    export HF_HUB_OFFLINE=1
    data=$out/published model=$out/tiny-model
    tiny=(--model.dtype float32 --model.max_pixels 50176)
    # A random model is never right, so the length of its completions serves as a reward that varies.
    train_words=("${tiny[@]}" --run.steps 2 --run.trackers '[]' --rollout.prompts_per_step 2
                 --rollout.max_new_tokens 12 --rewards.functions "[$home/scripts/reproduce/smoke_reward.py:spread]")
    [[ $variant == sft ]] || train_words+=(--rollout.group_size 2)
    eval_words=("${tiny[@]}" --evaluation.max_new_tokens 4 --note "smoke: a tiny random model, generated rows")
    run "$PYTHON" -m data_tools.published_sources "$name" "$data" "$model"
fi

# source_of FILE NAME: the file or folder in DATA if it exists, else the data set's name on the hub
source_of() {
    if [[ -e $data/$1 ]]; then echo "$data/$1"; else echo "$2"; fi
}

# convert CONVERTER FILE WORDS...: $out/rows/FILE by data_tools.CONVERTER
convert() {
    local converter=$1 file=$out/rows/$2
    shift 2
    [[ -f $file ]] || run "$PYTHON" -m "data_tools.$converter" --out "$file" "$@"
}

# train RECIPE ROWS FOLDER: the run $out/FOLDER/VARIANT
train() {
    local recipe=$1 rows=$2 folder=$out/$3$variant
    [[ $variant != base ]] || return 0
    local recipes=("$home/scripts/recipes/$recipe.yaml")
    [[ $variant == gpg ]] || recipes+=("$home/scripts/recipes/variants/$variant.yaml")
    run "$home/scripts/train.sh" "${recipes[@]}" --model.path "$model" --data.train "[$out/rows/$rows]" \
        --run.output_dir "$folder" ${train_words[@]+"${train_words[@]}"}
}

# evaluate RECIPE BENCHMARK FOLDER WORDS...: $out/FOLDER/VARIANT/eval, and report.html of the run
evaluate() {
    local recipe=$1 benchmark=$2 folder=$out/$3$variant subject=()
    shift 3
    subject=(--model "$folder")
    [[ $variant != base ]] || subject=(--model "$model" --recipe "$home/scripts/recipes/$recipe.yaml")
    run "$PYTHON" -m "eval.$benchmark" "${subject[@]}" --out "$folder/eval" "$@" ${eval_words[@]+"${eval_words[@]}"}
    [[ $variant == base ]] || run "$PYTHON" -m gpg_vl report "$folder"
}

# show_table BENCHMARK: every variant evaluated so far, next to the paper; then the page of each run
show_table() {
    local results folder runs=() pages=()
    while IFS= read -r results; do
        folder=$(dirname "$(dirname "$results")")
        runs+=("$(basename "$folder")=$(dirname "$results")")
        [[ ! -f $folder/report.html ]] || pages+=("$folder/report.html")
    done < <(find "$out" -path '*/eval/results.json' | sort)
    run "$PYTHON" -m eval.table "${runs[@]}" --benchmark "$1" --out "$out/table.md"
    [[ ${#pages[@]} == 0 ]] || printf 'What it learned, with pictures and answers: open %s in a browser.\n' "${pages[@]}"
}
