import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudo_ris.captions.noise import draw_tokens, token_uniform

KEY = {"seed": 0, "image_id": "9", "seg_id": 3, "crop_set": "masked", "strategy": "top_k_5", "step": 2}


def test_every_part_of_the_key_matters():
    other = {"seed": 1, "image_id": "10", "seg_id": 4, "crop_set": "image_1.0", "strategy": "top_k_7", "step": 3}
    values = {token_uniform(**KEY)} | {token_uniform(**{**KEY, name: value}) for name, value in other.items()}
    assert len(values) == 7


def test_stays_the_same_between_versions():
    assert token_uniform(**KEY) == 0.002976254689274538


def test_is_uniform_and_unrelated_from_step_to_step():
    values = np.array([token_uniform(**{**KEY, "step": step}) for step in range(20_000)])
    assert values.min() > 0 and values.max() < 1
    counts = np.histogram(values, bins=20, range=(0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 45  # chi-squared, 19 degrees of freedom, p = 0.0007
    assert abs(np.corrcoef(values[1:], values[:-1])[0, 1]) < 0.03


@given(st.lists(st.floats(0, 10), min_size=1, max_size=30), st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_draws_the_first_token_that_reaches_u(weights, uniform):
    if sum(weights) == 0:
        return
    token = int(draw_tokens(torch.tensor([weights], dtype=torch.float64), torch.tensor([uniform], dtype=torch.float64))[0])
    cumulative = np.cumsum(np.array(weights, dtype=np.float64))
    shares = cumulative / cumulative[-1]
    assert shares[token] >= uniform
    assert token == 0 or shares[token - 1] < uniform


def test_never_draws_weightless_tokens():
    weights = torch.tensor([[0, 0, 1, 0, 1, 0]], dtype=torch.float32)
    uniforms = [1e-300, 0.5, 0.5 + 1e-12, 1 - 1e-16]
    assert [int(draw_tokens(weights, torch.tensor([u], dtype=torch.float64))[0]) for u in uniforms] == [2, 2, 4, 4]


def test_weights_need_not_sum_to_one():
    weights = torch.tensor([[0.1, 0.3], [2.0, 6.0]])
    drawn = draw_tokens(weights, torch.tensor([0.2, 0.2], dtype=torch.float64))
    assert drawn.tolist() == [0, 0]
    assert draw_tokens(weights, torch.tensor([0.26, 0.26], dtype=torch.float64)).tolist() == [1, 1]
