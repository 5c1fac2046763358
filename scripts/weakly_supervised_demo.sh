#!/usr/bin/env bash
# Weakly supervised, end to end: drawn images without labels -> stage 1 -> stage 2 -> RIS models, beside one trained on the ground truth.
# Usage: bash scripts/weakly_supervised_demo.sh [OPTIONS]     OPTIONS are those of pseudo-ris lab weakly-supervised, for example
#        --seeds 0 1 2 (three trainings of each kind, with the spread). What was made is re-used: remove the folder to start anew.
source "$(dirname "$0")/setup_env.sh" train
export CUDA_VISIBLE_DEVICES=  # the small models gain nothing from a GPU
exec pseudo-ris lab weakly-supervised "$@"
