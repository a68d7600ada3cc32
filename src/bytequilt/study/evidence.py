"""Confidence intervals of differences between models, from the test documents and from training seeds.

Documents are resampled (paired bootstrap): every model is scored on the same resampled documents. Two or three seeds
are too few for resampling; intervals would be too narrow. So noise between seeds is drawn from Student's
t-distribution. Seeds are paired as well: a seed fixes the order of the text for all models, so it moves all of them
together. What a seed does to all models of a size cancels in their differences; what remains is the noise of a single
run, whose variance is pooled over the models of a size (two-way analysis of variance).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import product
from typing import Any

import numpy as np

DRAWS = 4000
LEVEL = (2.5, 97.5)  # percentiles of a 95 % interval
ALIKE = 0.02  # numbers of parameters, or of bytes, count as equal up to this relative difference
POINTS = 3  # number of sizes that a fit needs

ModelSize = tuple[str, str]
"""(model, size)."""
Bits = Mapping[ModelSize, Mapping[int, np.ndarray]]
"""Bits of each test document (documents,) under a model, by seed."""
Draws = dict[ModelSize, np.ndarray]
"""Bits per byte of a model at one size, in each bootstrap draw."""


def evidence(
    rows: Sequence[Mapping[str, Any]],
    bits_of: Callable[[Mapping[str, Any]], Sequence[float]],
    sizes: Sequence[int],
    exact: Iterable[str],
    blts: Sequence[str],
) -> dict[str, list[dict[str, Any]]]:
    """The `differences` and `fits` of a study's rows, and its best differences `without_largest` test document.

    `bits_of` gives the bits of each test document under the run of a row, and `sizes` are the bytes of these documents.
    """
    bits = {key: {row["seed"]: np.array(bits_of(row)) for row in own} for key, own in groups(rows).items()}
    bytes_D, exact = np.array(sizes, dtype=float), set(exact)
    draws = draws_of(bits, bytes_D, exact)
    lines = differences(rows, draws, blts)
    return {
        "differences": lines,
        "fits": fits(rows, draws, blts),
        "without_largest": without_largest(lines, bits, bytes_D, exact),
    }


def without_largest(
    lines: Iterable[Mapping[str, Any]], bits: Bits, bytes_D: np.ndarray, exact: Iterable[str]
) -> list[dict[str, Any]]:
    """The differences to the best trained rivals, with their intervals, if the largest test document is left out."""
    kept_D = np.arange(len(bytes_D)) != bytes_D.argmax()
    decisive = [line for line in lines if line["best"] and line["low"] is not None and line["matching"] != "bytes"]
    if not decisive or not kept_D.any():
        return []
    fewer = {key: {seed: own_D[kept_D] for seed, own_D in own.items()} for key, own in bits.items()}
    bytes_D = bytes_D[kept_D]
    draws, changed = draws_of(fewer, bytes_D, exact), []
    for line in decisive:
        model, rival = ((line[name], line["size"]) for name in ("model", "against"))
        own, other = (np.mean(list(fewer[key].values()), 0).sum() / bytes_D.sum() for key in (model, rival))
        value = {"difference": round(float(own - other), 5)} | interval(draws[model] - draws[rival])
        changed.append(dict(line) | value)
    return changed


def groups(rows: Iterable[Mapping[str, Any]]) -> dict[ModelSize, list[Mapping[str, Any]]]:
    """The runs of each (model, size), without tries."""
    runs: dict[ModelSize, list[Mapping[str, Any]]] = {}
    for row in rows:
        if not row["search"]:
            runs.setdefault((row["model"], row["size"]), []).append(row)
    return runs


def draws_of(bits: Bits, bytes_D: np.ndarray, exact: Iterable[str] = (), count: int = DRAWS) -> Draws:
    """Bits per byte in `count` bootstrap draws; in each draw, all models get the same documents. Models named in
    `exact` have no noise between seeds. A size where no model has two seeds is left out, because its noise is unknown.
    """
    rng, exact = np.random.default_rng(0), set(exact)
    documents = len(bytes_D)
    weights_RD = rng.multinomial(documents, np.full(documents, 1 / documents), count).astype(float)
    text_R, draws = weights_RD @ bytes_D, Draws()
    for size in dict.fromkeys(size for _, size in bits):
        of_size = {model: seeds for (model, at), seeds in bits.items() if at == size}
        trained = {model: seeds for model, seeds in of_size.items() if model not in exact}
        bpb = {model: {k: own_D.sum() / bytes_D.sum() for k, own_D in own.items()} for model, own in trained.items()}
        noise = _seed_noise(bpb, rng, count)
        if noise is None:
            continue
        for model, seeds in of_size.items():
            draws[model, size] = weights_RD @ np.mean(list(seeds.values()), 0) / text_R + noise.get(model, 0.0)
    return draws


def _seed_noise(
    bpb: Mapping[str, Mapping[int, float]], rng: np.random.Generator, count: int
) -> dict[str, np.ndarray] | None:
    """Draws of the noise that seeds add to the mean of each model of one size, from its bits per byte by seed. None if
    no model has two seeds.

    The model is: bits per byte = a number for the model + a number for the seed + noise of the run. If there are too
    few runs for that, the number for the seed is left out.
    """
    runs = [(model, seed, value) for model, own in bpb.items() for seed, value in own.items()]
    seeds = sorted({seed for _, seed, _ in runs})
    is_model = np.array([[model == name for name in bpb] for model, _, _ in runs], dtype=float)
    is_seed = np.array([[seed == number for number in seeds] for _, seed, _ in runs], dtype=float)
    for design in (np.hstack([is_model, is_seed]), is_model):
        if freedom := len(runs) - int(np.linalg.matrix_rank(design)):
            break
    else:
        return None
    values = np.array([value for _, _, value in runs])
    numbers = np.linalg.lstsq(design, values)[0]
    of_run_R = _deviations(values - design @ numbers, freedom, rng, count)
    of_seed = numbers[len(bpb) :] - numbers[len(bpb) :].mean() if design is not is_model else np.zeros(0)
    of_seed_RK = np.zeros((count, len(seeds)))
    if len(of_seed) > 1:
        of_seed_RK = _deviations(of_seed, len(seeds) - 1, rng, count)[:, None] * rng.standard_normal(
            (count, len(seeds))
        )
    return {
        model: of_seed_RK[:, [seeds.index(seed) for seed in own]].mean(1)
        + of_run_R * rng.standard_normal(count) / len(own) ** 0.5
        for model, own in bpb.items()
    }


def _deviations(residuals: np.ndarray, freedom: int, rng: np.random.Generator, count: int) -> np.ndarray:
    """Draws of a standard deviation, given residuals with this number of degrees of freedom. A normal number times such
    a draw is distributed like Student's t."""
    return ((residuals**2).sum() / rng.chisquare(freedom, count)) ** 0.5


