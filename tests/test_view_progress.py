"""A line of progress tells step, total and what is left, in 80 columns."""

import io

import pytest
from rich.console import Console

from bytequilt.view import progress


def line(monkeypatch, total, done, *columns, width=80, **fields) -> str:
    out = io.StringIO()
    monkeypatch.setattr(progress, "console", Console(file=out, width=width, force_terminal=True, color_system=None))
    bar = progress.progress(*columns)
    clock = iter(range(0, 10_000, 10))
    bar.get_time = lambda: next(clock)
    task = bar.add_task("entropy", total=total, **fields)
    for _ in range(3):
        bar.update(task, advance=done / 3)
    out.truncate(0)
    progress.console.print(bar.get_renderable())
    return out.getvalue()


@pytest.mark.parametrize("width", [80, 72])
@pytest.mark.parametrize(
    ("total", "done", "count"),
    [(6000, 1200, "1200/6000 20%"), (101_500_000, 12_345_678, "12.3M/101.5M 12%"), (900_000, 900_000, "100%")],
)
def test_step_total_and_eta_are_seen(monkeypatch, total, done, count, width):
    columns = ("{task.fields[bpb]} bpb", "{task.fields[speed]}", "{task.fields[note]}")
    fields = {"bpb": "2.345", "speed": "123.4 kB/s", "note": "held-out 2.345"}
    shown = line(monkeypatch, total, done, *columns, width=width, **fields)
    assert count in shown
    assert max(map(len, shown.splitlines())) <= width
    assert len(shown.strip().splitlines()) == 1
    assert "eta 0:0" in shown
    assert "2.345 bpb" in shown


def test_what_has_no_total_still_counts(monkeypatch):
    assert "1.2M/?" in line(monkeypatch, None, 1_234_567)


def test_numbers_stay_short():
    assert [progress.short(n) for n in (0, 999_999, 1e6, 2.5e9)] == ["0", "999999", "1.0M", "2.5G"]


def test_square_brackets_are_text_in_lines_and_tables():
    from bytequilt.verbs.shared import console as tables
    from bytequilt.view.progress import console as lines
    from bytequilt.view.tables import evaluations

    result = {"bpb": 2.0, "bytes": 9, "mean_patch_bytes": 3.0, "files": [{"path": "[b].txt", "bpb": 2.0, "bytes": 9}]}
    with lines.capture() as said:
        lines.print("a threshold in [patching] of [/b] would change them")
    assert "[patching] of [/b] would" in said.get()
    with (out := tables()).capture() as shown:
        out.print(*evaluations(result))
    assert "[b].txt" in shown.get()
