"""Distinctive caption sampling against the straightforward implementation of the method, for one crop set of N masks.

    python benchmarks/decode.py --masks 4 --length 30 --threads 1 --model coca_ViT-B-32

Both sample with the ten strategies of the release (top-k 5, 7, 9, 11, 13, top-p 0.4 ... 0.8, no bound on single tokens, at
least five tokens) from the same crops, noise and reproducible random weights. The straightforward implementation runs
open_clip's own modules on the whole prefix with all viewers at every step and projects every position onto the vocabulary.
Crops are encoded beforehand for both. Each runs in a fresh process. In fp32 all tokens must be equal, or the exit code is 1;
`equal_tokens` is the share of those that come before a caption first differs.

The last line is one JSON object. `ratio` is of seconds: on a CPU those of the process's CPU time, on a GPU those of the clock.
`gemm_share` is the share of the machine's rate for large square matrix products, measured in the same process and precision,
that our decoding reaches when only the multiplications that cannot be avoided are counted (`necessary_flop`):

- keys and values of the decoder's cross-attentions: once a crop;
- the text tower and the decoder's first self-attention block: once a distinct prefix, its last position only;
- the rest of the decoder: once a distinct pair of prefix and viewer, last position only;
- attention: queries of that position times the keys it sees, and the same again for the values;
- the projection: the target's last position, once a distinct prefix and target.

Not counted: the distractors' projection onto the support (few columns, or too many to be called necessary), everything that is
no matrix product, and drawing. With `--precision bf16` the straightforward implementation stays in fp32 (see
`--reference-precision`). Then `equal_tokens` is the share of equal draws after the same prefix, and the JSON has
`probability_shift`, half the sum of absolute differences of the two weights of the next token, each brought to the
sum 1, in the mean over all draws.
"""

from __future__ import annotations

import argparse
import sys
import time
from itertools import zip_longest
from typing import Any

import torch
from common import in_fresh_process, peak_bytes, print_json, print_table

from pseudo_ris.captions.distinctive import distractor_weights, keyed_draw, sample, sampled_rows
from pseudo_ris.captions.noise import token_uniform
from pseudo_ris.captions.sampling import Row
from pseudo_ris.config import CocaConfig, DecodingConfig
from pseudo_ris.io.device import pick_device
from pseudo_ris.models.coca.captioner import CocaCaptioner, CocaImages

IMAGE_ID = "benchmark"
GEMM_SIDE = 2048
Ids = list[list[int]]


def prepare(options: argparse.Namespace, precision: str) -> tuple[CocaCaptioner, CocaImages, list[Row], DecodingConfig]:
    """The model with random weights, encoded crops of noise, and the rows of one crop set."""
    config = CocaConfig(architecture=options.model, weights="random", precision=precision)
    captioner = CocaCaptioner.from_config(config, pick_device(options.device))
    size = captioner.image_size
    crops = torch.randn(options.masks, 3, size, size, generator=torch.Generator().manual_seed(0))
    decoding = DecodingConfig(min_token_probability=0, max_distractors=options.masks, max_length=options.length)
    return captioner, captioner.encode(crops), sampled_rows(["masked"], range(options.masks), decoding), decoding


def now(device: torch.device) -> float:
    """CPU seconds of this process; on a GPU seconds of the clock, with all its work done."""
    if device.type == "cpu":
        return time.process_time()
    torch.cuda.synchronize(device)
    return time.perf_counter()


