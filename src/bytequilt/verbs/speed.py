"""The verb `bench`: measures speed."""

from itertools import product
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..config import MOST_GUESSES, UserError
from .shared import File, Json, Model, Positional, console, print_json

Measure = Annotated[Positional[str], tyro.conf.arg(metavar="decode|train|score")]
Sizes = Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT...", help_behavior_hint="")]
Dtype = Annotated[str, tyro.conf.arg(metavar="float32|int8")]
Peer = Annotated[str | None, tyro.conf.arg(metavar="llama-32k|llama-128k|blt-hf", help_behavior_hint="")]
DEFAULTS = {
    "decode": {"prompt": (64,), "output": (256,), "rows": (1, 16)},
    "train": {"rows": (2,), "row_bytes": (1024,)},
    "score": {"size": (65_536,), "context": (4096,)},
}
"""The size arguments of each measure, with default values."""
LARGEST = {"prompt": 2**20, "output": 2**20, "rows": 1024, "row_bytes": 2**17, "size": 2**26, "context": 8190}
"""Largest value of each size argument. A peer without a cache reads a whole context in one pass."""


def bench(
    what: Measure,
    model: Model = "tiny",
    peer: Peer = None,
    prompt: Sizes = (),
    output: Sizes = (),
    rows: Sizes = (),
    row_bytes: Sizes = (),
    size: Sizes = (),
    context: Sizes = (),
    dtype: Dtype = "float32",
    repeats: int = 3,
    threads: int = 1,
    speculate: int = 0,
    json: Json = False,
    plot: File = None,
) -> None:
    """Measure how fast a model decodes, trains or scores on this machine.

    With --peer, the model and a peer from Hugging Face take turns. A llama peer has random weights, a KV cache and a
    vocabulary of 32k or 128k tokens; its tokens are as long as the model's patches, and it does equal work per byte.
    The peer blt-hf is Hugging Face's BLT with the model's own weights; it has no cache.

    Examples:
      bytequilt bench decode
      bytequilt bench decode --model runs/demo --prompt 64 1024 --rows 1 4 16 --json
      bytequilt bench decode --rows 1 --speculate 8 --plot speed.svg
      bytequilt bench decode --peer llama-32k --rows 1 16
      bytequilt bench decode --peer llama-32k --dtype int8 --rows 1
      bytequilt bench train --peer llama-32k --json
      bytequilt bench score --peer blt-hf --size 16384 --context 1024

    Args:
        what: decode measures single steps after a prompt; train measures training steps; score measures the time to
            compute the bits per byte of a document.
        peer: Also measure llama-32k, llama-128k or blt-hf, and print the ratio of speeds. Needs the extra `hf`.
        prompt: decode: length of the prompt in bytes, one or more numbers. Default: 64.
        output: decode: number of bytes after the prompt, one or more numbers. Default: 256.
        rows: decode: number of texts in a batch, default 1 and 16. train: rows of a batch, default 2.
        row_bytes: train: bytes per row. Default: 1024.
        size: score: size of the document in bytes. Default: 65,536.
        context: score: largest number of bytes read before a byte, as in eval. Default: 4096.
        dtype: float32; or int8 (decode only): eight-bit weights in the BLT, except its entropy model, and in a Llama.
        repeats: Number of measured turns of each side, after one warm-up turn. Not used by decode without a peer.
        threads: Number of processor threads.
        speculate: decode: also compare greedy generation with up to this many guesses and without guesses, for the
            first prompt and output length.
        plot: decode: also plot bytes per second to this file, .png or .svg.
    """
    given = {"prompt": prompt, "output": output, "rows": rows, "row_bytes": row_bytes, "size": size, "context": context}
    sizes = _sizes(what, {name: numbers for name, numbers in given.items() if numbers})
    _check(what, peer, dtype, repeats, threads, speculate, plot)
    import torch

    from ..lm import load

    torch.set_num_threads(threads)
    lm = load(model, "cpu", dtype)
    results = {"model": model, **_measured(lm, model, what, sizes, peer, repeats, dtype == "int8")}
    if speculate:
        from ..evals.decode import corpus, speculation

        size, output = sizes["prompt"][0], sizes["output"][0]
        text = corpus(4 * size)
        prompts = [text[at : at + size] for at in range(0, len(text), size)]
        results["speculation"] = speculation(lm, prompts, output, speculate)
    if plot is not None:
        from ..view.figures import decode_speed

        decode_speed([bar for row in results["settings"] for bar in _bars(row)], plot)
    if json:
        return print_json(results)
    from ..view.tables import decoding, side_by_side

    console().print(side_by_side(results) if "measure" in results else decoding(results))


