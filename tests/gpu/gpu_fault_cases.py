"""Stage 1 on a GPU that is missing, full, or broken, in one process. Prints as JSON what came of each case.

python -m tests.pretended_gpu tests/gpu/gpu_fault_cases.py IMAGES FOLDER        with setting GPU_MIB=400
"""

from __future__ import annotations

import csv
import gc
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

import pseudo_ris.checkpoints.weights as weights
from generate_masks.cutler_sam_masks import main
from pseudo_ris.errors import UserError
from tests.pretended_gpu.faults import DEVICE_SIDE_ASSERT
from tests.pretended_gpu.runtime import loaded_runtime

MIB = 2**20


class Cases:
    """Runs stage 1 on `images` with masks below `folder`."""

    def __init__(self, images: Path, folder: Path) -> None:
        self.images, self.folder = images, folder
        self.reads = 0
        read_state = weights.read_state

        def counted(path: Path) -> dict[str, torch.Tensor]:
            self.reads += 1
            return read_state(path)

        weights.read_state = counted

    def run(self, name: str, *options: str) -> dict:
        """Exit code or message, rows of failures.csv, and how often weights were read."""
        self.reads = 0
        torch.cuda.empty_cache()
        masks = self.folder / name
        try:
            code: int | str = main(
                [
                    "--images",
                    str(self.images),
                    "--masks",
                    str(masks),
                    "--sam.points_per_side",
                    "3",
                    "--device",
                    "cuda",
                    *options,
                ]
            )
        except UserError as error:
            code = f"{type(error).__name__}: {error}"
        table = masks / "failures.csv"
        failures = list(csv.DictReader(table.open())) if table.is_file() else []
        return {"code": code, "failures": failures, "reads": self.reads}


@contextmanager
def only_free(mib: int) -> Iterator[None]:
    """Another user of the GPU leaves this much of its memory."""
    gc.collect()  # models of earlier cases would give up theirs while the next case runs
    torch.cuda.empty_cache()
    free, _ = torch.cuda.mem_get_info()
    others = torch.empty(free - mib * MIB, dtype=torch.uint8, device="cuda")
    yield
    del others


def all_cases(cases: Cases) -> Iterator[tuple[str, dict]]:
    yield "missing", cases.run("missing", "--device", "cuda:7")
    yield "together", cases.run("together", "--residency", "together")
    yield "in turn", cases.run("in_turn", "--residency", "in_turn")
    with only_free(0):
        yield "no room for weights", cases.run("weights", "--residency", "together")
    with only_free(26):  # the weights fit, of which torch takes 20 MiB at once, and the work does not
        yield "no room to work", cases.run("work")
    yield "room again", cases.run("work")
    loaded_runtime().pretended_break(DEVICE_SIDE_ASSERT)
    yield "broken", cases.run("broken", "--residency", "together")


if __name__ == "__main__":
    print(json.dumps(dict(all_cases(Cases(Path(sys.argv[1]), Path(sys.argv[2]))))))
