"""EleutherAI's lm-evaluation-harness: its tasks for `bytequilt eval`, and its command line with bytequilt's models:

`python -m bytequilt.evals.harness --model bytequilt --model_args pretrained=tiny --tasks hellaswag`

A context is BOS and its bytes, and a continuation is its bytes. Without tokens, nothing changes where the two meet, and
no space is moved. Texts of any length are read in full.
"""

import sys
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, Self

import torch

from ..config import UserError
from ..lm import load_any
from ..view.progress import progress
from .answers import Model

try:
    import lm_eval
    import lm_eval.models  # Imported first: it fills the registry, which is no longer filled once it has another entry.
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.api.registry import model_registry
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.tasks import TaskManager
    from lm_eval.utils import simple_parse_args_string
except ImportError:
    raise UserError("tasks of lm-evaluation-harness need lm-eval: pip install 'bytequilt[eval]'") from None

TASKS = Path(__file__).parent / "tasks"
"""Folder of our own tasks, in the harness's format."""
WRITTEN = 64  # number of generated texts after which the progress bar is updated
SAMPLING = ("top_k", "top_p", "min_p")  # sampling options that a task may set in addition to the temperature
MODEL_ARGS = {"pretrained": None, "revision": None, "device": "cpu", "dtype": "float32", "token_bytes": 4, "seed": 0}
"""Arguments allowed in --model_args, with their defaults."""
HARNESS_DEFAULT_DEVICE = "cuda:0"  # the device that the harness's command line passes if the user names none
# always passed by the harness; we form batches by bytes, and the results do not depend on them
HARNESS_ARGS = ("batch_size", "max_batch_size")


class Harness(LM):
    """An adapter that gives one of our models the methods of the harness's models."""

    def __init__(self, model: Model, token_bytes: float = 4, seed: int = 0, portion: int = 256) -> None:
        """`token_bytes` is the number of bytes per token where a task limits an answer in tokens. `portion` is the
        number of requests that are scored together, which share contexts and batches."""
        super().__init__()
        self.model, self.token_bytes, self.seed, self.portion = model, token_bytes, seed, portion

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """The model that --model_args describe. Raises UserError for unknown or invalid arguments."""
        config = {name: value for name, value in (additional_config or {}).items() if value is not None}
        if config.get("device") == HARNESS_DEFAULT_DEVICE and not torch.cuda.is_available():
            del config["device"]
        given = config | arg_dict
        if unknown := sorted(set(given) - {*MODEL_ARGS, *HARNESS_ARGS}):
            raise UserError(f"no model argument {', '.join(unknown)}; there are {', '.join(MODEL_ARGS)}")
        chosen = {name: given.get(name, value) for name, value in MODEL_ARGS.items()}
        name, token_bytes, seed = chosen.pop("pretrained"), chosen.pop("token_bytes"), chosen.pop("seed")
        if name is None:
            raise UserError("model arguments must name a model: pretrained=DIR, a shipped name or a hub id")
        if not isinstance(token_bytes, int | float) or token_bytes <= 0:
            raise UserError(f"token_bytes must be a number above 0, not {token_bytes!r}")
        options = {option: str(value) for option, value in chosen.items() if value is not None}
        return cls(load_any(str(name), **options), token_bytes, seed)

    @property
    def tokenizer_name(self) -> str:
        return "bytes"

    def loglikelihood(self, requests: list[Instance]) -> list[tuple[float, bool]]:
        """For each request, the log probability in nats of the continuation given its context, and whether it is the
        greedy one."""

        def ask(indices: list[int]) -> list[tuple[float, bool]]:
            scores = self.model.score([requests[index].args for index in indices])
            return [(-score.nats, score.greedy) for score in scores]

        alike = sorted(range(len(requests)), key=lambda index: requests[index].args[0])
        return self._answers("loglikelihood", requests, [alike], ask, self.portion)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log probability in nats of each text from its first byte, in its full context, without EOS."""

        def ask(indices: list[int]) -> list[float]:
            return [-score.nats for score in self.model.score([("", requests[index].args[0]) for index in indices])]

        return self._answers("loglikelihood_rolling", requests, [list(range(len(requests)))], ask, self.portion)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """The continuation of each context, ending before the first of its `until` strings. Repeated requests get
        different seeds."""
        alike, repeats = defaultdict[tuple[str, int], list[int]](list), Counter[str]()
        for index, request in enumerate(requests):
            options, repeat = repr(request.args[1]), repeats[repr(request.args)]
            alike[options, repeat].append(index)
            repeats[repr(request.args)] += 1
        seeds = {index: self.seed + repeat for (_, repeat), indices in alike.items() for index in indices}

        def ask(indices: list[int]) -> list[str]:
            options = self._options(requests[indices[0]].args[1])
            prompts = [requests[index].args[0] for index in indices]
            return [completion.text for completion in self.model.generate(prompts, seed=seeds[indices[0]], **options)]

        return self._answers("generate_until", requests, alike.values(), ask, WRITTEN)

    def _options(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Convert a task's generation options to those of `generate`. Raises UserError for an unsupported option."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(dict(wanted)))
        sampled, temperature = options.pop("do_sample"), options.pop("temperature", 1.0)
        stop = [until for until in options.pop("until") if until]
        limit = round(options.pop("max_gen_toks") * self.token_bytes)
        if options.pop("num_beams", 1) != 1 or not set(options) <= set(SAMPLING):
            raise UserError(f"cannot generate as this asks (unsupported options): {dict(wanted)}")
        more = options if sampled else {}
        return {"max_bytes": limit, "temperature": temperature if sampled else 0, "stop": stop, **more}

    def _answers(
        self,
        kind: str,
        requests: Sequence[Instance],
        groups: Iterable[list[int]],
        ask: Callable[[list[int]], list[Any]],
        together: int,
    ) -> list[Any]:
        """Ask about groups of request indices, at most `together` at a time. Answers are in the order of requests."""
        answers: list[Any] = [None] * len(requests)
        with progress() as bar:
            line = bar.add_task(kind, total=len(requests))
            for group in groups:
                for begin in range(0, len(group), together):
                    indices = group[begin : begin + together]
                    for index, answer in zip(indices, ask(indices), strict=True):
                        answers[index] = answer
                        self.cache_hook.add_partial(kind, requests[index].args, answer)
                    bar.advance(line, len(indices))
        return answers


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
    """The harness's results of one task, with keys of the form `acc,none`: a metric, and the filter of answers."""
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