def _measured(
    lm: Any, model: str, what: str, sizes: dict[str, Any], peer: str | None, repeats: int, int8: bool
) -> dict[str, Any]:
    """Measure every combination of these sizes."""
    if what == "decode" and peer is None:
        from ..evals.decode import sweep

        return sweep(lm, sizes["prompt"], sizes["output"], sizes["rows"])
    from ..evals.bench import side_by_side

    settings = [dict(zip(sizes, numbers, strict=True)) for numbers in product(*sizes.values())]
    return side_by_side(lm, model, what, settings, peer, repeats, int8)


def _sizes(what: str, given: dict[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """All size arguments of a measure, defaults included. Raises UserError for a wrong measure, argument or value."""
    if what not in DEFAULTS:
        raise UserError(f"bench measures decode, train or score, not {what!r}")
    for name, numbers in given.items():
        flag = "--" + name.replace("_", "-")
        if name not in DEFAULTS[what]:
            raise UserError(f"bench {what} takes no {flag}; it takes {_flags(what)}")
        least = 1 + (name == "context") + 15 * (name == "row_bytes")
        if min(numbers) < least or max(numbers) > LARGEST[name]:
            raise UserError(f"{flag} must be at least {least} and at most {LARGEST[name]}")
    return DEFAULTS[what] | given


def _flags(what: str) -> str:
    return ", ".join("--" + name.replace("_", "-") for name in DEFAULTS[what])


def _check(
    what: str, peer: str | None, dtype: str, repeats: int, threads: int, speculate: int, plot: Path | None
) -> None:
    """Check the other arguments before any work. Raises UserError if they are wrong or a library is missing."""
    from ..view.figures import drawable

    if what != "decode" and (speculate or plot is not None):
        raise UserError("--speculate and --plot are for bench decode")
    if dtype not in ("float32", "int8"):
        raise UserError(f"--dtype is float32 or int8, not {dtype!r}")
    if dtype == "int8" and (what != "decode" or peer == "blt-hf"):
        raise UserError("--dtype int8 is for bench decode, alone or beside a Llama")
    if not 1 <= threads <= 1024 or not 0 <= speculate <= MOST_GUESSES:
        raise UserError(f"threads must be 1 to 1024, and speculate at least 0 and at most {MOST_GUESSES}")
    if not 1 <= repeats <= 1000:
        raise UserError("repeats must be 1 to 1000")
    if plot is not None:
        drawable(plot)
    if peer is not None:
        from ..evals.peers import PEERS, transformers

        if peer not in PEERS:
            raise UserError(f"no peer {peer!r}; there are {', '.join(PEERS)}")
        transformers()


def _bars(row: dict[str, Any]) -> list[tuple[str, float, float | None]]:
    """The bars of one measured setting in the plot, one per side: (name, bytes per second, upper bound). The bound is
    the speed if a step took only the time to read its weights from memory. With a peer it is None (not measured)."""
    name = f"{row['prompt']} + {row['output']} bytes, {row['rows']} row(s)"
    if "sides" in row:
        return [(f"{side['side']}, {name}", side["bytes_per_s"], None) for side in row["sides"]]
    return [(name, row["bytes_per_s"], row["bytes_per_s"] * row["times_floor"])]
