import ast
import importlib
from pathlib import Path

import pytest

import bytequilt
from bytequilt.config import Config, PatchingConfig, RuleConfig, StackConfig, UserError, load_recipe, recipe_path

RECIPES = sorted(path.stem for path in recipe_path("demo").parent.glob("*.toml"))
SMALL = """
[data]
train = ["text.jsonl"]
[patching]
kind = "space"
[model]
encoder = { dim = 32, layers = 1, heads = 2 }
latent = { dim = 32, layers = 1, heads = 2 }
decoder = { dim = 32, layers = 1, heads = 2 }
cross_heads = 2
[train]
steps = 10
"""


def written(tmp_path, text):
    path = tmp_path / "run.toml"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_loads(name):
    assert load_recipe(name).train.steps > 0


def test_a_recipe_is_found_by_path_and_by_name(tmp_path):
    assert load_recipe(written(tmp_path, SMALL)).patching.kind == "space"
    assert load_recipe(str(recipe_path("demo"))) == load_recipe("demo")


FAULTS = {  # what is replaced, by what, and what the message names
    "unknown field": ("steps = 10", "steps = 10\nstesp = 10", r"train\.stesp"),
    "unknown section": ("[train]", "[trian]\n[train]", "trian"),
    "missing field": ("steps = 10", "", r"train\.steps"),
    "wrong type": ("steps = 10", 'steps = "ten"', r"train\.steps"),
    "out of range": ("steps = 10", "steps = 10\nlr = 0", r"train\.lr"),
    "unknown kind": ('"space"', '"spaces"', r"patching\.kind"),
    "nested": (
        "{ dim = 32, layers = 1, heads = 2 }",
        "{ dim = 32, layers = 1, heads = 5 }",
        r"model\.encoder: dim 32 .* heads 5",
    ),
    "field of another kind": ('"space"', '"space"\nstride = 3', "patching: .*'space' takes no `stride`"),
    "nothing to calibrate": ('"space"', '"space"\ntarget_bytes = 4', "patching: .*`target_bytes`"),
    "no entropy model": ('"space"', '"entropy"\ntarget_bytes = 4', r"needs \[entropy\]"),
    "weights without sources": ('["text.jsonl"]', '["text.jsonl"]\nweights = [1, 2]', "data: 2 weights for 1 sources"),
    "not TOML": ("[train]", "[train", "not TOML"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_one_line_that_names_the_field(tmp_path, fault):
    before, after, named = FAULTS[fault]
    assert before in SMALL
    path = written(tmp_path, SMALL.replace(before, after, 1))
    with pytest.raises(UserError, match=named) as caught:
        load_recipe(path)
    assert str(caught.value).startswith(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nowhere.toml", "demmo"])
def test_a_recipe_that_is_not_there_is_named(name):
    with pytest.raises(UserError, match=name):
        load_recipe(name)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "entropy"}, "needs `threshold`"),
        ({"kind": "monotonic", "threshold": 1.0}, "`threshold`"),
        ({"kind": "combined", "threshold": 1.0}, "needs `rise`"),
        ({"kind": "fixed"}, "needs `stride`"),
        ({"kind": "byte", "rise": 1.0}, "takes no `rise`"),
        ({"kind": "space", "max_length": 0}, "max_length"),
    ],
)
def test_a_rule_has_the_fields_of_its_kind_and_no_other(fields, named):
    with pytest.raises(ValueError, match=named):
        RuleConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"kind": "entropy"}, "needs `threshold` or `target_bytes`"),
        ({"kind": "monotonic"}, "needs `rise` or `target_bytes`"),
        ({"kind": "combined", "target_bytes": 4}, "needs `rise`"),
        ({"kind": "entropy", "target_bytes": 4, "rise": 1.0}, "takes no `rise`"),
        ({"kind": "entropy", "target_bytes": 4, "stride": 3}, "takes no `stride`"),
        ({"kind": "entropy", "target_bytes": 4, "threshold": 1.0}, "nothing left to calibrate with `target_bytes`"),
        ({"kind": "fixed", "stride": 3, "threshold": 1.0}, "takes no `threshold`"),
        ({"kind": "fixed"}, "needs `stride`"),
    ],
)
def test_patching_that_contradicts_itself_names_the_field(fields, named):
    with pytest.raises(ValueError, match=named):
        PatchingConfig(**fields)


