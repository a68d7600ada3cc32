"""Our models in EleutherAI's lm-evaluation-harness, as `bytequilt`.

A context is BOS and its bytes, a continuation is its bytes: nothing is cut into tokens, so nothing is cut differently
where the two meet, and no space moves from the one to the other. Texts are read whole, however long.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, Self

import torch

from ..config import UserError
from ..infer.score import Score
from ..lm import load_any
from ..view.progress import progress

try:
    from lm_eval.api.instance import Instance
    from lm_eval.api.model import LM
    from lm_eval.models.utils import normalize_gen_kwargs
    from lm_eval.utils import simple_parse_args_string
except ImportError:
    raise UserError("tasks of lm-evaluation-harness need lm-eval: pip install 'bytequilt[eval]'") from None

WRITTEN = 64  # texts that are written before the progress bar moves
SAMPLING = ("top_k", "top_p", "min_p")  # what a task may say of sampling beside the temperature
MODEL_ARGS = {"pretrained": None, "revision": None, "device": "cpu", "dtype": "float32", "token_bytes": 4, "seed": 0}
"""What --model_args may name, and what holds otherwise."""
HARNESS_DEFAULT_DEVICE = "cuda:0"  # the device that the harness's command line names where its user names none
HARNESS_ARGS = ("batch_size", "max_batch_size")  # always given; batches are cut by bytes, and come out the same anyway


class Model(Protocol):
    """A model that the harness can use: an LM, or any other with these two methods."""

    def score(self, pairs: Sequence[tuple[str, str]], /) -> Sequence[Score]:
        """What the second text of each pair costs after the first."""
        ...

    def generate(self, prompt: list[str], /, **sampling: Any) -> Sequence[Any]:
        """What comes after each prompt, as `text`; given max_bytes, temperature, seed and stop."""
        ...


class Harness(LM):
    """A model of ours with the methods of the harness's models."""

    def __init__(self, model: Model, token_bytes: float = 4, seed: int = 0, portion: int = 256) -> None:
        """Where a task limits an answer to so many tokens, each stands for `token_bytes` bytes.

        `portion` is how many requests are scored together: neighbours share contexts and batches.
        """
        super().__init__()
        self.model, self.token_bytes, self.seed, self.portion = model, token_bytes, seed, portion

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """The model that --model_args name. Raises UserError where they cannot be understood or followed."""
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
        """Log p of each continuation after its context, in nats, and whether greedy generation would write it."""

        def ask(places: list[int]) -> list[tuple[float, bool]]:
            scores = self.model.score([requests[place].args for place in places])
            return [(-score.nats, score.greedy) for score in scores]

        alike = sorted(range(len(requests)), key=lambda place: requests[place].args[0])
        return self._answers("loglikelihood", requests, [alike], ask, self.portion)

    def loglikelihood_rolling(self, requests: list[Instance]) -> list[float]:
        """Log p of each text from its first byte on, in nats, in its full context; its end is not counted."""

        def ask(places: list[int]) -> list[float]:
            return [-score.nats for score in self.model.score([("", requests[place].args[0]) for place in places])]

        return self._answers("loglikelihood_rolling", requests, [list(range(len(requests)))], ask, self.portion)

    def generate_until(self, requests: list[Instance]) -> list[str]:
        """What comes after each context, before the first of its `until`. Repeats of a request have their own seeds."""
        alike, repeats = defaultdict[tuple[str, int], list[int]](list), Counter[str]()
        for place, request in enumerate(requests):
            options, repeat = repr(request.args[1]), repeats[repr(request.args)]
            alike[options, repeat].append(place)
            repeats[repr(request.args)] += 1
        seeds = {place: self.seed + repeat for (_, repeat), places in alike.items() for place in places}

        def ask(places: list[int]) -> list[str]:
            options = self._options(requests[places[0]].args[1])
            prompts = [requests[place].args[0] for place in places]
            return [completion.text for completion in self.model.generate(prompts, seed=seeds[places[0]], **options)]

        return self._answers("generate_until", requests, alike.values(), ask, WRITTEN)

    def _options(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Options of a task as those of `generate`. Raises UserError for one that cannot be followed."""
        options: dict[str, Any] = dict(normalize_gen_kwargs(dict(asked)))
        sampled, temperature = options.pop("do_sample"), options.pop("temperature", 1.0)
        stop = [until for until in options.pop("until") if until]
        limit = round(options.pop("max_gen_toks") * self.token_bytes)
        if options.pop("num_beams", 1) != 1 or not set(options) <= set(SAMPLING):
            raise UserError(f"cannot generate as this asks: {dict(asked)}")
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
        """Answers to all requests, asked for in groups of their places, cut into portions; each kept as it comes."""
        answers: list[Any] = [None] * len(requests)
        with progress() as bar:
            line = bar.add_task(kind, total=len(requests))
            for group in groups:
                for begin in range(0, len(group), together):
                    places = group[begin : begin + together]
                    for place, answer in zip(places, ask(places), strict=True):
                        answers[place] = answer
                        self.cache_hook.add_partial(kind, requests[place].args, answer)
                    bar.advance(line, len(places))
        return answers


def _open(pretrained: str | None, revision: str | None, device: str, dtype: str) -> Model:
    if pretrained is None:
        raise UserError("model arguments must name a model: pretrained=DIR, a shipped name or a hub id")
    try:
        chosen = {} if revision is None else {"revision": str(revision)}
        return load_any(str(pretrained), device, dtype=dtype, **chosen)
    except (AssertionError, RuntimeError) as error:  # what torch raises for a device that is not there
        raise UserError(f"cannot use device '{device}': {str(error).splitlines()[0]}") from None
