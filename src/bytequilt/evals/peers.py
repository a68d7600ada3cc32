"""Models of Hugging Face to measure speed beside: a Llama of equal work per byte, and its own BLT with our weights.

They take the extra `hf`. The Llama has random weights and a cache; its tokens are random, each worth the bytes of one
of our patches. Hugging Face's BLT has no cache: each byte takes a forward pass over all before it.
"""

import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..baselines.networks import equal_stack
from ..codec import BOS
from ..config import StackConfig, library
from ..infer.score import NetworkScorer, score_documents
from ..info import count_parameters
from ..interop import convert
from ..lm import LM
from .decode import WARMUP, corpus, english
from .timing import Turn, timed

LLAMAS = {"llama-32k": 32_000, "llama-128k": 128_256}
"""Names of Llamas, and their vocabularies."""
PEERS = (*LLAMAS, "blt-hf")
SAMPLES = 8  # lengths at which a model without a cache is timed


def transformers() -> Any:
    """The library. Raises UserError where it is missing."""
    return library("transformers", "a peer needs the transformers package: pip install 'bytequilt[hf]'")


def hugging_face(ours: LM) -> Any:
    """Hugging Face's BltForCausalLM with our weights, by conversion. It needs `use_cache=False` in every call."""
    kind = transformers().BltForCausalLM
    with TemporaryDirectory() as scratch:
        ours.save(Path(scratch) / "ours")
        convert(Path(scratch) / "ours", Path(scratch) / "theirs", "hf")
        return kind.from_pretrained(Path(scratch) / "theirs", attn_implementation="sdpa")


def llama(shape: StackConfig, vocabulary: int) -> Any:
    """Hugging Face's LlamaForCausalLM of that shape, with random weights."""
    config = transformers().LlamaConfig(
        num_hidden_layers=shape.layers,
        hidden_size=shape.dim,
        num_attention_heads=shape.heads,
        intermediate_size=shape.hidden_dim,
        vocab_size=vocabulary,
        attn_implementation="sdpa",
    )
    return transformers().LlamaForCausalLM(config)


def eight_bits(network: nn.Module) -> nn.Module:
    """The network with the weights of its products in eight bits; on x86, one instruction multiplies four of them."""
    from torch.ao.quantization import quantize_dynamic

    with warnings.catch_warnings(action="ignore"):  # of a move to torchao, which has nothing as fast on a CPU
        return quantize_dynamic(network, {nn.Linear}, torch.qint8)


