import pytest
import torch
from conftest import CROSS, blt, blt_config, entropy_model, ids_of, noise, patcher
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from bytequilt.config import HashConfig, StackConfig
from bytequilt.model.flops import blt_flops, entropy_flops, flops_per_byte, visible_keys

VARIANTS = [{"encoder_cross": e, "decoder_cross": d} for e, d in CROSS]
VARIANTS += [
    {"latent": StackConfig(dim=64, layers=1, heads=4, kv_heads=1)},
    {"cross_heads": (4, 8), "cross_kv_heads": (1, 2)},
    {"slots": 1, "latent": StackConfig(dim=32, layers=1, heads=2)},
    {"slots": 3, "hash": HashConfig(sizes=())},
]


def counted(call):
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("change", VARIANTS, ids=lambda c: "-".join(map(str, c.values()))[:40])
def test_flops_of_a_blt_are_those_that_torch_counts(change):
    model, ids_BN = blt(**change), ids_of(noise(60))  # one block of attention, its masked keys computed too
    patches = patcher("space")(ids_BN)
    parts = blt_flops(model.config, ids_BN.shape[1], patches.count, dense=True)
    assert counted(lambda: model(ids_BN, patches)) == sum(parts.values()) - 2 * parts["products"]


def test_flops_of_the_entropy_model_are_those_that_torch_counts():
    model, ids_BN = entropy_model(), ids_of(noise(60))
    length = ids_BN.shape[1]
    assert counted(lambda: model(ids_BN)) == entropy_flops(model.config, length, length)


@pytest.mark.parametrize("window", [None, 1, 7, 100])
@pytest.mark.parametrize("length", [1, 7, 50])
def test_visible_keys_are_the_mean_over_all_queries(length, window):
    seen = [sum(0 <= i - j < (window or length) for j in range(length)) for i in range(length)]
    assert visible_keys(length, window) == pytest.approx(sum(seen) / length)


def test_keys_that_no_query_sees_cost_nothing():
    parts, dense = (blt_flops(blt_config(), 1000, 200, dense=d) for d in (False, True))
    assert all(parts[name] < dense[name] for name in ("encoder", "latent", "decoder"))


def test_figures_per_byte_are_shares_of_the_whole():
    config, entropy = blt_config(), entropy_model().config
    found = flops_per_byte(config, entropy, 4.0, context=800)
    parts = blt_flops(config, 800, 200)
    assert found["entropy"] == entropy_flops(entropy, 800) / 800
    assert {name: found[name] for name in ("encoder", "latent", "decoder")} == {
        name: parts[name] / 800 for name in ("encoder", "latent", "decoder")
    }
    assert found["total"] == pytest.approx(sum(value for name, value in found.items() if name != "total"))
    assert flops_per_byte(config, None, 4.0)["entropy"] == 0


def test_longer_patches_cost_less():
    costs = [flops_per_byte(blt_config(), None, size)["total"] for size in (1, 4.5, 8)]
    assert costs == sorted(costs, reverse=True)
