"""Reading dealt out by source file: each process counts some files, and reads those that its own shards are made of.

What a file counts is written beside the corpus, so a process that starts later, or after another one died, takes it
from there; what is not there yet it counts itself. So nobody waits for anybody.
"""

import io
from pathlib import Path

import numpy as np

from ..files import write_bytes
from .corpus import Corpus


def counts_of(corpus: Corpus, folder: Path, rank: int, world: int) -> dict[int, np.ndarray]:
    """`Corpus.count` of every part of a corpus by its number, this process's own parts first; kept in `folder`."""
    size = len(corpus.parts)
    begin = rank * size // world
    counts = {}
    for number in [*range(begin, size), *range(begin)]:
        path = folder / f"{number:06d}.npy"
        try:
            counts[number] = np.load(path)
        except (OSError, ValueError, EOFError):  # not there, or damaged
            counts[number] = corpus.count(number)
            stream = io.BytesIO()
            np.save(stream, counts[number])
            write_bytes(path, stream.getvalue())
    return counts
