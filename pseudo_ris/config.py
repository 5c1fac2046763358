"""Settings, one frozen dataclass per part. Defaults are those of the embedded demo models, as in configs/demo.yaml."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pseudo_ris.errors import require, require_not_negative, require_positive, require_share

ChannelOrder = Literal["rgb", "bgr"]
Precision = Literal["fp32", "bf16", "fp16"]
CocaPrecision = Literal["fp32", "bf16", "fp16", "autocast"]
ClipPrecision = Literal["fp32", "bf16", "fp16", "fp16_on_cuda"]
PlaceForm = Literal["superlative", "position", "corner", "ordinal", "size", "relation"]
Residency = Literal["auto", "together", "in_turn"]

EMBEDDED_NAME, RANDOM = "demo", "random"
"""Values of a `weights` setting that are not files: the embedded demo weights, reproducible random weights."""

NOT_IN_RESULTS = frozenset({"weights", "points_per_batch", "threshold", "fallback"})
"""Settings that stored results do not depend on: changing them recomputes nothing. Weights are compared by content."""


@dataclass(frozen=True)
class CutlerConfig:
    """CutLER, the Cascade Mask R-CNN that finds the objects.

    Args:
        architecture: "demo" (tiny, embedded) or "resnet50_fpn" (CutLER's own size).
        weights: "demo" (embedded), "random" (reproducible, see random_weights), a name of third_party/weights.yaml, or a
            checkpoint file (detectron2 .pth or .safetensors).
        precision: number format of the backbone; the heads always run in fp32.
        score_threshold: drop instances with a lower score.
        shortest_edge: shorter side of the resized image, pixels; less where the longer side would exceed `longest_edge`.
        longest_edge: limit of the longer side, pixels.
        channel_order: order of the colour channels that the model gets; the release uses bgr.
    """

    architecture: Literal["demo", "resnet50_fpn"] = "demo"
    weights: str = "demo"
    precision: Precision = "fp32"
    score_threshold: float = 0.5
    shortest_edge: int = 256
    longest_edge: int = 427
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        require_share(score_threshold=self.score_threshold)
        require_positive(shortest_edge=self.shortest_edge, longest_edge=self.longest_edge)


@dataclass(frozen=True)
class SamConfig:
    """SAM's automatic mask generation.

    Args:
        architecture: "demo" (tiny, embedded), "vit_b", "vit_l" or "vit_h".
        weights: "demo" (embedded), "random", a name of third_party/weights.yaml, or a file (official .pth or .safetensors).
        precision: number format of the image encoder; prompts are always decoded in fp32.
        compiled: compile the image encoder with torch.compile, on a GPU only; the first image then takes a minute longer.
        points_per_side: side of the square grid of point prompts.
        points_per_batch: number of prompts decoded at once.
        pred_iou_thresh: drop masks with a lower predicted IoU.
        stability_score_thresh: drop masks that are less stable under a shift of the logit threshold.
        box_nms_thresh: drop the worse of two masks whose boxes overlap by more than this IoU.
        min_mask_region_area: remove smaller islands and holes of a mask, in pixels; 0 (the release) keeps them. A stray pixel
            far from the object makes its box wrong, and so its crops.
        channel_order: order of the colour channels that the model gets; the release uses bgr.
    """

    architecture: Literal["demo", "vit_b", "vit_l", "vit_h"] = "demo"
    weights: str = "demo"
    precision: Precision = "fp32"
    compiled: bool = False
    points_per_side: int = 16
    points_per_batch: int = 16
    pred_iou_thresh: float = 0.6
    stability_score_thresh: float = 0.6
    box_nms_thresh: float = 0.7
    min_mask_region_area: int = 100
    channel_order: ChannelOrder = "rgb"

    def __post_init__(self) -> None:
        require_positive(points_per_side=self.points_per_side, points_per_batch=self.points_per_batch)
        require_share(
            pred_iou_thresh=self.pred_iou_thresh,
            stability_score_thresh=self.stability_score_thresh,
            box_nms_thresh=self.box_nms_thresh,
        )
        require(self.min_mask_region_area >= 0, f"min_mask_region_area: must be 0 or more, got {self.min_mask_region_area}")


@dataclass(frozen=True)
class MatchingConfig:
    """Which SAM mask replaces a CutLER mask.

    Args:
        rule: "iou", or the paper's "intersection" (area of the intersection, which favours very large masks).
        deduplicate: use each SAM mask only for the CutLER instance that it fits best.
        min_iou: keep the CutLER mask when no SAM mask fits it at least this well; the paper uses 0.
        ties: among SAM masks that the rule ranks equal, "other_measure" takes the better one by the other rule, "first" (the
            release) the first one.
        no_overlap: a CutLER mask that no SAM mask overlaps is kept ("keep") or replaced by SAM mask 0 ("first", the release),
            unless `min_iou` is above 0.
    """

    rule: Literal["intersection", "iou"] = "iou"
    deduplicate: bool = True
    min_iou: float = 0.5
    ties: Literal["other_measure", "first"] = "other_measure"
    no_overlap: Literal["keep", "first"] = "keep"

    def __post_init__(self) -> None:
        require_share(min_iou=self.min_iou)


@dataclass(frozen=True)
class CropConfig:
    """How mask crops are made.

    Args:
        antialias: resize with antialiasing (bilinear); the release does not.
        fill: colour of masked-out and padded pixels: "mean", the CLIP mean colour (123, 117, 104), or "release", the lighter
            grey (156, 147, 133) that the release gets by writing the mean after normalising.
        box: "tight", the mask's box with margins rounded to pixels, or "release": one pixel short on the right and at the
            bottom, corner and extent each cut down to whole pixels.
    """

    antialias: bool = True
    fill: Literal["mean", "release"] = "mean"
    box: Literal["tight", "release"] = "tight"


@dataclass(frozen=True)
class CocaConfig:
    """CoCa, which writes the candidate expressions.

    Args:
        architecture: "demo" (tiny, embedded) or an open_clip model name, for example coca_ViT-L-14.
        weights: "demo" (embedded), "random", a name of third_party/weights.yaml, an open_clip tag for the model, or a file.
        precision: number format of the whole model; logits and scores are computed in fp32. "autocast" (the release): fp32
            weights, and on a GPU fp16 autocast of image tower, decoder and logits; on a CPU the same as fp32.
    """

    architecture: str = "demo"
    weights: str = "demo"
    precision: CocaPrecision = "fp32"


@dataclass(frozen=True)
class DecodingConfig:
    """How candidate expressions are decoded (Pseudo-RIS, sec. 3.2).

    Args:
        calibration: "mean" (the release: weight x mean over distractors of similarity x logits), "softmax" (the paper's
            second form: weight x softmax-weighted sum) or "none" (plain sampling).
        calibration_weight: 1.0 is the release's for "mean"; 0.01 the published lambda for "softmax".
        min_token_probability: exclude tokens less likely than this for the target from the support; the release uses 0.
        max_distractors: largest number of other masks that calibrate each step.
        distractor_overflow: with more masks than that, "most_similar" uses the nearest ones, "skip" (the release) none.
        top_k: values of top-k sampling; each gives one candidate per crop set.
        top_p: values of top-p sampling; each gives one candidate per crop set.
        beams: number of beams of the diverse beam search.
        beam_groups: number of groups the beams are divided into.
        max_length: largest number of tokens of a candidate, start and end included.
        min_length: forbid the end token while the prefix is shorter (start included).
        beam_length: number of tokens by which the score of a finished beam is divided: "with_end" counts the end token,
            "without_end" (the release, which used an older transformers) does not.
        seed: seed of all sampling.
    """

    calibration: Literal["mean", "softmax", "none"] = "mean"
    calibration_weight: float = 1.0
    min_token_probability: float = 0.1
    max_distractors: int = 30
    distractor_overflow: Literal["most_similar", "skip"] = "most_similar"
    top_k: tuple[int, ...] = (5, 7, 9, 11, 13)
    top_p: tuple[float, ...] = (0.4, 0.5, 0.6, 0.7, 0.8)
    beams: int = 6
    beam_groups: int = 3
    max_length: int = 30
    min_length: int = 5
    beam_length: Literal["with_end", "without_end"] = "with_end"
    seed: int = 0

    def __post_init__(self) -> None:
        require_share(min_token_probability=self.min_token_probability)
        require_positive(beams=self.beams, beam_groups=self.beam_groups, min_length=self.min_length)
        require(self.beams % self.beam_groups == 0, "beams: must be a multiple of beam_groups")
        require(self.max_length > self.min_length, "max_length: must be greater than min_length")
        require(self.max_distractors >= 0, f"max_distractors: must be 0 or more, got {self.max_distractors}")
        require(all(k >= 1 for k in self.top_k), f"top_k: must be 1 or more each, got {list(self.top_k)}")
        require(all(0 < p <= 1 for p in self.top_p), f"top_p: must be over 0, at most 1 each, got {list(self.top_p)}")


@dataclass(frozen=True)
class ListenerConfig:
    """The captioner as a listener: the probability that a candidate means its mask.

    Args:
        rivals: number of the most similar masks that a mask is compared with; 0 (the release): no listener, probability 1.
    """

    rivals: int = 4

    def __post_init__(self) -> None:
        require_not_negative(rivals=self.rivals)


@dataclass(frozen=True)
class PlaceConfig:
    """Expressions with place words, composed from the masks' boxes and the nouns that the candidates agree on.

    Args:
        forms: "superlative" ("the leftmost cup"), "position" ("the cup on the left"), "corner" ("... in the top left corner"),
            "ordinal" ("the second cup from the left"), "size" ("the largest cup"), "relation" ("the cup to the left of the
            box"); none (the release) writes no place words. "position" includes "in the middle".
        attributes: write them also with an attribute ("the leftmost red cup"), where some cups are red and some surely are not.
        sure: share of a mask's candidates that must have a head noun, so that the mask is called by it.
        recognised: recognition that this noun must have.
        possible: share of a mask's candidates from which on a noun may be the mask's.
        margin: distance by which a place must be clear, as a share of the image's width or height.
    """

    forms: tuple[PlaceForm, ...] = ("superlative", "corner", "ordinal")
    attributes: bool = False
    sure: float = 0.5
    recognised: float = 0.3
    possible: float = 0.05
    margin: float = 0.04

    def __post_init__(self) -> None:
        require_positive(sure=self.sure)
        require_share(sure=self.sure, recognised=self.recognised, possible=self.possible, margin=self.margin)


@dataclass(frozen=True)
class ClipConfig:
    """CLIP, which scores distinctiveness.

    Args:
        architecture: "demo" (tiny, embedded) or an open_clip model name, for example RN50.
        weights: "demo" (embedded), "random", a name of third_party/weights.yaml, an open_clip tag for the model, or a file.
        precision: number format of the whole model; logits and scores are computed in fp32. "fp16_on_cuda" (the release): fp16
            on a GPU, fp32 on a CPU. On a GPU the release keeps the norms' weights in fp32 and rounds logits and scores to fp16.
    """

    architecture: str = "demo"
    weights: str = "demo"
    precision: ClipPrecision = "fp32"


@dataclass(frozen=True)
class ScoringConfig:
    """The distinctiveness score (Pseudo-RIS, sec. 3.3).

    Args:
        noun_finder: "spacy" (en_core_web_lg), "rules" (no download), or "auto": spaCy if its model is installed where the
            command starts.
        noun_rule: with spaCy, where a caption's root is in no noun chunk: "any_child" takes the chunk of the first child that
            is in one, "first_child" (the release) looks at the first child only and else takes the whole caption.
        score_floor: lower bound of CLIP logits (which are near 20), so that ratios stay meaningful; 0 (the release): none.
        threshold: keep candidates with a greater DoC; the paper uses 1.0.
        fallback: when no candidate of a mask passes, "drop" keeps none, "unfiltered" (the release) keeps all.
    """

    noun_finder: Literal["auto", "spacy", "rules"] = "auto"
    noun_rule: Literal["any_child", "first_child"] = "any_child"
    score_floor: float = 1.0
    threshold: float = 1.2
    fallback: Literal["drop", "unfiltered"] = "drop"

    @property
    def rule(self) -> str:
        """The rule that keeps a candidate, for printing."""
        return f"DoC > {self.threshold:g}" + (", all where none passes" if self.fallback == "unfiltered" else "")


@dataclass(frozen=True)
class SourceConfig:
    """Where a stage's images come from: a folder, or the images of it that one of `coco`, `refer`, `anns` and `lmdb` lists.

    Args:
        images: folder of images, searched recursively; not needed with `lmdb`.
        coco: COCO file: use only the images it lists, with its ids.
        refer: refs file of a REFER data set: use only the images of `split`, with the set's ids.
        split: split of `refer`.
        anns: anns file of ETRIS or Pseudo-RIS: use only the images it names, with its ids where it has ids.
        lmdb: LMDB of ETRIS, CRIS or Pseudo-RIS, a file or a folder: read the images from it; ids as with `anns`.
    """

    images: str = "datasets/demo/images"
    coco: str = ""
    refer: str = ""
    split: str = "train"
    anns: str = ""
    lmdb: str = ""


@dataclass(frozen=True)
class EngineConfig:
    """How images are processed. Only `allow_tf32` affects results.

    Args:
        device: "auto" uses CUDA if available; "cuda:1" selects a GPU, without an engine only: engines assign the GPUs.
        allow_tf32: allow TF32 for fp32 products on GPUs (Ampere and later): faster, with a 10-bit mantissa.
        engine: "none" processes images in the command's process, "local" in several of this machine, "ray" on a Ray cluster.
        workers: number of worker processes; 0 uses all GPUs, or without GPUs as many as cores and memory allow.
        gpus_per_worker: share of a GPU for each worker, at most 1; ignored without GPUs.
        address: address of the Ray cluster, as for ray.init; "" starts a cluster here unless RAY_ADDRESS names one.
        image_timeout: seconds after which an engine stops a worker and lists its image as failed; 0: no limit.
        start_timeout: seconds after which an engine gives up a worker that is not ready for an image; 0: no limit.
        shard_size: store finished images in Parquet files of this many images each, for very large sets; unchanged images are
            then skipped without reading them. 0: one file per image.
    """

    device: str = "auto"
    allow_tf32: bool = False
    engine: Literal["none", "local", "ray"] = "none"
    workers: int = 0
    gpus_per_worker: float = 1.0
    address: str = ""
    image_timeout: float = 1800.0
    start_timeout: float = 600.0
    shard_size: int = 0

    def __post_init__(self) -> None:
        require_not_negative(workers=self.workers, image_timeout=self.image_timeout, start_timeout=self.start_timeout)
        require_not_negative(shard_size=self.shard_size)
        require_positive(gpus_per_worker=self.gpus_per_worker)
        alone = self.engine == "none" and self.workers > 1
        require(not alone, f"workers: {self.workers} processes need an engine; add --engine local or --engine ray")
        require(self.gpus_per_worker <= 1, f"gpus_per_worker: a worker uses one GPU at most, got {self.gpus_per_worker:g}")
        require(
            self.engine == "none" or not self.device.startswith("cuda:"),
            f"--device {self.device}: --engine {self.engine} hands out the GPUs itself; give cuda or auto, and choose GPUs "
            "with CUDA_VISIBLE_DEVICES",
        )


@dataclass(frozen=True)
class MaskGenerationConfig(EngineConfig, SourceConfig):
    """Stage 1: images -> pseudo masks.

    Args:
        shard: K/N processes every N-th image from the K-th on, 0 <= K < N, beside the processes of the other shards; a run
            without it then finishes the work.
        masks: folder that receives `<image id>/<seg id>.png`.
        weights: "configured" uses each model's own setting; "random" gives every model reproducible random weights, for a dry
            run, without `config` at the sizes of configs/default.yaml.
        residency: "together" keeps all models of the stage in memory, "in_turn" one at a time; "auto" depends on free memory.
        retry_failed: process only the images listed in failures.csv.
    """

    masks: str = "datasets/pseudo_masks/cutler_sam"
    cutler: CutlerConfig = field(default_factory=CutlerConfig)
    sam: SamConfig = field(default_factory=SamConfig)
    matching: MatchingConfig = field(default_factory=MatchingConfig)
    weights: Literal["configured", "random"] = "configured"
    residency: Residency = "auto"
    retry_failed: bool = False
    shard: str = "0/1"


@dataclass(frozen=True)
class CaptionGenerationConfig(EngineConfig, SourceConfig):
    """Stage 2: images and masks -> mask-expression pairs.

    The settings of SourceConfig and EngineConfig come first; the former are those that stage 1 had.

    Args:
        shard: K/N processes every N-th image from the K-th on, 0 <= K < N, beside the processes of the other shards; a run
            without it then assembles the files.
        masks: folder with `<image id>/<seg id>.png`, or the file that `mask_format` describes.
        mask_format: "folder"; "coco": `masks` is a COCO file, its annotations without crowds are the masks, and their ids the
            seg ids; "refer": `masks` is the refs file of a REFER data set with instances.json beside it, and the annotations
            that the refs of `split` name are the masks. Images are identified by the file's ids, so list them by the same file.
        output: folder that receives NAME.csv and its companions.
        name: NAME of the output files.
        weights: "configured" uses each model's own setting; "random" gives every model reproducible random weights, for a dry
            run, without `config` at the sizes of configs/default.yaml.
        residency: "together" keeps all models of the stage in memory, "in_turn" one at a time; "auto" depends on free memory.
        retry_failed: process only the images listed in failures.csv.
    """

    masks: str = "datasets/pseudo_masks/cutler_sam"
    mask_format: Literal["folder", "coco", "refer"] = "folder"
    output: str = "pseudo_supervision/cutler_sam"
    name: str = "distinctive_captions_cc3m"
    crops: CropConfig = field(default_factory=CropConfig)
    coca: CocaConfig = field(default_factory=CocaConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    listener: ListenerConfig = field(default_factory=ListenerConfig)
    places: PlaceConfig = field(default_factory=PlaceConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    scoring: ScoringConfig = field(default_factory=ScoringConfig)
    weights: Literal["configured", "random"] = "configured"
    residency: Residency = "auto"
    retry_failed: bool = False
    shard: str = "0/1"
