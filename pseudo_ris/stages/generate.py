"""Both stages on a folder of images, from a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pseudo_ris.config import CaptionGenerationConfig, MaskGenerationConfig
from pseudo_ris.stages.captions import generate_pairs
from pseudo_ris.stages.masks import generate_masks
from pseudo_ris.stages.pair_set import PairSet, note_sources, read_pairs
from pseudo_ris.stages.settings import stage_settings


def generate(
    images: str | Path,
    out: str | Path,
    preset: str | Path = "demo",
    settings: Mapping[str, Any] | None = None,
    *,
    device: str | None = None,
    engine: Literal["none", "local", "ray"] | None = None,
    workers: int | None = None,
    retry_failed: bool = False,
) -> PairSet:
    """Makes the pairs of all images of a folder: masks in `out`/masks, the CSV and its companions in `out`/pairs.

    The files are those of `pseudo-ris masks` and `pseudo-ris pairs` with the same settings, and `NAME.sources.json`, by which
    `read_pairs` finds images and masks. A call that was interrupted goes on where it stopped when it is repeated; what is
    finished and unchanged is reused. Images that cannot be used are listed in `failures.csv` in either folder, and the rest is
    made without them.

    Args:
        images: folder, searched recursively, or one image file.
        out: folder for the results.
        preset: as in Pipeline.from_preset.
        settings: as in Pipeline.from_preset; also those of either stage as a whole, for example {"shard_size": 1000}.
        device: "auto", "cpu", "cuda", "cuda:1"; None is the preset's.
        engine: "local" works in processes of this machine, "ray" on a Ray cluster, "none" in this one; None is the preset's.
        workers: processes of an engine; 0 is as many as fit, None the preset's.
        retry_failed: redo just the images in failures.csv.

    Returns the pairs of `out`/pairs.
    Raises UserError when a setting, the folder of images or the output does not fit; what is finished then stays.

    Examples:
        >>> pairs = pr.generate("photos", "out", device="cpu")
        models: ...
        pairs are in out/pairs/distinctive_captions_cc3m.csv
        >>> pairs
        PairSet(images=1, masks=2, expressions=92)
    """
    out = Path(out)
    chosen = {"device": device, "engine": engine, "workers": workers}
    given = {
        **(settings or {}),
        **{name: value for name, value in chosen.items() if value is not None},
        "images": str(images),
        "masks": str(out / "masks"),
        "output": str(out / "pairs"),
        "retry_failed": retry_failed,
    }
    generate_masks(stage_settings(MaskGenerationConfig, preset, given))
    stage2 = stage_settings(CaptionGenerationConfig, preset, given)
    generate_pairs(stage2)
    csv = out / "pairs" / f"{stage2.name}.csv"
    note_sources(csv, Path(images), out / "masks")
    return read_pairs(csv)