@torch.inference_mode()
def ours(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the library's sampling."""
    captioner, images, rows, decoding = prepare(options, options.precision)
    _ = captioner.layers  # made once a model, as loading is
    start = now(captioner.device)
    captions = sample(captioner, images, rows, decoding, keyed_draw(decoding.seed, IMAGE_ID))
    seconds = now(captioner.device) - start
    peak = peak_bytes()
    flop = necessary_flop(captioner, images, rows, captions, decoding)
    rate = gemm_rate(captioner)
    return {"seconds": seconds, "peak": peak, "captions": captions, "flop": flop, "rate": rate}


@torch.inference_mode()
def straightforward(options: argparse.Namespace) -> dict[str, Any]:
    """Runs the method as it is written down, one strategy after the other, all rows and viewers of a strategy in one batch."""
    captioner, images, rows, decoding = prepare(options, options.reference_precision)
    start = now(captioner.device)
    captions: dict[Row, list[int]] = {}
    for strategy in dict.fromkeys(row.strategy for row in rows):
        of_strategy = [row for row in rows if row.strategy == strategy]
        captions |= dict(zip(of_strategy, sample_whole_prefixes(captioner, images, of_strategy, decoding), strict=True))
    seconds = now(captioner.device) - start
    return {"seconds": seconds, "peak": peak_bytes(), "captions": [captions[row] for row in rows]}


def sample_whole_prefixes(captioner: CocaCaptioner, images: CocaImages, rows: list[Row], decoding: DecodingConfig) -> Ids:
    """Captions of one strategy's rows, one row a crop in the crops' order, from the whole prefix at every step."""
    count, model, device = len(rows), captioner.model, captioner.device
    weights = distractor_weights(images.latents @ images.latents.T, decoding)
    latents, embeddings = images.latents.repeat(count, 1), images.embeddings.repeat(count, 1, 1)
    ids = torch.full((count, 1), captioner.start, device=device)
    ended = torch.zeros(count, dtype=torch.bool, device=device)
    for step in range(decoding.max_length - 2):
        text = ids.repeat_interleave(count, 0)
        logits = model(None, text, image_latent=latents, image_embs=embeddings, output_labels=False)["logits"]
        logits = logits.view(count, count, *logits.shape[1:])[:, :, -1].float()
        target = logits.diagonal().T.clone()
        if ids.shape[1] < decoding.min_length:
            target[:, captioner.end] = -torch.inf
        support = whole_support(target, rows[0])
        opposition = torch.einsum("ij,ijv->iv", weights, logits)
        plain = target.masked_fill(~support, -torch.inf).softmax(1)
        q = (target - opposition).masked_fill(~support, -torch.inf).softmax(1)
        q[:, captioner.end] = plain[:, captioner.end]
        q = torch.where((q > 0).any(1, keepdim=True), q, plain).double()
        uniforms = [token_uniform(decoding.seed, IMAGE_ID, row.seg_id, row.crop_set, row.strategy.name, step) for row in rows]
        shares = q.cumsum(1) / q.sum(1, keepdim=True)
        token = (shares < torch.tensor(uniforms, dtype=torch.float64, device=device)[:, None]).sum(1)
        ids = torch.cat([ids, token.masked_fill(ended, captioner.pad)[:, None]], 1)
        ended |= (token == captioner.end) | (token == captioner.pad)
        if ended.all():
            break
    return [_until_end(row, captioner) for row in ids.tolist()]


def whole_support(logits: torch.Tensor, row: Row) -> torch.Tensor:
    """Step 2 of the method: bool [R, V]."""
    if row.strategy.rule == "top_k":
        return logits >= logits.topk(int(row.strategy.value), dim=1).values[:, -1:]
    ascending, order = logits.sort(dim=1)
    kept = ascending.softmax(1).cumsum(1) > 1 - row.strategy.value
    kept[:, -1] = True
    return torch.zeros_like(kept).scatter(1, order, kept)


def _until_end(ids: list[int], captioner: CocaCaptioner) -> list[int]:
    """The caption up to its end or pad token; one without gets an end token."""
    for place, token in enumerate(ids):
        if token in (captioner.end, captioner.pad):
            return ids[: place + 1]
    return [*ids, captioner.end]


def necessary_flop(
    captioner: CocaCaptioner, images: CocaImages, rows: list[Row], captions: Ids, decoding: DecodingConfig
) -> int:
    """Two for each multiplication that no implementation can do without; the list is in this module's head."""
    decoder, text = captioner.model.text_decoder, captioner.model.text
    crops, tokens, width = images.embeddings.shape
    layers = len(decoder.resblocks)
    prefix_blocks = [*text.transformer.resblocks, decoder.resblocks[0]]
    prefix_weights = sum(_matrices(block) for block in prefix_blocks)
    cell_weights = sum(_matrices(block) for block in [*decoder.resblocks[1:], *decoder.cross_attn]) - layers * 2 * width**2
    total = crops * layers * tokens * 2 * width**2
    for length in range(1, decoding.max_length - 1):
        reading = [(row, tuple(ids[:length])) for row, ids in zip(rows, captions, strict=True) if len(ids) > length]
        prefixes = len({prefix for _, prefix in reading})
        own = len({(row.crop, prefix) for row, prefix in reading})
        seen = 2 * length * width
        total += prefixes * (prefix_weights + len(prefix_blocks) * seen)
        total += prefixes * crops * (cell_weights + (layers - 1) * seen + layers * 2 * tokens * width)
        total += own * width * captioner.vocabulary
    return 2 * total


def _matrices(block: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in block.parameters() if parameter.ndim == 2)


def gemm_rate(captioner: CocaCaptioner) -> float:
    """FLOP/s of large matrix products in the model's precision: the best of several tries."""
    dtype = captioner.model.text_decoder.resblocks[0].attn.in_proj_weight.dtype
    square = torch.randn(GEMM_SIDE, GEMM_SIDE, device=captioner.device).to(dtype)
    best = float("inf")
    for _ in range(8):
        start = now(captioner.device)
        for _ in range(4):
            square @ square
        best = min(best, (now(captioner.device) - start) / 4)
    return 2 * GEMM_SIDE**3 / best


def share_before_parting(captions: Ids, expected: Ids) -> float:
    """Share of the expected tokens that come before a caption differs from the expected one."""
    equal = 0
    for caption, wanted in zip(captions, expected, strict=True):
        pairs = zip_longest(caption, wanted)
        equal += next((place for place, (one, two) in enumerate(pairs) if one != two), len(wanted))
    return equal / sum(map(len, expected))


def shift(options: argparse.Namespace, captions: Ids) -> tuple[float, float]:
    """Share of equal draws, and mean shift of probability, between `--precision` and fp32 along the fp32 captions."""
    passes = [forced_pass(options, precision, captions) for precision in ("fp32", options.precision)]
    equal, shifts = [], []
    for (tokens, q), (other_tokens, other_q) in zip(*passes, strict=True):
        equal.append(tokens == other_tokens)
        shifts.append((q / q.sum(1, keepdim=True) - other_q / other_q.sum(1, keepdim=True)).abs().sum(1) / 2)
    return torch.cat(equal).double().mean().item(), torch.cat(shifts).double().mean().item()


def forced_pass(options: argparse.Namespace, precision: str, captions: Ids) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """(what would be drawn, weights) of each call of the draw, while every row goes on with its given caption."""
    captioner, images, rows, decoding = prepare(options, precision)
    caption_of = dict(zip(rows, captions, strict=True))
    drawn, record = keyed_draw(decoding.seed, IMAGE_ID), []

    def draw(asked: list[Row], step: int, q: torch.Tensor) -> torch.Tensor:
        record.append((drawn(asked, step, q), q))
        return torch.tensor([caption_of[row][step + 1] for row in asked], device=q.device)

    sample(captioner, images, rows, decoding, draw)
    return record


def parse_options() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--masks", type=int, default=4)
    parser.add_argument("--length", type=int, default=30, help="tokens of a caption, start and end included")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--model", default="coca_ViT-B-32", help="an open_clip CoCa, or demo")
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--reference-precision", choices=("fp32", "bf16", "fp16"), default="fp32")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--ours-only", action="store_true", help="leave the straightforward implementation out (minutes)")
    return parser.parse_args()


