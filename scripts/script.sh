#!/usr/bin/env bash
# MaskRIS's run: trains on a data set with configs/maskris.yaml, on all visible GPUs or on the CPU, then evaluates on its splits.
# Usage: bash scripts/download_weights.sh ris; bash scripts/script.sh [DATASET] [OPTIONS]
#        DATASET: refcoco, refcoco+ (when none is given), refcocog, refcocom (the mix of the three) or any other folder of REFER_ROOT
#        OPTIONS go to train_ris/train.py and win over the preset, for example --data.split_by google, --masking.image false,
#        --schedule.epochs 10 or, for a dry run, --model.image_weights none --model.text_weights none --model.vocabulary demo
# Environment, paths as seen from where this is started:
#   REFER_ROOT=data                   REFER folders, each with refs(...).p and instances.json
#   IMAGES=data/images/train2014      COCO's images
#   OUTPUT=ris/DATASET                receives best.pt, last.pt, log.csv and tensorboard/
#   CONFIG                            a preset instead of configs/maskris.yaml, for example configs/cris.yaml
#   PROCESSES                         how many, instead of one for each visible GPU, and one without a GPU
# Stop it at any time: the same command goes on where it was.
started_in=$PWD
source "$(dirname "$0")/setup_env.sh" train
root=$PWD
cd "$started_in"
dataset=refcoco+
if [ $# -gt 0 ] && [[ $1 != --* ]]; then
    dataset=$1
    shift
fi
output=${OUTPUT:-ris/$dataset}
processes=${PROCESSES:-$(python -c 'import torch; print(max(1, torch.cuda.device_count()))')}

launcher=(python)
if [ "$processes" -gt 1 ]; then launcher=(torchrun --standalone --nproc_per_node "$processes"); fi
"${launcher[@]}" "$root/train_ris/train.py" --config "${CONFIG:-$root/configs/maskris.yaml}" --data.dataset "$dataset" \
    --data.refer_root "${REFER_ROOT:-data}" --data.images "${IMAGES:-data/images/train2014}" --output "$output" "$@"
python "$root/train_ris/evaluate.py" --checkpoint "$output/best.pt"
