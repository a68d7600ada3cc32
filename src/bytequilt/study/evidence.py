"""How sure differences between models are: intervals from the documents of the test text and from seeds.

Documents are drawn again, the same ones for all models: pairs stay pairs. Seeds are few, and drawing two or three again
would make intervals too narrow. So what they add is drawn from Student's t: the variance between seeds is pooled over
all models of a size, and has as many degrees of freedom as there are seeds beyond the first of each model.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

DRAWS = 4000
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
ALIKE = 0.02  # parameters, and bytes, that differ by no larger share are equal
POINTS = 3  # sizes that a fit needs

Place = tuple[str, str]
"""Model and size."""
Bits = Mapping[Place, np.ndarray]
"""Bits of each document under each seed of a model: (seeds, documents)."""
Draws = dict[Place, np.ndarray]
"""Bits per byte of a model at a size in each draw."""


def draws_of(bits: Bits, bytes_D: np.ndarray, exact: Iterable[str] = (), count: int = DRAWS) -> Draws:
    """Bits per byte in each of `count` draws of documents and seeds, the same ones for all models.

    `exact` are models without chance. Sizes at which no model has two seeds are left out: their noise is unknown.
    """
    rng, exact = np.random.default_rng(0), set(exact)
    documents = len(bytes_D)
    weights_RD = rng.multinomial(documents, np.full(documents, 1 / documents), count).astype(float)
    text_R, draws = weights_RD @ bytes_D, Draws()
    for size in dict.fromkeys(size for _, size in bits):
        here = {place: seeds for place, seeds in bits.items() if place[1] == size}
        trained = [seeds.sum(1) / bytes_D.sum() for (model, _), seeds in here.items() if model not in exact]
        freedom = sum(len(bpb) - 1 for bpb in trained)
        if not freedom:
            continue
        deviation = (sum(((bpb - bpb.mean()) ** 2).sum() for bpb in trained) / freedom) ** 0.5
        deviation_R = deviation / np.sqrt(rng.chisquare(freedom, count) / freedom)
        for place, seeds in here.items():
            noise_R = 0.0 if place[0] in exact else deviation_R * rng.standard_normal(count) / len(seeds) ** 0.5
            draws[place] = weights_RD @ seeds.mean(0) / text_R + noise_R
    return draws


def interval(values_R: np.ndarray) -> dict[str, float]:
    """Both ends of the 95 % interval."""
    low, high = np.percentile(values_R, LEVEL)
    return {"low": round(float(low), 5), "high": round(float(high), 5)}


def differences(rows: Sequence[Mapping[str, Any]], draws: Draws, blts: Sequence[str]) -> list[dict[str, Any]]:
    """Each BLT against each other model at each size, in bits per byte: below zero, the BLT is better.

    A pair of equal budgets is of matching `flops`; one whose parameters are equal, too, is also of matching
    `parameters`. A model that counts is of matching `bytes` where it has read as much text, and else no rival. `best`
    marks the best model that is no BLT. Without seeds there is no interval: `low` and `high` are None.
    """
    groups = _groups(rows)
    mean = {place: _mean(group, "test_bpb") for place, group in groups.items()}
    lines = []
    for (model, size), (against, at) in product(groups, groups):
        if model not in blts or size != at or model == against:
            continue
        pair, rival = groups[model, size], groups[against, size]
        known = (model, size) in draws and (against, size) in draws
        ends = interval(draws[model, size] - draws[against, size]) if known else {"low": None, "high": None}
        value = {"difference": round(mean[model, size] - mean[against, size], 5), **ends}
        line = {"model": model, "against": against, "size": size, "seeds": [len(pair), len(rival)]}
        lines += [line | {"matching": matching} | value for matching in _matchings(pair, rival)]
    return [line | {"best": line in _best(lines, mean, blts)} for line in lines]


def _best(lines: Sequence[dict[str, Any]], mean: Mapping[Place, float], blts: Sequence[str]) -> list[dict[str, Any]]:
    """The lines against the best other model of each model, size and matching."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        key = line["model"], line["size"], line["matching"]
        better = key not in chosen or mean[line["against"], line["size"]] < mean[chosen[key]["against"], line["size"]]
        if line["against"] not in blts and better:
            chosen[key] = line
    return list(chosen.values())


def verdict(lines: Iterable[Mapping[str, Any]]) -> str:
    """What the decision rule says of a BLT at a size, given its lines there that have intervals.

    `ahead`: the intervals against the best others lie below zero under both matchings; `behind`: under either of them
    above zero; else `open`.
    """
    best = {line["matching"]: line for line in lines if line["best"] and line["low"] is not None}
    decisive = [best[matching] for matching in ("flops", "parameters") if matching in best]
    if len(decisive) == 2 and all(line["high"] < 0 for line in decisive):
        return "ahead"
    return "behind" if any(line["low"] > 0 for line in decisive) else "open"


def fits(rows: Sequence[Mapping[str, Any]], draws: Draws, blts: Sequence[str]) -> list[dict[str, Any]]:
    """The slopes b of ln bpb = a - b ln C over sizes, C training FLOPs, and how far those of BLTs are from others'.

    A model needs three sizes; two are compared over the sizes that both have. `against` is None for a slope itself.
    """
    groups = _groups(rows)
    cost = {place: _mean(group, "train_flops") for place, group in groups.items()}
    sizes = {model: [s for m, s in groups if m == model and (m, s) in draws and cost[m, s]] for model, _ in groups}
    lines = []
    for model, other in product(sizes, [None, *sizes]):
        shared = [size for size in sizes[model] if other is None or size in sizes[other]]
        if len(shared) < POINTS or other == model or (other and model not in blts):
            continue
        slopes_R = _slopes(model, shared, cost, draws)
        value = _slopes(model, shared, cost, {place: _mean(groups[place], "test_bpb") for place in groups})
        if other:
            slopes_R = slopes_R - _slopes(other, shared, cost, draws)
            value -= _slopes(other, shared, cost, {place: _mean(groups[place], "test_bpb") for place in groups})
        lines.append(
            {"model": model, "against": other, "sizes": shared, "slope": round(float(value), 5)} | interval(slopes_R)
        )
    return lines


def _slopes(model: str, sizes: Sequence[str], cost: Mapping[Place, float], bpb: Mapping[Place, Any]) -> Any:
    """-d ln bpb / d ln C by least squares, for a number each or for draws."""
    x = np.log([cost[model, size] for size in sizes])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return -sum(weight * np.log(bpb[model, size]) for weight, size in zip(x, sizes, strict=True))


def _groups(rows: Sequence[Mapping[str, Any]]) -> dict[Place, list[Mapping[str, Any]]]:
    """The runs of each model and size, tries left out."""
    groups: dict[Place, list[Mapping[str, Any]]] = {}
    for row in rows:
        if not row["search"]:
            groups.setdefault((row["model"], row["size"]), []).append(row)
    return groups


def _mean(group: Sequence[Mapping[str, Any]], field: str) -> float:
    return sum(row[field] for row in group) / len(group)


def _matchings(pair: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """In what two models are equal."""
    if not rival[0]["train_flops"]:
        yield from ["bytes"] if _alike(pair, rival, "trained_bytes") else []
        return
    yield "flops"
    if _alike(pair, rival, "parameters"):
        yield "parameters"


def _alike(pair: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]], field: str) -> bool:
    a, b = pair[0][field], rival[0][field]
    return abs(a - b) <= ALIKE * max(a, b)