def interval(values_R: np.ndarray) -> dict[str, float]:
    """The 95 % interval of the drawn values."""
    low, high = np.percentile(values_R, LEVEL)
    return {"low": round(float(low), 5), "high": round(float(high), 5)}


def differences(rows: Sequence[Mapping[str, Any]], draws: Draws, blts: Sequence[str]) -> list[dict[str, Any]]:
    """Bits per byte of each BLT minus those of each other model of the same size; negative means that the BLT is
    better.

    `matching` names what is equal: `flops` for equal budgets, `parameters` if parameters are equal too, `bytes` for a
    counting model that read the same amount of text. `best` marks the strongest rival that is not a BLT. `low` and
    `high` are the 95 % interval, or None if there are too few seeds.
    """
    runs = groups(rows)
    mean = {key: _mean(group, "test_bpb") for key, group in runs.items()}
    lines = []
    for (model, size), (against, at) in product(runs, runs):
        if model not in blts or size != at or model == against:
            continue
        pair, rival = runs[model, size], runs[against, size]
        known = (model, size) in draws and (against, size) in draws
        ends = interval(draws[model, size] - draws[against, size]) if known else {"low": None, "high": None}
        value = {"difference": round(mean[model, size] - mean[against, size], 5), **ends}
        line = {"model": model, "against": against, "size": size, "seeds": [len(pair), len(rival)]}
        lines += [line | {"matching": matching} | value for matching in _matchings(pair, rival)]
    return [line | {"best": line in _best(lines, mean, blts)} for line in lines]


