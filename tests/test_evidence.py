"""Intervals of differences and slopes, on made-up results whose answer is known."""

import numpy as np
import pytest

from bytequilt.study.evidence import differences, draws_of, fits, verdict, without_largest

BYTES = np.random.default_rng(5).integers(200, 4000, 120).astype(float)
COUNTS = {"ppmd": 7, "kn6": 9}  # bytes that they read
FLOPS = {"S": 1e12, "M": 3e12, "L": 9e12}


def made(rng, bpb, seeds, documents, seed_noise=0.01, of_seed=(0.0, 0.0, 0.0)):
    """Bits of documents, by seed, under a model of that mean; documents are as hard for every model, and a seed moves
    every model by `of_seed`."""
    own = rng.normal(0, 0.02, len(BYTES))
    return {k: (bpb + documents + own + of_seed[k] + rng.normal(0, seed_noise)) * BYTES for k in range(seeds)}


def rows_of(bits, parameters):
    return [
        {"model": m, "size": s, "seed": k, "search": False, "test_bpb": seed.sum() / BYTES.sum()}
        | {
            "train_flops": 0.0 if m in COUNTS else FLOPS[s],
            "parameters": parameters[m],
            "trained_bytes": COUNTS.get(m, 7),
        }
        for (m, s), seeds in bits.items()
        for k, seed in seeds.items()
    ]


@pytest.mark.parametrize("truth", [0.0, -0.03])
@pytest.mark.parametrize("common", [0.0, 0.02])
def test_an_interval_holds_the_true_difference_as_often_as_it_says(truth, common):
    """That of the text's source and of all seeds: some 95 of 100 samples."""
    rng, hits = np.random.default_rng(1), 0
    for _ in range(200):
        documents, of_seed = rng.normal(0, 0.3, len(BYTES)), rng.normal(0, common, 3)
        bits = {(m, "S"): made(rng, 2.0 + d, 3, documents, of_seed=of_seed) for m, d in (("a", truth), ("b", 0.0))}
        (line,) = differences(rows_of(bits, {"a": 10, "b": 20}), draws_of(bits, BYTES, count=500), ["a"])
        hits += line["low"] <= truth <= line["high"]
    assert 178 <= hits <= 200


def test_pairing_makes_intervals_narrow_where_documents_differ_in_the_same_way():
    rng = np.random.default_rng(2)
    documents = rng.normal(0, 1.0, len(BYTES))
    bits = {(m, "S"): made(rng, 3.0, 3, documents, 0.001) for m in "ab"}
    (line,) = differences(rows_of(bits, {"a": 1, "b": 1.5}), draws_of(bits, BYTES), ["a"])
    assert line["high"] - line["low"] < 0.03 < 0.1 < np.ptp(np.percentile(draws_of(bits, BYTES)["a", "S"], [2.5, 97.5]))


def test_what_a_seed_does_to_all_models_widens_no_interval_between_them():
    def width(common):
        rng = np.random.default_rng(7)
        of_seed = np.array([-common, 0.0, common])
        bits = {(m, "S"): made(rng, 2.0, 3, 0.0, of_seed=of_seed) for m in "abcd"}
        draws = draws_of(bits, BYTES)
        return np.ptp(np.percentile(draws["a", "S"] - draws["b", "S"], [2.5, 97.5]))

    assert width(0.1) == pytest.approx(width(0.0), rel=0.05)


@pytest.mark.parametrize("seeds", [{"a": (0, 1, 2), "b": (0, 1)}, {"a": (0, 1, 2), "b": (2,)}])
def test_models_with_different_seeds_are_compared_too(seeds):
    rng = np.random.default_rng(8)
    bits = {(m, "S"): {k: own for k, own in made(rng, 2.0, 3, 0.0).items() if k in seeds[m]} for m in "ab"}
    (line,) = differences(rows_of(bits, {"a": 1, "b": 2}), draws_of(bits, BYTES), ["a"])
    assert line["low"] < line["difference"] < line["high"]


