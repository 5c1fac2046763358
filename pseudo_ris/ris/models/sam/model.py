"""The SAM-prompting model: words select one of CutLER's proposals and become prompt tokens for SAM's mask decoder.

As in LISA and EVF-SAM (Lai et al., CVPR 2024; Zhang et al. 2024) a sentence reaches SAM as prompt tokens. There a large
vision-language model makes them, here a small transformer over what CutLER, CLIP and SAM say of the image, all three frozen.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from segment_anything.modeling import Sam
from torch import nn
from torch.nn import functional

from pseudo_ris.config import ClipConfig, CutlerConfig, SamConfig
from pseudo_ris.errors import require
from pseudo_ris.models.clip.scorer import build_clip
from pseudo_ris.models.cutler.detector import Cutler, build_cutler
from pseudo_ris.models.sam.segmenter import build_sam
from pseudo_ris.ris.config import ModelConfig
from pseudo_ris.ris.models.base import ImageFeatures, RisModel, SampleForm, Supervision, is_matrix, parameter_groups, rows_of
from pseudo_ris.ris.models.cris.encoders import ClipTowers
from pseudo_ris.ris.models.cris.tokenizer import ClipTokenizer
from pseudo_ris.ris.models.parts import part_of
from pseudo_ris.ris.models.sam.fusion import NEVER, Fusion
from pseudo_ris.ris.models.sam.proposals import Proposals, match, propose

LEAST_SCORE = 0.3
"""Of a proposal; stage 1 takes those from 0.5. What is no object is worth a try here, since the words choose."""


@dataclass(frozen=True)
class Size:
    """The parts that are put together, and the widths of what is new.

    sam, clip, detector: see the configs of stages 1 and 2. proposals: the most that are kept of an image. layers, heads, width:
    of Fusion. prompts: tokens that it gives to SAM, beside the point. drawn_every: in training SAM draws every n-th sentence of
    a batch; the others only learn to choose.
    """

    sam: str
    clip: str
    detector: CutlerConfig
    proposals: int
    width: int
    layers: int
    heads: int
    prompts: int
    drawn_every: int


def _full_size(sam: str) -> Size:
    detector = CutlerConfig("resnet50_fpn", score_threshold=LEAST_SCORE, shortest_edge=800, longest_edge=1333)
    return Size(sam, "RN50", detector, proposals=50, width=256, layers=6, heads=8, prompts=4, drawn_every=1)


DEMO = Size(
    "demo",
    "demo",
    CutlerConfig(score_threshold=LEAST_SCORE),
    proposals=12,
    width=128,
    layers=3,
    heads=4,
    prompts=2,
    drawn_every=8,
)
SIZES = {"demo": DEMO, **{name: _full_size(name) for name in ("vit_b", "vit_l", "vit_h")}}


class SamRis(RisModel):
    """See RisModel. CutLER, CLIP's image tower, SAM's image and prompt encoders are frozen; all else learns.

    Args:
        size: see Size.
        sam, clip, detector: the models.
        form, tokenizer: see RisModel.
    """

    def __init__(
        self, size: Size, sam: Sam, clip: nn.Module, detector: nn.Module, form: SampleForm, tokenizer: ClipTokenizer
    ) -> None:
        super().__init__()
        self.size, self.form, self.tokenizer = size, form, tokenizer
        self.drawn_every = size.drawn_every
        self.sam, self.detector = sam, detector
        self.towers = ClipTowers(clip)
        channels, joint = sam.prompt_encoder.embed_dim, self.towers.text_projection.shape[1]
        self.fusion = Fusion(self.towers.text.width, joint, size.width, size.layers, size.heads, size.prompts, channels)
        decoder = sam.mask_decoder
        # SAM's IoU prediction and the three masks of an ambiguous point are not used.
        unused = (decoder.iou_prediction_head, *decoder.output_hypernetworks_mlps[1:])
        for frozen in (sam.image_encoder, sam.prompt_encoder, *unused, detector, self.towers.visual):
            frozen.requires_grad_(False)

    frozen_images = True

    @classmethod
    def from_config(cls, config: ModelConfig) -> SamRis:
        """See RisModel. Raises UserError when weights are missing, damaged or another model's, or there is no such size."""
        size = _size_of(config)
        sam = part_of(build_sam, SamConfig, size.sam, config.image_weights, "sam")
        clip = part_of(build_clip, ClipConfig, size.clip, config.text_weights, "clip")
        detector = part_of(build_cutler, CutlerConfig, size.detector.architecture, config.detector_weights, "cutler")
        side = sam.image_encoder.img_size
        require(config.input_size == side, f"model.input_size: sam {config.size} takes {side}, got {config.input_size}")
        mean, std = (tuple((each.flatten() / 255).tolist()) for each in (sam.pixel_mean, sam.pixel_std))
        form = SampleForm(side, "letterbox", mean, std)
        return cls(size, sam, clip, detector, form, ClipTokenizer(config.words, size.clip))

    def train(self, mode: bool = True) -> SamRis:
        """As nn.Module's, but what is frozen stays in eval mode."""
        super().train(mode)
        for frozen in (self.sam.image_encoder, self.detector, self.towers.visual):
            frozen.eval()
        return self

    def image_features(self, images: torch.Tensor) -> ImageFeatures:
        """See RisModel: SAM's embeddings float32 [M, C, S/16, S/16] (demo: S/8), then the fields of Proposals.

        In fp32 whatever the precision of the training, so that features of a cache are the same.
        """
        with torch.inference_mode(), torch.autocast(images.device.type, enabled=False):
            embeddings = self.sam.image_encoder(images)
            each = [self._proposals(image) for image in images]
            proposals = (torch.cat(column).to(images.device) for column in zip(*each, strict=True))
            seen = (embeddings, *proposals)
        return tuple(feature.clone() for feature in seen)  # of inference mode no gradient can come

    def _proposals(self, image: torch.Tensor) -> Proposals:
        """See propose; image: float32 [3, S, S], as `form` says."""
        mean, std = (torch.tensor(each, device=image.device)[:, None, None] for each in (self.form.mean, self.form.std))
        pixels = (255 * (image * std + mean)).round().clamp(0, 255).byte().permute(1, 2, 0).cpu().numpy()
        side = self.towers.visual.image_size
        crop_side = side if isinstance(side, int) else side[0]
        return propose(Cutler(self.detector, self.size.detector), self._embed_crops, pixels, crop_side, self.size.proposals)

    def _embed_crops(self, crops: torch.Tensor) -> torch.Tensor:
        """CLIP's embeddings, of unit length: float32 [n, 3, s, s] -> float32 [n, D] on the CPU."""
        if not len(crops):
            return crops.new_zeros(0, self.towers.text_projection.shape[1])
        return functional.normalize(self.towers.visual(crops.to(self.towers.text_projection.device)), dim=1).cpu()

    def from_features(
        self, features: ImageFeatures, tokens: torch.Tensor, attention: torch.Tensor, owners: torch.Tensor | None = None
    ) -> torch.Tensor:
        """See RisModel. Logits are at a fourth of the image's side; an image without proposals has none of its pixels."""
        embeddings, *columns = rows_of(features, owners)
        proposals = Proposals(*columns)
        scores, prompts = self._choose(proposals, tokens, attention)
        chosen = scores.argmax(1)
        logits = self._draw(embeddings, proposals, prompts, chosen)
        logits = torch.where(proposals.real.any(1)[:, None, None], logits, -torch.ones_like(logits))
        return _with_background(logits)

    def learn(
        self,
        features: ImageFeatures,
        tokens: torch.Tensor,
        attention: torch.Tensor,
        owners: torch.Tensor | None,
        wanted: Supervision,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See RisModel. SAM is prompted with the proposal that the mask shows; the scores learn to choose it.

        The loss of its own is the cross-entropy of that choice, 0 where no proposal shows the object.
        """
        embeddings, *columns = rows_of(features, owners)
        proposals = Proposals(*columns)
        scores, prompts = self._choose(proposals, tokens, attention)
        shown, known = match(proposals.boxes, proposals.real, wanted.truth)
        choice = functional.cross_entropy(scores, shown, reduction="none") * known
        if wanted.rows is not None:
            embeddings, prompts, shown = embeddings[wanted.rows], prompts[wanted.rows], shown[wanted.rows]
            proposals = Proposals(*(column[wanted.rows] for column in proposals))
        return _with_background(self._draw(embeddings, proposals, prompts, shown)), choice

    def _choose(self, proposals: Proposals, tokens: torch.Tensor, attention: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """See Fusion. On a CPU padding that all rows share is left out, a third of the work; a GPU would be waited for."""
        count = proposals.real.shape[1]
        if tokens.device.type == "cpu":
            length, longest = max(1, int(proposals.real.sum(1).max())), int(attention.sum(1).max())
            tokens, attention = tokens[:, :longest], attention[:, :longest]
            proposals = Proposals(*(column[:, :length] for column in proposals))
        read = self.towers.read((), tokens, attention)
        scores, prompts = self.fusion(read.words, read.sentence, attention, proposals)
        left_out = count - scores.shape[1]
        return functional.pad(scores, (0, left_out), value=NEVER), functional.pad(prompts, (0, 0, 0, 0, 0, left_out))

    def _draw(
        self, embeddings: torch.Tensor, proposals: Proposals, prompts: torch.Tensor, chosen: torch.Tensor
    ) -> torch.Tensor:
        """SAM's logits of the chosen proposals, float32 [N, S/4, S/4]: its single mask for a point and tokens.

        As MaskDecoder.predict_masks, which takes one image at a time. chosen: int64 [N].
        """
        rows = torch.arange(len(chosen), device=chosen.device)
        prompter, decoder = self.sam.prompt_encoder, self.sam.mask_decoder
        points = proposals.centres[rows, chosen][:, None]
        point, _ = prompter((points, torch.ones(points.shape[:2], device=points.device)), None, None)
        own = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight]).expand(len(rows), -1, -1)
        queries = torch.cat([own, point, prompts[rows, chosen].to(point.dtype)], dim=1)
        image = embeddings + prompter.no_mask_embed.weight[:, :, None, None]
        places = prompter.get_dense_pe().expand(len(rows), -1, -1, -1)
        tokens, pixels = decoder.transformer(image, places, queries)
        upscaled = decoder.output_upscaling(pixels.transpose(1, 2).unflatten(2, image.shape[2:]))
        return torch.einsum("nc,nchw->nhw", decoder.output_hypernetworks_mlps[0](tokens[:, 1]), upscaled).float()

    def upsampled(self, logits: torch.Tensor, side: int) -> torch.Tensor:
        """See RisModel. Bilinear, as SAM's postprocess_masks."""
        return functional.interpolate(logits, (side, side), mode="bilinear", align_corners=False)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """See RisModel. Towers are CLIP's text tower and SAM's mask decoder."""
        new = "towers.mask_embedding"
        return parameter_groups(self, lambda name: name.startswith(("towers.", "sam.")) and name != new, is_matrix)


def _with_background(foreground: torch.Tensor) -> torch.Tensor:
    """[N, H, W] -> [N, 2, H, W]; the background's logit is 0."""
    return torch.stack([torch.zeros_like(foreground), foreground], dim=1)


def _size_of(config: ModelConfig) -> Size:
    """Raises UserError when there is no such size, or an option of another model is given."""
    require(not config.adapters, "model.adapters: only model.name clip has them; remove the option")
    require(config.keep_end, "model.keep_end: sam reads a sentence at its end token; only model.name maskris takes false")
    require(config.size in SIZES, f"model.size: sam has no {config.size}; give one of {', '.join(SIZES)}")
    return SIZES[config.size]