class Llama:
    """A Llama of as many multiply-adds per byte as our model, at the length of a text that is asked for."""

    def __init__(self, name: str, lm: LM, token_bytes: float, int8: bool = False) -> None:
        """`int8`: its products are PyTorch's own of eight bits, which scale what they multiply call by call."""
        self.lm, self.vocabulary, self.token_bytes, self.int8 = lm, LLAMAS[name], token_bytes, int8
        self._of = cache(self._built)

    def about(self, setting: dict[str, int], training: bool) -> dict[str, Any]:
        shape = self._of(_length(setting), training)[1]
        with torch.device("meta"):
            network = llama(shape, self.vocabulary)
        named = {"layers": shape.layers, "dim": shape.dim, "heads": shape.heads, "ffn_dim": shape.hidden_dim}
        return {"parameters": count_parameters(network), **named, "vocabulary": self.vocabulary}

    def decode(self, prompt: int, output: int, rows: int) -> Turn:
        network = self._of(prompt + output, False)[0].eval()
        before, after = self._tokens(prompt), self._tokens(output)
        tokens_RN = torch.randint(self.vocabulary, (rows, before + WARMUP + after))
        past = transformers().DynamicCache(config=network.config)
        feed = partial(network, past_key_values=past, use_cache=True, logits_to_keep=1)

        def work() -> float:
            for t in range(before + WARMUP, tokens_RN.shape[1]):
                feed(tokens_RN[:, t : t + 1])
            return rows * after * self.token_bytes

        with torch.inference_mode():
            feed(tokens_RN[:, :before])
            for t in range(before, before + WARMUP):
                feed(tokens_RN[:, t : t + 1])
            return timed(work)

    def train(self, rows: int, row_bytes: int) -> Turn:
        network = self._of(row_bytes, True)[0].train()
        tokens_RN = torch.randint(self.vocabulary, (rows, self._tokens(row_bytes)))
        return timed(partial(learn, network, rows * row_bytes, lambda: network(tokens_RN, labels=tokens_RN).loss))

    def score(self, size: int, context: int) -> Turn:
        text, network = corpus(size), self._of(min(size, context), False)[0].eval()

        def encode(text: bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
            return np.random.default_rng(0).integers(self.vocabulary, size=self._tokens(len(text)) + bos + eos)

        scorer = Forward(network, self.vocabulary, encode)
        return timed(partial(scored, scorer, text, max(2, self._tokens(context))))

    def _tokens(self, size: int) -> int:
        return max(1, round(size / self.token_bytes))

    def _built(self, length: int, training: bool) -> tuple[Any, StackConfig]:
        """The network for texts of so many bytes; in training our entropy model does not take part."""
        flops = self.lm.flops(self.token_bytes, length)
        work = flops["total"] - (flops["entropy"] if training else 0.0)
        shape = equal_stack(work, self.lm.model.config.latent, self.vocabulary, self.token_bytes, length)
        network = llama(shape, self.vocabulary)
        return (eight_bits(network) if self.int8 else network), shape


class HuggingFaceBLT:
    """Hugging Face's BLT with our weights and boundaries."""

    def __init__(self, lm: LM) -> None:
        self.network, self.patcher = hugging_face(lm), lm.patcher

    def about(self, setting: dict[str, int], training: bool) -> dict[str, Any]:
        return {"parameters": count_parameters(self.network)}

    def decode(self, prompt: int, output: int, rows: int) -> Turn:
        """Forward passes at lengths evenly spaced over the output, a byte of each row for each."""
        ids_RN, count = english(rows, prompt + output), min(SAMPLES, output)

        def work() -> float:
            for i in range(count):
                end = 1 + prompt + int((i + 0.5) * output / count)
                self.network(ids_RN[:, :end], use_cache=False, logits_to_keep=1)
            return rows * count

        with torch.inference_mode():
            self.network.eval()
            return timed(work)

    def train(self, rows: int, row_bytes: int) -> Turn:
        ids_BN = english(rows, row_bytes - 1)
        closes_BN = self.patcher(ids_BN).closes_BN
        lengths_BP, network = lengths_with_next(ids_BN, closes_BN), self.network.train()

        def loss() -> Tensor:
            return network(ids_BN, patch_lengths=lengths_BP, labels=ids_BN, use_cache=False).loss

        return timed(partial(learn, network, rows * row_bytes, loss))

    def score(self, size: int, context: int) -> Turn:
        return timed(partial(scored, Forward(self.network.eval()), corpus(size), context))


class Forward(NetworkScorer):
    """Scores texts side by side by a network of Hugging Face's, without its cache."""

    def side_by_side(self, ids_BN: Tensor) -> tuple[Tensor, Tensor | None]:
        return self.network(ids_BN, use_cache=False).logits, None


def _length(setting: dict[str, int]) -> int:
    """Bytes of the texts of a setting."""
    if "context" in setting:
        return min(setting["size"], setting["context"])
    return setting.get("row_bytes") or setting["prompt"] + setting["output"]


def scored(scorer: Any, text: bytes, context: int) -> int:
    """Score a text in windows of so many ids, which must be short enough to be scored side by side."""
    score_documents(scorer, [text], context=context)
    return len(text)


def learn(network: nn.Module, size: int, loss: Callable[[], Tensor]) -> int:
    """A training step: forward, backward, clipping, AdamW, which keeps its moments with the network."""
    optimizer = network.__dict__.get("optimizer")
    if optimizer is None:
        optimizer = network.__dict__["optimizer"] = torch.optim.AdamW(network.parameters(), lr=1e-4, fused=True)
    loss().backward()
    nn.utils.clip_grad_norm_(network.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return size


def lengths_with_next(ids_BN: Tensor, closes_BN: Tensor) -> Tensor:
    """Patches as Hugging Face takes them: lengths (B, P) that count the byte to come, so they sum to N + 1."""
    opens = torch.cat([ids_BN[:, :1] == BOS, closes_BN], 1)
    rows = [torch.diff(row.nonzero().flatten(), append=torch.tensor([row.numel()])) for row in opens]
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
