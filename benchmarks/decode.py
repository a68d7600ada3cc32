"""Decoding, ours beside Hugging Face's BLT and beside Llamas of equal work per byte: bytes per second and memory.

Ours is the `small` shape of `peers.py` with an entropy model, its threshold calibrated to `--mean-patch`. Hugging
Face's BLT has the same weights, entropy model and threshold; it has no cache, so each byte takes a whole forward pass
over all before it, which is timed at `--samples` prefix lengths evenly spaced over the output, and the mean taken for
all. Llamas have random weights and a cache of keys and values; a token counts as `--mean-patch` bytes. Bytes and tokens
are random and forced. Each side lives in a process of its own; they are measured in turn.
"""

import json
import os
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal, Protocol

import tyro
from train_step import machine, peak_mib, receive, table, workers

# torch is imported in the child processes alone: what a parent holds would count in the peak memory of its children.

Setting = tuple[int, int, int]
"""Bytes of the prompt, bytes of the output, rows."""
OURS = ("ours", "ours-lean", "ours-native", "ours-int8")
LLAMAS = {
    "llama-32k": {"layers": 14, "dim": 512, "heads": 8, "ffn_dim": 1408, "vocabulary": 32_000},
    "llama-128k": {"layers": 8, "dim": 384, "heads": 6, "ffn_dim": 1024, "vocabulary": 128_256},
}


