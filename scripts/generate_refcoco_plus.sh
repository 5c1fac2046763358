#!/usr/bin/env bash
# The paper's run: pseudo masks and pairs for refcoco+'s training images with configs/paper.yaml, one process for each visible GPU.
# Usage: bash scripts/generate_refcoco_plus.sh [OPTIONS]      OPTIONS go to both stages and win over the preset, for example
#        --retry-failed, --config my.yaml, or --weights random (a dry run that downloads nothing; --config configs/demo.yaml is another)
# Environment, paths as seen from where this is started:
#   REFER=data/refcoco+      REFER folder: refs(unc).p and instances.json
#   IMAGES=data/train2014    COCO's images
#   OUTPUT=pseudo_supervision/refcoco_plus   receives masks/, pairs/ and logs/
#   PROCESSES                how many, instead of one for each of CUDA_VISIBLE_DEVICES (or nvidia-smi -L), and one without a GPU
# Stop it at any time: the same command goes on where it was and ends with the same bytes. Exit code 3: some images failed.
started_in=$PWD
source "$(dirname "$0")/setup_env.sh" ""
root=$PWD
cd "$started_in"
refer=${REFER:-data/refcoco+}
images=${IMAGES:-data/train2014}
output=${OUTPUT:-pseudo_supervision/refcoco_plus}

visible_gpus() {
    if [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        tr ', ' '\n\n' <<<"$CUDA_VISIBLE_DEVICES" | sed '/^$/d; /^-1$/,$d'
    elif command -v nvidia-smi >/dev/null; then
        nvidia-smi -L 2>/dev/null | sed -n 's/^GPU \([0-9]*\):.*/\1/p'
    fi
}
mapfile -t gpus < <(visible_gpus)
processes=${PROCESSES:-$((${#gpus[@]} > 0 ? ${#gpus[@]} : 1))}

pids=()
stop() {
    trap '' INT TERM HUP
    [ ${#pids[@]} -eq 0 ] || kill "${pids[@]}" 2>/dev/null || true
    wait
    echo "stopped; the same command goes on where this one was" >&2
    exit 130
}
trap stop INT TERM HUP

# Starts a recipe on the k-th visible GPU and notes its process: start K COMMAND...
start() {
    local k=$1
    shift
    if [ ${#gpus[@]} -gt 0 ]; then
        CUDA_VISIBLE_DEVICES=${gpus[k % ${#gpus[@]}]} PYTHONUNBUFFERED=1 python "$@" &
    else
        PYTHONUNBUFFERED=1 python "$@" &
    fi
    pids+=($!)
}

# Waits for the processes noted; `worst` becomes 0, 3 when images failed, or the exit code of one that could not do its work.
finish() {
    local pid code
    worst=0
    for pid in "${pids[@]}"; do
        code=0
        wait "$pid" || code=$?
        if [ "$code" -ne 0 ] && { [ "$worst" -eq 0 ] || [ "$worst" -eq 3 ]; }; then worst=$code; fi
    done
    pids=()
    [ "$worst" -eq 0 ] || [ "$worst" -eq 3 ]
}

# All shards of a stage side by side, then the run that ends it: stage NAME RECIPE OPTIONS...
stage() {
    local name=$1 k
    shift
    rm -f "$output/logs/$name."*.log
    if [ "$processes" -gt 1 ]; then
        echo "$name: $processes processes at work, see $output/logs/$name.*.log"
        for ((k = 0; k < processes; k++)); do
            start "$k" "$@" --shard "$k/$processes" >"$output/logs/$name.$k.log" 2>&1
        done
        if ! finish; then
            tail -n 1 "$output/logs/$name."*.log >&2
            echo "error: a process of $name ended early (exit code $worst); see above, mend it and run the same command again" >&2
            exit "$worst"
        fi
    fi
    start 0 "$@" >"$output/logs/$name.log" # standard error, with the progress bar, stays on the terminal
    finish || exit "$worst"
    cat "$output/logs/$name.log"
    [ "$worst" -eq 0 ] || failed=3
}

case " $* " in
    *" --weights random "* | *" --weights=random "* | *" --config"*"demo.yaml "*) ;;
    *) bash "$root/scripts/download_weights.sh" paper ;;
esac
mkdir -p "$output/logs"
failed=0
common=(--config "$root/configs/paper.yaml" --images "$images" --refer "$refer/refs(unc).p" --split train --masks "$output/masks")
stage masks "$root/generate_masks/cutler_sam_masks.py" "${common[@]}" "$@"
stage pairs "$root/generate_pseudo_supervision/distinctive_caption_generation.py" "${common[@]}" --output "$output/pairs" "$@"
[ "$failed" -eq 0 ] || echo "some images could not be used, see failures.csv in $output/masks and $output/pairs"
echo "the pairs of refcoco+ are in $output/pairs/distinctive_captions_cc3m.csv"
exit "$failed"
