"""Where the host waits for the GPU, counted on a pretended one (tests/pretended_gpu), so that no GPU is needed.

    python benchmarks/synchronisations.py            embedded models, drawn scenes; --lines 20: more lines of each stage

Each wait leaves a GPU idle until the host has launched the next kernels. Counted are reads of values and of sizes (`.item()`,
`nonzero`, an index by booleans), copies to and from the device unless they are non-blocking from or to pinned memory, and
explicit synchronisation. A stage runs once on one scene and once on three; `stage1_per_image` and `stage2_per_image` are half
of the difference, so that loading the models does not count. `per_decoding_step` is, of beam search and sampling together, the
waits for each call of `PrefixDecoder.step`. The tables ascribe the waits of the runs on three scenes, start included, to the
project's innermost lines.

It shows how many waits there are, not how long they take. How many objects and decoding steps there are is up to the embedded
models.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import io
import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

from common import print_json, print_table

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # tests/ and the recipes are not installed

from tests.pretended_gpu.launch import run_pretended, what_is_missing  # noqa: E402

INSIDE = "--inside"
SCENES = (1, 3)
STAGES = ("stage1", "stage2")


def count_both_stages(folder: Path) -> dict[str, Any]:
    """In a pretending process: the waits of both stages on the scenes of SCENES, and those of decoding."""
    from generate_masks.cutler_sam_masks import main as generate_masks
    from generate_pseudo_supervision.distinctive_caption_generation import main as generate_captions
    from pseudo_ris.captions import distinctive

    waits: dict[str, list[dict[str, int]]] = {"stage1": [], "stage2": []}
    decoding = Decoding()
    for count in SCENES:
        images, masks = folder / f"images{count}", folder / f"masks{count}"
        images.mkdir()
        for path in sorted((ROOT / "datasets" / "demo" / "images").iterdir())[:count]:
            shutil.copy(path, images)
        stage = ["--device", "cuda", "--images", str(images), "--masks", str(masks)]
        waits["stage1"].append(waits_of(lambda stage=stage: generate_masks(stage)))
        stage += ["--output", str(folder / f"pairs{count}")]
        with patch.multiple(
            distinctive, beam_search=decoding.counted(distinctive.beam_search), sample=decoding.counted(distinctive.sample)
        ):
            waits["stage2"].append(waits_of(lambda stage=stage: generate_captions(stage)))
    return {**waits, "decoding_waits": decoding.waits, "decoding_steps": decoding.steps}


class Decoding:
    """Counts waits and steps of decoding."""

    def __init__(self) -> None:
        self.waits, self.steps = 0, 0

    def counted(self, decode: Callable) -> Callable:
        """`decode`, whose waits and decoder steps are added."""
        from pseudo_ris.models.coca.decoding import PrefixDecoder

        step = PrefixDecoder.step

        def counting_step(*arguments: Any) -> Any:
            self.steps += 1
            return step(*arguments)

        def counting(*arguments: Any) -> Any:
            with patch.object(PrefixDecoder, "step", counting_step), counting_waits() as lines:
                result = decode(*arguments)
            self.waits += sum(lines.values())
            return result

        return counting


def waits_of(work: Callable[[], int]) -> dict[str, int]:
    """The waits of a stage by line. Raises RuntimeError when images failed."""
    with counting_waits() as lines, contextlib.redirect_stdout(io.StringIO()):
        code = work()
    if code:
        raise RuntimeError(f"a stage ended with exit code {code}")
    return dict(lines)


@contextlib.contextmanager
def counting_waits() -> Iterator[collections.Counter[str]]:
    """Receives, when it ends, the number of waits since then by "line: operator"."""
    from tests.pretended_gpu.waits import COUNTS

    lines: collections.Counter[str] = collections.Counter()
    before = COUNTS.copy()
    yield lines
    for wait, number in (COUNTS - before).items():
        lines[f"{wait.line} {wait.operator} ({wait.kind})"] += number


def main() -> None:
    """The command line above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=12, help="lines shown of each stage (default: 12)")
    parser.add_argument(INSIDE, metavar="FOLDER", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside:
        print(json.dumps(count_both_stages(Path(options.inside))))
        return
    if what_is_missing():
        sys.exit(what_is_missing())
    with tempfile.TemporaryDirectory() as folder:
        done = run_pretended([__file__, INSIDE, folder], timeout=3600)
    if done.returncode:
        sys.exit(done.stderr)
    counts = json.loads(done.stdout.splitlines()[-1])
    for stage in STAGES:
        lines = sorted(counts[stage][-1].items(), key=lambda item: -item[1])[: options.lines]
        print(f"\n{stage}, {SCENES[-1]} scenes")
        print_table(["waits", "line and operator"], [[number, line] for line, number in lines])
    print_json(figures_of(counts))


def figures_of(counts: dict[str, Any]) -> dict[str, float]:
    """The last line: waits for each further image, and for each decoding step. counts: of `count_both_stages`."""
    figures = {}
    for stage in STAGES:
        few, many = (sum(lines.values()) for lines in counts[stage])
        figures[f"{stage}_per_image"] = (many - few) / (SCENES[1] - SCENES[0])
    return {**figures, "per_decoding_step": counts["decoding_waits"] / counts["decoding_steps"]}


if __name__ == "__main__":
    main()
