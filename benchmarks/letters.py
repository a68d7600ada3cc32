"""Letters and numbers: the examples that `letters` learns, what a model answers, and a BPE transformer beside a BLT.

    python benchmarks/letters.py records letters.jsonl --examples 1000000
    python benchmarks/letters.py measure letters --items 200
    python benchmarks/letters.py compare runs/compare --examples 300000

`compare` trains the recipe `letters` and a transformer over the tokens of a BPE, learnt from the same examples, on the
same examples in the same number of steps, from random weights; its width is the one whose FLOPs an example are nearest
to the BLT's. Each answers held-out questions on the way, and all is in `OUT/results.json`. What is interrupted goes on
where it was.
"""

import json
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import tyro
from torch import Tensor

from bytequilt import BLT, LM, Patcher, load
from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import BPE
from bytequilt.config import BaselineConfig, DataConfig, Recipe, StackConfig, load_recipe
from bytequilt.data.batches import Batch
from bytequilt.data.prepare import ingest
from bytequilt.evals.ask import examine
from bytequilt.evals.questions import records
from bytequilt.evals.wordings import LANGUAGES
from bytequilt.files import replacing, write_json
from bytequilt.train.loop import Task, fit
from bytequilt.train.tasks import LanguageTask

RANKS = 4096  # of the BPE: half a vocabulary of 8,192 is left without merges by words as short as these
LAYERS, WIDTHS = 3, range(32, 257, 8)
SAMPLE = 20_000  # examples that the BPE and sizes are learnt from


@dataclass(frozen=True)
class Records:
    """Write questions with their working-out as JSONL, for `bytequilt train letters --data.train FILE`."""

    file: tyro.conf.Positional[Path]
    examples: int = 1_000_000
    seed: int = 0

    def run(self) -> None:
        write_records(self.file, self.examples, self.seed)


@dataclass(frozen=True)
class Measure:
    """Ask held-out questions of all tasks in both languages, and print how many are answered right, as JSON."""

    model: tyro.conf.Positional[str] = "letters"
    items: int = 200
    """Questions of a task in a language."""
    seed: int = 0

    def run(self) -> None:
        begun, right = time.process_time(), examine(load(self.model), self.items, self.seed)
        spent = round(time.process_time() - begun, 1)
        print(
            json.dumps({"model": self.model, "items": self.items, "right": right, "processor_seconds": spent}, indent=2)
        )


@dataclass(frozen=True)
class Compare:
    """Train both models, and write what they answer on the way."""

    out: tyro.conf.Positional[Path]
    examples: int = 300_000
    items: int = 25
    """Questions of a task in a language at each point of a curve."""
    points: int = 6
    sides: tuple[str, ...] = ("blt", "bpe")

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        recipe = load_recipe("letters")
        train = self.out / "examples.jsonl"
        if not train.is_file():
            write_records(train, self.examples, seed=0)
        data = recipe.data.model_copy(update={"train": (str(train),)})
        ingest(data, self.out / "corpus")
        results = {side: self._side(side, recipe, data) for side in self.sides}
        write_json(self.out / "results.json", {"command": sys.argv, "examples": self.examples} | results, indent=2)
        print(json.dumps(results, indent=2))

    def _side(self, side: str, recipe: Recipe, data: DataConfig) -> dict[str, Any]:
        sample = list(islice(records(SAMPLE), SAMPLE))
        texts = [(record["prompt"] + record["text"]).encode() for record in sample]
        size = sum(map(len, texts)) / len(texts)
        blt = LM(BLT(recipe.model), Patcher(recipe.patching.rule(), None), recipe.patching.stride)
        flops = blt.flops(float(recipe.patching.stride or 1), size)["total"] * size
        model = blt if side == "blt" else self._tokens(texts, size, flops)
        units = 1.0 if isinstance(model, LM) else model.config.token_bytes
        row = round(recipe.train.row_bytes / units)
        steps = round(self.examples * (size + 2) / (recipe.train.rows * recipe.train.row_bytes))
        every = max(1, steps // self.points)
        update = {"row_bytes": row, "steps": steps, "eval_every": every, "save_every": every}
        config = recipe.train.model_copy(update=update)
        task = Examined(model, self.items)
        fit(task, model.batches(self.out / "corpus" / "train", config), config, self.out / side, side)
        model.save(self.out / side / "model")
        spent = model.flops(units if side == "bpe" else float(recipe.patching.stride or 1), size)["total"] * size
        points = curve(self.out / side / "metrics.jsonl", self.examples / steps)
        parameters = sum(weight.numel() for weight in model.network.parameters())
        return {"parameters": parameters, "flops_per_example": spent, "items": self.items, "points": points}

    def _tokens(self, texts: list[bytes], size: float, flops: float) -> Baseline:
        """A transformer over the tokens of these texts, of about so many FLOPs an example."""
        saved = self.out / "tokenizer.model"
        if not saved.is_file():
            BPE.learn(texts, RANKS).save(saved)
        vocabulary = BPE.read(saved)
        token_bytes = sum(map(len, texts)) / sum(len(vocabulary.encode(text, bos=False)) for text in texts)

        def of(width: int) -> Baseline:
            stack = StackConfig(dim=width, layers=LAYERS, heads=4, ffn_dim=3 * width)
            config = BaselineConfig(stack=stack, vocabulary=vocabulary.size, token_bytes=token_bytes)
            return Baseline(build(config), vocabulary, config)

        return of(min(WIDTHS, key=lambda width: abs(of(width).flops(token_bytes, size)["total"] * size - flops)))


class Examined:
    """Trains a model as its own task does; held-out measurements are its answers."""

    def __init__(self, model: LM | Baseline, items: int) -> None:
        self.model, self.items, self.task = model, items, LanguageTask(model, [])
        self.network = self.task.network

    def loss(self, batch: Batch) -> Tensor:
        return self.task.loss(batch)

    def bytes_of(self, batch: Batch) -> int:
        return self.task.bytes_of(batch)

    def evaluate(self) -> dict[str, float]:
        right = examine(self.model, self.items)
        shares = {f"{task}, {name}": count / self.items for task, own in right.items() for name, count in own.items()}
        mean = sum(shares.values()) / len(shares)
        return shares | {"val_bpb": 1 - mean, "right": mean}  # the loop shows what it calls held-out: the wrong ones


_: type[Task] = Examined


def curve(metrics: Path, step_examples: float) -> list[dict[str, Any]]:
    """The points at which a model was examined, with examples and processor seconds up to there."""
    points, seconds = [], 0.0
    for line in metrics.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        seconds += record["processor_seconds"]
        if "right" in record:
            names = [name for name in record if name.endswith(tuple(f", {language.name}" for language in LANGUAGES))]
            spent = {"examples": round(record["step"] * step_examples), "processor_seconds": round(seconds, 1)}
            points.append(spent | {"right": record["right"]} | {name: record[name] for name in names})
    return points


def write_records(path: Path, examples: int, seed: int) -> None:
    with replacing(path) as file:
        for record in records(examples, seed):
            file.write((json.dumps(record, ensure_ascii=False) + "\n").encode())


def main() -> None:
    verbs = {"records": Records, "measure": Measure, "compare": Compare}
    chosen = tyro.extras.subcommand_cli_from_dict(verbs, description=__doc__)
    chosen.run()


if __name__ == "__main__":
    main()
