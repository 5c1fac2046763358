"""SAM's mask decoder, arranged for many point prompts on one image.

With sam.py, image_encoder.py and automatic_masks.py, the modules that import segment_anything.
It computes what segment_anything's MaskDecoder does, from the same weights, up to fp32 rounding. What differs:

- A prompt is a handful of tokens, the image thousands. Projections that an attention layer applies to the image are moved to
  the tokens: (x Wk) . q = x . (q Wk^T). This halves the multiplications, and a projected image is never stored.
- The first layer's image side is the same for all prompts, and is stored once.
- Image features stay token by token, [prompt, position, channel], to the end; upscaling is then a matrix product.
- Predicted IoUs are known before any mask is drawn, so that prompts which fail are never drawn.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from segment_anything.modeling import Sam
from segment_anything.modeling.transformer import Attention, TwoWayAttentionBlock
from torch import nn
from torch.nn import functional


@dataclass(frozen=True, eq=False)
class ImageFeatures:
    """What every prompt on an image starts from, position by position.

    features: the encoder's output, [grid * grid, channels]. positions: the encoding of where each is, likewise.
    """

    features: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, eq=False)
class DecodedPrompts:
    """Point prompts before their masks are drawn: n prompts with three masks each.

    predicted_iou: float32 [n, 3]. mask_tokens: [n, 3, channels]. features: the image as each prompt sees it,
    [n, grid * grid, channels].
    """

    predicted_iou: torch.Tensor
    mask_tokens: torch.Tensor
    features: torch.Tensor

    def take(self, which: torch.Tensor) -> DecodedPrompts:
        """The prompts of some indices."""
        return DecodedPrompts(self.predicted_iou[which], self.mask_tokens[which], self.features[which])


class PromptDecoder:
    """Masks of single points on one image at a time."""

    def __init__(self, model: Sam) -> None:
        """model: in eval mode; its prompt encoder and mask decoder are used, in fp32."""
        self._prompts = model.prompt_encoder
        self._decoder = model.mask_decoder
        self._grid = model.prompt_encoder.image_embedding_size

    def arrange(self, embedding: torch.Tensor) -> ImageFeatures:
        """embedding: the image encoder's output, fp32 [1, channels, grid, grid]."""
        features = embedding + self._prompts.no_mask_embed.weight[:, :, None, None]
        return ImageFeatures(_by_position(features), _by_position(self._prompts.get_dense_pe()))

    def decode(self, image: ImageFeatures, points: torch.Tensor) -> DecodedPrompts:
        """points: [n, 2] as (x, y) in pixels of the model's input."""
        decoder = self._decoder
        outputs = torch.cat([decoder.iou_token.weight, decoder.mask_tokens.weight])
        prompt = torch.cat([outputs.expand(len(points), -1, -1), self._embed(points)], 1)

        tokens, features = self._attend(prompt, image)
        iou_token, mask_tokens = tokens[:, 0], tokens[:, 1 : 1 + decoder.num_mask_tokens]
        # The first mask is the one for prompts that are not ambiguous; a single point is.
        return DecodedPrompts(decoder.iou_prediction_head(iou_token)[:, 1:], mask_tokens[:, 1:], features)

    def _embed(self, points: torch.Tensor) -> torch.Tensor:
        """Tokens of foreground points [n, 2] and of the box that is not given: [n, 2, channels].

        They equal those of segment_anything's prompt encoder, whose boolean indices make the host wait for a GPU.
        """
        prompts = self._prompts
        places = prompts.pe_layer.forward_with_coords(points[:, None] + 0.5, prompts.input_image_size)
        foreground = places + prompts.point_embeddings[1].weight
        return torch.cat([foreground, prompts.not_a_point_embed.weight.expand(len(points), 1, -1)], 1)

    def _attend(self, prompt: torch.Tensor, image: ImageFeatures) -> tuple[torch.Tensor, torch.Tensor]:
        """The prompts' tokens [n, t, c] and image features [n, grid * grid, c] after attending to each other in turn."""
        transformer = self._decoder.transformer
        tokens, features = prompt, image.features
        for layer in transformer.layers:
            tokens, features = _two_way_block(layer, tokens, features, prompt, image.positions)
        placed = features + image.positions
        attended = _tokens_to_image(transformer.final_attn_token_to_image, tokens + prompt, placed, features)
        return transformer.norm_final_attn(tokens + attended), features

    def draw(self, prompts: DecodedPrompts) -> torch.Tensor:
        """Low-resolution mask logits [n, 3, 4 * grid, 4 * grid]."""
        decoder = self._decoder
        first, norm, activation, second, last_activation = decoder.output_upscaling
        pixels = _upscaled(prompts.features, first)
        pixels = activation(functional.layer_norm(pixels, norm.weight.shape, norm.weight, norm.bias, norm.eps))
        pixels = last_activation(_upscaled(pixels, second))
        heads = decoder.output_hypernetworks_mlps[1:]
        weights = torch.stack([head(prompts.mask_tokens[:, i]) for i, head in enumerate(heads)], 1)
        logits = weights @ pixels.flatten(1, -2).transpose(1, 2)
        rows, columns = self._grid
        # Positions, then the two rows and columns of each upscaling, are brought in the order of an image.
        logits = logits.view(*logits.shape[:2], rows, columns, 2, 2, 2, 2).permute(0, 1, 2, 4, 6, 3, 5, 7)
        return logits.reshape(*logits.shape[:2], 4 * rows, 4 * columns)


