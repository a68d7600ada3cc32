"""Self-speculation beside plain decoding: its gain with a trained model, and under larger latent transformers.

First greedy text of `--model` after a few openings of books, with and without guesses, in turns. Then networks with
random weights: the decoder of the `small` shape of `peers.py` under latent transformers of about `--sizes` times its
parameters. They are fed what the trained model was fed, round by round: its bytes, its guesses, as many of them taken
back, and its patcher, so patches close where they did. Beside that stands one step for each byte that stayed. Drawing
bytes is left out on both sides of this second part, which is in processor seconds.
"""

import json
import os
import shlex
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import tyro
from train_step import machine, table

PROMPTS = (
    "It was the best of times, it was the worst of times, it was the age of wisdom, it was the age of foolishness, ",
    "Call me Ishmael. Some years ago, never mind how long precisely, having little or no money in my purse, ",
    "It is a truth universally acknowledged, that a single man in possession of a good fortune, must be in want of ",
    "Alice was beginning to get very tired of sitting by her sister on the bank, and of having nothing to do: ",
)
"""Dickens, Melville, Austen, Carroll."""
LATENTS = {5: (512, 7, 8), 25: (1024, 9, 16), 100: (2048, 9, 32)}
"""Width, layers and heads by the size of the decoder that it is about so many times."""
WARMUP = 3  # rounds before the measured ones


@dataclass(frozen=True)
class Options:
    """What to measure."""

    model: str = "tiny"
    """A trained model, which also says what is guessed and what passes in the second part."""
    guesses: tuple[int, ...] = (2, 4, 8, 16)
    """Bytes guessed at a time, at most."""
    output: int = 256
    """Bytes generated after each prompt."""
    sizes: tuple[int, ...] = tuple(LATENTS)
    """Of these 5, 25 and 100; the last takes 2 GiB of memory."""
    native: bool | None = None
    """Compiled steps, or not; where nothing is said, wherever numba is installed."""
    threads: int = 1
    repeats: int = 3
    json: bool = False
    """One JSON document on stdout instead of tables."""


def main() -> None:
    options = tyro.cli(Options, description=__doc__)
    if unknown := set(options.sizes) - set(LATENTS):
        sys.exit(f"no size {min(unknown)}; there are {', '.join(map(str, LATENTS))}")
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    import torch

    from bytequilt import load

    torch.set_num_threads(options.threads)
    lm = load(options.model, native=options.native)
    report = {"machine": machine(), "command": shlex.join(sys.argv), "options": asdict(options)}
    report |= {"trained": trained(lm, options), "replayed": replayed(lm, options)}
    if options.json:
        print(json.dumps(report, indent=2))
        return
    print(f"# {report['machine']}\n# {report['command']}\n# medians of {options.repeats}, {options.threads} thread(s)")
    print(f"\ntext of {options.model}, drawing included\n{table(report['trained'])}")
    print(f"\nits rounds, with random weights under the decoder of small\n{table(report['replayed'])}")


def trained(lm: Any, options: Options) -> list[dict[str, Any]]:
    """Greedy text with and without guesses; the gain is that of a repeat, in the middle and at its ends."""
    from bytequilt.evals.decode import speculation

    prompts = [prompt.encode() for prompt in PROMPTS]
    taken: dict[int, list[dict[str, Any]]] = {most: [] for most in options.guesses}
    for repeat in range(options.repeats):
        for most, found in taken.items():
            found.append(speculation(lm, prompts, options.output, most))
            print(f"repeat {repeat + 1}, {most} guesses: gain {found[-1]['gain']:.3f}", file=sys.stderr)
    counts = ("acceptance", "latent_calls_per_byte", "decoder_calls_per_byte")
    speeds = ("plain_bytes_per_s", "bytes_per_s")
    return [
        {"guesses": most}
        | {name: statistics.median(one[name] for one in found) for name in speeds}
        | spread([one["gain"] for one in found])
        | {name: found[0][name] for name in counts}
        for most, found in taken.items()
    ]


def spread(gains: list[float]) -> dict[str, float]:
    return {"gain": statistics.median(gains), "least_gain": min(gains), "most_gain": max(gains)}


# ------------------------------------------------------------------------------------------------------------- replay

Round = tuple[list[int], int]
"""Ids that were drafted, the newest of the text first, and how many of them were taken back."""