def main() -> int:
    """Prints the comparison; 1 when tokens that must be equal are not."""
    options = parse_options()
    found = in_fresh_process(ours, options, threads=options.threads)
    figures = {name: getattr(options, name) for name in ("masks", "length", "threads", "model", "precision", "device")}
    figures |= {
        "seconds_ours": found["seconds"],
        "peak_bytes_ours": found["peak"],
        "necessary_flop": found["flop"],
        "gemm_flop_per_second": found["rate"],
        "gemm_share": found["flop"] / found["seconds"] / found["rate"],
        "caption_tokens": sum(map(len, found["captions"])),
    }
    table = [("ours", found["seconds"], found["peak"] / 2**30)]
    if not options.ours_only:
        expected = in_fresh_process(straightforward, options, threads=options.threads)
        figures |= {
            "seconds_reference": expected["seconds"],
            "peak_bytes_reference": expected["peak"],
            "ratio": expected["seconds"] / found["seconds"],
        }
        table.append(("straightforward", expected["seconds"], expected["peak"] / 2**30))
        if options.precision == "fp32":
            figures["equal_tokens"] = share_before_parting(found["captions"], expected["captions"])
        else:
            equal, moved = in_fresh_process(shift, options, expected["captions"], threads=options.threads)
            figures |= {"equal_tokens": equal, "probability_shift": moved}
    print_table(("implementation", "seconds", "peak GiB"), table)
    print_json(figures)
    return int(options.precision == "fp32" and figures.get("equal_tokens", 1.0) < 1)


if __name__ == "__main__":
    sys.exit(main())
