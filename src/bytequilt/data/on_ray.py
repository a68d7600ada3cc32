"""Scores shards on the machines of a Ray cluster, one task per shard. Ray places, retries and awaits the tasks."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..config import UserError, library
from ..patching.patcher import Patcher
from .prepare import score_shard, unscored

RETRIES = 3
"""Maximum number of restarts of a task after its worker has died."""
LOCAL = "local"
"""The address that starts a new cluster on this machine."""


def score_on_ray(
    corpus: Path, folder: Path, patcher: Patcher, address: str, progress: Callable[[int], object] = lambda _: None
) -> None:
    """Like `score`, on a Ray cluster. Every machine must see both folders. `address` is as in `ray.init`, or LOCAL.

    Raises UserError if Ray is not installed or the cluster cannot be reached.
    """
    ray = _joined(address)
    try:
        on_gpu = patcher.model is not None and patcher.device.type == "cuda"
        task = ray.remote(max_retries=RETRIES, num_gpus=int(on_gpu))(score_shard)
        shared = ray.put(patcher)  # sent to each machine once
        waiting = {}
        for path, about, missing in unscored(corpus, folder, patcher):
            if missing:
                waiting[task.remote(path.absolute(), (folder / path.name).absolute(), about, shared)] = about
            else:
                progress(sum(about["bytes"]))
        while waiting:
            (done,), _ = ray.wait(list(waiting))
            ray.get(done)  # raises the exception of the task, if it failed
            progress(sum(waiting.pop(done)["bytes"]))
    finally:
        ray.shutdown()


def _joined(address: str) -> Any:
    ray = check_ray()
    try:
        ray.init(address=None if address == LOCAL else address, include_dashboard=False, log_to_driver=False)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(f"no Ray cluster at {address}: {error}") from None
    return ray


def check_ray() -> Any:
    """The package Ray. Raises UserError if it is not installed."""
    return library("ray", "--ray needs Ray: pip install 'bytequilt[ray]'")
