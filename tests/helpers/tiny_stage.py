"""A stage in small for the fault campaign, without models: `python tiny_stage.py --images ... --masks ... [--output ...]`.

It writes two rows for each image. CARELESS in the environment: it takes what lies there for finished, and writes in place.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

SECONDS_OF_AN_IMAGE = 0.02


def write(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target if "CARELESS" in os.environ else target.with_name(f".{target.name}.tmp")
    with place.open("w") as file:
        for half in (text[: len(text) // 2], text[len(text) // 2 :]):
            file.write(half)
            file.flush()
            time.sleep(SECONDS_OF_AN_IMAGE / 2)
    place.replace(target)


def is_finished(target: Path, text: str) -> bool:
    return target.exists() and ("CARELESS" in os.environ or target.read_text() == text)


def main(argv: list[str]) -> None:
    options = dict(zip(argv[::2], argv[1::2], strict=True))
    output = Path(options.get("--output", options["--masks"]))
    results = output / ("pairs.parts" if "--output" in options else "_meta")
    for leftover in output.rglob(".*.tmp"):
        leftover.unlink()
    stems = sorted(path.stem for path in Path(options["--images"]).iterdir())
    for stem in stems:
        text = "".join(f"{stem},{seg_id},{options.get('--decoding.seed', 0)}\n" for seg_id in range(2))
        if not is_finished(results / f"{stem}.json", text):
            write(results / f"{stem}.json", text)
    if "--output" in options:
        rows = [(results / f"{stem}.json").read_text() for stem in stems]
        write(output / "pairs.csv", "".join(["img_id,seg_id,seed\n", *rows]))


if __name__ == "__main__":
    main(sys.argv[1:])
