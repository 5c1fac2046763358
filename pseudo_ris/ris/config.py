"""Settings of stage 3, one frozen dataclass a part. Defaults are the demo's (configs/ris_demo.yaml says the same)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pseudo_ris.config import Precision, require, require_not_negative, require_positive, require_share

NO_WEIGHTS = "none"
"""Value of a `weights` setting: no file, the seed draws them."""


@dataclass(frozen=True)
class ModelConfig:
    """The RIS model.

    Args:
        name: "clip" (CRIS-style) or "maskris" (CARIS: Swin, BERT and a deformable pixel decoder).
        size: of clip "demo", or an open_clip CLIP with a ResNet, such as RN50 or RN101; of maskris "tiny", "small" or "base",
            which is the paper's.
        adapters: of clip only: the towers stay frozen, with bridging adapters between them (ETRIS).
        image_weights: start of clip's towers, or of maskris's Swin: "demo" (embedded, clip only), "none" (by the seed), a
            name of third_party/weights.yaml or a checkpoint file (of timm for Swin).
        text_weights: start of maskris's BERT: "none", a name of third_party/weights.yaml or a checkpoint file of transformers.
        vocabulary: of maskris: "demo" (the drawn world's words), a name of third_party/weights.yaml or a vocab.txt of BERT's.
        input_size: side of the square that images become, pixels, a multiple of 32.
        words: tokens of a sentence, start and end included.
        keep_end: a sentence with too many tokens keeps its end token; false cuts it after `words` tokens, as MaskRIS's release
            does (maskris only).
    """

    name: Literal["clip", "maskris"] = "clip"
    size: str = "demo"
    adapters: bool = False
    image_weights: str = "demo"
    text_weights: str = "none"
    vocabulary: str = "demo"
    input_size: int = 320
    words: int = 16
    keep_end: bool = True

    def __post_init__(self) -> None:
        require(
            self.input_size > 0 and self.input_size % 32 == 0, f"input_size: must be a multiple of 32, got {self.input_size}"
        )
        require(self.words >= 3, f"words: must be 3 or more, got {self.words}")


@dataclass(frozen=True)
class MaskingConfig:
    """MaskRIS's input distortion (sec. 3), for every model. All three off: plain training.

    Args:
        image: hide patches of the image.
        text: hide words.
        distortion_aware: learn from the plain input and, on the distorted one, from the plain one's prediction. Off: learn from
            the distorted input and the ground truth alone, as with any augmentation.
        image_share: share of patches hidden; the number of those shown is rounded down, as in MaskRIS's release.
        patch: side of a patch, pixels.
        text_share: probability that a word is chosen; of these 80% are hidden, 10% replaced, 10% kept, as BERT's are.
        draw_special: the word that replaces one is drawn from all tokens, as in MaskRIS's release; false draws no special ones.
    """

    image: bool = False
    text: bool = False
    distortion_aware: bool = True
    image_share: float = 0.75
    patch: int = 32
    text_share: float = 0.15
    draw_special: bool = False

    def __post_init__(self) -> None:
        require_share(image_share=self.image_share, text_share=self.text_share)
        require_positive(patch=self.patch)


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from: ground truth of a REFER set, pseudo pairs of stage 2, or both.

    Args:
        dataset: a folder of `refer_root`: refcoco, refcoco+, refcocog or any other; refcocom mixes the three; "" for none.
        split_by: the set's annotation: unc, umd, google; "" is the only one there, or the usual one.
        refer_root: folder of REFER sets.
        images: folder of the REFER sets' images.
        fraction: share of the training images whose ground truth is used, drawn by the seed; 0: none, the set only validates.
        pairs: CSV of stage 2, or "" for none.
        pair_images: folder of the images of `pairs`.
        pair_masks: folder of the masks of `pairs`.
        threshold: pairs are used when their DoC is greater.
        fallback: what is drawn for a mask none of whose expressions passes: "drop" leaves the mask out, "unfiltered" (the
            release of Pseudo-RIS) takes all of them. An image's only mask always keeps the better half by DoC.
        val_split: split by which the best checkpoint is chosen; "" for none.
    """

    dataset: str = ""
    split_by: str = ""
    refer_root: str = "data"
    images: str = "data/images/train2014"
    fraction: float = 1.0
    pairs: str = ""
    pair_images: str = "datasets/demo/images"
    pair_masks: str = "datasets/pseudo_masks/cutler_sam"
    threshold: float = 1.2
    fallback: Literal["drop", "unfiltered"] = "drop"
    val_split: str = "val"

    def __post_init__(self) -> None:
        require_share(fraction=self.fraction)


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimiser and schedule: AdamW, linear warm-up, then the rate decays.

    Args:
        learning_rate: of the parts that are new, at its highest.
        tower_scale: share of the learning rate that the pre-trained towers have.
        weight_decay: AdamW's, on what the model's parameter_groups mark for it.
        warmup: steps of linear warm-up from a thousandth.
        decay: after the warm-up: "poly" (polynomial of power 0.9), "poly_release" (as MaskRIS's release: the same counted from
            step 0, which has the full rate), "step" (CRIS: a tenth from 70% of the steps on) or "cosine".
        clip_norm: gradients are clipped to this norm; 0 leaves them.
        batch_size: samples of a step, of all processes together.
        epochs: passes over the data.
        steps: instead of epochs, when greater than 0.
    """

    learning_rate: float = 7e-4
    tower_scale: float = 0.5
    weight_decay: float = 1e-2
    warmup: int = 100
    decay: Literal["poly", "poly_release", "step", "cosine"] = "poly"
    clip_norm: float = 1.0
    batch_size: int = 4
    epochs: int = 4
    steps: int = 0

    def __post_init__(self) -> None:
        require_positive(learning_rate=self.learning_rate, batch_size=self.batch_size, epochs=self.epochs)
        require_not_negative(weight_decay=self.weight_decay, warmup=self.warmup, clip_norm=self.clip_norm, steps=self.steps)
        require_share(tower_scale=self.tower_scale)


@dataclass(frozen=True)
class TrainConfig:
    """Stage 3: pairs -> a RIS model.

    Args:
        output: folder that receives best.pt, last.pt and the TensorBoard files.
        precision: of the passes; weights stay in fp32.
        ema: decay of an exponential average of the weights, below 1; it is then what is evaluated and kept as best; 0 for none.
        validate_every: steps between two checkpoints, each followed by a validation; 0 writes a checkpoint after every epoch
            and validates by `validate_epochs` and `validate_last`.
        validate_epochs: epochs between two validations, counted from the end of the first epoch: 10 validates after the
            epochs 1, 11, 21 and so on. For `validate_every` 0 only, like `validate_last`.
        validate_last: validates after each of this many last epochs, too.
        workers: processes that prepare samples, for each training process; 0 prepares them in the training process.
        seed: of weights that are drawn, order, sentences and masking.
        device: "auto" takes CUDA when there is one.
    """

    output: str = "ris/run"
    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: Precision = "bf16"
    ema: float = 0.99
    validate_every: int = 500
    validate_epochs: int = 1
    validate_last: int = 0
    workers: int = 0
    seed: int = 0
    device: str = "auto"

    def __post_init__(self) -> None:
        require(0 <= self.ema < 1, f"ema: must be from 0 to below 1, got {self.ema}")
        require_positive(validate_epochs=self.validate_epochs)
        require_not_negative(
            validate_every=self.validate_every, validate_last=self.validate_last, workers=self.workers, seed=self.seed
        )


@dataclass(frozen=True)
class EvaluateConfig:
    """Evaluation of a checkpoint, on the data set it was trained on or, with `dataset`, on any other.

    Args:
        checkpoint: best.pt or last.pt of a training.
        dataset: a folder of `refer_root`: refcoco, refcoco+, refcocog or any other; refcocom mixes the three; "" is the
            training's, with its annotation.
        split_by: the set's annotation: unc, umd, google; "" is the only one there, or the usual one.
        refer_root: folder of REFER sets; "" is the training's.
        images: folder of the REFER sets' images; "" is the training's.
        splits: names of splits, for example `val testA`; none is all that the set has but train.
        predictions: folder that receives a picture of every prediction and predictions.json (run lengths); "" for none.
        batch_size: samples predicted at once.
        workers: processes that prepare images and masks; 0 prepares them in the process that predicts.
        precision: of the passes.
        device: "auto" takes CUDA when there is one.
    """

    checkpoint: str = "ris/run/best.pt"
    dataset: str = ""
    split_by: str = ""
    refer_root: str = ""
    images: str = ""
    splits: tuple[str, ...] = ()
    predictions: str = ""
    batch_size: int = 16
    workers: int = 2
    precision: Precision = "fp32"
    device: str = "auto"

    def __post_init__(self) -> None:
        require_positive(batch_size=self.batch_size)
        require_not_negative(workers=self.workers)
