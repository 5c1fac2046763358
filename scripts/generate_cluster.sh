#!/usr/bin/env bash
# Both stages on a Ray cluster, one after the other: images -> masks -> mask-expression pairs.
# Usage: bash scripts/generate_cluster.sh [OPTIONS]     OPTIONS are those of the two stages; each gets the ones that it knows, for example
#        --address auto --images photos --config configs/default.yaml --gpus-per-worker 0.5
#        Without --address (or RAY_ADDRESS) each stage starts Ray on this machine, with all its GPUs or cores.
# Environment: OUTPUT=pseudo_supervision/cluster   receives masks/ and pairs/; as seen from where this is started, like all paths
# A cluster: ray start --head on one machine, ray start --address=HEAD:6379 on the others, each with this checkout, its .venv and
# the files of the run at the same paths. Machines may come and go. Stop it at any time: the same command goes on where it was
# and ends with the same bytes. Exit code 3: some images failed.
started_in=$PWD
source "$(dirname "$0")/setup_env.sh" scale
root=$PWD
cd "$started_in"
output=${OUTPUT:-pseudo_supervision/cluster}

masks=(--masks "$output/masks")
pairs=(--masks "$output/masks" --output "$output/pairs")
stages=both
for argument in "$@"; do
    case $argument in
        --cutler.* | --sam.* | --matching.*) stages=masks ;;
        --coca.* | --clip.* | --crops.* | --decoding.* | --scoring.* | --output* | --name* | --mask[-_]format*) stages=pairs ;;
        --*) stages=both ;;
    esac
    [ $stages = pairs ] || masks+=("$argument")
    [ $stages = masks ] || pairs+=("$argument")
done

pid=
stop() {
    trap '' INT TERM HUP
    [ -z "$pid" ] || kill "$pid" 2>/dev/null || true
    wait
    exit 130
}
trap stop INT TERM HUP

# Runs a recipe; `failed` becomes 3 when it could not use some images, and what goes wrong with it as a whole ends the script.
failed=0
stage() {
    local code=0
    PYTHONUNBUFFERED=1 python "$@" --engine ray &
    pid=$!
    wait "$pid" || code=$?
    pid=
    case $code in
        0) ;;
        3) failed=3 ;;
        *) exit "$code" ;;
    esac
}
stage "$root/generate_masks/cutler_sam_masks.py" "${masks[@]}"
stage "$root/generate_pseudo_supervision/distinctive_caption_generation.py" "${pairs[@]}"
exit "$failed"
