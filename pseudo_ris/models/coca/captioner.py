"""CoCa, the captioner behind all candidate expressions. The only module that knows open_clip's CoCa."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import open_clip
import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer
from torch import nn
from torch.nn.functional import linear, normalize

from pseudo_ris.checkpoints.weights import ready_model
from pseudo_ris.config import CocaConfig
from pseudo_ris.errors import UserError
from pseudo_ris.io.device import in_precision, on_device, without_cudnn_attention
from pseudo_ris.models.coca.layers import DecodingLayers
from pseudo_ris.models.offload import weight_bytes

PROJECTION_STD = 0.02
# Bounds the image tower's memory only.
CROPS_AT_ONCE = 32
# For the caches of rows that are decoded together. A constant and not what happens to be free: the last digits of logits
# depend on how many rows are read together, and a run must be repeatable.
CHUNK_BYTES = 13 * 2**28


class Tokenizer(Protocol):
    """What is used of a tokenizer: its special ids, and ids -> text, in which words end with a space."""

    sot_token_id: int
    eot_token_id: int

    def decode(self, tokens: Sequence[int]) -> str: ...
    def encode(self, text: str) -> list[int]: ...


@dataclass(eq=False)
class CocaImages:
    """What decoding needs of B crops.

    latents: float32 [B, D], L2-normalised image latents; their products are the similarities a_ij.
    embeddings: [B, tokens, width], the crop tokens that the decoder looks at, in the model's precision.
    keyed: int64 [K] ascending, the crops whose cross-attention keys were asked for last (see `CocaCaptioner.image_keys`).
    keys: theirs, for each decoder layer [2, K, heads, tokens, width / heads]: many times as large as the embeddings.
    """

    latents: torch.Tensor
    embeddings: torch.Tensor
    keyed: torch.Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.long))
    keys: list[torch.Tensor] = field(default_factory=list)


def build_coca(architecture: str) -> CoCa:
    """A CoCa with random weights: "demo", or an open_clip model name such as coca_ViT-L-14. Downloads nothing.

    Raises UserError when the name is not that of a CoCa whose text tower and tokenizer are CLIP's.
    """
    model = CoCa(**_coca_arguments(architecture))
    # open_clip allocates this matrix without filling it.
    nn.init.normal_(model.text_decoder.text_projection, std=PROJECTION_STD)
    return model.eval()


def build_tokenizer(architecture: str) -> SimpleTokenizer:
    """The BPE tokenizer that goes with `build_coca(architecture)`."""
    if architecture != "demo":
        return SimpleTokenizer()
    from pseudo_ris.assets.architectures import BPE_PATH

    return SimpleTokenizer(bpe_path=str(BPE_PATH))


class CocaCaptioner:
    """A CoCa with its tokenizer: crops -> what decoding needs of them, token ids -> text.

    start, end, pad: special token ids. vocabulary: number of tokens. context: longest prefix, in tokens. chunk_bytes: bound of
    the caches of rows that are decoded together (see `chunks.in_chunks`).

    Args:
        in_autocast: what `autocast` does on a GPU.

    Raises ValueError when the model's text tower has no class token (`embed_cls`), which open_clip cannot decode with either.
    """

    def __init__(self, model: CoCa, tokenizer: Tokenizer, in_autocast: bool = False) -> None:
        if model.text.cls_emb is None:
            raise ValueError("a CoCa without embed_cls in its text_cfg cannot write captions")
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.in_autocast = in_autocast
        self.start, self.end, self.pad = tokenizer.sot_token_id, tokenizer.eot_token_id, model.pad_id
        self.context: int = model.context_length
        self.vocabulary: int = self.projection.shape[1]
        self.chunk_bytes = CHUNK_BYTES

    @classmethod
    def from_config(cls, config: CocaConfig, device: torch.device | str) -> CocaCaptioner:
        """Builds the architecture and loads its weights. Raises UserError when either setting is wrong."""
        model = _in_precision(ready_model(build_coca, config, "coca"), config)
        return cls(model.to(device), build_tokenizer(config.architecture), config.precision == "autocast")

    @staticmethod
    def weight_bytes(config: CocaConfig, device: torch.device) -> int:
        """Bytes of the weights that `from_config` puts on `device`; nothing is read or allocated."""
        return weight_bytes(lambda: _in_precision(build_coca(config.architecture), config))

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.projection.device

    def autocast(self) -> torch.autocast:
        """The arithmetic that crops are encoded and captions decoded in: fp16 autocast on a GPU if the settings say so."""
        enabled = self.in_autocast and self.device.type == "cuda"
        return torch.autocast(self.device.type, torch.float16 if enabled else None, enabled)

    @property
    def image_size(self) -> int:
        """Side of the crops, in pixels."""
        size = self.model.visual.image_size
        return size if isinstance(size, int) else size[0]

    @cached_property
    def layers(self) -> DecodingLayers:
        """The weights as decoding uses them. Made at the first use; weights must not change after that."""
        return DecodingLayers(self.model.text, self.model.text_decoder)

    @property
    def projection(self) -> torch.Tensor:
        """float32 [width, vocabulary], from the decoder's last hidden state to next-token logits; there is no bias."""
        return self.model.text_decoder.text_projection

    @without_cudnn_attention
    @torch.inference_mode()
    def encode(self, crops: torch.Tensor) -> CocaImages:
        """Normalised crops, float [B, 3, S, S], -> their latents and embeddings, CROPS_AT_ONCE at a time."""
        dtype = self.model.text.token_embedding.weight.dtype
        encoded = [
            self.model._encode_image(part.to(self.device, dtype), normalize=False) for part in crops.split(CROPS_AT_ONCE)
        ]
        latents, embeddings = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        return CocaImages(normalize(latents.float(), dim=-1), embeddings)

    @torch.inference_mode()
    def image_keys(self, images: CocaImages, crops: torch.Tensor) -> list[torch.Tensor]:
        """Keys and values of each decoder layer's cross-attention, [2, C, heads, tokens, width / heads].

        crops: int64 [C] ascending, on the CPU. What was asked for the last time, too, is not computed again; what was not is
        dropped.
        """
        known, earlier = torch.isin(crops, images.keyed), images.keys
        parts = crops[~known], torch.searchsorted(images.keyed, crops[known]), known.nonzero()[:, 0], (~known).nonzero()[:, 0]
        new, places, kept, added = (on_device(part, self.device) for part in parts)
        images.keyed, images.keys = crops[:0], []  # should memory not suffice below
        keys = []
        for layer, block in enumerate(self.model.text_decoder.cross_attn):
            computed = _image_keys(block, images.embeddings[new])
            if len(places):
                both = computed.new_empty(2, len(crops), *computed.shape[2:])
                both[:, kept], both[:, added] = earlier[layer][:, places], computed
                computed, earlier[layer] = both, both[:, :0]
            keys.append(computed)
        images.keyed, images.keys = crops, keys
        return keys

    def decode_text(self, ids: Sequence[int]) -> str:
        """Token ids -> text with single spaces; start, end and pad tokens are left out."""
        special = (self.start, self.end, self.pad)
        return " ".join(self.tokenizer.decode([token for token in ids if token not in special]).split())