def replayed(lm: Any, options: Options) -> list[dict[str, Any]]:
    """The rounds of the trained model with larger latent transformers, beside a step for each byte."""
    import torch

    from bytequilt.codec import encode

    begins = [torch.from_numpy(encode(prompt)) for prompt in PROMPTS]
    recorded = {most: [rounds(lm, prompt, options.output, most) for prompt in PROMPTS] for most in options.guesses}
    rows = []
    for size in options.sizes:
        network = enlarged(size, lm.native)
        latent, decoder = (sum(p.numel() for p in part.parameters()) for part in (network.latent, network.decoder))
        times = latent / decoder
        for run, reserve in ((stepped, 0), (guessing, max(recorded) + 1)):
            timed(network, lm, begins[0], recorded[max(recorded)][0][:WARMUP], run, reserve)
        for most, texts in recorded.items():
            gains, plain_speeds, guessed_speeds = [], [], []
            for _ in range(options.repeats):
                plain = guessed = kept = 0.0
                for begin, text in zip(begins, texts, strict=True):
                    plain += timed(network, lm, begin, text, stepped, 0)
                    guessed += timed(network, lm, begin, text, guessing, most + 1)
                    kept += sum(len(ids) - back for ids, back in text)
                plain_speeds.append(kept / plain)
                guessed_speeds.append(kept / guessed)
                gains.append(plain / guessed)
            speeds = {"plain_bytes_per_s": plain_speeds, "bytes_per_s": guessed_speeds}
            row = {"latent_over_decoder": round(times, 1), "guesses": most}
            row |= {name: statistics.median(values) for name, values in speeds.items()} | spread(gains)
            print(f"latent {times:.1f} x decoder, {most} guesses: gain {row['gain']:.3f}", file=sys.stderr)
            rows.append(row)
    return rows


def rounds(lm: Any, prompt: str, output: int, most: int) -> list[Round]:
    """What was drafted and taken back while the model went on from a prompt, greedily."""
    from bytequilt.infer.sampling import Sampling
    from bytequilt.infer.session import Session
    from bytequilt.infer.speculate import speculate

    found: list[Round] = []

    class Recorder(Session):
        def verify(self, ids_n: Any, drafted_nV: Any) -> Any:
            self.drafted = ids_n.tolist()
            return super().verify(ids_n, drafted_nV)

        def crop(self, count: int, row: int = 0) -> None:
            found.append((self.drafted, count))
            super().crop(count, row)

    session = Recorder(lm.model, lm.patcher, most + 1, native=lm.native)
    for _ in speculate(session, prompt.encode(), Sampling(max_bytes=output, temperature=0), most):
        pass
    return found


def enlarged(size: int, native: bool) -> Any:
    """The small shape with a latent transformer of about so many times the decoder's size, random weights."""
    import peers
    import torch

    from bytequilt.config import StackConfig
    from bytequilt.model.blt import BLT
    from bytequilt.model.layers import lay_out

    width, layers, heads = LATENTS[size]
    latent = StackConfig(dim=width, layers=layers, heads=heads, ffn_dim=11 * width // 4, rope_theta=500_000.0)
    torch.manual_seed(0)
    network = BLT(peers.SMALL.model_copy(update={"latent": latent})).eval()
    if not native:
        lay_out(network)
    return network


def timed(network: Any, lm: Any, begin: Any, text: list[Round], run: Any, reserve: int) -> float:
    """Processor seconds that the rounds take after a prompt."""
    from bytequilt.infer.session import Session

    session = Session(network, lm.patcher, reserve, native=lm.native)
    session.feed(begin)
    begun = time.process_time()
    run(session, text)
    return time.process_time() - begun


def stepped(session: Any, text: list[Round]) -> None:
    """The bytes that stayed, one by one."""
    import torch

    for ids, back in text:
        for id in ids[: len(ids) - back]:
            session.step(torch.tensor([id]))


def guessing(session: Any, text: list[Round]) -> None:
    """Rounds as they were: drafts, one verification, and what did not pass taken back."""
    import torch

    for ids, back in text:
        drafted = [session.draft(id) for id in ids]
        session.verify(torch.tensor(ids), torch.stack(drafted))
        session.crop(back)


if __name__ == "__main__":
    main()
