"""Runs the demo: both stages with the embedded models on 24 drawn scenes, a comparison with the ground truth and a picture."""

from __future__ import annotations

from pathlib import Path

from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.lab.summary import summarise
from pseudo_ris.stages.captions import generate_pairs
from pseudo_ris.stages.masks import generate_masks
from pseudo_ris.visual.contact_sheet import THRESHOLD, write_contact_sheet
from pseudo_ris.world.coco_writer import IMAGES, INSTANCES, write_coco_scenes
from pseudo_ris.world.scenes import draw_scene

SPLIT, SEED, SCENES = "demo", 0, 24
"""Arguments that draw the scenes of datasets/demo."""


def run_demo(out: Path, device: str = "auto") -> int:
    """Draws the scenes into `out`, runs both stages on them, prints the table and writes the contact sheet.

    Reuses finished results of earlier calls. Returns the exit code of the stages. Raises UserError.
    """
    scenes, masks, pairs, sheet = (out / name for name in ("scenes", "masks", "pairs", "contact_sheet.png"))
    draw_scenes(scenes)
    images = scenes / IMAGES
    stage_1 = MaskGenerationConfig(images=str(images), masks=str(masks), device=device)
    stage_2 = CaptionGenerationConfig(images=str(images), masks=str(masks), output=str(pairs), device=device)
    code = generate_masks(stage_1) or generate_pairs(stage_2)
    if code == 0:
        threshold = stage_2.scoring.threshold
        print("", *summarise(scenes, masks, pairs, stage_2.name, threshold), sep="\n")
        write_contact_sheet(images, masks, pairs / f"{stage_2.name}.csv", sheet, THRESHOLD, SCENES)
        print(f"contact sheet: {sheet}")
    return code


def draw_scenes(folder: Path) -> None:
    """Writes the scenes of datasets/demo to `folder` unless they exist. Raises UserError."""
    if not (folder / INSTANCES).exists():
        print(f"drawing {SCENES} scenes into {folder}")
        drawn = (draw_scene(SPLIT, SEED, index) for index in range(SCENES))
        write_coco_scenes(drawn, folder, f"drawn scenes, split {SPLIT}, seed {SEED}")
