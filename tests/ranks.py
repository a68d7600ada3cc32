"""Several processes on this machine, as torchrun would start them; every wait is bounded."""

import os
import socket
import time
import traceback
from pathlib import Path

import torch
import torch.multiprocessing as mp

LIMIT = 240  # seconds: the machines that run this are busy


def spawn(work, world: int, folder: Path, *inputs) -> list:
    """What `work(folder, *inputs)` returns in each of several processes, each a world's rank."""
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.spawn(_rank, (world, port, work, folder, inputs), nprocs=world, join=False)
    end = time.monotonic() + LIMIT
    try:
        while not context.join(timeout=1):
            assert time.monotonic() < end, "the ranks did not end"
    finally:
        for process in context.processes:
            if process.is_alive():
                process.kill()
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def _rank(rank: int, world: int, port: int, work, folder: Path, inputs: tuple) -> None:
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    try:
        torch.save(work(folder, *inputs), folder / f"{rank}.pt")
    except BaseException:
        traceback.print_exc()
        raise
