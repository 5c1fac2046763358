"""Makes the figures of docs/method.md from one drawn scene and the embedded models.

    python docs/figures/make_figures.py [--scene scene_00001.png] [--out docs/figures]

Writes stage1.png, crops.png, sampling.png and filter.png. Needs matplotlib (the extra `dev`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image

from pseudo_ris.captions.crops import CLIP_MEAN, CLIP_STD, CROP_SETS, cut_crop, cut_crops
from pseudo_ris.captions.distinctive import sample, sampled_rows, write_candidates
from pseudo_ris.captions.sampling import Row
from pseudo_ris.config import CaptionGenerationConfig, DecodingConfig, MaskGenerationConfig
from pseudo_ris.distinctiveness.nouns import make_noun_finder
from pseudo_ris.distinctiveness.score import SENTENCE_CROPS, score_candidates
from pseudo_ris.masks.pipeline import draw_masks as make_masks
from pseudo_ris.models.clip.scorer import ClipScorer
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages
from pseudo_ris.models.cutler.detector import Cutler
from pseudo_ris.models.sam.segmenter import AutomaticSam
from pseudo_ris.records import MaskCaptions
from pseudo_ris.visual.drawing import COLOURS, Layer, draw_masks

ROOT = Path(__file__).parents[2]
DPI, TILE = 150, 480
PLAIN, CALIBRATED = "#90a4ae", "#3949ab"
WORDS_SHOWN = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scene", default="scene_00001.png", help="an image of datasets/demo/images")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "figures", help="folder of the figures")
    options = parser.parse_args()
    image = np.array(Image.open(ROOT / "datasets" / "demo" / "images" / options.scene).convert("RGB"))
    plt.rcParams.update({"font.size": 10, "axes.spines.top": False, "axes.spines.right": False})

    masks = show_stage1(image, options.out / "stage1.png")
    config = CaptionGenerationConfig()
    show_crops(image, masks, config, options.out / "crops.png")
    captioner = CocaCaptioner.from_config(config.coca, "cpu")
    show_sampling(captioner, image, masks, config, options.out / "sampling.png")
    seg_ids = list(range(len(masks)))
    candidates = write_candidates(
        captioner, image, masks, seg_ids, options.scene.removesuffix(".png"), config.decoding, config.crops
    )
    scorer = ClipScorer.from_config(config.clip, "cpu")
    finder = make_noun_finder(config.scoring)
    scored = score_candidates(scorer, finder, image, masks, seg_ids, candidates, config.scoring, config.crops)
    show_filter(scorer, image, masks, scored[target_of(masks)], config, options.out / "filter.png")


def target_of(masks: np.ndarray) -> int:
    """The mask that the figures follow: the second largest. masks: bool [N, H, W]."""
    return int(np.argsort(masks.sum((1, 2)))[-2])


def show_stage1(image: np.ndarray, path: Path) -> np.ndarray:
    """Draws what each step of stage 1 finds; returns the kept masks, bool [N, H, W]."""
    config = MaskGenerationConfig()
    detector = Cutler.from_config(config.cutler, "cpu")
    segmenter = AutomaticSam.from_config(config.sam, "cpu")
    found, drawn = detector.detect(image).masks, segmenter.generate(image).masks
    kept = np.stack([record.mask for record in make_masks(detector, segmenter, image, config.matching)])
    titles = ("image", f"CutLER: {len(found)} objects", f"SAM: {len(drawn)} masks", f"kept: {len(kept)} masks")
    largest_first = drawn[np.argsort(-drawn.sum((1, 2)))]
    figure, axes = plt.subplots(1, 4, figsize=(11, 3.1), layout="constrained")
    for axis, title, masks in zip(axes, titles, (image[None, :0, :0, 0], found, largest_first, kept), strict=True):
        layers = [Layer(mask, COLOURS[number % len(COLOURS)], 0.3) for number, mask in enumerate(masks) if mask.size]
        _picture(axis, draw_masks(image, layers, TILE), title)
    _save(figure, path)
    return kept


def show_crops(image: np.ndarray, masks: np.ndarray, config: CaptionGenerationConfig, path: Path) -> None:
    """The four crops of one mask, as CoCa sees them."""
    figure, axes = plt.subplots(1, 4, figsize=(9, 2.5), layout="constrained")
    for axis, name in zip(axes, CROP_SETS, strict=True):
        crop = cut_crop(image, masks[target_of(masks)], name, 256, config.crops)
        _picture(axis, _as_image(crop), name.replace("image_", "image, margin "))
    _save(figure, path)


def show_sampling(
    captioner: CocaCaptioner, image: np.ndarray, masks: np.ndarray, config: CaptionGenerationConfig, path: Path
) -> None:
    """The next word's probabilities, plain and calibrated, at the two steps of a caption where they differ most."""
    target = target_of(masks)
    images = captioner.encode(cut_crops(image, masks, "image_1.0", captioner.image_size, config.crops))
    decoding = replace(config.decoding, min_token_probability=0.02, top_k=(7,), top_p=())
    rows = sampled_rows(("image_1.0",), list(range(len(masks))), decoding)
    caption = sample(captioner, images, rows, decoding, lambda rows, step, q: q.argmax(1))[target][1:]
    calibrated = _recorded(captioner, images, rows, decoding, target, caption)
    plain = _recorded(captioner, images, rows, replace(decoding, calibration="none"), target, caption)
    change = torch.stack([(old - new).abs().sum() for old, new in zip(plain, calibrated, strict=True)])
    steps = sorted(change.topk(2).indices.tolist())
    figure, axes = plt.subplots(1, 3, figsize=(11, 3.2), width_ratios=[0.8, 1.2, 1.2], layout="constrained")
    _picture(axes[0], draw_masks(image, [Layer(masks[target], COLOURS[0], 0.25)], TILE), "the target")
    for axis, step in zip(axes[1:], steps, strict=True):
        likely = torch.maximum(plain[step], calibrated[step])
        shown = likely.topk(min(WORDS_SHOWN, int((likely > 0.005).sum()))).indices
        shown = shown[plain[step][shown].argsort(descending=True)].tolist()
        _bars(axis, [_word(captioner, token) for token in shown], plain[step][shown], calibrated[step][shown])
        prefix = captioner.decode_text([captioner.start, *caption[:step]]).strip()
        axis.set_title(f'next word after "{prefix}"' if step else "first word", loc="left", fontsize=10)
    axes[-1].legend(loc="lower right", frameon=False)
    _save(figure, path)


