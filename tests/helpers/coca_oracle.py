"""The slow, obvious version of distinctive sampling, and small random CoCas to compare it on.

Every step runs open_clip's own forward on the whole prefix of every row with every crop, and works on the whole vocabulary.
"""

from types import SimpleNamespace

import torch
from open_clip.coca_model import CoCa

from pseudo_ris.models.coca.captioner import CocaCaptioner

VOCABULARY, START, END, PAD = 60, 58, 59, 0


def random_captioner(seed, **text):
    """A CoCa of 2 + 2 + 3 layers, wide awake: logits vary by several units between crops and tokens."""
    torch.manual_seed(seed)
    text = {"context_length": 40, "vocab_size": VOCABULARY, "width": 32, "heads": 2, **text}
    model = CoCa(
        embed_dim=32,
        vision_cfg={
            "image_size": 16,
            "patch_size": 8,
            "width": 32,
            "layers": 2,
            "head_width": 16,
            "attentional_pool": True,
            "attn_pooler_queries": 6,
            "attn_pooler_heads": 2,
            "output_tokens": True,
        },
        text_cfg={"embed_cls": True, "output_tokens": True, "layers": 2, **text},
        multimodal_cfg={"context_length": 40, "vocab_size": VOCABULARY, "width": 32, "heads": 2, "layers": 3},
    )
    with torch.no_grad():
        for name, value in model.named_parameters():
            if name != "logit_scale":
                value.copy_(torch.randn_like(value) * (0.2 if value.ndim > 1 else 0.1) + ("ln_" in name and "weight" in name))
        model.text_decoder.text_projection.copy_(torch.randn(32, VOCABULARY) * 0.4)
    tokenizer = SimpleNamespace(sot_token_id=START, eot_token_id=END, decode=lambda ids: "".join(f"w{i} " for i in ids))
    return CocaCaptioner(model, tokenizer)


def full_prefix_logits(model, crops, prefix):
    """z_j of every crop: float [N, V] for one prefix."""
    text = torch.tensor([prefix]).expand(len(crops), -1)
    return model(crops, text, output_labels=False)["logits"][:, -1]


def support_of(t, strategy):
    """Token ids in the support of one row, straight from the definition."""
    by_logit = sorted(range(len(t)), key=lambda token: -t[token])
    if strategy.rule == "top_k":
        bound = t[by_logit[int(strategy.value) - 1]]
        return {token for token in by_logit if t[token] >= bound}
    probabilities = torch.tensor(t, dtype=torch.float64).softmax(0).tolist()
    kept, mass = set(), 0.0
    for token in by_logit:
        kept.add(token)
        mass += probabilities[token]
        if mass >= strategy.value:
            break
    return kept


def distribution(model, crops, prefix, target, strategy, decoding):
    """q of one row as float64 [V]: the six numbered steps of the method, whole vocabulary, all viewers."""
    z = full_prefix_logits(model, crops, prefix).double()
    latents = model.encode_image(crops).double()
    t = z[target].clone()
    if len(prefix) < decoding.min_length:
        t[END] = -torch.inf
    whole = t.softmax(0)
    kept = support_of(t.tolist(), strategy)
    kept = {token for token in kept if whole[token] >= decoding.min_token_probability or whole[token] == whole.max()}
    inside = torch.tensor([token in kept for token in range(len(t))])
    plain = torch.where(inside, t, -torch.inf).softmax(0)
    c = t - _opposition(z, [float(latents[target] @ other) for other in latents], target, decoding)
    q = torch.where(inside, c, -torch.inf).softmax(0)
    q[END] = plain[END]
    return q if q.sum() > 0 else plain


def _opposition(z, similarity, target, decoding):
    others = [j for j in range(len(z)) if j != target]
    if decoding.distractor_overflow == "skip" and len(others) > decoding.max_distractors:
        others = []
    others = sorted(others, key=lambda j: -similarity[j])[: decoding.max_distractors]
    if not others or decoding.calibration == "none":
        return torch.zeros_like(z[0])
    if decoding.calibration == "mean":
        factors = [similarity[j] / len(others) for j in others]
    else:
        factors = torch.tensor([similarity[j] for j in others], dtype=torch.float64).softmax(0).tolist()
    return decoding.calibration_weight * sum(factor * z[j] for factor, j in zip(factors, others, strict=True))
