"""Letters and numbers: the examples that `letters` learns, what a model answers, and BPE transformers beside the BLT.

    python benchmarks/letters.py records letters.jsonl --examples 1000000
    python benchmarks/letters.py measure letters --items 200
    python benchmarks/letters.py compare runs/compare --sides blt bytes default llama3/tokenizer.model
    python benchmarks/letters.py draw runs/compare/results.json docs/letters.svg

`compare` trains the recipe `letters` and transformers: over single bytes (`bytes`), or over the tokens of a BPE: `own`,
learnt from the same questions, `default`, which ships with the package, or a file of the user's. All have the same
examples in the same order, from random weights, and a transformer has the width whose FLOPs an example are nearest to
the BLT's. Each answers held-out questions on the way, and all is in `OUT/results.json`. What is interrupted goes on
where it was; several processes may each train other sides in one OUT.

- Of a vocabulary those tokens are kept that occur in the questions, and single bytes; another token is cut into its
  bytes. Rows of the others would learn nothing, and of Llama 3's 128,000 they would be 95 % of the FLOPs.
- The learning rate of a transformer is the best of three, each tried for so many steps; the BLT keeps its recipe's.
"""

import json
import sys
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro
from questions import examine, records
from torch import Tensor

from bytequilt import BLT, LM, Patcher, load
from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.networks import baseline_flops
from bytequilt.baselines.tokenizer import Tokenizer
from bytequilt.baselines.vocabulary import BPE
from bytequilt.codec import BOS, EOS, OFFSET, as_bytes
from bytequilt.config import BaselineConfig, Recipe, StackConfig, TrainConfig, load_recipe
from bytequilt.data.batches import Batch
from bytequilt.data.prepare import ingest
from bytequilt.evals.ask import ask, read_question
from bytequilt.evals.wordings import LANGUAGES, TASKS
from bytequilt.files import replacing, write_json
from bytequilt.train.loop import Task, fit
from bytequilt.train.tasks import LanguageTask
from bytequilt.view.figures import saved

RANKS = 4096  # of `own`: half a vocabulary of 8,192 is left without merges by words as short as these
LAYERS, WIDTHS = 3, range(16, 257, 8)
SAMPLE = 20_000  # questions that vocabularies and sizes are learnt from
RATES, TRIAL = (1.5e-3, 3e-3, 6e-3), 300  # learning rates of a transformer, and steps of a trial
KNOWN = (
    "How many r in strawberry?",
    "Spell strawberry",
    "Reverse strawberry",
    "Does strawberry contain r?",
    "Сколько букв р в слове карбюратор?",
    "Which is larger, 380 or 381?",
    "Does 380 come before 381?",
    "Does 381 come before 380?",
)


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
    longer: bool = False
    """Ask about words and numbers that are longer than any in training."""

    def run(self) -> None:
        begun, right = time.process_time(), examine(load(self.model), self.items, self.seed, self.longer)
        spent = round(time.process_time() - begun, 1)
        print(
            json.dumps({"model": self.model, "items": self.items, "right": right, "processor_seconds": spent}, indent=2)
        )


@dataclass(frozen=True)
class Draw:
    """Draw the curves of a comparison, a panel a task, with 95 % intervals over the held-out questions."""

    results: tyro.conf.Positional[Path]
    plot: tyro.conf.Positional[Path]

    def run(self) -> None:
        sides = json.loads(self.results.read_text(encoding="utf-8"))["sides"]
        with saved(self.plot, 11, 5) as figure:
            panels = figure.subplots(2, 4, sharex=True, sharey=True).flat
            for axes, task in zip(panels, TASKS, strict=True):
                axes.set_title(task)
                for name, side in sides.items():
                    examples = [0, *(point["examples"] / 1000 for point in side["points"])]
                    spans = [interval(task_share(point, task), 2 * side["items"]) for point in side["points"]]
                    low, middle, high = zip((0, 0, 0), *spans, strict=True)
                    (line,) = axes.plot(examples, middle, marker="o", markersize=3, label=name)
                    axes.fill_between(examples, low, high, color=line.get_color(), alpha=0.15, linewidth=0)
            figure.supxlabel("thousands of examples")
            figure.supylabel("right, of held-out questions")
            figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper")


def task_share(point: dict[str, Any], task: str) -> float:
    """Of a point of a curve, the share of right answers of a task in both languages."""
    return sum(point[f"{task}, {language.name}"] for language in LANGUAGES) / len(LANGUAGES)


