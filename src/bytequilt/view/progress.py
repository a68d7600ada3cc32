"""Progress bars on stderr."""

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Column
from rich.text import Text

console = Console(stderr=True, highlight=False, markup=False)  # markup off: names may contain square brackets
UNITS = ((1e9, "G"), (1e6, "M"))


def progress(*columns: str) -> Progress:
    """A progress bar on stderr with count, total and remaining time, at most 80 columns wide.

    `columns` are format strings for fields of the task. They are printed last and truncated if there is no room.
    """
    return Progress(
        TextColumn("{task.description}", table_column=Column(no_wrap=True)),
        BarColumn(bar_width=8),
        _Numbers(columns),
        console=console,
        refresh_per_second=2,
    )


def short(count: float) -> str:
    """A number in at most six characters: 123456 stays, 12345678 becomes 12.3M."""
    for scale, unit in UNITS:
        if count >= scale:
            return f"{count / scale:.1f}{unit}"
    return f"{int(count)}"


class _Numbers(ProgressColumn):
    """A column with the count, the total, the remaining time and fields of the task."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        super().__init__(Column(no_wrap=True, overflow="ellipsis"))
        self.columns, self.left = columns, TimeRemainingColumn()

    def render(self, task: Task) -> Text:
        total = "?" if task.total is None else short(task.total)
        share = f" {int(task.percentage)}%" if task.total else ""
        text = Text(f"{short(task.completed)}/{total}{share}", "progress.download", no_wrap=True)
        text.append(" eta ", "default").append_text(self.left.render(task))
        for column in self.columns:
            text.append(" ").append_text(Text.from_markup(column.format(task=task)))
        return text
