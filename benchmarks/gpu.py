"""All that needs a GPU, in one call: the tests marked `cuda`, and training, decoding and scoring of three shapes.

Writes gpu.json and gpu.md into a folder. Shapes are those of the recipes `small`, `blt-400m` and `blt-1b`, with random
weights and random bytes. It takes at most 8 minutes: what does not fit into them is named and left out. Without a GPU
it says so and exits with 2.
"""

import gc
import json
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
import tyro
from train_step import random_batch, table

from bytequilt import LM, Patcher
from bytequilt.codec import encode
from bytequilt.config import BLTConfig, EntropyConfig, RuleConfig, load_recipe
from bytequilt.data.batches import Batch
from bytequilt.infer.generate import complete_all
from bytequilt.infer.sampling import Sampling
from bytequilt.model.blt import BLT
from bytequilt.model.entropy import EntropyModel
from bytequilt.model.flops import flops_per_byte
from bytequilt.train.device import arrange
from bytequilt.train.loop import step
from bytequilt.train.optim import optimizers_of
from bytequilt.train.tasks import LanguageTask

ROOT = Path(__file__).parents[1]
RECIPES = {"small": "small", "400M": "blt-400m", "1B": "blt-1b"}
BF16_PEAK = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40": 181e12, "4090": 165e12}  # dense, FLOP/s
DEVICE = "cuda"
TESTS_SECONDS = 150
START = 64  # bytes; enough patches for all functions of a step to be recorded
TEXT = b"The quick brown fox jumps over the lazy dog. " * 12


@dataclass(frozen=True)
class Options:
    """Where to write, and how long to take."""

    out: Path = Path("runs/gpu")
    seconds: float = 470.0
    """After so long no measurement is begun."""
    shapes: tuple[str, ...] = tuple(RECIPES)
    mean_patch: float = 4.5
    decoded: int = 256
    """Bytes of each text of a decoding measurement."""
    scored: int = 200_000
    """Bytes of the document of a scoring measurement."""
    repeats: int = 8


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if not torch.cuda.is_available():
        print("there is no CUDA device here, and everything in this benchmark needs one", file=sys.stderr)
        raise SystemExit(2)
    begun = time.monotonic()
    report: dict[str, Any] = {"machine": torch.cuda.get_device_name(), "torch": torch.__version__}
    report |= {"command": shlex.join(sys.argv), "tests": tests()} | {part: [] for part in PARTS}
    for shape in options.shapes:
        for part, measure in PARTS.items():
            for fast in (False, True) if part != "score" else (True,):
                left = options.seconds - (time.monotonic() - begun)
                report[part].append(attempt(measure, shape, fast, options, left))
                write(report, options.out)
    print(options.out / "gpu.md")


