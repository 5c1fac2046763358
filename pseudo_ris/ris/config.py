"""Settings of stage 3, one frozen dataclass a part. Defaults are the demo's (configs/ris_demo.yaml says the same)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from pseudo_ris.config import Precision
from pseudo_ris.errors import require, require_not_negative, require_positive, require_share

NO_WEIGHTS = "none"
"""Value of a `weights` setting: no file, the seed draws them."""


@dataclass(frozen=True)
class ModelConfig:
    """The RIS model.

    Args:
        name: "clip" (CRIS-style), "maskris" (CARIS: Swin, BERT and a deformable pixel decoder) or "sam" (words choose among
            CutLER's objects and prompt SAM's mask decoder).
        size: of clip "demo", or an open_clip CLIP with a ResNet, such as RN50 or RN101; of maskris "tiny", "small" or "base",
            which is the paper's; of sam "demo", or the SAM that is prompted: "vit_b", "vit_l" or "vit_h".
        adapters: freeze the towers and train adapters between them, as ETRIS does (clip only).
        image_weights: initial weights of clip's towers, maskris's Swin or sam's SAM: "demo" (embedded, not for maskris), "none"
            (drawn by the seed), a name of third_party/weights.yaml or a checkpoint file (timm's for Swin).
        text_weights: initial weights of maskris's BERT or sam's CLIP: "none", "demo" (sam only), a name of
            third_party/weights.yaml or a checkpoint file (of transformers for BERT).
        detector_weights: weights of sam's CutLER, likewise.
        vocabulary: vocabulary of maskris: "demo" (the drawn world's words), a name of third_party/weights.yaml or BERT's
            vocab.txt.
        input_size: side of the square input, pixels, a multiple of 32.
        words: number of tokens of a sentence, start and end included.
        keep_end: keep the end token of a sentence with too many tokens; false cuts it after `words` tokens, as MaskRIS's
            release does (maskris only).
    """

    name: Literal["clip", "maskris", "sam"] = "clip"
    size: str = "demo"
    adapters: bool = False
    image_weights: str = "demo"
    text_weights: str = "none"
    detector_weights: str = "none"
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
        image: mask patches of the image.
        text: mask words.
        distortion_aware: learn from the plain input, and on the distorted input from the plain input's prediction. Off: learn
            from the distorted input and the ground truth alone, as with any augmentation.
        image_share: share of patches to mask; the number of visible patches is rounded down, as in MaskRIS's release.
        patch: side of a patch, pixels.
        text_share: probability that a word is chosen; 80% of the chosen are masked, 10% replaced, 10% kept, as in BERT.
        draw_special: draw replacements from all tokens, as in MaskRIS's release; false excludes special tokens.
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
    """Training data: ground truth of a REFER set, pseudo pairs of stage 2, or both.

    Args:
        dataset: a folder of `refer_root`: refcoco, refcoco+, refcocog or any other; refcocom mixes the three; "": none.
        split_by: the set's annotation: unc, umd or google; "": the only one there, or the usual one.
        refer_root: folder of REFER sets.
        images: folder of the REFER sets' images.
        fraction: share of the training images whose ground truth is used, drawn by the seed; 0: none, the set only validates.
        pairs: CSV of stage 2; "": none.
        pair_images: folder of the images of `pairs`.
        pair_masks: folder of the masks of `pairs`.
        threshold: use pairs with a greater DoC.
        fallback: when no expression of a mask passes, "drop" leaves the mask out, "unfiltered" (the release of Pseudo-RIS) uses
            all of them. An image's only mask always keeps the better half by DoC.
        val_split: split that chooses the best checkpoint; "": none.
        features: folder that keeps what a frozen image tower says of each image (model.name sam); "": it runs in every step.
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
    features: str = ""

    def __post_init__(self) -> None:
        require_share(fraction=self.fraction)


@dataclass(frozen=True)
class ScheduleConfig:
    """Optimiser and schedule: AdamW, linear warm-up, then the rate decays.

    Args:
        learning_rate: highest learning rate of the new parts.
        tower_scale: learning rate of the pre-trained towers, as a share of the new parts'.
        weight_decay: weight decay of AdamW, for the parameters that the model's parameter_groups mark.
        warmup: number of steps of linear warm-up, from a thousandth.
        decay: after the warm-up: "poly" (polynomial of power 0.9), "poly_release" (as MaskRIS's release: the same counted from
            step 0, which has the full rate), "step" (CRIS: a tenth from 70% of the steps on) or "cosine".
        clip_norm: clip gradients to this norm; 0: no clipping.
        batch_size: global number of samples of a step, over all processes.
        sentences: number of sentences of a sample. 1: a sample is a mask with one of its sentences. More: a sample is an image
            with that many sentences of its masks in turn, and the image tower runs once for all of them.
        accumulate: number of parts in which a process computes its batch, one after another, to need less memory. Gradients and
            losses are those of the whole batch.
        checkpointing: keep less of the image tower for the backward pass and compute it twice: less memory, more time.
        fused: AdamW as one kernel over all weights; faster on GPUs, equal but for rounding.
        epochs: number of passes over the data.
        steps: number of steps, used instead of `epochs` when greater than 0.
    """

    learning_rate: float = 7e-4
    tower_scale: float = 0.5
    weight_decay: float = 1e-2
    warmup: int = 100
    decay: Literal["poly", "poly_release", "step", "cosine"] = "poly"
    clip_norm: float = 1.0
    batch_size: int = 4
    sentences: int = 1
    accumulate: int = 1
    checkpointing: bool = False
    fused: bool = False
    epochs: int = 4
    steps: int = 0

    def __post_init__(self) -> None:
        require_positive(
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            sentences=self.sentences,
            accumulate=self.accumulate,
            epochs=self.epochs,
        )
        require_not_negative(weight_decay=self.weight_decay, warmup=self.warmup, clip_norm=self.clip_norm, steps=self.steps)
        require_share(tower_scale=self.tower_scale)


@dataclass(frozen=True)
class TrainConfig:
    """Stage 3: pairs -> a RIS model.

    Args:
        output: folder that receives best.pt, last.pt and the TensorBoard files.
        precision: number format of forward and backward passes; weights stay in fp32.
        allow_tf32: allow TF32 for fp32 products on GPUs (Ampere and later): faster, with a 10-bit mantissa.
        ema: decay of the weights' exponential moving average, below 1, which is then evaluated and saved as best; 0: none.
        validate_every: steps between two checkpoints, each followed by a validation; 0 writes a checkpoint after every epoch
            and validates by `validate_epochs` and `validate_last`.
        validate_epochs: epochs between two validations, counted from the end of the first epoch: 10 validates after epochs 1,
            11, 21 and so on. Only with `validate_every` 0, like `validate_last`.
        validate_last: validate also after each of this many last epochs.
        workers: number of processes per training process that prepare samples; 0 prepares them in the training process.
        seed: seed of initial weights, order, sentences and masking.
        device: "auto" uses CUDA if available.
    """

    output: str = "ris/run"
    model: ModelConfig = field(default_factory=ModelConfig)
    masking: MaskingConfig = field(default_factory=MaskingConfig)
    data: DataConfig = field(default_factory=DataConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    precision: Precision = "bf16"
    allow_tf32: bool = False
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
    """Evaluation of a checkpoint, on the data set it was trained on or, with `dataset`, on any other; or of no training at all.

    Args:
        checkpoint: best.pt or last.pt of a training.
        model: "checkpoint"; or without training a choice among stage 1's masks: "zero-shot" (by CLIP, of the object alone and
            with its surroundings, after Yu et al., CVPR 2023) or "listener" (by CoCa's likelihood of the sentence).
        preset: of the models that choose: "demo" (embedded), "default", "paper" or a YAML file. Not with a checkpoint.
        dataset: a folder of `refer_root`: refcoco, refcoco+, refcocog or any other; refcocom mixes the three; "": that of the
            training, with its annotation.
        split_by: the set's annotation: unc, umd or google; "": the only one there, or the usual one.
        refer_root: folder of REFER sets; "": that of the training.
        images: folder of the REFER sets' images; "": that of the training.
        splits: names of splits, for example `val testA`; without any, all splits but train.
        predictions: folder for a picture of every prediction and predictions.json (run lengths); "": none.
        batch_size: number of samples predicted at once.
        workers: number of processes that prepare images and masks; 0 prepares them in the predicting process.
        precision: number format of the forward pass.
        device: "auto" uses CUDA if available.
    """

    checkpoint: str = "ris/run/best.pt"
    model: Literal["checkpoint", "zero-shot", "listener"] = "checkpoint"
    preset: str = "demo"
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
