"""The log of a run: metrics.jsonl and, if configured, a tracker such as wandb."""

import json
from pathlib import Path
from typing import Any

from ..files import finite, read_text, write_text
from .checks import tracker_of


class Metrics:
    """Appends records to metrics.jsonl and sends them to a tracker. Old records of this stage after `step` are
    removed."""

    def __init__(self, path: Path, stage: str, step: int, tracker: str | None, config: dict[str, Any]) -> None:
        self.stage, self.tracker = stage, None if tracker is None else tracker_of(tracker)
        path.parent.mkdir(parents=True, exist_ok=True)
        kept = [r for r in read(path) if r["stage"] != stage or r["step"] <= step]
        write_text(path, "".join(json.dumps(record) + "\n" for record in kept))
        self.file = path.open("a", encoding="utf-8")
        if self.tracker is not None:
            self.tracker.init(project="bytequilt", name=f"{path.parent.name}-{stage}", config=config)

    def log(self, record: dict[str, Any]) -> None:
        """Write one record and flush it. Numbers that are not finite are written as null."""
        record = finite(record)
        self.file.write(json.dumps({"stage": self.stage} | record) + "\n")
        self.file.flush()
        if self.tracker is not None:
            self.tracker.log(record)

    def close(self) -> None:
        self.file.close()
        if self.tracker is not None:
            self.tracker.finish()


def read(path: Path) -> list[dict[str, Any]]:
    """All records of a metrics.jsonl; a line that was cut short by an interruption is skipped."""
    records = []
    for line in read_text(path).splitlines() if path.is_file() else []:
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records