def _best(
    lines: Sequence[dict[str, Any]], mean: Mapping[ModelSize, float], blts: Sequence[str]
) -> list[dict[str, Any]]:
    """For each model, size and matching, the line of its strongest rival that is not a BLT."""
    chosen: dict[tuple[str, ...], dict[str, Any]] = {}
    for line in lines:
        key = line["model"], line["size"], line["matching"]
        better = key not in chosen or mean[line["against"], line["size"]] < mean[chosen[key]["against"], line["size"]]
        if line["against"] not in blts and better:
            chosen[key] = line
    return list(chosen.values())


def verdict(lines: Iterable[Mapping[str, Any]]) -> str:
    """The verdict on one BLT at one size, from its lines of `differences`. `ahead`: under both matchings, the interval
    against the best rival is below zero. `behind`: under at least one matching, it is above zero. `open`: neither."""
    best = {line["matching"]: line for line in lines if line["best"] and line["low"] is not None}
    decisive = [best[matching] for matching in ("flops", "parameters") if matching in best]
    if len(decisive) == 2 and all(line["high"] < 0 for line in decisive):
        return "ahead"
    return "behind" if any(line["low"] > 0 for line in decisive) else "open"


def fits(rows: Sequence[Mapping[str, Any]], draws: Draws, blts: Sequence[str]) -> list[dict[str, Any]]:
    """Slopes b of the fit ln bpb = a - b ln C over sizes, with C the training FLOPs; and differences between slopes.

    A model needs three sizes, and two models are compared over the sizes of both. Each returned line has the keys
    `model` and `against`. If `against` is None, `slope` is the slope of `model`. Otherwise `model` is a BLT, and
    `slope` is its slope minus that of `against`.
    """
    runs = groups(rows)
    cost, bpb = ({key: _mean(own, field) for key, own in runs.items()} for field in ("train_flops", "test_bpb"))
    sizes = {model: [s for m, s in runs if m == model and (m, s) in draws and cost[m, s]] for model, _ in runs}
    log = {key: np.log(value) for key, value in bpb.items()}
    # linear, because a draw from Student's t may be so far out that bits per byte would be negative
    log_R = {key: log[key] + draw_R / bpb[key] - 1 for key, draw_R in draws.items()}
    lines = []
    for model, other in product(sizes, [None, *sizes]):
        shared = [size for size in sizes[model] if other is None or size in sizes[other]]
        if len(shared) < POINTS or other == model or (other and model not in blts):
            continue
        slopes_R, value = (_slopes(model, shared, cost, logs) for logs in (log_R, log))
        if other:
            slopes_R = slopes_R - _slopes(other, shared, cost, log_R)
            value -= _slopes(other, shared, cost, log)
        lines.append(
            {"model": model, "against": other, "sizes": shared, "slope": round(float(value), 5)} | interval(slopes_R)
        )
    return lines


def _slopes(model: str, sizes: Sequence[str], cost: Mapping[ModelSize, float], logs: Mapping[ModelSize, Any]) -> Any:
    """The slope -d ln bpb / d ln C by least squares, from ln bpb as numbers or as arrays of draws."""
    x = np.log([cost[model, size] for size in sizes])
    x = (x - x.mean()) / ((x - x.mean()) ** 2).sum()
    return -sum(weight * logs[model, size] for weight, size in zip(x, sizes, strict=True))


def _mean(group: Sequence[Mapping[str, Any]], field: str) -> float:
    return sum(row[field] for row in group) / len(group)


def _matchings(pair: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]]) -> list[str]:
    """The quantities in which two models are equal: `flops`, `parameters`, `bytes`."""
    if not rival[0]["train_flops"]:
        return ["bytes"] if _alike(pair, rival, "trained_bytes") else []
    return ["flops", "parameters"] if _alike(pair, rival, "parameters") else ["flops"]


def _alike(pair: Sequence[Mapping[str, Any]], rival: Sequence[Mapping[str, Any]], field: str) -> bool:
    a, b = pair[0][field], rival[0][field]
    return abs(a - b) <= ALIKE * max(a, b)
