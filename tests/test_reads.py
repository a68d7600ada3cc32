"""How often training reads the device: a micro-batch never, an optimizer step once. Counted on the CPU."""

from collections import Counter

import pytest
import torch
from conftest import blt, noise
from torch.overrides import TorchFunctionMode, resolve_name

from bytequilt.baselines.baseline import Baseline, build
from bytequilt.baselines.vocabulary import Bytes
from bytequilt.codec import BOS, VOCAB_SIZE, encode
from bytequilt.config import BaselineConfig, EntropyConfig, HashConfig, RuleConfig, StackConfig, TrainConfig
from bytequilt.data.batches import Batch
from bytequilt.lm import LM
from bytequilt.model.entropy import EntropyModel
from bytequilt.patching.patcher import Patcher
from bytequilt.train.loop import step
from bytequilt.train.optim import optimizers_of
from bytequilt.train.rows import Rows
from bytequilt.train.tasks import EntropyTask, LanguageTask

READS = {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "masked_select", "argwhere", "is_nonzero"}
READS |= {"__bool__", "__int__", "__float__", "__index__", "__len__"} - {"__len__"}  # lengths are no values


class Reads(TorchFunctionMode):
    """Counts what would wait for a device."""

    def __init__(self):
        super().__init__()
        self.counts = Counter()

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = (resolve_name(function) or getattr(function, "__name__", "")).rsplit(".", 1)[-1]
        if name in READS or (name == "repeat_interleave" and isinstance(args[1], torch.Tensor)):
            self.counts[name] += 1
        return function(*args, **(kwargs or {}))


def batch(seed, packed):
    ids_BN = torch.full((2, 64), 0)
    for row in range(2):
        parts = [encode(noise(20, 10 * seed + row + n), eos=True) for n in range(3 if packed else 1)]
        ids = torch.cat([torch.from_numpy(part) for part in parts])[:64]
        ids_BN[row, : len(ids)] = ids
    drawn = torch.rand(2, 64, generator=torch.Generator().manual_seed(seed))
    closes_BN = ((drawn < 0.3) | (ids_BN == BOS)) & (ids_BN > 0)
    return Batch.of(ids_BN, closes_BN, ids_BN > 3)


def blt_task():
    hash = HashConfig(sizes=(3, 4), rows=1009)
    return LanguageTask(LM(blt(hash=hash), Patcher(RuleConfig(kind="space"))), [])


def entropy_task():
    return EntropyTask(EntropyModel(EntropyConfig(dim=16, layers=1, heads=2, ffn_dim=24, window=16)), [])


def bytes_task():
    config = BaselineConfig(stack=StackConfig(dim=16, layers=1, heads=2), vocabulary=VOCAB_SIZE, token_bytes=1.0)
    return LanguageTask(Baseline(build(config), Bytes(), config), [])


@pytest.mark.parametrize("make", [blt_task, entropy_task, bytes_task])
@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("change", [{}, {"checkpoint_activations": True}, {"table_optimizer": "dense"}], ids=str)
def test_an_optimizer_step_reads_the_device_once(make, packed, change):
    task, config = make(), TrainConfig(steps=1, accumulate=3, **change)
    chosen = optimizers_of(task.network.train(), config)
    for optimizer in chosen:
        if isinstance(optimizer, Rows):
            optimizer.fixed = True  # as on a device that costs something to read
    given = [batch(seed, packed) for seed in range(3)]
    learnt = sum(map(task.bytes_of, given))  # counted on the CPU, where the batches are
    task.bytes_of = lambda batch: learnt / 3
    with Reads() as reads:
        record = step(task, given, chosen, config, bf16=False)
    assert record["good"]
    assert reads.counts == {"tolist": 1}


def test_the_counter_counts():
    x = torch.ones(3)
    with Reads() as reads:
        bool(x[0]), int(x[0]), x.sum().item(), x.tolist(), x.nonzero(), x.cpu(), x.unique(), float(x[0])
    assert sum(reads.counts.values()) == 8
