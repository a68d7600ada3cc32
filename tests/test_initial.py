"""Weights before training: made once, and the same wherever a network was built."""

import pytest
import torch
from conftest import blt_config
from torch import nn

from bytequilt.baselines.mamba import Mamba, MambaConfig
from bytequilt.config import EntropyConfig, StackConfig
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel
from bytequilt.model.transformer import Transformer

STACK = {"dim": 16, "layers": 2, "heads": 2, "ffn_dim": 24}
NETWORKS = {
    "BLT": lambda: BLT(blt_config()),
    "BLT without hashes": lambda: BLT(blt_config(hash={"sizes": ()})),
    "entropy model": lambda: EntropyModel(EntropyConfig(**STACK)),
    "transformer": lambda: Transformer(StackConfig(**STACK), 300),
    "Mamba": lambda: Mamba(MambaConfig(dim=16, layers=2), 300),
}
OURS = [name for name in NETWORKS if name != "Mamba"]


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_built_on_meta_is_filled_later_with_the_same_weights(name):
    torch.manual_seed(1)
    wanted = NETWORKS[name]()
    torch.manual_seed(1)
    with torch.device("meta"):
        network = NETWORKS[name]()
    network.to_empty(device="cpu")
    for weight in network.parameters():
        nn.init.constant_(weight, torch.nan)
    torch.manual_seed(1)
    network.init_weights()
    for (key, weight), other in zip(network.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.equal(weight, other), key


@pytest.mark.parametrize("name", OURS)
def test_nothing_is_drawn_on_meta(name):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    with torch.device("meta"):
        NETWORKS[name]()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", OURS)
def test_each_weight_is_drawn_once(name, monkeypatch):
    drawn, draw = [], nn.init.trunc_normal_
    monkeypatch.setattr(
        nn.init, "trunc_normal_", lambda weight, **how: drawn.append(weight.numel()) or draw(weight, **how)
    )
    for other in ("kaiming_uniform_", "normal_", "uniform_"):
        monkeypatch.delattr(nn.init, other)
    network = NETWORKS[name]()
    assert sum(drawn) == sum(weight.numel() for weight in network.parameters() if weight.ndim > 1)


def test_deviations_fit_the_inputs():
    network = BLT(
        blt_config(encoder=StackConfig(dim=256, layers=1, heads=2), decoder=StackConfig(dim=256, layers=1, heads=2))
    )
    assert network.encoder.embed.weight.std().item() == pytest.approx(0.987 / 16, rel=0.02)  # cut at 3 deviations
    assert network.encoder.stack.blocks[0].feed_forward.gate_up.weight.std().item() == pytest.approx(
        0.987 / 16, rel=0.02
    )
