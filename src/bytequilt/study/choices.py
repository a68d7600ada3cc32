"""What a study chose: corpus, models, what is counted, learning rates. The first half of its report."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from ..baselines.config import BaselineConfig
from ..codec import VOCAB_SIZE
from ..config import BLTConfig, StackConfig
from .corpus import LEARN, LINE
from .plan import Known, Run, tries
from .recipe import Contender, Rate, Study, Sweep
from .table import Row
from .words import amount, grid, listed, named, scaled, settings

ALL_SOURCES = {"train", "val"}


def corpus(study: Study, facts: Row, rows: Iterable[Row]) -> list[str]:
    """What was read, what was held out, and how much of it recurs."""
    scored = max((row["test_bytes"] for row in rows if not row["search"]), default=facts["test_bytes"])
    part = "" if scored == facts["test_bytes"] else f", of which {scaled(scored, 'B')} were scored"
    found = [
        f"Split `{facts['split']}`. Training text: {_sources(study.data.train)}, {scaled(facts['train_bytes'], 'B')}. "
        f"Held-out text, which learning rates are chosen on: "
        f"{_sources(study.data.val) or f'every {study.data.val_every}th training document'}, "
        f"{scaled(facts['val_bytes'], 'B')}. "
    ]
    if study.test:
        found[0] += f"Test text, which models are compared on: {_sources(study.test)}, "
    else:
        found[0] += "**There is no test text apart: models are compared on the held-out text, too**, "
    found[0] += f"{scaled(facts['test_bytes'], 'B')}{part}."
    if others := settings(study.data.model_dump(exclude=ALL_SOURCES, exclude_defaults=True)):
        found.append(f"Other settings of the corpus: {others}.")
    found.append(
        f"{facts['overlap']:.2%} of the held-out and test bytes stand in the training text, too, "
        f"as lines of {LINE} bytes or more."
    )
    return found


def entropy(study: Study, rows: Sequence[Row]) -> list[str]:
    """The entropy model that all who patch by entropy share, and what its training took."""
    if not any(model.patching and model.patching.needs_entropy for model in study.models.values()):
        return ["No model patches by entropy, so there is no entropy model."]
    if study.entropy_init is not None:
        return [f"The entropy model is that of {named(study.entropy_init)}, not trained here."]
    assert study.entropy is not None
    assert study.entropy_train is not None
    train = study.entropy_train
    size = train.steps * train.accumulate * train.rows * train.row_bytes
    spent = 3 * size * max((row["flops_per_byte"].get("entropy", 0.0) for row in rows), default=0.0)
    allowed = [budget.flops for budget in study.budgets.values() if budget.flops]
    took = f": some {scaled(spent, 'FLOPs')}" if spent else ""
    if spent and allowed:
        took += f", {spent / min(allowed):.2g} times the smallest budget of a model"
    return [
        f"All models that patch by entropy share one entropy model ({shape(study.entropy)}), trained once on "
        f"{scaled(size, 'B')} at most{took}. That is not counted in any model's training, since every size and seed "
        "uses it.",
        f"Its training: {settings(train.model_dump(exclude_defaults=True))}.",
    ]


def models(study: Study, rows: Sequence[Row]) -> list[str]:
    """What each model reads, and its networks."""
    ids = {row["model"]: row["vocabulary"] for row in rows}
    reading = [
        [name, _reads(model), f"{ids[name]:,}" if name in ids else "", _differs(model)]
        for name, model in study.models.items()
    ]
    parameters = {(row["model"], row["size"]): row["parameters"] for row in rows}
    networks = [
        [name, *(_network(study, name, size, parameters, ids) for size in study.budgets)] for name in study.models
    ]
    return [
        grid(["model", "reads", "vocabulary", "differs in"], reading, left=4),
        "Layers x width, and parameters with those of look-up tables in brackets (embeddings, hashed n-grams). A BLT "
        "is given as encoder, latent transformer and decoder, its parameters without the entropy model.",
        grid(["model", *study.budgets], networks, left=1 + len(study.budgets)),
        f"Training of all: {settings(study.train)}. `row_bytes` counts ids, of bytes or of tokens. What is not "
        "named here has its default; the networks in full are in [results.json](results.json).",
    ]


def counting() -> list[str]:
    """What a FLOP is, here."""
    return [
        "- A multiply-add is two FLOPs. Counted are matrix products, and attention over the keys that a query may see; "
        "embeddings, hash look-ups, norms, activations and softmax count nothing.",
        "- Training is three forward passes, and one of the entropy model, which prepares the training text.",
        "- The output head, which grows with the vocabulary, is counted; figures without it stand beside.",
        "- FLOPs of inference are of a forward pass, per byte of text, with the entropy model, also shown apart.",
    ]


def learning_rates(study: Study, rows: Sequence[Row]) -> list[str]:
    """The search: its rule, all tries and what they came to, and where its grid was too narrow."""
    paragraphs, bpb = [], known(rows)
    searches = {model: found for model in study.models if (found := tries(study, model, bpb))[0]}
    if searches and (sweep := study.sweep):
        lines = [line for model, (asked, best) in searches.items() for line in _tried(model, sweep, asked, best, bpb)]
        start = sweep.middle
        paragraphs = [
            f"Each model was searched at its smallest size, with {sweep.share:g} of that budget, for the rate with the "
            f"lowest held-out BPB: from {start.lr:g}, with {start.hash_lr_factor:g} times that for embeddings and hash "
            "tables, to the best neighbour on the grid, until none is better. All sizes of a model have its rates. "
            "Held-out BPB of all tries, by rate and multiple, the chosen one bold:",
            grid(["model", "embeddings", *(f"{lr:g}" for lr in sorted(sweep.lr))], lines),
        ]
        if edges := [edge for model, (_, best) in searches.items() if best for edge in _edges(model, sweep, best)]:
            paragraphs.append(
                f"**Warning:** the best rate lies at the edge of the grid for {listed(edges)}. A rate beyond it may be "
                "better, and these models with it."
            )
    if given := [_given(name, model, rows) for name, model in study.models.items() if name not in searches]:
        paragraphs.append(f"Not searched for: {listed(given)}.")
    return paragraphs


def known(rows: Iterable[Row]) -> Known:
    """What the tries among the results came to."""
    return {run_of(row): row["val_bpb"] or math.inf for row in rows if row["search"]}.get


def shape(stack: StackConfig) -> str:
    """A stack in one line."""
    window = f", window {stack.window}" if stack.window else ""
    return f"{stack.layers} layer{'s' * (stack.layers > 1)} of width {stack.dim}, {stack.heads} heads{window}"


def budgets(study: Study) -> str:
    """The budgets, and how often each is spent."""
    return "; ".join(
        f"**{size}**, {amount(budget.amounts)}, {len(budget.seeds)} seed{'s' * (len(budget.seeds) > 1)}"
        for size, budget in study.budgets.items()
    )


def run_of(row: Row) -> Run:
    """The run that a row is the result of."""
    rate = Rate(row["lr"], row["hash_lr_factor"]) if row["search"] else None
    return Run(row["model"], row["size"], row["seed"], rate)


def _tried(model: str, sweep: Sweep, asked: Sequence[Run], best: Run | None, bpb: Known) -> list[list[str]]:
    """Lines of the table of tries: one for each multiple that was tried."""

    def cell(run: Run | None) -> str:
        if run is None:
            return ""
        found = bpb(run)
        said = "missing" if found is None else "diverged" if found == math.inf else f"{found:.3f}"
        return f"**{said}**" if run == best else said

    by_rate = {run.rate: run for run in asked}
    lines = []
    for factor in sorted(sweep.hash_lr_factor):
        cells = [cell(by_rate.get(Rate(lr, factor))) for lr in sorted(sweep.lr)]
        if any(cells):
            lines.append([model, f"{factor:g}", *cells])
    return lines


def _edges(model: str, sweep: Sweep, best: Run) -> list[str]:
    """Where a best rate lies at an edge of its grid, said in words."""
    assert best.rate is not None
    found = []
    for of, at, values in (("", best.rate.lr, sweep.lr), ("x ", best.rate.hash_lr_factor, sweep.hash_lr_factor)):
        if len(values) > 1 and at in (min(values), max(values)):
            found.append(f"{model} ({of}{at:g}, {'lower' if at == min(values) else 'upper'})")
    return found


def _reads(model: Contender) -> str:
    """The units of a model, and who made them."""
    if model.patching is not None:
        rule = model.patching
        aim = f", {rule.target_bytes:g} bytes aimed at" if rule.target_bytes else ""
        named_elsewhere = {"kind", "target_bytes", "sample_bytes"}
        others = settings(rule.model_dump(exclude=named_elsewhere, exclude_defaults=True))
        return f"bytes in patches, rule `{rule.kind}`{aim}{f', {others}' if others else ''}"
    if model.tokenizer is not None:
        kept = "all ranks" if model.vocabulary is None else f"the first {model.vocabulary:,} ranks"
        return f"tokens: {kept} of {named(model.tokenizer)}, made by others on other text"
    if model.vocabulary is not None:
        return f"tokens: {model.vocabulary:,} ranks learnt here, from {LEARN / 1e6:g} MB of the training text at most"
    return "bytes"


def _differs(model: Contender) -> str:
    """What a model has of its own in network and training."""
    return ", ".join(filter(None, [settings(model.change), settings(model.train)]))


def _network(
    study: Study, name: str, size: str, parameters: Mapping[tuple[str, str], int], ids: Mapping[str, int]
) -> str:
    if size not in study.sizes(name):
        return ""
    config = study.network(name, size)
    stacks: list[Any] = (
        [config.encoder, config.latent, config.decoder] if isinstance(config, BLTConfig) else [config.network]
    )
    words = ", ".join(f"{stack.layers} x {stack.dim}" for stack in stacks)
    if (name, size) not in parameters:
        return words
    tables = scaled(_looked_up(config, ids[name]))
    return f"{words}: {scaled(parameters[name, size])} ({tables})"


def _looked_up(config: BLTConfig | BaselineConfig, ids: int) -> int:
    """Parameters that are looked up rather than multiplied with."""
    if isinstance(config, BLTConfig):
        return (VOCAB_SIZE + config.hash.tables * config.hash.rows) * config.encoder.dim
    return ids * config.network.dim


def _given(name: str, model: Contender, rows: Sequence[Row]) -> str:
    """A model whose learning rate is given or another's, and the rate where it is known."""
    rate = next((f": {row['lr']:g}" for row in rows if row["model"] == name), "")
    return f"{name} ({f'as {model.lr_of}' if model.lr_of else 'given'}{rate})"


def _sources(names: Sequence[str]) -> str:
    return listed([named(name) for name in names])
