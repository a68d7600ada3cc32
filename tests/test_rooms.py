"""The design in force: calls go one way, without circles; files and functions are of a size to be read."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import bytequilt

SOURCE = Path(bytequilt.__file__).parent
LEVELS = [
    {"codec", "config", "files"},
    {"model"},
    {"patching"},
    {"native"},
    {"data", "infer", "view", "interop"},
    {"baselines"},
    {"lm", "info"},
    {"train", "evals", "serve"},
    {"study"},
    {"verbs", "cli", "overrides", "__main__"},
]
"""Packages and modules of bytequilt, from those that know nothing of the others to those that know all."""
LEVEL = {room: level for level, rooms in enumerate(LEVELS) for room in rooms}
VAGUE = {"found", "one", "each", "held", "read", "rest"}
"""Names of variables that do not say what they hold."""
FILES = sorted(SOURCE.rglob("*.py"))
MODULES = {".".join(file.relative_to(SOURCE).with_suffix("").parts).removesuffix(".__init__"): file for file in FILES}


def tree(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(module: str) -> set[str]:
    """Modules of bytequilt that a module imports anywhere but under TYPE_CHECKING, as paths inside the package."""
    file = MODULES[module]
    package = module.split(".") if file.name == "__init__.py" else module.split(".")[:-1]
    targets = set()
    for node in at_run_time(tree(file)):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                parents = [part for part in package if part != "__init__"]
                base = parents[: len(parents) - node.level + 1]
                target = ".".join([*base, *(node.module or "").split(".")]).strip(".")
            elif (node.module or "").split(".")[0] == "bytequilt":
                target = (node.module or "").removeprefix("bytequilt").strip(".")
            else:
                continue
            for alias in node.names:
                inner = f"{target}.{alias.name}".strip(".")
                targets.add(inner if inner in MODULES else target)
        elif isinstance(node, ast.Import):
            targets |= {a.name.removeprefix("bytequilt.") for a in node.names if a.name.startswith("bytequilt.")}
    return {target for target in targets if target in MODULES and target not in ("", "__init__", module)}


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those that only a type checker sees."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_run_time(child)


def room(module: str) -> str:
    return module.split(".")[0]


GRAPH = {module: imports(module) for module in MODULES if module != "__init__"}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Circles of a graph, one for each node from which some way leads back to it, by the shortest way."""
    ways = []
    for start in graph:
        paths = [[start]]
        seen: set[str] = set()
        while paths:
            path = paths.pop(0)
            for target in sorted(graph.get(path[-1], set())):
                if target == start:
                    ways.append([*path, start])
                    paths, seen = [], set(graph)
                    break
                if target not in seen:
                    seen.add(target)
                    paths.append([*path, target])
    return ways


def test_the_graph_has_what_everyone_knows():
    """The tests below would pass on an empty graph."""
    assert {"model.encoder", "model.decoder", "model.layers"} <= GRAPH["model.blt"]
    assert "lm" in GRAPH["verbs.text"]  # inside a function
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [
        ["a", "b", "c", "a"],
        ["b", "c", "a", "b"],
        ["c", "a", "b", "c"],
    ]


def test_every_package_has_its_place():
    assert {room(module) for module in GRAPH} <= set(LEVEL)


@pytest.mark.parametrize("name", sorted({room(module) for module in GRAPH}))
def test_calls_go_one_way(name):
    wrong = [
        f"{module} imports {target}"
        for module, targets in GRAPH.items()
        for target in sorted(targets)
        if room(module) == name and room(target) in LEVEL and LEVEL[room(target)] > LEVEL[name]
    ]
    assert not wrong


def test_there_are_no_circles_between_rooms():
    rooms = {room(module): set() for module in GRAPH}
    for module, targets in GRAPH.items():
        rooms[room(module)] |= {room(target) for target in targets} - {room(module)}
    assert not [" -> ".join(way) for way in circles(rooms)]


def test_there_are_no_circles_inside_a_room():
    inside = {module: {t for t in targets if room(t) == room(module)} for module, targets in GRAPH.items()}
    assert not [" -> ".join(way) for way in circles(inside)]


@pytest.mark.parametrize("module", MODULES)
def test_files_and_functions_can_be_read(module):
    file = MODULES[module]
    lines = len(file.read_text(encoding="utf-8").splitlines())
    functions = [node for node in ast.walk(tree(file)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    long = {node.name: size for node in functions if (size := code_lines(node)) > 45}
    assert lines <= 300
    assert not long


def code_lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of a function without its docstring, which for a verb is the help of all its flags."""
    docstring = ast.get_docstring(function, clean=False)
    return (function.end_lineno or 0) - function.lineno + 1 - (docstring.count("\n") + 1 if docstring else 0)


@pytest.mark.parametrize("module", MODULES)
def test_variables_say_what_they_hold(module):
    vague = {f"{name}, line {line}" for name, line in variables(tree(MODULES[module])) if name in VAGUE}
    assert not vague


def variables(module: ast.Module) -> Iterator[tuple[str, int]]:
    """Names that are assigned, taken as arguments or bound by patterns, with their lines."""
    for node in ast.walk(module):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.id, node.lineno
        elif isinstance(node, ast.arg):
            yield node.arg, node.lineno
        elif isinstance(node, ast.MatchAs | ast.MatchStar) and node.name:
            yield node.name, node.lineno
