#!/usr/bin/env bash
# 4-shot classification: Flowers102, Pets37, FGVC-Aircraft and Cars196, one model each. SETS="flowers pets" runs only
# those. scripts/reproduce/fine_grained.sh --help
source "$(dirname "${BASH_SOURCE[0]}")/experiment.sh" fine_grained Qwen/Qwen2-VL-2B-Instruct "$@"

declare -A hub=([flowers]=ViRFT_CLS_flower_4_shot [pets]=ViRFT_CLS_pets37_4shot
                [aircraft]=ViRFT_CLS_fgvc_aircraft_4_shot [cars]=ViRFT_CLS_car196_4shot)
declare -A labels=([flowers]=oxford_flowers [pets]=pets [aircraft]=fgvc_aircraft [cars]=stanford_cars)
declare -A images=([flowers]=oxford_flowers/jpg [pets]=pets/images
                   [aircraft]=fgvc-aircraft-2013b/data/images [cars]=cars_test)

for set in ${SETS:-flowers pets aircraft cars}; do
    if [[ -z ${hub[$set]:-} ]]; then
        echo "SETS: '$set' is not known; the sets are flowers, pets, aircraft, cars" >&2
        exit 2
    fi
    convert virft_cls "train/$set.parquet" --set "$set" --source "$(source_of "${hub[$set]}" "laolao77/${hub[$set]}")"
    convert virft_cls "test/$set.parquet" --set "$set" --source "$data/${labels[$set]}.pth" \
        --classes "$data/${labels[$set]}.txt" --images "$data/${images[$set]}"
    train "$set" "train/$set.parquet" "$set/"
    evaluate "$set" fine_grained "$set/" --data "$out/rows/test" --split "$set"
done
show_table fine_grained
