"""The size of models and recipes, as `info` tells it."""

import math

import pytest
from conftest import RULES, blt, entropy_model

from bytequilt import LM, Patcher, UserError
from bytequilt.cli import main
from bytequilt.codec import VOCAB_SIZE
from bytequilt.config import networks
from bytequilt.info import PATCH_BYTES, describe, parameters
from bytequilt.interop import Directory
from bytequilt.interop.directory import write_model
from bytequilt.interop.native import FORMAT, ModelConfig
from bytequilt.view.tables import description

SPACE = """# Words as patches, with an entropy model taken from elsewhere.
{entropy}
[patching]
{patching}
[model]
encoder = {{ dim = 16, layers = 1, heads = 2 }}
latent = {{ dim = 16, layers = 1, heads = 2 }}
decoder = {{ dim = 16, layers = 1, heads = 2 }}
hash = {{ sizes = [] }}
cross_heads = 2
[train]
steps = 1
"""


@pytest.fixture
def entropy_alone(tmp_path):
    network = entropy_model()
    write_model(tmp_path / "entropy", ModelConfig(format=FORMAT, entropy=network.config), None, network)
    return tmp_path / "entropy"


def count(network) -> int:
    return sum(weight.numel() for weight in network.parameters())


def test_parameters_are_those_of_the_networks():
    network, scorer = blt(), entropy_model()
    found = parameters(network.config, scorer.config)
    assert found["total"] == count(network)
    assert found["entropy"] == count(scorer)
    assert found["hash"] == count(network.encoder.hash)


def test_an_entropy_model_alone(entropy_alone):
    found = describe(str(entropy_alone))
    assert found.parameters["entropy"] == count(entropy_model())
    assert {found.parameters[module] for module in ("total", "encoder", "latent", "decoder", "hash")} == {0}
    assert found.flops_per_byte == {}
    description(found)


@pytest.mark.parametrize(("rule", "mean"), [("fixed", 3.0), ("byte", 1.0), ("space", PATCH_BYTES)])
def test_mean_patch_of_a_model_whose_rule_needs_no_entropy(tmp_path, rule, mean):
    LM(blt(), Patcher(RULES[rule], None)).save(tmp_path / "model")
    found = describe(str(tmp_path / "model"))
    assert found.mean_unit_bytes == mean
    assert found.flops_per_byte["entropy"] == 0
    assert found.parameters["entropy"] == 0


def test_a_recipe_counts_the_entropy_model_that_it_takes_over(tmp_path, entropy_alone):
    path = tmp_path / "mine.toml"
    path.write_text(SPACE.format(entropy=f'entropy_init = "{entropy_alone}"', patching="target_bytes = 5.0"))
    found = describe(str(path))
    assert found.parameters["entropy"] == count(entropy_model())
    assert found.parameters["hash"] == 0
    assert found.mean_unit_bytes == 5.0
    path.write_text(SPACE.format(entropy="", patching='kind = "fixed"\nstride = 6'))
    assert describe(str(path)).mean_unit_bytes == 6.0


def test_what_is_neither_model_nor_recipe():
    with pytest.raises(UserError, match="nor a recipe"):
        describe("absent")
    with pytest.raises(UserError, match=r"no recipe at absent\.toml"):
        describe("absent.toml")


def test_people_read_bits_and_see_tables_apart(capfd):
    main(["info", "tiny"])
    out = capfd.readouterr().out
    nats = Directory.find("tiny").config.patching.threshold
    assert f"threshold {nats / math.log(2):.4g} bits" in out
    described = describe("blt-8b")
    main(["info", "blt-8b"])
    assert f"{described.parameters['total'] - described.parameters['hash']:,}" in capfd.readouterr().out


def test_byte_vocabularies_are_the_codecs():
    assert networks.BYTES == VOCAB_SIZE
