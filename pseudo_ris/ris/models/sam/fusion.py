"""Words and proposals read each other; each proposal gets a score, and prompt tokens for SAM."""

from __future__ import annotations

import torch
from torch import nn

from pseudo_ris.ris.models.sam.proposals import GEOMETRY, Proposals, similarities

SIMILARITY_SCALE = torch.tensor([4.0, 4.0, 8.0, 8.0])
"""Brings CLIP's cosines and their differences, a few tenths, to the size of the other inputs."""
QUERIES = 2
NEVER = -1e4


class Fusion(nn.Module):
    """A transformer over two queries, the words and the proposals.

    A proposal's score is a sum: CLIP's preference, so that an untrained model answers as zero-shot CLIP does; what the
    transformer says of the proposal; and two products with the queries, of the proposal and of its geometry. Without the last
    one place words are not learned in 1,000 steps: it makes "leftmost" a direction, not a comparison of all proposals.

    Args:
        words, joint: widths of the words and of CLIP's joint space.
        outputs, out_width: number and width of the prompt tokens.
    """

    def __init__(self, words: int, joint: int, width: int, layers: int, heads: int, outputs: int, out_width: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(0.02 * torch.randn(QUERIES, width))
        self.sentence, self.words = nn.Linear(joint, width), nn.Linear(words, width)
        self.regions = nn.Linear(2 * joint, width)
        self.geometry = nn.Sequential(nn.Linear(GEOMETRY, width), nn.GELU(), nn.Linear(width, width))
        self.similarity = nn.Linear(4, width)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, heads, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(layers)
        )
        self.norm = nn.LayerNorm(width)
        self.score, self.pointer = nn.Linear(width, 1), nn.Linear(width, width)
        self.direction = nn.Linear(width, width + GEOMETRY)
        self.prompts = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, outputs * out_width))
        # An untrained model prompts SAM with the proposal's centre alone.
        nn.init.zeros_(self.prompts[2].weight)
        nn.init.zeros_(self.prompts[2].bias)
        self.outputs = outputs

    def forward(
        self, words: torch.Tensor, sentence: torch.Tensor, attention: torch.Tensor, proposals: Proposals
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores float [N, P], NEVER where there is no proposal, and prompt tokens float [N, P, outputs, out_width].

        words: float [N, L, W]. sentence: float [N, D]. attention: bool [N, L]. proposals: N rows.
        """
        fit = similarities(proposals.regions, sentence, proposals.real) * SIMILARITY_SCALE.to(sentence)
        # Of unit length, an embedding's entries are far smaller than those of the other inputs.
        placed = self.geometry(proposals.geometry)
        objects = self.regions(8 * proposals.regions.flatten(2)) + placed + self.similarity(fit)
        queries = self.queries + self.sentence(sentence)[:, None]
        tokens = torch.cat([queries, self.words(words), objects], dim=1)
        padding = torch.cat([attention.new_zeros(len(words), QUERIES), ~attention, ~proposals.real], dim=1)
        for block in self.blocks:
            tokens = block(tokens, src_key_padding_mask=padding)
        tokens = self.norm(tokens)
        objects = tokens[:, -proposals.real.shape[1] :]
        directions = torch.cat([proposals.geometry, placed], dim=-1)
        scores = (
            fit[..., 2:].sum(-1)
            + self.score(objects)[..., 0]
            + torch.einsum("nd,npd->np", self.direction(tokens[:, 0]), directions)
            + torch.einsum("nd,npd->np", self.pointer(tokens[:, 1]), objects) / objects.shape[-1] ** 0.5
        )
        prompts = self.prompts(objects).unflatten(-1, (self.outputs, -1))
        return scores.float().masked_fill(~proposals.real, NEVER), prompts
