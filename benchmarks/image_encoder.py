"""SAM's image encoder against segment_anything's own forward: same weights (random, reproducible), same input.

    python benchmarks/image_encoder.py --architecture vit_h --device cuda --precision bf16

Each is measured in a fresh process after one run to warm up. Differences are the largest ones from segment_anything's forward
in fp32 on the same device. The last line is JSON.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from common import in_fresh_process, peak_bytes, print_json, print_table

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import SamConfig
from pseudo_ris.io.device import DTYPES, pick_device
from pseudo_ris.models.sam.image_encoder import encode_image
from pseudo_ris.models.sam.segmenter import build_sam

OURS, REFERENCE = "pseudo-ris", "segment_anything"


@dataclass(frozen=True)
class Measured:
    """Seconds of a forward pass; peak memory in bytes, on a GPU what its tensors take; the features as float32 on the CPU."""

    seconds: float
    peak: int
    features: torch.Tensor


@torch.inference_mode()
def measure(name: str, architecture: str, device_name: str, precision: str, repeats: int) -> Measured:
    """Runs `name`'s forward pass."""
    device = pick_device(device_name, allow_tf32=False)
    model = ready_model(build_sam, SamConfig(architecture=architecture, weights="random"), "sam")
    encoder = model.image_encoder.to(device, DTYPES[precision])
    images = torch.randn(1, 3, encoder.img_size, encoder.img_size, generator=torch.Generator().manual_seed(0))
    images = images.to(device, DTYPES[precision])

    def forward() -> torch.Tensor:
        features = encoder(images) if name == REFERENCE else encode_image(encoder, images)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return features

    features = forward()
    start = time.perf_counter()
    for _ in range(repeats):
        forward()
    seconds = (time.perf_counter() - start) / repeats
    peak = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else peak_bytes()
    return Measured(seconds, peak, features.float().cpu())


def main(arguments: Sequence[str]) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=("demo", "vit_b", "vit_l", "vit_h"), default="vit_b")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    options = parser.parse_args(arguments)

    def run(name: str, precision: str, repeats: int) -> Measured:
        return in_fresh_process(
            measure, name, options.architecture, options.device, precision, repeats, threads=options.threads
        )

    ours, reference = (run(name, options.precision, options.repeats) for name in (OURS, REFERENCE))
    exact = reference if options.precision == "fp32" else run(REFERENCE, "fp32", 1)
    differences = [float((one.features - exact.features).abs().max()) for one in (ours, reference)]
    print_table(
        ("", "ms", "peak MiB", "largest difference from fp32"),
        [
            (name, 1000 * one.seconds, one.peak / 2**20, difference)
            for name, one, difference in zip((OURS, REFERENCE), (ours, reference), differences, strict=True)
        ],
    )
    print_json(
        {
            "ratio": reference.seconds / ours.seconds,
            "seconds_ours": ours.seconds,
            "seconds_reference": reference.seconds,
            "peak_bytes_ours": ours.peak,
            "peak_bytes_reference": reference.peak,
            "difference_ours": differences[0],
            "difference_reference": differences[1],
            "largest_feature": float(exact.features.abs().max()),
            **vars(options),
        }
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
