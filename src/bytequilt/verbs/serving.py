"""The verb `serve`: an HTTP server for models."""

import os
from typing import Annotated

import tyro

from ..config import UserError, library
from .shared import Repeated

Models = Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="MODEL...", help_behavior_hint="")]


def serve(
    models: Models = (),
    host: str = "127.0.0.1",
    port: int = 8000,
    api_key: Repeated = (),
    cors_origin: Repeated = (),
    allowed_host: Repeated = (),
    tokens: Repeated = (),
    rows: int = 16,
    queue: int = 64,
    max_prompt: int = 65_536,
    max_output: int = 16_384,
    max_body: int = 1_048_576,
    timeout: float = 600.0,
    rate: int = 0,
    grace: float = 30.0,
    stall: float = 120.0,
    device: str = "auto",
) -> None:
    """Serve models by an API like OpenAI's, and a page to play with at its address.

    Examples:
      bytequilt serve tiny
      bytequilt serve tiny runs/mine --port 8080
      bytequilt serve tiny --host 0.0.0.0 --api-key "$KEY" --rate 600

    Args:
        models: Shipped models, model or run directories, or hub ids. Default: tiny.
        host: The address to listen on. 0.0.0.0 accepts clients from other machines.
        port: The port to listen on. 0 selects a free port and prints its number.
        api_key: Clients must send one of these keys, or one from BYTEQUILT_API_KEYS. If there is no key, all clients
            are accepted. May be given more than once.
        cors_origin: Origin of a web page that may call the server from a browser. May be given more than once.
        allowed_host: A host name that requests may use. Default: local names on 127.0.0.1, otherwise any name.
        tokens: A tokenizer.json or file of ranks to show beside patches, next to our own BPE; may be repeated.
        rows: Largest number of texts of a model that are generated at the same time.
        queue: Largest number of texts of a model that wait. More are refused with status 429.
        max_prompt: Largest size of a prompt in bytes.
        max_output: Largest size of a generated text in bytes.
        max_body: Largest size of a request in bytes.
        timeout: Largest time in seconds from a request to the end of its text.
        rate: Largest number of requests per minute of a key, or of an address if there are no keys; 0 means no limit.
        grace: Seconds after SIGTERM in which running texts may finish.
        stall: Seconds without progress after which the engine counts as failed.
        device: Where the models run: auto, cpu, cuda, cuda:N, mps.
    """
    for name in ("fastapi", "prometheus_client", "uvicorn"):
        library(name, f"serving needs {name}: pip install 'bytequilt[serve]'")
    from ..baselines.tokenizer import Tokenizer
    from ..lm import load
    from ..serve.limits import Limits
    from ..serve.server import bind
    from ..serve.server import serve as run

    limits = Limits(
        rows=rows,
        queue=queue,
        prompt_bytes=max_prompt,
        output_bytes=max_output,
        body_bytes=max_body,
        seconds=timeout,
        rate=rate,
        grace=grace,
        stall=stall,
    )
    if not 0 <= port < 65536:
        raise UserError(f"port must be 0 to 65535, not {port}")
    keys = _keys(api_key)
    listener = bind(host, port)
    tokenizers = [Tokenizer.find(name) for name in ("default", *tokens)]
    loaded = {name: load(name, device) for name in models or ("tiny",)}
    raise SystemExit(run(loaded, limits, listener, keys, cors_origin, allowed_host, tokenizers))


def _keys(given: tuple[str, ...]) -> tuple[str, ...]:
    """The keys that were given, and those of the environment. Raises UserError for an empty key: the variable that it
    came from may have no value."""
    if not all(key.strip() for key in given):
        raise UserError("--api-key is empty: give a key, or leave the option out to let all clients in")
    return (*given, *filter(None, map(str.strip, os.environ.get("BYTEQUILT_API_KEYS", "").split(","))))
