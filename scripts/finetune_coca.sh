#!/usr/bin/env bash
# Fine-tunes CoCa on image-caption pairs with open_clip's own training module. Stage 2 loads the result as --coca.weights.
#
#   bash scripts/finetune_coca.sh 'cc3m/{00000..00331}.tar' OUT [OPTIONS]
#       the paper's: the LAION-2B CoCa (bash scripts/download_weights.sh coca_laion2b), one epoch, on all visible GPUs.
#       OPTIONS are open_clip_train.main's, for example --batch-size 64 --grad-checkpointing.
#   bash scripts/finetune_coca.sh
#       the same on 2,000 drawn crops with the small CoCa, in demo_output/finetune_coca: training, stage 2 with the result,
#       loss and captions before and after. Fails when they are not better.
started_in=$PWD
source "$(dirname "$0")/setup_env.sh" finetune
if [ $# -gt 0 ]; then
    cd "$started_in"
    exec pseudo-ris lab finetune "$@"
fi

export CUDA_VISIBLE_DEVICES=  # the small models gain nothing from a GPU
work=$PWD/demo_output/finetune_coca
masks=datasets/pseudo_masks/cutler_sam
rm -rf "$work"
pseudo-ris lab finetune-data --out "$work"
# The recipe, but for a small model and few crops: larger steps, smaller batches, three epochs.
pseudo-ris lab finetune "$work/crops/{00000..00003}.tar" "$work/run" --model "local-dir:$work/coca_demo" \
    --lr 1e-4 --batch-size 50 --epochs 3 --warmup 20 --workers 1 --log-every-n-steps 10
checkpoint=$work/run/checkpoints/epoch_latest.pt
python generate_masks/cutler_sam_masks.py --config configs/demo.yaml --masks "$masks"
python generate_pseudo_supervision/distinctive_caption_generation.py --config configs/demo.yaml --masks "$masks" \
    --output "$work/pairs" --coca.weights "$checkpoint"
pseudo-ris lab summary --masks "$masks" --output "$work/pairs"
echo
pseudo-ris lab finetune-report --weights "$checkpoint" --log "$work/run/out.log"
