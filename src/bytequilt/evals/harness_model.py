"""bytequilt's models for EleutherAI's lm-evaluation-harness, as model type `bytequilt`.

A context is BOS and its bytes, and a continuation is its bytes. Without tokens, nothing changes where the two meet, and
no space is moved. Texts of any length are read in full.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Self

import torch

from ..config import UserError
from ..lm import load_any
from ..view.progress import progress
from .answers import Model

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import simple_parse_args_string
except ImportError:
    raise UserError("tasks of lm-evaluation-harness need lm-eval: pip install 'bytequilt[eval]'") from None

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
        token_bytes, seed = chosen.pop("token_bytes"), chosen.pop("seed")
        if not isinstance(token_bytes, int | float) or token_bytes <= 0:
            raise UserError(f"token_bytes must be a number above 0, not {token_bytes!r}")
        return cls(_open(**chosen), token_bytes, seed)

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
        """Call `ask` for groups of request indices, at most `together` at a time; returns the answers in the order of
        requests."""
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


def _open(pretrained: str | None, revision: str | None, device: str, dtype: str) -> Model:
    if pretrained is None:
        raise UserError("model arguments must name a model: pretrained=DIR, a shipped name or a hub id")
    chosen = {} if revision is None else {"revision": str(revision)}
    return load_any(str(pretrained), device, dtype, **chosen)
