#!/usr/bin/env bash
# The whole pipeline on the embedded default: 24 drawn scenes -> masks -> pairs -> a table against the ground truth and a picture.
source "$(dirname "$0")/setup_env.sh" ""
masks=datasets/pseudo_masks/cutler_sam
output=pseudo_supervision/cutler_sam
python generate_masks/cutler_sam_masks.py --config configs/demo.yaml --masks "$masks"
python generate_pseudo_supervision/distinctive_caption_generation.py --config configs/demo.yaml --masks "$masks" --output "$output"
echo
pseudo-ris lab summary --masks "$masks" --output "$output"
pseudo-ris contact-sheet --images datasets/demo/images --masks "$masks" \
    --pairs "$output/distinctive_captions_cc3m.csv" --sheet "$output/contact_sheet.png"
