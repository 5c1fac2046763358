"""Automatic mask generation against segment_anything's SamAutomaticMaskGenerator: same model, same settings, same images.

    python benchmarks/automatic_masks.py                                      the embedded SAM on demo scenes
    python benchmarks/automatic_masks.py --architecture vit_b --images 1      at full size, with reproducible random weights

Each is measured in a fresh process, its first image once beforehand. The demo is run with its own settings on drawn scenes,
the full sizes with those of configs/default.yaml on a photograph, turned by a quarter for each further image. There, the
stability threshold is lower, as masks of random weights are rough.

Two sets of masks are the same when they are as many, in one order, and at most one pixel in 100,000 differs: pixels whose
logit is 0 up to fp32 rounding may be in or out, as they may between two runs of segment_anything with other batches. When the
masks are not the same, the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import in_fresh_process, peak_bytes, print_json, print_table
from PIL import Image
from segment_anything import SamAutomaticMaskGenerator
from segment_anything.modeling import Sam

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import SamConfig
from pseudo_ris.io.device import pick_device
from pseudo_ris.models.sam.automatic_masks import AutomaticMasks, SamMasks
from pseudo_ris.models.sam.segmenter import build_sam

ROOT = Path(__file__).parents[1]
SCENES = ROOT / "datasets" / "demo" / "images"
PHOTOGRAPH = ROOT / "tests" / "parity" / "golden" / "cutler" / "image_0.jpg"
FULL_SIZE = {"points_per_side": 32, "points_per_batch": 64, "pred_iou_thresh": 0.5, "stability_score_thresh": 0.8}
ROUNDING_PIXELS = 1e-5


@dataclass(frozen=True)
class Measured:
    """Seconds an image, peak memory of the process, what of it was there before the first image; the masks found."""

    seconds: float
    peak: int
    before: int
    found: list[SamMasks]


def main(arguments: Sequence[str]) -> int:
    """Prints the comparison; 1 when the masks differ."""
    options = _parser().parse_args(arguments)
    config, images = settings(options), pictures(options.architecture, options.images, options.longest_edge)
    reference, ours = (
        in_fresh_process(measure, name, config, images, options.device, threads=options.threads) for name in GENERATORS
    )
    agreement = compare(reference.found, ours.found)
    gib = 2**30
    print_table(
        ("", "s an image", "peak memory, GiB", "before the first image, GiB", "masks"),
        [
            (name, one.seconds, one.peak / gib, one.before / gib, sum(len(found.masks) for found in one.found))
            for name, one in (("segment_anything", reference), ("pseudo-ris", ours))
        ],
    )
    print_json(
        {
            "ratio": reference.seconds / ours.seconds,
            "seconds_reference": reference.seconds,
            "seconds_ours": ours.seconds,
            "peak_bytes_reference": reference.peak,
            "peak_bytes_ours": ours.peak,
            **agreement,
            "architecture": options.architecture,
            "images": len(images),
            "size": list(images[0].shape[:2]),
            "points": config.points_per_side**2,
            "points_per_batch": config.points_per_batch,
            "pred_iou_thresh": config.pred_iou_thresh,
            "stability_score_thresh": config.stability_score_thresh,
            "min_mask_region_area": config.min_mask_region_area,
            "threads": options.threads,
            "device": options.device,
        }
    )
    return 0 if agreement["equal"] else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--architecture", choices=("demo", "vit_b", "vit_l", "vit_h"), default="demo")
    parser.add_argument("--images", type=int, default=4, help="how many (default: 4)")
    parser.add_argument("--longest-edge", type=int, help="resize the images to this; default: as they are, photographs to 640")
    parser.add_argument("--points", type=int, help="points a side (default: the demo's 16, 32 at full size)")
    parser.add_argument("--points-per-batch", type=int, help="default: the demo's 16, 64 at full size")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default: 1)")
    parser.add_argument("--device", default="cpu")
    return parser


def settings(options: argparse.Namespace) -> SamConfig:
    """The settings both are run with."""
    chosen = {} if options.architecture == "demo" else {**FULL_SIZE, "weights": "random"}
    given = {"points_per_side": options.points, "points_per_batch": options.points_per_batch}
    chosen.update({name: value for name, value in given.items() if value is not None})
    return SamConfig(architecture=options.architecture, **chosen)


def pictures(architecture: str, count: int, longest_edge: int | None) -> list[np.ndarray]:
    """`count` RGB images."""
    if architecture == "demo":
        images = [Image.open(path).convert("RGB") for path in sorted(SCENES.iterdir())[:count]]
    else:
        photograph, longest_edge = Image.open(PHOTOGRAPH).convert("RGB"), longest_edge or 640
        images = [photograph.rotate(90 * turns, expand=True) for turns in range(count)]
    if longest_edge is not None:
        scales = [longest_edge / max(image.size) for image in images]
        images = [
            image.resize((round(image.width * scale), round(image.height * scale)))
            for image, scale in zip(images, scales, strict=True)
        ]
    return [np.array(image) for image in images]


def measure(name: str, config: SamConfig, images: list[np.ndarray], device: str) -> Measured:
    """Runs one of GENERATORS."""
    generator = GENERATORS[name](ready_model(build_sam, config, "sam").to(pick_device(device)), config)
    before = peak_bytes()
    generator(images[0])
    start = time.perf_counter()
    found = [generator(image) for image in images]
    return Measured((time.perf_counter() - start) / len(images), peak_bytes(), before, found)


class Reference:
    """segment_anything's own generator, its results as ours."""

    def __init__(self, model: Sam, config: SamConfig) -> None:
        self._generator = SamAutomaticMaskGenerator(
            model,
            points_per_side=config.points_per_side,
            points_per_batch=config.points_per_batch,
            pred_iou_thresh=config.pred_iou_thresh,
            stability_score_thresh=config.stability_score_thresh,
            box_nms_thresh=config.box_nms_thresh,
            min_mask_region_area=config.min_mask_region_area,
        )

    def __call__(self, image: np.ndarray) -> SamMasks:
        records = self._generator.generate(image)
        boxes = np.array([record["bbox"] for record in records], np.int64).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2] + 1  # its width is the distance between the outermost pixels
        return SamMasks(
            masks=np.array([record["segmentation"] for record in records], bool).reshape(-1, *image.shape[:2]),
            boxes=boxes,
            predicted_iou=np.array([record["predicted_iou"] for record in records], np.float32),
            stability=np.array([record["stability_score"] for record in records], np.float32),
        )


