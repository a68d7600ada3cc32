"""lm-evaluation-harness: its tasks for `bytequilt eval`, and its command line with bytequilt's models:

`python -m bytequilt.evals.harness --model bytequilt --model_args pretrained=tiny --tasks hellaswag`
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

from ..config import UserError
from .answers import Model
from .harness_model import Harness

try:
    import lm_eval
    import lm_eval.models  # Imported first: it fills the registry, which is no longer filled once it has another entry.
    from lm_eval.api.registry import model_registry
    from lm_eval.tasks import TaskManager
except ImportError:
    raise UserError("tasks of lm-evaluation-harness need lm-eval: pip install 'bytequilt[eval]'") from None

TASKS = Path(__file__).parent / "tasks"
"""Folder of our own tasks, in the harness's format."""


class HarnessTasks:
    """Tasks by name: those of the harness, our own, and those in a given directory."""

    def __init__(self, names: Sequence[str], include: Path | None = None) -> None:
        """`names` may be groups and may contain wildcards. Raises UserError for an unknown name."""
        if include is not None and not include.is_dir():
            raise UserError(f"{include} is not a directory of tasks")
        folders = [TASKS, *([include] if include else [])]
        self.manager = TaskManager(include_path=folders, include_defaults=False)
        if not set(names) <= set(self.manager.all_subtasks):  # the harness's own tasks take seconds to read
            self.manager = TaskManager(include_path=folders)
        if unknown := [name for name in names if not self.manager.match_tasks([name])]:
            raise UserError(f"no task named {', '.join(unknown)}, neither in bytequilt nor in lm-evaluation-harness")
        self.names = self.manager.match_tasks(list(names))

    def evaluate(self, model: Model, limit: int | None = None) -> dict[str, Any]:
        """Evaluate a model on the tasks, or on the first `limit` items of each task. For each task or group, `metrics`
        has `value` and `stderr` of each metric. `shots`, `items` and `version` describe the task."""
        with redirect_stdout(sys.stderr):  # the harness prints to stdout
            report = lm_eval.simple_evaluate(
                Harness(model), tasks=self.names, task_manager=self.manager, limit=limit, log_samples=False
            )
        tasks = {name: _row(report, name) for name in report["results"] | report.get("groups", {})}
        return {"lm_eval": lm_eval.__version__, "limit": limit, "tasks": tasks}


def _row(report: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The harness's results of one task. Its keys have the form `acc,none`: a metric, and the filter applied to
    answers."""
    scores, metrics = report["results"].get(name, {}) | report.get("groups", {}).get(name, {}), {}
    for key, value in scores.items():
        metric, comma, filtered = key.partition(",")
        if comma and not metric.endswith("_stderr"):
            stderr = scores.get(f"{metric}_stderr,{filtered}")
            spread = stderr if isinstance(stderr, float) else None
            metrics[metric if filtered == "none" else key] = {"value": float(value), "stderr": spread}
    return {
        "metrics": metrics,
        "shots": report["n-shot"].get(name),
        "items": report["n-samples"].get(name, {}).get("effective"),
        "version": report["versions"].get(name),
    }


def register() -> None:
    """Register the model type `bytequilt` with the harness, in this process."""
    if "bytequilt" not in model_registry:
        model_registry.register("bytequilt")(Harness)


def main() -> None:
    """The harness's command line, with the model type `bytequilt`."""
    from lm_eval.__main__ import cli_evaluate

    register()
    try:
        cli_evaluate()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