def _in_precision(model: CoCa, config: CocaConfig) -> CoCa:
    return in_precision(model, config.precision, "text_decoder.text_projection")


def _image_keys(block: nn.Module, embeddings: torch.Tensor) -> torch.Tensor:
    """Keys and values [2, B, heads, tokens, width / heads] of a cross-attention block for crop tokens [B, tokens, width]."""
    attention = block.attn
    width = embeddings.shape[-1]
    both = linear(block.ln_1_kv(embeddings), attention.in_proj_weight[width:], attention.in_proj_bias[width:])
    return both.unflatten(-1, (2, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).contiguous()


def _coca_arguments(architecture: str) -> dict[str, Any]:
    """Keyword arguments of open_clip's CoCa."""
    if architecture == "demo":
        from pseudo_ris.assets.architectures import COCA

        return COCA
    settings = open_clip.get_model_config(architecture) or {}
    text = settings.get("text_cfg", {})
    if "multimodal_cfg" not in settings or "hf_model_name" in text or text["vocab_size"] != SimpleTokenizer().vocab_size:
        raise UserError(
            f"coca.architecture: {architecture} is not a CoCa with CLIP's tokenizer; give demo, coca_ViT-B-32 or coca_ViT-L-14"
        )
    return {name: value for name, value in settings.items() if name != "custom_text"}