@dataclass(frozen=True)
class Options:
    """What to measure."""

    sides: tuple[Literal["ours", "ours-lean", "ours-native", "ours-int8", "blt", "llama-32k", "llama-128k"], ...] = (
        "ours", "ours-lean", "ours-native", "ours-int8", "blt", *LLAMAS,
    )  # fmt: skip
    """Which implementations take part: ours-lean has an n-gram table for an entropy model, ours-native takes compiled
    steps, ours-int8 those with weights of eight bits but for the entropy model; blt is Hugging Face's."""
    prompt: tuple[int, ...] = (64,)
    """Bytes of the prompt."""
    output: tuple[int, ...] = (512,)
    """Bytes behind it."""
    rows: tuple[int, ...] = (1, 16)
    """Texts that take their steps together."""
    mean_patch: float = 4.4
    """Bytes of a patch, and of a Llama's token."""
    samples: int = 16
    """Prefix lengths at which Hugging Face's BLT is timed."""
    threads: int = 1
    dtype: Literal["fp32", "bf16"] = "fp32"
    """Of the weights; entropy models stay fp32."""
    repeats: int = 3
    seed: int = 0
    json: bool = False
    """One JSON document on stdout instead of a table."""
    plot: Path | None = None
    """Also draw bytes per second to this .png or .svg file."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if options.plot:
        from bytequilt.view.figures import decode_speed, drawable

        drawable(options.plot)
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    report = {"machine": machine(), "command": shlex.join(sys.argv), "options": asdict(options)} | measured(options)
    if options.plot:
        decode_speed([(name(one), one["bytes_per_s"], None) for one in report["sides"]], options.plot)
    if options.json:
        print(json.dumps(report, indent=2, default=str))
        return
    print(f"# {report['machine']}\n# {report['command']}\n# {sizes(options)}")
    print(table(report["sides"]))
    for what, value in report["summary"].items():
        print(f"{what}: {value}")


def measured(options: Options) -> dict[str, Any]:
    """All sides in turn at each setting; medians, the slowest and the fastest, and ratios within a repeat."""
    settings = list(product(options.prompt, options.output, options.rows))
    taken: dict[tuple[str, Setting], list[dict[str, float]]] = {}
    with workers(serve, {side: (side, options) for side in options.sides}) as pipes:
        ready = {side: receive(pipe) for side, pipe in pipes.items()}
        for repeat, setting in product(range(options.repeats), settings):
            for side, pipe in pipes.items():
                pipe.send(setting)
                found = receive(pipe)
                print(f"repeat {repeat + 1} {side:10} {setting} {found['bytes_per_s']:9.1f} B/s", file=sys.stderr)
                taken.setdefault((side, setting), []).append(found)
    rows = [{"side": side, **side_report(setting, found)} for (side, setting), found in taken.items()]
    notes = {what: said for side in ready.values() for what, said in side.items()}
    return {"sides": rows, "summary": ratios(taken) | notes}


def side_report(setting: Setting, found: list[dict[str, float]]) -> dict[str, Any]:
    speeds = [one["bytes_per_s"] for one in found]
    shown = ("ms_per_byte_p50", "ms_per_byte_p95", "prefill_bytes_per_s", "mega_macs_per_byte")
    return {
        **dict(zip(("prompt", "output", "rows"), setting, strict=True)),
        "bytes_per_s": statistics.median(speeds),
        "min": min(speeds),
        "max": max(speeds),
        **{what: statistics.median(one[what] for one in found) for what in shown},
        "peak_mib": max(one["peak_mib"] for one in found),
    }


def ratios(taken: dict[tuple[str, Setting], list[dict[str, float]]]) -> dict[str, str]:
    """Bytes per second of ours over those of each other side, repeat by repeat."""
    found = {}
    for (side, setting), theirs in taken.items():
        for mine in OURS:
            if not side.startswith("ours") and (ours := taken.get((mine, setting))):
                each = [a["bytes_per_s"] / b["bytes_per_s"] for a, b in zip(ours, theirs, strict=True)]
                spread = f"{statistics.median(each):.3f} ({min(each):.3f} to {max(each):.3f})"
                found[f"speed, {mine} / {side}, {setting[0]} + {setting[1]} bytes x {setting[2]}"] = spread
    return found


def serve(pipe: Any, name: str, options: Options) -> None:
    """In a child process: measures a setting whenever asked."""
    import torch

    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    with torch.inference_mode():
        side: Side
        match name:
            case _ if name in OURS:
                side = Ours(model(options, name), options)
            case "blt":
                side = TheirBLT(options)
            case _:
                side = Llama(name, options)
        pipe.send(side.notes)
        while True:
            pipe.send(side.measure(*pipe.recv()) | {"peak_mib": peak_mib()})


class Side(Protocol):
    """An implementation with its model."""

    notes: dict[str, str]

    def measure(self, prompt: int, output: int, rows: int) -> dict[str, float]: ...


# -------------------------------------------------------------------------------------------------------------- sides


class Ours:
    """Bytequilt, each byte computed once."""

    def __init__(self, lm: Any, options: Options) -> None:
        self.lm, self.mean_patch, self.notes = lm, options.mean_patch, {}

    def measure(self, prompt: int, output: int, rows: int) -> dict[str, float]:
        from bytequilt.evals.decode import WARMUP, measure

        found = asdict(measure(self.lm, prompt, output, rows, noise(rows * (prompt + WARMUP + output))))
        patch = found.pop("mean_patch_bytes") or self.mean_patch
        return found | {"mega_macs_per_byte": blt_macs(self.lm, prompt + output, patch)}


class TheirBLT:
    """Hugging Face's BLT with our weights and boundaries, a whole forward pass for each byte."""

    def __init__(self, options: Options) -> None:
        import torch

        from bytequilt.evals import peers

        self.lm, self.options = model(replace(options, dtype="fp32")), options
        self.network = peers.hugging_face(self.lm)
        ids_RN = ids(noise(512), 2)
        ours_RV = torch.stack([self.lm.session().feed(ids_N)[-1] for ids_N in ids_RN])
        apart = float((self.forward(ids_RN) - ours_RV).abs().max())
        if apart > 1e-3:
            sys.exit(f"the last logits of the two BLTs are {apart:.1e} apart: the comparison would be void")
        self.notes = {"difference of the last logits of the two BLTs, fp32": f"{apart:.1e}"}
        if options.dtype == "bf16":
            self.network.to(torch.bfloat16)
            self.network.model.patcher.float()

    def forward(self, ids_RN: Any) -> Any:
        return self.network(ids_RN, use_cache=False, logits_to_keep=1).logits[:, -1]

    def measure(self, prompt: int, output: int, rows: int) -> dict[str, float]:
        ids_RN = ids(noise(rows * (prompt + output)), rows)
        count = min(self.options.samples, output)
        lengths = [1 + prompt + int((i + 0.5) * output / count) for i in range(count)]
        self.forward(ids_RN[:, : lengths[0]])
        prefill = seconds(lambda: self.forward(ids_RN[:, : prompt + 1]))
        times = [seconds(lambda n=n: self.forward(ids_RN[:, :n])) for n in lengths]
        macs = statistics.mean(n * blt_macs(self.lm, n, self.options.mean_patch) for n in lengths)
        return speeds(times, rows, 1.0) | {"prefill_bytes_per_s": rows * prompt / prefill, "mega_macs_per_byte": macs}


