"""What fine-tuned models answer: a section of the report of a study."""

from collections.abc import Sequence

from .recipe import FineTune, Study
from .table import Row
from .words import grid, listed, scaled

PARTS = {"held_out": "held out", "longer": "held out, and longer"}


def lessons(study: Study, results: Sequence[Row]) -> list[str]:
    """How models learnt letters and numbers, what they then reach, and what they answer word for word."""
    chosen = study.finetune
    assert chosen is not None
    return [
        *_choices(chosen, results),
        grid(["model", "level", "asked of", *_counts(results), "constant answer"], _accuracies(results), left=3),
        "What they answer in the end, word for word:",
        grid(["question", *(result["model"] for result in results)], _answers(results)),
    ]


def _choices(chosen: FineTune, results: Sequence[Row]) -> list[str]:
    tasks = results[0]["points"][0]["held_out"]["tasks"]
    rates = listed([f"{result['model']} {result['lr']:g}" for result in results])
    spent = listed([f"{r['model']} {scaled(r['points'][-1]['train_flops'], 'FLOPs')}" for r in results])
    return [
        f"Models of size {chosen.size} learnt from the same generated questions and answers, each once: "
        f"{listed(list(tasks))}. They were then asked {chosen.items} questions of each task, about words and numbers "
        f"that no example had, and about longer ones than any example had ({_longer(chosen)}).",
        f"Rates: of {listed([f'{lr:g}' for lr in chosen.lr])}, the one that after {chosen.tried:,} examples cost the "
        f"fewest bits on answers about other training words: {rates}. All examples took {spent}.",
    ]


def _longer(chosen: FineTune) -> str:
    kinds = {"words": "letters", "sentences": "words", "numbers": "digits"}
    spans = {name: (getattr(chosen.lengths, name), getattr(chosen.longer, name)) for name in kinds}
    return "; ".join(f"{b[0]} to {b[1]} {kinds[name]} instead of {a[0]} to {a[1]}" for name, (a, b) in spans.items())


def _counts(results: Sequence[Row]) -> list[str]:
    return [f"{point['examples']:,} examples" for point in results[0]["points"]]


def _accuracies(results: Sequence[Row]) -> list[list[str]]:
    """A line for each model, level and part: the share that is right after each count of examples."""
    rows = []
    for level in results[0]["points"][0]["held_out"]["means"]:
        for part, words in PARTS.items():
            for result in results:
                means = [point[part]["means"][level] for point in result["points"]]
                shares = [f"{mean['accuracy']:.1%}" for mean in means]
                rows.append([result["model"], level, words, *shares, f"{means[0]['constant']:.1%}"])
    return rows


def _answers(results: Sequence[Row]) -> list[list[str]]:
    """A line for each of the questions that are kept, with the answer of each model."""
    lines: dict[str, list[str]] = {}
    for result in results:
        for one in result["points"][-1]["asked"]:
            said = one["answer"].replace("|", "/").replace("`", "'")
            verdict = "right" if one["right"] else "wrong"
            lines.setdefault(one["prompt"].strip().replace("\n", " "), []).append(f'`"{said}` {verdict}')
    return [[f"`{question}`", *said] for question, said in lines.items()]