def interval(share: float, count: int, z: float = 1.96) -> tuple[float, float, float]:
    """Lower end, share and upper end of Wilson's interval of a share of so many answers."""
    middle, spread = share + z**2 / (2 * count), z * (share * (1 - share) / count + z**2 / (4 * count**2)) ** 0.5
    return (middle - spread) / (1 + z**2 / count), share, (middle + spread) / (1 + z**2 / count)


@dataclass(frozen=True)
class Compare:
    """Train models on the same examples, and write what they answer on the way and in the end."""

    out: tyro.conf.Positional[Path]
    sides: tuple[str, ...] = ("blt", "own", "default")
    """blt; or the units of a transformer: bytes, or the tokens own, default, or a file of the user's."""
    examples: int = 376_000
    """As many as the shipped `letters` had."""
    items: int = 50
    """Questions of a task in a language at each point of a curve."""
    final_items: int = 200
    """The same in the end."""
    longer_items: int = 100
    """Questions of a task in a language about longer words and numbers than in training, in the end."""
    points: int = 6

    def run(self) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        recipe, train = load_recipe("letters"), self.out / "examples.jsonl"
        if not train.is_file():
            write_records(train, max(1_000_000, self.examples), seed=0)
        data = recipe.data.model_copy(update={"train": (str(train),)})
        ingest(data, self.out / "corpus")
        for side in self.sides:
            folder = self.out / (Path(side).parent.name if "/" in side else side)
            if not (folder / "side.json").is_file():
                write_json(folder / "side.json", self._side(side, folder, recipe), indent=2)
        done = sorted(self.out.glob("*/side.json"))
        results = {path.parent.name: json.loads(path.read_text(encoding="utf-8")) for path in done}
        write_json(self.out / "results.json", {"command": sys.argv, "sides": results}, indent=2)
        print(json.dumps(results, indent=2, ensure_ascii=False))

    def _side(self, side: str, folder: Path, recipe: Recipe) -> dict[str, Any]:
        """Train one model, and all that is measured of it."""
        torch.manual_seed(recipe.train.seed)
        texts = [(record["prompt"] + record["text"]).encode() for record in islice(records(SAMPLE), SAMPLE)]
        size = sum(map(len, texts)) / len(texts)
        blt = LM(BLT(recipe.model), Patcher(recipe.patching.rule(), None), recipe.patching.stride)
        flops = blt.flops(float(recipe.patching.stride or 1), size)["total"] * size
        row, model = recipe.train.row_bytes, blt
        if side != "blt":
            model = like_tokens(self._tokens(side, texts), texts, size, flops)
            row, flops = (
                round(row / model.config.token_bytes),
                model.flops(model.config.token_bytes, size)["total"] * size,
            )
        config = recipe.train.model_copy(update={"row_bytes": row})
        rates = {} if side == "blt" else self._rates(model, config, folder)
        per_step = self._examples_a_step(model, config)
        steps = round(self.examples / per_step)
        every = max(1, steps // self.points)
        update = {
            "steps": steps,
            "eval_every": every,
            "save_every": every,
            "lr": min(rates, key=rates.get, default=config.lr),
        }
        config = config.model_copy(update=update)
        fit(Examined(model, self.items), model.batches(self._shards, config), config, folder, "model")
        parameters = sum(weight.numel() for weight in model.network.parameters())
        return {
            "parameters": parameters,
            "flops_per_example": flops,
            "steps": steps,
            "lr": config.lr,
            "rates": rates,
            "vocabulary": None if side == "blt" else model.config.vocabulary,
            "token_bytes": None if side == "blt" else model.config.token_bytes,
            "items": self.items,
            "points": curve(folder / "metrics.jsonl", per_step),
            "final": {"items": self.final_items, "right": examine(model, self.final_items, seed=1)},
            "longer": {"items": self.longer_items, "right": examine(model, self.longer_items, longer=True)},
            "known": known(model),
        }

    @property
    def _shards(self) -> Path:
        return self.out / "corpus" / "train"

    def _tokens(self, side: str, texts: list[bytes]) -> "Tokens":
        """The vocabulary of a side, kept to what occurs in these texts."""
        if side == "bytes":
            return Tokens(SingleBytes(), texts)
        if side == "own":
            learnt = self.out / "own.model"
            if not learnt.is_file():
                BPE.learn(texts, RANKS).save(learnt)
            side = str(learnt)
        return Tokens(Tokenizer.find(side), texts)

    def _rates(self, model: Baseline, config: TrainConfig, folder: Path) -> dict[float, float]:
        """Bits per byte that were learnt at the end of a trial of each rate."""
        begin = {name: weight.clone() for name, weight in model.network.state_dict().items()}
        reached = {}
        for rate in RATES:
            trial = config.model_copy(update={"steps": TRIAL, "lr": rate, "eval_every": TRIAL, "save_every": TRIAL})
            own = folder / "rates" / f"{rate:g}"
            fit(Examined(model, 0), model.batches(self._shards, trial), trial, own, "model")
            last = [json.loads(line) for line in (own / "metrics.jsonl").read_text("utf-8").splitlines()][
                -TRIAL // 10 :
            ]
            learnt = sum(record["learnt"] for record in last)
            reached[rate] = round(sum(record["bpb"] * record["learnt"] for record in last) / learnt, 4)
            model.network.load_state_dict(begin)
        return reached

    def _examples_a_step(self, model: LM | Baseline, config: TrainConfig) -> float:
        batches = model.batches(self._shards, config)
        return sum(int((batch.ids_BN == BOS).sum()) for batch in islice(batches, 40)) / 40


def like_tokens(vocabulary: "Tokens", texts: list[bytes], size: float, flops: float) -> Baseline:
    """A transformer over these tokens, of about so many FLOPs an example of `size` bytes."""
    token_bytes = sum(map(len, texts)) / sum(len(vocabulary.encode(text, bos=False)) for text in texts)

    def of(width: int) -> BaselineConfig:
        stack = StackConfig(dim=width, layers=LAYERS, heads=4, ffn_dim=3 * width)
        return BaselineConfig(stack=stack, vocabulary=vocabulary.size, token_bytes=token_bytes)

    config = min(map(of, WIDTHS), key=lambda config: abs(baseline_flops(config, size)["total"] * size - flops))
    return Baseline(build(config), vocabulary, config)


class SingleBytes:
    """A tokenizer without merges: each byte is a piece."""

    def pieces(self, text: bytes) -> list[tuple[int, int]]:
        return [(start, 1) for start in range(len(text))]


class Tokens:
    """A tokenizer's tokens as ids of a baseline: those that occur in some texts, and every single byte."""

    def __init__(self, tokenizer: Tokenizer | SingleBytes, texts: Iterable[bytes]) -> None:
        self.tokenizer = tokenizer
        often = Counter(piece for text in texts for piece in self._pieces(text))
        self._texts = [bytes([byte]) for byte in range(256)] + sorted(piece for piece in often if len(piece) > 1)
        self._ids = {text: number for number, text in enumerate(self._texts, OFFSET)}

    @property
    def size(self) -> int:
        return len(self._texts) + OFFSET

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        ids = [BOS] if bos else []
        for piece in self._pieces(as_bytes(text)):
            ids += [self._ids[piece]] if piece in self._ids else [byte + OFFSET for byte in piece]
        return np.array(ids + [EOS] * eos, dtype=np.int64)

    def text(self, id: int) -> bytes:
        return self._texts[id - OFFSET] if id >= OFFSET else b""

    def _pieces(self, text: bytes) -> list[bytes]:
        return [text[start : start + length] for start, length in self.tokenizer.pieces(text)]


class Examined:
    """Trains a model as its own task does; held-out measurements are its answers to so many questions, if any."""

    def __init__(self, model: LM | Baseline, items: int) -> None:
        self.model, self.items, self.task = model, items, LanguageTask(model, [])
        self.network = self.task.network

    def loss(self, batch: Batch) -> Tensor:
        return self.task.loss(batch)

    def bytes_of(self, batch: Batch) -> int:
        return self.task.bytes_of(batch)

    def evaluate(self) -> dict[str, float]:
        if not self.items:
            return {}
        right = examine(self.model, self.items)
        shares = {f"{task}, {name}": count / self.items for task, own in right.items() for name, count in own.items()}
        mean = sum(shares.values()) / len(shares)
        return shares | {"val_bpb": 1 - mean, "right": mean}  # the loop shows what it calls held-out: the wrong ones


_: type[Task] = Examined


def known(model: LM | Baseline) -> dict[str, str]:
    """What a model writes below the questions that it is known for, none of which any example had."""
    replies = ask(model, [read_question(text) for text in KNOWN])
    return {reply.question.text: reply.text for reply in replies}


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
    verbs = {"records": Records, "measure": Measure, "compare": Compare, "draw": Draw}
    chosen = tyro.extras.subcommand_cli_from_dict(verbs, description=__doc__)
    chosen.run()


if __name__ == "__main__":
    main()
