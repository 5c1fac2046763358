"""CLIP, which scores how well a crop and a text agree. The only module that imports open_clip's CLIP."""

from __future__ import annotations

from difflib import get_close_matches

import open_clip
import torch
from open_clip.model import CLIP
from open_clip.tokenizer import SimpleTokenizer
from torch.nn.functional import normalize

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import ClipConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.device import in_precision, without_cudnn_attention
from pseudo_ris.models.offload import weight_bytes

TEXTS_PER_BATCH = 256
CROPS_PER_BATCH = 64


def build_clip(architecture: str) -> CLIP:
    """A CLIP with random weights.

    architecture: "demo", or an open_clip model name with a CLIP text tower of its own, for example RN50. The ResNets are
        taken as OpenAI trained them, with the quick GELU. Nothing is downloaded.
    Raises UserError when there is no such model.
    """
    if architecture == "demo":
        from pseudo_ris.assets import architectures

        return CLIP(**architectures.CLIP)
    settings = _open_clip_settings(architecture)
    if architecture.startswith("RN"):
        settings["quick_gelu"] = True
    return CLIP(**settings)


def build_tokenizer(architecture: str) -> SimpleTokenizer:
    """The byte-pair tokenizer that goes with `build_clip(architecture)`: list of texts -> int64 [T, context length]."""
    if architecture == "demo":
        from pseudo_ris.assets import architectures

        length = architectures.CLIP["text_cfg"]["context_length"]
        return SimpleTokenizer(bpe_path=str(architectures.BPE_PATH), context_length=length)
    return SimpleTokenizer(context_length=_open_clip_settings(architecture)["text_cfg"].get("context_length", 77))


class ClipScorer:
    """Crops and texts -> CLIP logits.

    Args:
        model: a CLIP, in eval mode, on the device it is to run on.
        tokenizer: list of texts -> int64 [T, context length].
    """

    def __init__(self, model: CLIP, tokenizer: SimpleTokenizer) -> None:
        self.model = model
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, config: ClipConfig, device: torch.device | str) -> ClipScorer:
        """The CLIP of `config` with its weights, on `device`. Raises UserError as build_clip and load_weights do."""
        model = _in_precision(ready_model(build_clip, config, "clip"), config, device)
        return cls(model.to(device), build_tokenizer(config.architecture))

    @staticmethod
    def weight_bytes(config: ClipConfig, device: torch.device) -> int:
        """Bytes of the weights that `from_config` puts on `device`; nothing is read or allocated."""
        return weight_bytes(lambda: _in_precision(build_clip(config.architecture), config, device))

    @property
    def image_size(self) -> int:
        """Side of the square crops, pixels."""
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]

    @without_cudnn_attention
    @torch.inference_mode()
    def embed_images(self, crops: torch.Tensor) -> torch.Tensor:
        """Unit-length embeddings of normalised crops: float32 [B, 3, S, S] -> float32 [B, D] on the model's device."""
        scale = self.model.logit_scale
        if len(crops) == 0:
            return torch.empty(0, self.model.text_projection.shape[1], device=scale.device)
        batches = crops.to(scale.device, next(self.model.visual.parameters()).dtype).split(CROPS_PER_BATCH)
        return torch.cat([normalize(self.model.encode_image(batch).float(), dim=-1) for batch in batches])

    @without_cudnn_attention
    @torch.inference_mode()
    def embed_texts(self, texts: list[str]) -> torch.Tensor:
        """Unit-length embeddings of texts, float32 [T, D] on the model's device. Equal texts are encoded once."""
        scale = self.model.logit_scale
        distinct = {text: index for index, text in enumerate(dict.fromkeys(texts))}
        if not distinct:
            return torch.empty(0, self.model.text_projection.shape[1], device=scale.device)
        tokens = self.tokenizer(list(distinct)).to(scale.device)
        by_length = tokens.argmax(1).argsort(stable=True)  # the end token is the highest
        batches = tokens[by_length].split(TEXTS_PER_BATCH)
        rows = torch.cat([normalize(_encode_texts(self.model, batch).float(), dim=-1) for batch in batches])
        rows = rows[by_length.argsort()]
        return rows[torch.tensor([distinct[text] for text in texts], device=scale.device)]

    @torch.inference_mode()
    def logits(self, images: torch.Tensor, texts: torch.Tensor) -> torch.Tensor:
        """Cosine similarity times CLIP's logit scale: unit rows [B, D] and [T, D] -> float32 [B, T]."""
        return self.model.logit_scale.exp() * images @ texts.T


def _in_precision(model: CLIP, config: ClipConfig, device: torch.device | str) -> CLIP:
    return in_precision(model, config.precision, "logit_scale", device=device)


def _encode_texts(model: CLIP, tokens: torch.Tensor) -> torch.Tensor:
    """`model.encode_text` of int64 [T, context length], up to the longest text's end: what follows is never looked back at.

    Expressions are 10 to 30 of CLIP's 77 tokens long. Models that look ahead or take another position run as they are.
    """
    if model.attn_mask is None or model.text_pool_type != "argmax" or not isinstance(model.text_projection, torch.Tensor):
        return model.encode_text(tokens)
    ends = tokens.argmax(1)
    length = int(ends.max()) + 1
    kind = model.transformer.get_cast_dtype()
    hidden = model.token_embedding(tokens[:, :length]).to(kind) + model.positional_embedding[:length].to(kind)
    hidden = model.transformer(hidden, attn_mask=model.attn_mask[:length, :length])
    at_end = model.ln_final(hidden[torch.arange(len(ends), device=ends.device), ends])
    return at_end @ model.text_projection


def _open_clip_settings(architecture: str) -> dict:
    """open_clip's own settings of a model, as arguments of its CLIP class."""
    known = open_clip.list_models()
    if architecture not in known:
        near = get_close_matches(architecture, ["demo", *known], n=1)
        hint = f"did you mean {near[0]}?" if near else "give demo or an open_clip model name, for example RN50"
        raise UserError(f"clip.architecture: {architecture} is unknown; {hint}")
    settings = open_clip.get_model_config(architecture)
    text = settings.get("text_cfg", {})
    own = {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
    if not settings.keys() <= own or "hf_model_name" in text or "hf_tokenizer_name" in text:
        raise UserError(f"clip.architecture: {architecture} has no plain CLIP text tower; give a CLIP such as RN50 or ViT-B-32")
    return settings
