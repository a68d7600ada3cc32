"""Who wins a study, in sentences that its numbers make."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from .recipe import Study
from .table import Spread, Summary
from .words import amount, listed, scaled, seconds

TIE = 0.005  # bits per byte: less is no difference worth a word


@dataclass(frozen=True)
class Gap:
    """By how many bits per byte a model is above another: below zero, it is the better one."""

    mean: float
    low: float
    """Of its best seed beside the other's worst."""
    high: float
    share: float
    """Of the other's bits."""

    @classmethod
    def between(cls, one: Spread, other: Spread) -> "Gap":
        mean = one.mean - other.mean
        return cls(mean, one.low - other.high, one.high - other.low, mean / other.mean)

    @property
    def side(self) -> int:
        """-1 ahead, 1 behind, 0 a tie: below `TIE`, or ranges over seeds that meet."""
        return 0 if abs(self.mean) < TIE or self.low <= 0 <= self.high else 1 if self.mean > 0 else -1

    def same_as(self, other: "Gap") -> bool:
        """Whether the two differ by as little as makes a tie."""
        return abs(self.mean - other.mean) < TIE or (self.low <= other.high and other.low <= self.high)


def subject_of(study: Study) -> str | None:
    """The model that all others are set beside: the first that patches by entropy, else the first that patches."""
    patching = {name: model.patching for name, model in study.models.items() if model.patching}
    return next((name for name, rule in patching.items() if rule.needs_entropy), next(iter(patching), None))


def winners(study: Study, found: Summary) -> list[str]:
    """A paragraph a budget: the best model, and by how much the subject is ahead of the others or behind."""
    paragraphs = []
    for size in study.budgets:
        bpb = _at(found, size)
        if not bpb:
            continue
        best, *rest = ranking(bpb)
        level = [model for model in rest if Gap.between(bpb[model], bpb[best]).side == 0]
        text = f"**{size}**, {amount(study.budgets[size].amounts)}: {best} "
        if not rest:
            text += f"is alone here, with {bpb[best].mean:.3f} bits per byte."
        elif level:
            text += f"has the fewest bits per byte, {bpb[best].mean:.3f}, in a tie with {listed(level)}."
        else:
            ahead = Gap.between(bpb[best], bpb[rest[0]])
            text += f"wins with {bpb[best].mean:.3f} bits per byte, {_size(ahead)} ahead of {rest[0]}."
        paragraphs.append(text + _standing(subject_of(study), bpb))
    return paragraphs


def trends(study: Study, found: Summary) -> list[str]:
    """An item for each model that has two sizes with the subject: how the gap changes from the first to the last."""
    items, subject = [], subject_of(study)
    if subject is None:
        return []
    for other in study.models:
        sizes = [size for size in study.budgets if {(subject, size), (other, size)} <= found.keys()]
        gaps = [Gap.between(_at(found, size)[subject], _at(found, size)[other]) for size in sizes]
        if other != subject and len(gaps) > 1:
            places = listed([f"{_place(gap)} at {size}" for gap, size in zip(gaps, sizes, strict=True)])
            items.append(f"- {subject} beside {other}: {places}. {trend(gaps)}")
    return items


def trend(gaps: Sequence[Gap]) -> str:
    """What becomes of a gap over two or more sizes, told by its ends."""
    first, last = gaps[0], gaps[-1]
    name = "lead" if first.side < 0 else "deficit"
    match first.side, last.side:
        case 0, 0:
            return "A tie at both ends."
        case 0, side:
            return f"The tie becomes a {'lead' if side < 0 else 'deficit'}."
        case _, 0:
            return f"The {name} closes to a tie."
        case one, other if one != other:
            return f"The {name} turns into a {'deficit' if first.side < 0 else 'lead'}."
    if first.same_as(last):
        return f"The {name} stays about the same."
    shrinks = abs(last.mean) < abs(first.mean)
    steady = all((abs(b.mean) < abs(a.mean)) == shrinks for a, b in pairwise(gaps))
    return f"The {name} {'shrinks' if shrinks else 'grows'}{'' if steady else ', if not steadily'}."


def costs(study: Study, found: Summary) -> list[str]:
    """An item a budget with several models: which is the cheapest to run, which the fastest to train."""
    items = []
    for size, budget in study.budgets.items():
        bpb = _at(found, size)
        if len(bpb) > 1:
            best = ranking(bpb)[0]
            sentences = [_least(found, size, best, "inference_flops", "Cheapest to run", _flops)]
            if budget.seconds is None:
                sentences.append(_least(found, size, best, "seconds", "Fastest to train", _seconds))
            items.append(" ".join([f"- {size}:", *sentences]))
    return items


def frontier(found: Summary) -> list[str]:
    """The models and sizes beside which no other is as good in both bits per byte and FLOPs of inference."""
    costs = {at: (one["inference_flops"].mean, one["test_bpb"].mean) for at, one in found.items()}
    return [
        f"{model} at {size}"
        for (model, size), (flops, bits) in sorted(costs.items(), key=lambda place: place[1])
        if not any(f <= flops and b <= bits for at, (f, b) in costs.items() if at != (model, size))
    ]


def ranking(bpb: dict[str, Spread]) -> list[str]:
    """Models from the best to the worst."""
    return sorted(bpb, key=lambda model: bpb[model].mean)


def _standing(subject: str | None, bpb: dict[str, Spread]) -> str:
    """A sentence on the subject beside each of the others; nothing where it is alone, or not there."""
    if subject not in bpb or len(bpb) == 1:
        return ""
    gaps = {name: Gap.between(bpb[subject], one) for name, one in bpb.items() if name != subject}
    ahead, level, behind = ([name for name, gap in gaps.items() if gap.side == side] for side in (-1, 0, 1))
    parts = [
        f"ahead of {listed([f'{name} by {_size(gaps[name])}' for name in ahead])}" if ahead else "",
        f"in a tie with {listed(level)}" if level else "",
        f"behind {listed([f'{name} by {_size(gaps[name])}' for name in behind])}" if behind else "",
    ]
    return f" {subject} is {'; '.join(filter(None, parts))}."


def _least(found: Summary, size: str, best: str, cost: str, praise: str, shown: Callable[[float], str]) -> str:
    """A sentence on who costs least, and on what the best model costs beside it."""
    spent = {model: quantities[cost].mean for (model, at), quantities in found.items() if at == size}
    least = min(spent, key=lambda model: spent[model])
    text = f"{praise}: {least}, {shown(spent[least])}"
    if least == best:
        return f"{text}, which is the best, too."
    return f"{text}; the best, {best}, takes {spent[best] / spent[least]:.2f} times that."


def _flops(value: float) -> str:
    return scaled(value, "FLOPs a byte")


def _seconds(value: float) -> str:
    return f"{seconds(value)} s"


def _at(found: Summary, size: str) -> dict[str, Spread]:
    """Test BPB of the models that are done at a size."""
    return {model: quantities["test_bpb"] for (model, at), quantities in found.items() if at == size}


def _size(gap: Gap) -> str:
    return f"{abs(gap.mean):.3f} bits ({abs(gap.share):.1%})"


def _place(gap: Gap) -> str:
    return {-1: f"{abs(gap.mean):.3f} ahead", 0: "a tie", 1: f"{abs(gap.mean):.3f} behind"}[gap.side]