GENERATORS = {"segment_anything": Reference, "pseudo-ris": lambda model, config: AutomaticMasks(model, config).generate}


def compare(reference: list[SamMasks], ours: list[SamMasks]) -> dict[str, object]:
    """equal, number of masks, least IoU, and how many pixels, box edges and scores differ by how much."""
    masks = sum(len(found.masks) for found in reference)
    if [len(found.masks) for found in reference] != [len(found.masks) for found in ours]:
        return {"equal": False, "masks": masks, "masks_ours": sum(len(found.masks) for found in ours)}
    pairs = [pair for one, two in zip(reference, ours, strict=True) for pair in zip(one.masks, two.masks, strict=True)]
    pixels, differing = sum(mask.size for mask, _ in pairs), int(sum((mask ^ other).sum() for mask, other in pairs))
    return {
        "equal": differing <= ROUNDING_PIXELS * pixels,
        "masks": masks,
        "least_iou": float(
            min((1 - (mask ^ other).sum() / max((mask | other).sum(), 1) for mask, other in pairs), default=1.0)
        ),
        "pixels": pixels,
        "pixels_differing": differing,
        "box_difference": int(_largest_difference(reference, ours, "boxes")),
        "predicted_iou_difference": float(_largest_difference(reference, ours, "predicted_iou")),
        "stability_difference": float(_largest_difference(reference, ours, "stability")),
    }


def _largest_difference(reference: list[SamMasks], ours: list[SamMasks], name: str) -> float:
    return max(np.abs(getattr(one, name) - getattr(two, name)).max(initial=0) for one, two in zip(reference, ours, strict=True))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
