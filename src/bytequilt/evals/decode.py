"""Decoding speed on this machine, beside the time that reading the weights takes.

The bytes of a text are fed instead of drawn bytes: speed then does not depend on what a model says, and patches close
as often as in that text. Each row reads its own piece of the text, so rows close their patches at different steps.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..codec import encode
from ..config import DataConfig, UserError
from ..data.sources import documents
from ..infer.session import CHUNK, Session
from ..lm import LM
from ..model.entropy import EntropyModel
from ..view.progress import progress
from .timing import machine, peak_mib, read_bandwidth
from .words import CORPUS

WARMUP = 8  # steps before the measured ones


@dataclass(frozen=True)
class Decoding:
    """What was measured with prompts of `prompt` bytes, `output` bytes behind each, and so many rows together."""

    prompt: int
    output: int
    rows: int
    bytes_per_s: float
    """Of all rows together."""
    ms_per_byte: float
    """Of the mean step, which feeds one byte to each row and draws none."""
    ms_per_byte_p50: float
    ms_per_byte_p95: float
    prefill_bytes_per_s: float
    latent_calls_per_byte: float
    """Passes of the latent transformer over bytes of all rows; rows whose patches close together share a pass."""
    mean_patch_bytes: float | None
    """Bytes over patches that closed; None where none did."""
    peak_mib: float
    """Peak resident memory of the process so far, earlier settings of a sweep included."""


def sweep(lm: LM, prompts: Sequence[int], outputs: Sequence[int], rows: Sequence[int]) -> dict[str, Any]:
    """Measure each prompt length with each output length and each count of rows, on a shipped corpus.

    Besides the fields of `Decoding`, a setting has `floor_ms_per_byte`, the time to read the weights of a mean step at
    the bandwidth of memory, and `times_floor`, the mean step over that time. Where weights stay in the processor's
    cache, a step may be faster than its floor.
    """
    for name, sizes in (("prompt", prompts), ("output", outputs), ("rows", rows)):
        if min(sizes, default=0) < 1:
            raise UserError(f"{name} must be one number or more, each at least 1")
    text = corpus((max(prompts) + WARMUP + max(outputs)) * max(rows))
    settings = list(product(prompts, outputs, rows))
    with progress() as bar:
        line = bar.add_task("decode", total=sum(output for _, output, _ in settings))
        measured = [measure(lm, *setting, text, lambda: bar.update(line, advance=1)) for setting in settings]
    bandwidth = read_bandwidth()
    return {
        "machine": machine(),
        "threads": torch.get_num_threads(),
        "read_gb_per_s": bandwidth / 1e9,
        "settings": [asdict(decoding) | _floor(lm, decoding, bandwidth) for decoding in measured],
    }


def measure(
    lm: LM, prompt: int, output: int, rows: int, text: bytes, advance: Callable[[], None] = lambda: None
) -> Decoding:
    """Measure one setting. Rows read the text piece by piece, and again from its start where it is too short."""
    ids_RN = pieces(text, rows, prompt + WARMUP + output)
    prompts_RN, ids_NR = ids_RN[:, : prompt + 1], ids_RN[:, prompt + 1 :].T.tolist()
    lm.session().feed(prompts_RN[0, :CHUNK])
    begun = time.perf_counter()
    session = prefilled(lm, prompts_RN)
    prefill = time.perf_counter() - begun
    for ids_R in ids_NR[:WARMUP]:
        session.step(ids_R)
    calls, patches = session.counts["latent_calls"], sum(row.patches for row in session.rows)
    seconds = []
    for ids_R in ids_NR[WARMUP:]:
        begun = time.perf_counter()
        session.step(ids_R)
        seconds.append(time.perf_counter() - begun)
        advance()
    patches = sum(row.patches for row in session.rows) - patches
    return Decoding(
        prompt,
        output,
        rows,
        bytes_per_s=rows * output / sum(seconds),
        ms_per_byte=1e3 * sum(seconds) / output,
        ms_per_byte_p50=1e3 * float(np.quantile(seconds, 0.5)),
        ms_per_byte_p95=1e3 * float(np.quantile(seconds, 0.95)),
        prefill_bytes_per_s=rows * prompt / prefill,
        latent_calls_per_byte=(session.counts["latent_calls"] - calls) / (rows * output),
        mean_patch_bytes=rows * output / patches if patches else None,
        peak_mib=peak_mib(),
    )


def prefilled(lm: LM, ids_RN: Tensor) -> Session:
    """A session that has read these ids, a row after the other."""
    session = Session(lm.model, lm.patcher, rows=len(ids_RN), native=lm.native)
    for row, ids_N in enumerate(ids_RN):
        session.prefill(ids_N, row)
    return session


def speculation(lm: LM, prompts: Sequence[bytes], output: int, guesses: int) -> dict[str, Any]:
    """Greedy text with up to `guesses` guesses at a time beside greedy text without, prompt by prompt in turns.

    Bytes per second are of whole generations, prompts and drawing included.
    """
    if guesses < 1:
        raise UserError(f"speculate must be at least 1, not {guesses}")
    lm.generate(prompts[0], max_bytes=WARMUP, temperature=0, speculate=guesses)
    speeds, counts = [], []
    for prompt in prompts:
        for ahead in (0, guesses):
            stats = lm.generate(prompt, max_bytes=output, temperature=0, speculate=ahead).stats
            (counts if ahead else speeds).append(asdict(stats))
    plain, guessed = ({name: sum(stats[name] for stats in of) for name in of[0]} for of in (speeds, counts))
    speed, plain_speed = (total["bytes"] / total["seconds"] for total in (guessed, plain))
    return {
        "speculate": guesses,
        "bytes_per_s": speed,
        "plain_bytes_per_s": plain_speed,
        "gain": speed / plain_speed,
        "acceptance": guessed["accepted"] / guessed["drafted"] if guessed["drafted"] else None,
        "latent_calls_per_byte": guessed["latent_calls"] / max(1, guessed["bytes"]),
        "decoder_calls_per_byte": guessed["decoder_calls"] / max(1, guessed["bytes"]),
    }


def corpus(size: int) -> bytes:
    """English text that comes with the package, as much as that if there is as much."""
    text = bytearray()
    for document in documents(CORPUS, DataConfig()):
        text += document.data
        if len(text) >= size:
            break
    return bytes(text[:size])


def english(rows: int, length: int) -> Tensor:
    """Ids (R, 1 + length) of English text, BOS first."""
    return pieces(corpus(rows * length), rows, length)


def pieces(text: bytes, rows: int, length: int) -> Tensor:
    """Ids (R, 1 + length): BOS, then bytes that follow each other from row to row."""
    if not text:
        raise UserError("decoding needs text to read, and there is none")
    data_RN = np.resize(np.frombuffer(text, np.uint8), (rows, length))
    return torch.stack([torch.from_numpy(encode(row.tobytes())) for row in data_RN])


def _floor(lm: LM, decoding: Decoding, bandwidth: float) -> dict[str, float]:
    """The time that the weights of a mean step take to be read; caches of the past are not counted."""
    byte, patch, row = weight_bytes(lm)
    size = byte + decoding.rows * (row + decoding.latent_calls_per_byte * patch)
    floor = 1e3 * size / bandwidth
    return {"floor_ms_per_byte": floor, "times_floor": decoding.ms_per_byte / floor}


def weight_bytes(lm: LM) -> tuple[int, int, int]:
    """Bytes of weights to be read for a byte; for a patch; and, of embeddings and hash tables, for one row's byte."""
    encoder, latent, decoder = lm.model.encoder, lm.model.latent, lm.model.decoder
    patch_side = [part for cross in decoder.cross for part in (cross.key_value, cross.key_norm)] + [decoder.project]
    patch = _size(encoder.project, encoder.cross, latent, *patch_side)
    byte = _size(encoder.stack, decoder) - _size(*patch_side)
    row = encoder.embed.weight[0].nbytes
    if encoder.hash is not None:
        row += encoder.hash.config.tables * encoder.hash.weight[0].nbytes
    scorer = lm.patcher.model if lm.patcher.rule.needs_entropy else None
    if isinstance(scorer, EntropyModel):  # one that looks entropies up reads next to nothing
        byte += _size(scorer.stack, scorer.norm, scorer.head)
        row += scorer.embed.weight[0].nbytes
    return byte, patch, row


def _size(*modules: nn.Module) -> int:
    return sum(weight.nbytes for module in modules for weight in module.parameters())