def _by_position(features: torch.Tensor) -> torch.Tensor:
    """[1, c, h, w] -> contiguous [h * w, c]."""
    return features[0].flatten(1).T.contiguous()


def _upscaled(features: torch.Tensor, convolution: nn.ConvTranspose2d) -> torch.Tensor:
    """A transposed convolution of kernel and stride 2, position by position: [..., c] -> [..., 4, c']."""
    weight = convolution.weight.permute(0, 2, 3, 1).flatten(1)
    bias = convolution.bias.repeat(4)
    return functional.linear(features, weight.T, bias).unflatten(-1, (4, -1))


def _two_way_block(
    layer: TwoWayAttentionBlock, tokens: torch.Tensor, features: torch.Tensor, prompt: torch.Tensor, positions: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One layer: tokens attend to themselves, then to the image's features, then these to them."""
    if layer.skip_first_layer_pe:
        tokens = layer.self_attn(q=tokens, k=tokens, v=tokens)
    else:
        query = tokens + prompt
        tokens = tokens + layer.self_attn(q=query, k=query, v=tokens)
    tokens = layer.norm1(tokens)

    placed = features + positions
    tokens = layer.norm2(tokens + _tokens_to_image(layer.cross_attn_token_to_image, tokens + prompt, placed, features))
    tokens = layer.norm3(tokens + layer.mlp(tokens))
    features = layer.norm4(_image_to_tokens(layer.cross_attn_image_to_token, features, placed, tokens + prompt, tokens))
    return tokens, features


def _tokens_to_image(attention: Attention, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention of tokens [n, t, c] to image features [hw, c] or [n, hw, c]. Output projected, [n, t, c]."""
    # The keys' bias adds the same to all logits of a token, which the softmax does not see.
    probes = _by_head(attention.q_proj(queries), attention) @ attention.k_proj.weight
    shares = torch.softmax(probes @ keys.transpose(-2, -1), -1)
    mixed = functional.linear(shares @ values, attention.v_proj.weight).unflatten(1, (attention.num_heads, -1))
    own = (mixed * _head_of_channel(attention, mixed)).sum(1)
    return attention.out_proj(own + attention.v_proj.bias)


def _image_to_tokens(
    attention: Attention, features: torch.Tensor, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor
) -> torch.Tensor:
    """`features` plus their projected attention to tokens. features, queries: [hw, c] or [n, hw, c]. Others [n, t, c]."""
    heads = attention.num_heads
    by_head = _by_head(attention.k_proj(keys), attention)
    logits = (by_head @ attention.q_proj.weight) @ queries.transpose(-2, -1) + by_head @ attention.q_proj.bias[:, None]
    # Tokens are the last but one dimension: a softmax over a few adjacent numbers is slow.
    shares = torch.softmax(logits.unflatten(1, (heads, -1)), 2).flatten(1, 2)
    answers = _by_head(attention.v_proj(values), attention, scaled=False) @ attention.out_proj.weight.T
    # The shares of one head add up to 1, so that its answers can carry the bias.
    answers[:, : keys.shape[1]] += attention.out_proj.bias
    return torch.baddbmm(features.expand(len(keys), -1, -1), shares.transpose(1, 2), answers)


def _by_head(tokens: torch.Tensor, attention: Attention, scaled: bool = True) -> torch.Tensor:
    """Tokens [n, t, d] -> [n, heads * t, d]: each head's own channels, zeros elsewhere; scaled as attention logits are."""
    parts = tokens[:, None] * _head_of_channel(attention, tokens)
    return (parts / math.sqrt(attention.internal_dim // attention.num_heads) if scaled else parts).flatten(1, 2)


def _head_of_channel(attention: Attention, like: torch.Tensor) -> torch.Tensor:
    """1 where a channel is of a head, else 0: [heads, 1, d]."""
    eye = torch.eye(attention.num_heads, dtype=like.dtype, device=like.device)
    return eye.repeat_interleave(attention.internal_dim // attention.num_heads, 1)[:, None]
