"""Prints the patches of a text of any length, part by part in bounded memory."""

import json
from collections.abc import Callable, Iterable
from tempfile import TemporaryFile

from rich.console import Console

from ..codec import TextStream
from ..files import finite
from .cut import PART
from .legend import Scale, totals
from .patched import PatchedText
from .terminal import ansi, barred, body, is_plain, legend

Write = Callable[[str], object]


def print_parts(parts: Iterable[tuple[int, PatchedText]], write: Write, console: Console) -> None:
    """Write parts in the form of `terminal.shown`. The colour scale is that of the first part with entropies. The
    console decides whether there are colours."""
    plain, size, patches = is_plain(console), 0, 0
    scale, limit, summed = None, None, False
    last = ""
    for place, part in parts:
        scale, limit, summed = scale or Scale.of(part), part.threshold_bits, part.summed
        drawn = barred(part.data, [patch.start for patch in part]) if plain else ansi(console, body(part, scale))
        write(("|" if plain and place else "") + drawn)
        size, patches, last = size + len(part.data), patches + len(part), part.data[-1:]
    words = totals(patches, size, limit, summed)
    write("\n" * (last != b"\n") + (words if plain else ansi(console, legend(words, scale))) + "\n")


def print_json_parts(parts: Iterable[tuple[int, PatchedText]], write: Write) -> None:
    """Write parts as one JSON document with the fields of `PatchedText.json`; `text` is the last field."""
    size = patches = 0
    limit = None
    with TemporaryFile() as text:
        write('{"patches": [')
        for place, part in parts:
            limit = part.threshold_bits
            text.write(part.data)
            for patch in part:
                fields = patch.json() | {"start": place + patch.start}
                write((",\n" if patches else "\n") + json.dumps(finite(fields), ensure_ascii=False))
                patches += 1
            size += len(part.data)
        write(
            f'],\n"mean_patch_bytes": {size / patches if patches else 0.0},\n"threshold_bits": {json.dumps(limit)},\n'
        )
        write('"text": "')
        text.seek(0)
        decoded = TextStream()
        while data := text.read(PART):
            write(json.dumps(decoded.feed(data), ensure_ascii=False)[1:-1])
        write(json.dumps(decoded.close(), ensure_ascii=False)[1:-1] + '"}\n')
