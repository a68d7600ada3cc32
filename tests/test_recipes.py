"""Every recipe that ships: short, sound, and of the size that it claims."""

import pytest

from bytequilt.config import Recipe, load_recipe, recipe_path
from bytequilt.info import parameters
from bytequilt.train.checks import complete, described

SHIPPED = sorted(path.stem for path in recipe_path("demo").parent.glob("*.toml"))
PUBLISHED = ("blt-400m", "blt-1b", "blt-2b", "blt-4b", "blt-8b")
# Counted on a meta-device build of the published code; those of the other sizes were never published.
COUNTS = {
    "blt-1b": {
        "total": 4_533_879_808,
        "encoder": 19_406_848,
        "latent": 1_284_608_000,
        "decoder": 157_852_672,
        "hash": 3_072_012_288,
    },
    "blt-8b": {
        "total": 10_553_570_560,
        "encoder": 33_761_280,
        "latent": 6_497_239_040,
        "decoder": 182_554_880,
        "hash": 3_840_015_360,
    },
}


@pytest.mark.parametrize("name", SHIPPED)
def test_recipe_is_short_says_what_it_trains_and_builds(name):
    lines = recipe_path(name).read_text().splitlines()
    assert len(lines) < 40
    assert lines[0].startswith("# ")
    recipe = load_recipe(name)
    if isinstance(recipe, Recipe):  # the others have the shape of the model that they go on with
        assert parameters(recipe.model, recipe.entropy)["total"] > 0


def test_published_shapes_are_there():
    assert set(PUBLISHED) <= set(SHIPPED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_shapes_share_the_entropy_model_and_name_no_data(name):
    recipe = load_recipe(name)
    assert parameters(recipe.model, recipe.entropy)["entropy"] == 99_512_064
    assert recipe.data.train == ()
    assert recipe.patching.target_bytes == 4.5
    train = recipe.train
    assert (train.lr, train.warmup, train.weight_decay, train.clip, train.betas) == (4e-4, 2000, 0.1, 1.0, (0.9, 0.95))
    assert 16e6 < train.rows * train.accumulate * train.row_bytes < 17e6


@pytest.mark.parametrize("name", COUNTS)
def test_published_parameter_counts(name):
    recipe = load_recipe(name)
    found = parameters(recipe.model, recipe.entropy)
    assert {module: found[module] for module in COUNTS[name]} == COUNTS[name]


@pytest.mark.parametrize(("name", "millions"), [("blt-400m", 470), ("blt-4b", 4100)])
def test_recollected_shapes_have_about_the_latent_transformer_of_the_paper(name, millions):
    recipe = load_recipe(name)
    assert parameters(recipe.model, recipe.entropy)["latent"] / 1e6 == pytest.approx(millions, rel=0.05)


@pytest.mark.parametrize("name", ["blt-2b", "blt-4b", "blt-400m"])
def test_recollection_is_owned_up_to(name):
    assert "recollection" in recipe_path(name).read_text()


def test_small_is_the_41_million_of_the_comparison_with_hugging_face():
    recipe = load_recipe("small")
    found = parameters(recipe.model, recipe.entropy)
    assert (found["total"] + found["entropy"]) / 1e6 == pytest.approx(41.0, abs=0.1)


def test_a_book_goes_on_with_the_model_that_ships():
    recipe = complete(load_recipe("book"))
    shipped = described("tiny")
    assert recipe.model == shipped.blt
    assert recipe.patching.kind == shipped.patching.kind