class Llama:
    """Hugging Face's Llama on tokens, with its cache."""

    def __init__(self, name: str, options: Options) -> None:
        import torch

        from bytequilt.config import StackConfig
        from bytequilt.evals import peers

        self.shape, self.token_bytes, self.notes = LLAMAS[name], options.mean_patch, {}
        self.stack = StackConfig(**{name: size for name, size in self.shape.items() if name != "vocabulary"})
        network = peers.llama(self.stack, self.shape["vocabulary"]).eval()
        self.network = network.to(torch.bfloat16 if options.dtype == "bf16" else torch.float32)

    def measure(self, prompt: int, output: int, rows: int) -> dict[str, float]:
        import torch
        from transformers import DynamicCache

        from bytequilt.evals.decode import WARMUP

        before, after = (max(1, round(size / self.token_bytes)) for size in (prompt, output))
        tokens_RN = torch.randint(self.shape["vocabulary"], (rows, before + WARMUP + after))
        cache = DynamicCache(config=self.network.config)

        def feed(tokens_Rn: Any) -> None:
            self.network(tokens_Rn, past_key_values=cache, use_cache=True, logits_to_keep=1)

        self.network(tokens_RN[:, :before], use_cache=False, logits_to_keep=1)
        prefill = seconds(lambda: feed(tokens_RN[:, :before]))
        times = [seconds(lambda t=t: feed(tokens_RN[:, t : t + 1])) for t in range(before, tokens_RN.shape[1])]
        found = speeds(times[WARMUP:], rows, self.token_bytes)
        found["prefill_bytes_per_s"] = rows * before * self.token_bytes / prefill
        return found | {"mega_macs_per_byte": self.macs(before + after)}

    def macs(self, tokens: int) -> float:
        """Millions of multiply-adds per byte, head included, in texts of so many tokens."""
        from bytequilt.model.flops import stack_flops

        flops = stack_flops(self.stack, tokens) + 2 * tokens * self.stack.dim * self.shape["vocabulary"]
        return flops / 2e6 / (tokens * self.token_bytes)


def model(options: Options, name: str = "ours") -> Any:
    """Our model with random weights, its threshold calibrated on random bytes: the same in every process.

    The lean one has a table of entropies instead, filled from those of the entropy model.
    """
    import peers
    import torch

    from bytequilt import LM, Patcher
    from bytequilt.codec import encode
    from bytequilt.config import NgramConfig, RuleConfig
    from bytequilt.model.blt import BLT
    from bytequilt.model.entropy import EntropyModel
    from bytequilt.model.int8 import quantise
    from bytequilt.model.layers import lay_out
    from bytequilt.model.ngram import NgramEntropy

    torch.manual_seed(options.seed)
    blt, scorer = BLT(peers.SMALL), EntropyModel(peers.SMALL_ENTROPY)
    native = name in ("ours-native", "ours-int8")
    if not native:
        lay_out(blt)
        lay_out(scorer)
    patcher, texts = Patcher(RuleConfig(threshold=0.0), scorer), [noise(1024, seed) for seed in range(8)]
    if name == "ours-lean":
        table = NgramEntropy(NgramConfig())
        table.learn(
            (torch.from_numpy(encode(text, eos=True)), torch.from_numpy(nats))
            for text, nats in zip(texts, patcher.entropies(texts), strict=True)
        )
        patcher = Patcher(RuleConfig(threshold=0.0), table)
    patcher.calibrate(texts, options.mean_patch)
    if name == "ours-int8":
        quantise(blt)
    elif options.dtype == "bf16":
        blt.to(torch.bfloat16)
    return LM(blt, patcher, options.mean_patch, native=native)


def noise(size: int, seed: int = 1) -> bytes:
    """Random bytes."""
    import numpy as np

    return np.random.default_rng(seed).bytes(size)


def ids(data: bytes, rows: int) -> Any:
    """Ids (R, 1 + N) of so many texts of equal length."""
    import torch

    from bytequilt.codec import encode

    size = len(data) // rows
    return torch.stack([torch.from_numpy(encode(data[at : at + size])) for at in range(0, rows * size, size)])


def blt_macs(lm: Any, context: int, patch_bytes: float) -> float:
    """Millions of multiply-adds per byte of one pass over so many bytes, entropy model and head included."""
    from bytequilt.model.flops import flops_per_byte

    scorer = getattr(lm.patcher.model, "stack", None)  # a table multiplies nothing
    return flops_per_byte(lm.model.config, scorer and lm.patcher.model.config, patch_bytes, context)["total"] / 2e6


def seconds(run: Any) -> float:
    begun = time.perf_counter()
    run()
    return time.perf_counter() - begun


def speeds(times: list[float], rows: int, step_bytes: float) -> dict[str, float]:
    """Of steps that take each row on by so many bytes."""
    import numpy as np

    p50, p95 = (1e3 * float(np.quantile(times, q)) / step_bytes for q in (0.5, 0.95))
    speed = rows * step_bytes * len(times) / sum(times)
    return {"bytes_per_s": speed, "ms_per_byte_p50": p50, "ms_per_byte_p95": p95}


# ------------------------------------------------------------------------------------------------------------- output


def name(one: dict[str, Any]) -> str:
    return f"{one['side']}, {one['prompt']} + {one['output']} bytes, {one['rows']} row(s)"


def sizes(options: Options) -> str:
    return (
        f"small (41 M parameters with the entropy model), mean patch and token {options.mean_patch:g} bytes, "
        f"{options.threads} thread(s), {options.dtype}, median of {options.repeats}; blt: forward passes timed at "
        f"{options.samples} prefix lengths; mega_macs_per_byte: millions of multiply-adds, counted from the shapes"
    )


if __name__ == "__main__":
    main()
