"""How sampling's time and memory grow with the number of masks, with all other masks as distractors and with eight.

    python benchmarks/growth.py --model coca_ViT-B-32 --length 8 --threads 1

One crop set of noise for each number of masks, the release's ten strategies, reproducible random weights, every run in a fresh
process. Peak memory includes the model. Image crops are encoded beforehand. The last line is one JSON object: `ratio` and
`memory_ratio` are those of the last to the 8 masks' row with eight distractors, `rows` is the table.
"""

from __future__ import annotations

import argparse
from dataclasses import replace

from common import in_fresh_process, peak_bytes, print_json, print_table
from decode import IMAGE_ID, now, prepare

from pseudo_ris.captions.distinctive import keyed_draw, sample

FEW = 8
HEAD = ("masks", "seconds", "peak GiB", f"seconds, {FEW} distractors", f"peak GiB, {FEW} distractors")


def measure(options: argparse.Namespace, masks: int, max_distractors: int) -> tuple[float, int]:
    """Seconds (see `decode.now`) and peak bytes of one crop set."""
    options.masks = masks
    captioner, images, rows, decoding = prepare(options, options.precision)
    decoding = replace(decoding, max_distractors=max_distractors)
    _ = captioner.layers  # made once a model, as loading is
    start = now(captioner.device)
    sample(captioner, images, rows, decoding, keyed_draw(decoding.seed, IMAGE_ID))
    return now(captioner.device) - start, peak_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, nargs="+", default=[2, 4, 8, 16, 32, 64])
    parser.add_argument("--length", type=int, default=8, help="tokens of a caption, start and end included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="coca_ViT-B-32", help="an open_clip CoCa, or demo")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    counts = options.masks
    table = []
    for masks in counts:
        row = [masks]
        for max_distractors in (masks, FEW):
            seconds, peak = in_fresh_process(measure, options, masks, max_distractors, threads=options.threads)
            row += [seconds, peak / 2**30]
        table.append(row)
    print_table(HEAD, table)
    few = {row[0]: row[3:] for row in table}
    figures = {name: getattr(options, name) for name in ("length", "threads", "model", "precision", "device")}
    if FEW in few:
        (seconds, peak), (base_seconds, base_peak) = few[counts[-1]], few[FEW]
        figures |= {"ratio": seconds / base_seconds, "memory_ratio": peak / base_peak}
    print_json(figures | {"rows": [dict(zip(HEAD, row, strict=True)) for row in table]})


if __name__ == "__main__":
    main()
