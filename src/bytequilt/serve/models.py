"""The models of a server, found by their names."""

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import UserError
from .engine import Engine
from .errors import BadRequest, NotFound
from .limits import Limits
from .metrics import Meters, Metrics

if TYPE_CHECKING:
    from ..baselines.tokenizer import Tokenizer
    from ..lm import LM


class Models:
    """One engine per model. A model has a short name; its name or path on the command line works as well."""

    def __init__(self, models: dict[str, "LM"], limits: Limits, tokenizers: Sequence["Tokenizer"] = ()) -> None:
        """Create an engine for each model. Tokens of the `tokenizers` can be shown beside patches."""
        self.limits, self.metrics, self.created = limits, Metrics(), int(time.time())
        self.tokenizers = {tokenizer.name: tokenizer for tokenizer in tokenizers}
        self.engines: dict[str, Engine] = {}
        self._aliases: dict[str, str] = {}
        for called, lm in models.items():
            name = short_name(called)
            if name in self.engines:
                raise UserError(f"two models are called '{name}'; rename a directory")
            self.engines[name] = Engine(name, lm, limits, Meters(self.metrics, name))
            self._aliases[called] = name

    def engine(self, name: str | None) -> Engine:
        """The engine of this name; the first engine if the name is None. Raises NotFound for an unknown name."""
        if name is None:
            return next(iter(self.engines.values()))
        engine = self.engines.get(self._aliases.get(name, name))
        if engine is None:
            raise NotFound(f"no such model; there are {', '.join(self.engines)}", param="model")
        return engine

    def card(self, name: str) -> dict[str, Any]:
        """The description of a model for /v1/models."""
        engine = self.engine(name)
        return {
            "id": engine.name,
            "object": "model",
            "created": self.created,
            "owned_by": "bytequilt",
            "unit": "byte",
            "max_prompt_bytes": self.limits.prompt_bytes,
            "max_output_bytes": self.limits.output_bytes,
            "tokenizers": list(self.tokenizers),
        }

    def tokens(self, name: str, data: bytes) -> dict[str, Any]:
        """The tokens of a text. Raises BadRequest for an unknown name of a tokenizer."""
        if name not in self.tokenizers:
            raise BadRequest(f"no such tokenizer; there are {', '.join(self.tokenizers) or 'none'}", param="tokens")
        pieces = [{"start": start, "length": length} for start, length in self.tokenizers[name].pieces(data)]
        return {"name": name, "count": len(pieces), "pieces": pieces}

    @property
    def fault(self) -> str | None:
        """Why an engine has failed; None if all engines work."""
        return next((engine.fault for engine in self.engines.values() if engine.fault is not None), None)

    @property
    def draining(self) -> bool:
        return any(engine.draining for engine in self.engines.values())

    async def drain(self, seconds: float) -> None:
        """Admit no more texts, and wait at most `seconds` for all open texts to end."""
        for engine in self.engines.values():
            engine.draining = True
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.fault is None and any(e.open for e in self.engines.values()):
            await asyncio.sleep(0.05)


def short_name(called: str) -> str:
    """The short name of a model. For a path: its last part, or the part before if the last is `model` (as in a run
    directory). Any other name is returned unchanged."""
    path = Path(called)
    if not path.exists():
        return called
    path = path.resolve()
    return path.parent.name if path.name == "model" else path.name
