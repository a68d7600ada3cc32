"""The released 1B shape, with random weights: converted, loaded, decoded, beside Transformers on the same weights.

    python benchmarks/released.py --folder scratch

Makes a model of 4.6 B parameters in bf16 in Hugging Face's layout, n-gram tables of full size, its threshold set on
random bytes; converts it; then, each in a process of its own, loads either directory and lets it write. Needs 19 GB of
disk, and the memory that it prints. Hugging Face's side has no usable cache: `--their-bytes` is what one waits for.
"""

import json
import subprocess
import sys
import time
from dataclasses import dataclass, replace
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
    part: Literal["", "make", "convert", "ours", "theirs"] = ""
    """Do this part alone, with the first of the types, and print what it found."""


def main(options: Options) -> None:
    if options.part:
        return print(json.dumps(part(options)))
    parts = [] if (options.folder / "hf").exists() else [("make", "")]
    parts += [] if (options.folder / "ours").exists() else [("convert", "")]
    parts += [(side, dtype) for dtype in options.dtypes for side in options.sides]
    found = {}
    for name, dtype in parts:
        key = f"{name} {dtype}".strip()
        found[key] = child(options, name, dtype)
        print(f"{key}: {json.dumps(found[key])}", file=sys.stderr)
    print(json.dumps({"threads": options.threads, "mean_patch": options.mean_patch} | found, indent=2))


def make(options: Options) -> dict[str, Any]:
    """Weights as rows of a few files of noise: a normal of deviation width**-0.5, and norms of ones."""
    import torch
    from safetensors.torch import save_file

    from bytequilt.config import load_recipe
    from bytequilt.files import replacing_folder, write_json
    from bytequilt.interop import hugging_face, names
    from bytequilt.interop.native import FORMAT, ModelConfig
    from bytequilt.interop.stored import Rows, Stored

    recipe = load_recipe("blt-1b")
    config = ModelConfig(
        format=FORMAT, blt=recipe.model, entropy=recipe.entropy, patching={"kind": "entropy", "threshold": 1.0}
    )
    torch.manual_seed(0)
    options.folder.mkdir(parents=True, exist_ok=True)

    def noise(width: int) -> Rows:
        path = options.folder / f"noise-{width}"
        rows = (1 << 22) // width
        if not path.exists():
            drawn = torch.randn(rows, width) * width**-0.5 if width > 1 else torch.ones(rows)
            save_file({"noise": drawn.bfloat16()}, path)
        return Rows(path, "noise", 0, rows)

    tensors = {}
    for name, shape in names.shapes(config):
        part = noise(shape[-1] if len(shape) > 1 else 1)
        whole, left = divmod(shape[0], part.end)
        tensors[name] = Stored("BF16", shape, (part,) * whole + ((replace(part, end=left),) if left else ()))
    tensors = names.translate(tensors, config, names.OURS, names.HUGGING_FACE)
    with replacing_folder(options.folder / "hf", replace=False) as partial:
        hugging_face.write_tensors(partial, tensors, lambda _: None)
        for file, content in hugging_face.export(config, {"BF16"})[0].items():
            write_json(partial / file, content)
        calibrate(partial, options)
    return {"gb": sum(stored.size for stored in tensors.values()) / 1e9}


def calibrate(folder: Path, options: Options) -> None:
    """Give the directory a threshold that opens patches of the wanted length on random bytes."""
    from bytequilt import Patcher
    from bytequilt.config import RuleConfig
    from bytequilt.interop.directory import load_entropy

    patcher = Patcher(RuleConfig(threshold=0.0), load_entropy(folder))
    random = Random(0)
    patcher.calibrate([random.randbytes(len(PROMPT) + options.bytes) for _ in range(32)], options.mean_patch)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"patching_threshold": patcher.rule.threshold}))


def child(options: Options, name: str, dtype: str) -> dict[str, Any]:
    """The part of that name in a process of its own, whose memory is its alone."""
    fields = ("folder", "bytes", "their_bytes", "mean_patch", "threads")
    flags = [f"--{field.replace('_', '-')}={getattr(options, field)}" for field in fields]
    command = [sys.executable, __file__, *flags, "--part", name, "--dtypes", dtype or "float32"]
    return json.loads(subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()[-1])


def part(options: Options) -> dict[str, Any]:
    """Memory is in GB of 1e9 bytes, files that are mapped and were read included."""
    import torch

    torch.set_num_threads(options.threads)
    begin = time.perf_counter()
    found = {"make": make, "convert": convert, "ours": ours, "theirs": theirs}[options.part](options)
    found["seconds"] = time.perf_counter() - begin
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    found["peak_gb"] = int(status["VmHWM"].split()[0]) * 1024 / 1e9
    return {name: round(value, 3) for name, value in found.items()}


def convert(options: Options) -> dict[str, Any]:
    import bytequilt

    return {"gb": bytequilt.convert(options.folder / "hf", options.folder / "ours")["bytes"] / 1e9}


def ours(options: Options) -> dict[str, Any]:
    from bytequilt import load

    begin = time.perf_counter()
    lm = load(options.folder / "ours", dtype=options.dtypes[0])
    loaded = time.perf_counter() - begin
    stats = lm.generate(PROMPT, max_bytes=options.bytes, temperature=1.0, seed=0).stats
    return {
        "load_s": loaded,
        "bytes_per_s": stats.bytes_per_second,
        "bytes": stats.bytes,
        "latent_calls": stats.latent_calls,
    }


def theirs(options: Options) -> dict[str, Any]:
    import torch
    from transformers import BltForCausalLM

    from bytequilt.codec import encode

    begin = time.perf_counter()
    model = BltForCausalLM.from_pretrained(options.folder / "hf", dtype=getattr(torch, options.dtypes[0]))
    loaded, count = time.perf_counter() - begin, options.their_bytes
    torch.manual_seed(0)
    ids_1N = torch.from_numpy(encode(PROMPT))[None]
    begin = time.perf_counter()
    model.generate(ids_1N, min_new_tokens=count, max_new_tokens=count, do_sample=True, use_cache=False)
    return {"load_s": loaded, "bytes_per_s": count / (time.perf_counter() - begin), "bytes": count}


if __name__ == "__main__":
    main(tyro.cli(Options))
