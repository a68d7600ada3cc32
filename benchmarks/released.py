"""The released 1B shape, with random weights: converted, loaded, decoded, beside Transformers on the same weights.

    python benchmarks/released.py --folder scratch

Makes a model of 4.6 B parameters in bf16 in Hugging Face's layout, n-gram tables of full size, its threshold set on random
bytes; converts it; then, each in a process of its own, loads either directory and lets it write. Needs 19 GB of disk, and
memory as it prints. Hugging Face's side has no usable cache, so `--their-bytes` is what one waits for.
"""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from random import Random
from typing import Any, Literal

import tyro

PROMPT = Random(1).randbytes(64)


@dataclass
class Options:
    folder: Path
    """Where the two directories are made; what lies there already is used again."""
    bytes: int = 64
    """What our side writes."""
    their_bytes: int = 4
    """What their side writes."""
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("bfloat16", "float32")
    sides: tuple[Literal["ours", "theirs"], ...] = ("ours", "theirs")
    mean_patch: float = 4.5
    threads: int = 1
    seed: int = 0


def main(options: Options) -> None:
    options.folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"threads": options.threads, "options": {k: str(v) for k, v in asdict(options).items()}}
    if not (options.folder / "hf").exists():
        make(options)
    if not (options.folder / "ours").exists():
        found["convert"] = child("convert", options, "")
    for dtype in options.dtypes:
        for side in options.sides:
            found[f"{side} {dtype}"] = child(side, options, dtype)
            print(f"{side} {dtype}: {json.dumps(found[f'{side} {dtype}'])}", file=sys.stderr)
    print(json.dumps(found, indent=2))


def make(options: Options) -> None:
    """Weights as ranges of a few files of noise: a normal of deviation width**-0.5, and norms of ones."""
    import torch

    from bytequilt.config import load_recipe
    from bytequilt.interop import hugging_face, names
    from bytequilt.interop.native import FORMAT, ModelConfig, beside
    from bytequilt.interop.stored import Piece, Stored

    recipe = load_recipe("blt-1b")
    config = ModelConfig(
        format=FORMAT, blt=recipe.model, entropy=recipe.entropy, patching={"kind": "entropy", "threshold": 1.0}
    )
    torch.manual_seed(options.seed)

    def noise(width: int) -> Piece:
        path = options.folder / f"noise-{width}"
        if not path.exists():
            drawn = torch.randn(1 << 22) * width**-0.5 if width > 1 else torch.ones(1 << 22)
            path.write_bytes(drawn.bfloat16().view(torch.uint8).numpy().tobytes())
        return Piece(path, 0, path.stat().st_size)

    tensors = {}
    for name, shape in names.shapes(config):
        size = 2 * torch.Size(shape).numel()
        piece = noise(shape[-1] if len(shape) > 1 else 1)
        pieces = [piece] * (size // piece.size) + [Piece(piece.path, 0, size % piece.size)]
        stored = Stored("BF16", shape, tuple(p for p in pieces if p.size))
        tensors |= {name: stored}
    tensors = names.translate(tensors, config, names.OURS, names.HUGGING_FACE)
    with beside(options.folder / "hf") as partial:
        hugging_face.write_tensors(partial, tensors, lambda _: None)
        for file, content in hugging_face.export(config)[0].items():
            (partial / file).write_text(json.dumps(content))
    calibrate(options)


def calibrate(options: Options) -> None:
    """Give the directory a threshold that opens patches of the wanted length on random bytes."""
    import numpy as np

    from bytequilt import Patcher
    from bytequilt.config import RuleConfig
    from bytequilt.lm import load_entropy

    patcher = Patcher(RuleConfig(threshold=0.0), load_entropy(options.folder / "hf"))
    random = np.random.default_rng(options.seed)
    patcher.calibrate([random.bytes(len(PROMPT) + options.bytes) for _ in range(32)], options.mean_patch)
    path = options.folder / "hf" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patching_threshold": patcher.rule.threshold}))


def child(what: str, options: Options, dtype: str) -> dict[str, Any]:
    """The part of that name in a process of its own, with its peak memory."""
    order = json.dumps({"what": what, "dtype": dtype} | {k: str(v) for k, v in asdict(options).items()})
    done = subprocess.run([sys.executable, __file__, order], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def part(order: dict[str, str]) -> dict[str, Any]:
    """One of convert, ours, theirs; memory in GB of 1e9 bytes, mapped files that were read included."""
    import time

    import torch

    torch.set_num_threads(int(order["threads"]))
    begin, folder = time.perf_counter(), Path(order["folder"])
    found = {"convert": convert, "ours": ours, "theirs": theirs}[order["what"]](folder, order)
    found["seconds"] = time.perf_counter() - begin
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found["peak_gb"] = int(status["VmHWM"].split()[0]) * 1024 / 1e9
    return {name: round(value, 3) if isinstance(value, float) else value for name, value in found.items()}


def convert(folder: Path, order: dict[str, str]) -> dict[str, Any]:
    import bytequilt

    return {"gb": bytequilt.convert(folder / "hf", folder / "ours")["bytes"] / 1e9}


def ours(folder: Path, order: dict[str, str]) -> dict[str, Any]:
    import time

    from bytequilt import load

    begin = time.perf_counter()
    lm = load(folder / "ours", dtype=order["dtype"])
    loaded = time.perf_counter() - begin
    completion = lm.generate(PROMPT, max_bytes=int(order["bytes"]), temperature=1.0, seed=0)
    stats = completion.stats
    return {
        "load_s": loaded,
        "bytes_per_s": stats.bytes_per_second,
        "bytes": stats.bytes,
        "patches": stats.latent_calls,
    }


def theirs(folder: Path, order: dict[str, str]) -> dict[str, Any]:
    import time

    import torch
    from transformers import BltForCausalLM

    from bytequilt.codec import encode

    begin = time.perf_counter()
    model = BltForCausalLM.from_pretrained(folder / "hf", dtype=getattr(torch, order["dtype"]))
    loaded, count = time.perf_counter() - begin, int(order["their_bytes"])
    torch.manual_seed(0)
    begin = time.perf_counter()
    ids_1N = torch.from_numpy(encode(PROMPT))[None]
    written = model.generate(ids_1N, min_new_tokens=count, max_new_tokens=count, do_sample=True, use_cache=False)
    speed = (written.shape[1] - ids_1N.shape[1]) / (time.perf_counter() - begin)
    return {"load_s": loaded, "bytes_per_s": speed, "bytes": count}


if __name__ == "__main__":
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        print(json.dumps(part(json.loads(sys.argv[1]))))
    else:
        main(tyro.cli(Options))