def _recorded(
    captioner: CocaCaptioner, images: CocaImages, rows: list[Row], decoding: DecodingConfig, target: int, caption: list[int]
) -> list[torch.Tensor]:
    """The distribution of each token of mask `target`, float [V], while it writes the tokens `caption`."""
    seen: list[torch.Tensor] = []

    def draw(rows: Sequence[Row], step: int, q: torch.Tensor) -> torch.Tensor:
        tokens = q.argmax(1)
        for place, row in enumerate(rows):
            if row.seg_id == target:
                seen.append(q[place] / q[place].sum())
                tokens[place] = caption[step]
        return tokens

    sample(captioner, images, rows, decoding, draw)
    return seen


def show_filter(
    scorer: ClipScorer, image: np.ndarray, masks: np.ndarray, scored: MaskCaptions, config: CaptionGenerationConfig, path: Path
) -> None:
    """CLIP's logits of some candidates for every mask, with the candidates' DoC."""
    distinct = list({candidate.text: candidate for candidate in scored.candidates}.values())
    ranked = sorted(distinct, key=lambda candidate: -candidate.doc)
    places = np.linspace(0, len(ranked) - 1, min(6, len(ranked))).round().astype(int)
    shown = [ranked[place] for place in places]
    crops = cut_crops(image, masks, SENTENCE_CROPS, scorer.image_size, config.crops)
    texts = scorer.embed_texts([candidate.text for candidate in shown])
    logits = scorer.logits(scorer.embed_images(crops), texts).T.numpy()
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 3.4), width_ratios=[0.7, 1.3], layout="constrained")
    layers = [Layer(mask, COLOURS[number % len(COLOURS)], 0.25) for number, mask in enumerate(masks)]
    _picture(left, draw_masks(image, layers, TILE), f"target: mask {scored.seg_id}")
    scale = TILE / max(image.shape[:2])
    badge = {"boxstyle": "round", "fc": "#000a"}
    for number, mask in enumerate(masks):
        y, x = (np.median(axis) * scale for axis in np.nonzero(mask))
        left.text(x, y, str(number), color="white", fontsize=9, ha="center", va="center", bbox=badge)
    right.imshow(logits, cmap="Blues", aspect="auto")
    for row, column in np.ndindex(*logits.shape):
        value = logits[row, column]
        colour = "white" if value > logits.min() + 0.6 * np.ptp(logits) else "black"
        right.text(column, row, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=9)
    right.set_xticks(range(len(masks)), [f"mask {number}" for number in range(len(masks))], fontsize=8)
    right.set_yticks(range(len(shown)), [candidate.text for candidate in shown])
    right.get_xticklabels()[scored.seg_id].set_fontweight("bold")
    for row, candidate in enumerate(shown):
        kept = "kept" if candidate.doc > config.scoring.threshold else "rejected"
        right.text(len(masks) - 0.4, row, f"DoC {candidate.doc:.2f}, {kept}", va="center", fontsize=9)
    right.set_title("CLIP's logit b of each sentence and each mask's crop", loc="left", fontsize=10)
    right.spines[:].set_visible(False)
    right.tick_params(length=0)
    _save(figure, path)


def _bars(axis: Axes, words: list[str], plain: torch.Tensor, calibrated: torch.Tensor) -> None:
    places = np.arange(len(words))
    axis.barh(places - 0.2, plain, 0.38, color=PLAIN, label="plain")
    axis.barh(places + 0.2, calibrated, 0.38, color=CALIBRATED, label="calibrated")
    axis.set_yticks(places, words)
    axis.invert_yaxis()
    axis.set_xlim(0, 1)
    axis.set_xlabel("probability")


def _word(captioner: CocaCaptioner, token: int) -> str:
    return "(end)" if token == captioner.end else captioner.decode_text([captioner.start, token]).strip()


def _as_image(crop: torch.Tensor) -> np.ndarray:
    """Normalised float [3, S, S] -> RGB uint8 [S, S, 3]."""
    pixels = crop.permute(1, 2, 0).numpy() * np.array(CLIP_STD) + np.array(CLIP_MEAN)
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8)


def _picture(axis: Axes, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.axis("off")


def _save(figure: plt.Figure, path: Path) -> None:
    """As a palette PNG without the program's version, so that a second run writes the same bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI, metadata={"Software": None})
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


if __name__ == "__main__":
    main()
