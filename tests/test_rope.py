import pytest
import torch

from bytequilt.model.rope import TABLE, rotate, rotation, turned_pairs


def exact(positions, head_dim, theta):
    """Cosines and sines in fp64, straight from the definition."""
    angles = torch.outer(positions.double(), theta ** (-torch.arange(0, head_dim, 2).double() / head_dim))
    return torch.stack([angles.cos(), angles.sin()], -1)


@pytest.mark.parametrize("first", [0, TABLE - 3, TABLE, 1_000_000, 50_000_000])
def test_factors_are_exact_at_any_position(first):
    positions = torch.arange(first, first + 6)
    factors = rotation(positions, first + 6, 16, 500_000.0)
    assert factors.dtype is torch.float32
    torch.testing.assert_close(factors, exact(positions, 16, 500_000.0).float(), atol=3e-7, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rotation_of_the_cpu_is_that_in_real_numbers(dtype):
    x, factors = torch.randn(2, 7, 3, 8).to(dtype), rotation(torch.arange(7), 7, 8, 10_000.0)[:, None]
    real = turned_pairs(x.float().unflatten(-1, (-1, 2)), factors).flatten(-2).to(dtype)
    torch.testing.assert_close(rotate(x, factors), real)


def test_products_of_queries_and_keys_depend_on_differences_alone():
    q, k = torch.randn(2, 16)
    products = []
    for begin in (0, 37, TABLE + 5):
        factors = rotation(torch.tensor([begin, begin + 9]), begin + 10, 16, 10_000.0)
        products.append(float(rotate(q, factors[1]) @ rotate(k, factors[0])))
    assert products == pytest.approx([products[0]] * 3, abs=1e-4)