def attempt(measure: Callable, shape: str, fast: bool, options: Options, left: float) -> dict[str, Any]:
    """A measurement, or why there is none: one shape that does not fit must not cost the others. `fast`: whether blocks
    are compiled in training, and steps recorded in decoding."""
    row: dict[str, Any] = {"shape": shape, "compiled" if measure is training else "recorded": fast}
    print(f"{measure.__name__} {shape}{', fast' if fast else ''}", file=sys.stderr)
    try:
        if left < 0:
            raise TimeoutError("no time was left")
        torch.cuda.reset_peak_memory_stats()
        row |= measure(shape, fast, options)
        row["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    except Exception as error:
        row["failed"] = f"{type(error).__name__}: {str(error).splitlines()[0][:200] if str(error) else ''}"
    gc.collect()
    torch.cuda.empty_cache()
    return row


def tests() -> dict[str, Any]:
    """What the tests marked `cuda` say."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "tests/test_cuda.py"]
    try:
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS)
    except subprocess.TimeoutExpired:
        return {"passed": False, "said": [f"the tests took more than {TESTS_SECONDS} s"]}
    return {"passed": ran.returncode == 0, "said": ran.stdout.splitlines()[-20:]}


# ------------------------------------------------------------------------------------------------------ measurements


def training(shape: str, compiled: bool, options: Options) -> dict[str, Any]:
    """Optimizer steps on one batch, under bf16 autocast."""
    recipe = load_recipe(RECIPES[shape])
    config, given = recipe.model, recipe.train
    rows = min(given.rows, 4 if shape == "1B" else given.rows)
    changes = {"rows": rows, "accumulate": 1, "compile": compiled, "precision": "bf16", "device": DEVICE}
    train = given.model_copy(update=changes)
    task = LanguageTask(model(config, None, recorded=False), [])
    chosen = optimizers_of(task.network.train(), train)
    arrange(task.network, train)
    ids_BN, closes_BN = random_batch(rows, train.row_bytes, options.mean_patch)
    batch = Batch.of(ids_BN, closes_BN, torch.ones_like(closes_BN), train.row_patches)
    times = []
    for number in range(options.repeats + 3):
        wait()
        before = time.perf_counter()
        step(task, [batch], chosen, train, True)
        wait()
        times += [time.perf_counter() - before] if number > 2 else []
    speed = ids_BN.numel() / median(times)
    flops = 3 * flops_per_byte(config, None, options.mean_patch, train.row_bytes)["total"]
    return rates(times, ids_BN.numel()) | {"rows": rows, "row_bytes": train.row_bytes, "mfu": mfu(speed * flops)}


def decoding(shape: str, recorded: bool, options: Options) -> dict[str, Any]:
    """Bytes of one text and of 16, after a prompt of 64 bytes, in bf16; the entropy model in fp32. `start_s` is the
    time of the first text of a batcher, START bytes, in which steps are recorded."""
    recipe = load_recipe(RECIPES[shape])
    lm = model(recipe.model, recipe.entropy, recorded)
    lm.model.bfloat16()
    speeds: dict[str, Any] = {}
    decoded = options.decoded if recorded else options.decoded // 8  # plain steps take ten times as long
    for texts in (1, 16):
        batcher, times, rates = lm.batcher(texts), [], []
        prompts = [TEXT[number : number + 64] for number in range(texts)]
        for seed, count in enumerate((START, decoded, decoded)):
            wait()
            before = time.perf_counter()
            sampling = Sampling(max_bytes=count, seed=seed)
            made = complete_all(batcher, [(prompt, sampling) for prompt in prompts])
            wait()
            times.append(time.perf_counter() - before)
            rates.append(sum(len(text.data) for text in made) / times[-1])
        speeds |= {f"bytes_per_s_{texts}": median(rates[1:]), f"start_s_{texts}": times[0]}
    return speeds


def scoring(shape: str, recorded: bool, options: Options) -> dict[str, Any]:
    """Bytes of one long document that are scored, with a patcher in fp32 and the BLT in bf16."""
    recipe = load_recipe(RECIPES[shape])
    lm = model(recipe.model, recipe.entropy, recorded)
    lm.model.bfloat16()
    text, times = TEXT * (options.scored // len(TEXT)), []
    for _ in range(2):
        wait()
        before = time.perf_counter()
        lm.bits_per_byte(text)
        wait()
        times.append(time.perf_counter() - before)
    return {"bytes_per_s": len(text) / times[-1]}


PARTS = {"decode": decoding, "score": scoring, "train": training}  # a process that has compiled may decode more slowly


def model(config: BLTConfig, entropy: EntropyConfig | None, recorded: bool = True) -> LM:
    """A model with random weights on the GPU, its threshold calibrated on a short text."""
    with torch.device("meta"):
        networks = [BLT(config), EntropyModel(entropy)] if entropy else [BLT(config)]
    for network in networks:
        network.to_empty(device=DEVICE)
        network.init_weights()
    patcher = Patcher(RuleConfig(kind="space"))
    if entropy:
        patcher = Patcher(RuleConfig(threshold=0.0), networks[1].eval())
        patcher.rule = RuleConfig(threshold=float(patcher.entropy(ids_of(TEXT)).quantile(0.78)))
    return LM(networks[0], patcher, native=recorded)


def ids_of(text: bytes) -> torch.Tensor:
    return torch.from_numpy(encode(text))[None].to(DEVICE)


def wait() -> None:
    if DEVICE == "cuda":
        torch.cuda.synchronize()


def rates(times: list[float], size: int) -> dict[str, float]:
    speeds = [size / seconds for seconds in times]
    return {"bytes_per_s": median(speeds), "min": min(speeds), "max": max(speeds)}


def mfu(flops: float) -> float | None:
    """Part of the device's bf16 peak, where that is known."""
    name = torch.cuda.get_device_name() if DEVICE == "cuda" else ""
    peak = next((peak for kind, peak in BF16_PEAK.items() if kind in name), None)
    return flops / peak if peak else None


# ------------------------------------------------------------------------------------------------------------ report


def write(report: dict[str, Any], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "gpu.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    lines = [f"# {report['machine']}, torch {report['torch']}", "", f"`{report['command']}`", ""]
    lines += ["Tests: " + ("passed" if report["tests"]["passed"] else "failed"), ""]
    for part in PARTS:
        rows = [row | {"failed": row.get("failed", "")} for row in report[part]]
        names = list(dict.fromkeys(name for row in rows for name in row))
        lines += [
            f"## {part}",
            "",
            "```",
            table([{n: row.get(n) for n in names} for row in rows]) if rows else "",
            "```",
        ]
    (folder / "gpu.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
