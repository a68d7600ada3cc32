"""Divides the counting of source files among processes. Later, each process reads only the files of its own shards.

The counts of a file (see `Corpus.count`) are saved beside the corpus. Every process needs the counts of all files: it
loads the saved counts and makes the missing counts itself. So no process waits for another, even if one has died.
"""

import io
from pathlib import Path

import numpy as np

from ..files import write_bytes
from .corpus import Corpus


def counts_of(corpus: Corpus, folder: Path, rank: int, world: int) -> dict[int, np.ndarray]:
    """Part number -> `Corpus.count` for all parts of a corpus; `folder` keeps them. Ranks start at different parts."""
    size = len(corpus.parts)
    begin = rank * size // world
    counts = {}
    for number in [*range(begin, size), *range(begin)]:
        path = folder / f"{number:06d}.npy"
        try:
            counts[number] = np.load(path)
        except (OSError, ValueError, EOFError):  # the file is missing or damaged
            counts[number] = corpus.count(number)
            stream = io.BytesIO()
            np.save(stream, counts[number])
            write_bytes(path, stream.getvalue())
    return counts