@pytest.mark.parametrize(
    ("fields", "rule"),
    [
        (
            {"kind": "entropy", "target_bytes": 4, "max_length": 9},
            {"kind": "entropy", "threshold": 1.5, "max_length": 9},
        ),
        ({"kind": "monotonic", "target_bytes": 4}, {"kind": "monotonic", "rise": 1.5}),
        ({"kind": "combined", "rise": 0.1, "target_bytes": 4}, {"kind": "combined", "rise": 0.1, "threshold": 1.5}),
    ],
)
def test_calibration_completes_the_rule(fields, rule):
    patching = PatchingConfig(**fields)
    assert patching.rule(**{patching.calibrated: 1.5}) == RuleConfig(**rule)


@pytest.mark.parametrize("heads", [5, 32])
def test_heads_divide_the_width_evenly(heads):
    with pytest.raises(ValueError, match="even multiple of heads"):
        StackConfig(dim=32, layers=1, heads=heads)


@pytest.mark.parametrize(("dim", "hidden"), [(768, 2048), (1024, 2816), (1280, 3584), (2048, 5632), (4096, 11_008)])
def test_hidden_width_is_that_of_the_released_models(dim, hidden):
    assert StackConfig(dim=dim, layers=1, heads=8).hidden_dim == hidden


# ------------------------------------------------------------------------------------- no field that nothing reads


def configurations():
    """Every subclass of Config, wherever it is defined."""
    for module in ("bytequilt.lm", "bytequilt.study.recipe", "bytequilt.train.distill"):
        importlib.import_module(module)
    found, left = [], [Config]
    while left:
        left += left[0].__subclasses__()
        found.append(left.pop(0))
    return [kind for kind in found[1:] if kind.__module__.startswith("bytequilt.")]


def attributes(tree: ast.AST) -> set[str]:
    """Names that are read: the `steps` of `config.steps`, and of `raw["steps"]`."""
    read = [n for n in ast.walk(tree) if isinstance(getattr(n, "ctx", None), ast.Load)]
    named = {n.attr for n in read if isinstance(n, ast.Attribute)}
    return named | {n.slice.value for n in read if isinstance(n, ast.Subscript) and isinstance(n.slice, ast.Constant)}


def reads() -> tuple[set[str], dict[str, dict[str, set[str]]]]:
    """Attributes that the package reads outside configurations; and those of each method of each configuration."""
    classes = {kind.__name__ for kind in configurations()}
    outside, inside = set(), {}
    for path in Path(bytequilt.__file__).parent.rglob("*.py"):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef) and node.name in classes:
                methods = [f for f in node.body if isinstance(f, ast.FunctionDef)]
                inside[node.name] = {f.name: attributes(f) | names_in_strings(f) for f in methods}
            else:
                outside |= attributes(node)
    return outside, inside


def names_in_strings(method: ast.AST) -> set[str]:
    """Names that `getattr` may read: string constants."""
    return {n.value for n in ast.walk(method) if isinstance(n, ast.Constant) and isinstance(n.value, str)}


OUTSIDE, INSIDE = reads()


@pytest.mark.parametrize("kind", configurations(), ids=lambda kind: kind.__name__)
def test_every_field_is_read_by_someone(kind):
    """Outside configurations, or in a method of one that is called outside. A validator does not count."""
    used = OUTSIDE.union(*(names for methods in INSIDE.values() for m, names in methods.items() if m in OUTSIDE))
    assert set(kind.model_fields) - used == set()