def test_without_a_second_seed_anywhere_there_is_no_interval_and_nobody_is_ahead():
    rng = np.random.default_rng(3)
    bits = {(m, "S"): made(rng, bpb, 1, 0.0) for m, bpb in (("a", 1.0), ("b", 2.0))}
    lines = differences(rows_of(bits, {"a": 10, "b": 10}), draws_of(bits, BYTES), ["a"])
    assert [line["matching"] for line in lines] == ["flops", "parameters"]
    assert all(line["low"] is None and line["best"] for line in lines)
    assert verdict(lines) == "open"


def test_ahead_is_who_beats_the_best_under_both_matchings():
    rng = np.random.default_rng(4)
    mean = {"a": 2.0, "weak": 2.5, "small": 2.2, "ppmd": 1.0, "kn6": 0.5}
    bits = {(m, "S"): made(rng, bpb, 1 if m in COUNTS else 3, 0.0) for m, bpb in mean.items()}
    sizes = {"a": 100, "weak": 101, "small": 10, "ppmd": 3, "kn6": 3}

    def lines():
        return differences(rows_of(bits, sizes), draws_of(bits, BYTES, COUNTS), ["a"])

    best = {line["matching"]: line["against"] for line in lines() if line["best"]}
    assert best == {"flops": "small", "parameters": "weak", "bytes": "ppmd"}  # kn6 has read another amount of text
    assert verdict(lines()) == "ahead"
    bits["weak", "S"] = {seed: own - 0.5 * BYTES for seed, own in bits["weak", "S"].items()}  # now level with a
    assert verdict(lines()) == "open"
    bits["weak", "S"] = {seed: own - 0.5 * BYTES for seed, own in bits["weak", "S"].items()}
    assert verdict(lines()) == "behind"


def test_one_document_that_decides_is_told():
    """The model is better on one large document and worse on all others: without it, the sign changes."""
    rng = np.random.default_rng(6)
    bytes_D = np.append(BYTES[:40], BYTES[:40].sum())
    better_D = np.append(np.full(40, 0.1), -0.3)
    bits = {}
    for model, sign in (("a", 1), ("b", 0)):
        bits[model, "S"] = {seed: (2.0 + sign * better_D + rng.normal(0, 1e-3)) * bytes_D for seed in range(3)}
    rows = rows_of(bits, {"a": 1, "b": 1})
    rows = [row | {"test_bpb": row["test_bpb"] * BYTES.sum() / bytes_D.sum()} for row in rows]
    lines = differences(rows, draws_of(bits, bytes_D), ["a"])
    fewer = without_largest(lines, bits, bytes_D, ())
    assert lines[0]["difference"] == pytest.approx(-0.1, abs=0.01)
    assert [line["matching"] for line in fewer] == ["flops", "parameters"]
    for line in fewer:
        assert line["difference"] == pytest.approx(0.1, abs=0.01)
        assert 0 < line["low"] < line["difference"] < line["high"]
    assert verdict(fewer) == "behind" != verdict(lines)


def test_slopes_have_intervals_where_seeds_are_few_and_far_apart():
    rng = np.random.default_rng(9)
    of_seed = (-0.2, 0.0, 0.2)
    bits = {(m, s): made(rng, 1.0, 3, 0.0, of_seed=of_seed) for m in "ab" for s in FLOPS}
    for line in fits(rows_of(bits, {"a": 1, "b": 2}), draws_of(bits, BYTES), ["a"]):
        assert line["low"] < line["slope"] < line["high"]


def test_a_slope_is_that_of_the_law_and_its_interval_holds_it():
    rng, hits = np.random.default_rng(6), 0
    for _ in range(60):
        documents = rng.normal(0, 0.3, len(BYTES))
        bits = {
            (m, s): made(rng, 2.0 * (flops / 1e12) ** -b, 3, documents, 0.004)
            for m, b in (("a", 0.05), ("b", 0.03))
            for s, flops in FLOPS.items()
        }
        lines = fits(rows_of(bits, {"a": 1, "b": 2}), draws_of(bits, BYTES, count=500), ["a"])
        apart = next(line for line in lines if line["against"])
        assert apart["slope"] == pytest.approx(0.02, abs=0.012)
        hits += apart["low"] <= 0.02 <= apart["high"]
    assert hits >= 52
