"""A baseline as one thing that loads, saves, scores and generates, as an LM does."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..codec import EOS, OFFSET, VOCAB_SIZE, TextStream, as_bytes
from ..config import BaselineConfig, TrainConfig, UserError
from ..files import replacing_folder, write_json
from ..infer.sampling import Sampling
from ..infer.score import BATCH, Feed, Score, batches, nats_of, score_documents
from ..interop.names import unfilled
from ..interop.native import FORMAT, ModelConfig
from ..model.layers import lay_out
from ..model.loss import target_nats
from ..model.transformer import Transformer
from .flops import baseline_flops
from .mamba import Mamba
from .vocabulary import BPE, Bytes, Vocabulary

if TYPE_CHECKING:  # what training needs is optional
    from ..data.batches import Batch, Batches

TOKENIZER = "tokenizer.model"
ROWS = 64  # texts that are generated side by side
SPACE = b" \t\n\r\f\v"


@dataclass(frozen=True)
class Continuation:
    """A generated text, without its prompt."""

    text: str
    data: bytes = field(repr=False)
    finish_reason: str


class Baseline:
    """A language model over bytes or tokens, with the methods of an LM that measure it."""

    def __init__(self, network: nn.Module, vocabulary: Vocabulary, config: BaselineConfig) -> None:
        self.network, self.vocabulary, self.config = network.eval(), vocabulary, config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def batches(self, shards: Path, train: TrainConfig) -> "Batches":
        """What the model is trained on, out of a folder of shards."""
        from ..data.batches import Batches  # needs the extra `train`

        return Batches(shards, train, None, encode=self.vocabulary.encode)

    def units(self, batch: "Batch") -> tuple[int, int]:
        """Bytes of text in a batch, and its tokens."""
        return int(self._sizes_V[batch.ids_BN[batch.ids_BN >= OFFSET]].sum()), batch.ids

    def encode(self, text: bytes) -> Tensor:
        """Ids (N) of a text, BOS first."""
        return torch.from_numpy(self.vocabulary.encode(text))

    @torch.no_grad()
    def logits(self, ids_BN: Tensor) -> Tensor:
        """Logits (B, N, V) in one forward pass."""
        return self.network(ids_BN.to(self.device))

    def score_documents(
        self, documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None
    ) -> tuple[list[Score], None]:
        """Scores of documents, EOS included, each in its full context; and no mean patch, for there are no patches.

        Of all the tokens that could spell a text, those that the tokenizer makes of it are scored. `advance` hears of
        bytes, about.
        """
        each = self.config.token_bytes
        found = score_documents(self._feed, documents, lambda ids: advance(round(ids * each)), self.vocabulary.encode)
        return found, None

    def loss(self, batch: "Batch") -> Tensor:
        """Sum of nats over the targets of a batch."""
        single = {"single": batch.single} if isinstance(self.network, Transformer) else {}
        return target_nats(self.network(batch.ids_BN, **single), batch.ids_BN, batch.learn_BN)

    def bytes_of(self, batch: "Batch") -> int:
        """Bytes that the targets of a batch on the CPU stand for, an EOS for one."""
        return int(self._sizes_V[batch.ids_BN[:, 1:][batch.learn_BN[:, 1:]]].sum())

    @cached_property
    def _sizes_V(self) -> Tensor:
        return torch.tensor([len(self.vocabulary.text(id)) or 1 for id in range(self.vocabulary.size)])

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte by part, their `total`, and `head`, in a context of so many bytes."""
        return baseline_flops(self.config.model_copy(update={"token_bytes": unit_bytes}), context)

    def _feed(self) -> Feed:
        cache = self.network.cache()

        @torch.no_grad()
        def feed(ids_n: Tensor) -> Tensor:
            return self.network(ids_n.to(self.device)[None], cache)[0]

        return feed

    def bits_per_byte(self, data: str | bytes) -> float:
        """Bits per byte of one document, EOS included, in its full context."""
        return self.score_documents([as_bytes(data)])[0][0].bits_per_byte

    @overload
    def score(self, context: str | bytes, continuation: str | bytes) -> Score: ...
    @overload
    def score(self, context: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]: ...
    @torch.inference_mode()
    def score(self, context, continuation=None):
        """What a continuation costs after its context, or each of many pairs; their EOS is not counted.

        Context and continuation are cut into tokens apart, but that white space between them goes to the continuation,
        where a tokenizer looks for it.
        """
        if continuation is not None:
            return self.score([(context, continuation)])[0]
        pairs = [self._cut(as_bytes(before), as_bytes(after)) for before, after in context]
        scores: list[Score] = [Score(0.0, 0)] * len(pairs)
        lengths = [len(before) + len(after) for before, after in pairs]
        for places in batches(list(range(len(pairs))), lengths, BATCH * VOCAB_SIZE // self.config.vocabulary):
            rows = [torch.cat(pairs[place]) for place in places]
            ids_BN = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(self.device)
            for place, ids_n, logits_NV in zip(places, rows, self.network(ids_BN), strict=True):
                begin = len(pairs[place][0])
                costs_n = nats_of(logits_NV[begin - 1 : len(ids_n) - 1], ids_n[begin:])
                likeliest_n = logits_NV[begin - 1 : len(ids_n) - 1].argmax(-1).cpu()
                scores[place] = Score(
                    float(costs_n.sum()), len(as_bytes(context[place][1])), bool((likeliest_n == ids_n[begin:]).all())
                )
        return scores

    def _cut(self, context: bytes, continuation: bytes) -> tuple[Tensor, Tensor]:
        """Ids of a context, BOS first, and of its continuation."""
        if self.config.vocabulary != VOCAB_SIZE:
            kept = context.rstrip(SPACE)
            context, continuation = kept, context[len(kept) :] + continuation
        encode = self.vocabulary.encode
        return torch.from_numpy(encode(context)), torch.from_numpy(encode(continuation, bos=False))

    @overload
    def generate(self, prompt: str | bytes, **sampling: Any) -> Continuation: ...
    @overload
    def generate(self, prompt: list[str] | list[bytes], **sampling: Any) -> list[Continuation]: ...
    @torch.inference_mode()
    def generate(self, prompt, **sampling):
        """Continue one prompt, or all of a list side by side; options are max_bytes, temperature, seed and stop."""
        if not isinstance(prompt, list):
            return self.generate([prompt], **sampling)[0]
        if unknown := sorted(set(sampling) - {"max_bytes", "temperature", "seed", "stop"}):
            raise UserError(f"baselines generate with max_bytes, temperature, seed and stop, not {unknown[0]}")
        chosen, found = Sampling(**sampling), []
        for begin in range(0, len(prompt), ROWS):
            found += self._side_by_side([as_bytes(one) for one in prompt[begin : begin + ROWS]], chosen)
        return found

    def _side_by_side(self, prompts: list[bytes], sampling: Sampling) -> list[Continuation]:
        """Texts whose tokens are drawn together, until each has come to its end."""
        cache, logits_RV = self._read(prompts)
        drawn, found, running = [b""] * len(prompts), {}, list(range(len(prompts)))
        generator = torch.Generator()
        generator.seed() if sampling.seed is None else generator.manual_seed(sampling.seed)
        while True:
            ids = _draw(logits_RV, sampling.temperature, generator)
            for row, id in zip(running, ids, strict=True):
                drawn[row] += self.vocabulary.text(id)
                if ended := _end(drawn[row], id, sampling):
                    found[row] = ended
            kept = [place for place, row in enumerate(running) if row not in found]
            if not kept:
                break
            if len(kept) < len(running):
                cache.select(kept)
                running, ids = [running[place] for place in kept], [ids[place] for place in kept]
            logits_RV = self.network.step(torch.tensor(ids, device=self.device), cache)
        return [found[row] for row in range(len(prompts))]

    def _read(self, prompts: list[bytes]) -> tuple[Any, Tensor]:
        """A cache whose rows have read the prompts, and the logits behind them."""
        caches, last = [], []
        for prompt in prompts:
            caches.append(self.network.cache())
            ids_N = torch.from_numpy(self.vocabulary.encode(prompt)).to(self.device)
            last.append(self.network(ids_N[None], caches[-1])[0, -1])
        for other in caches[1:]:
            caches[0].join(other)
        return caches[0], torch.stack(last)

    def save(self, folder: str | Path) -> None:
        """Write a model directory: config.json, model.safetensors, and tokenizer.model where there is one."""
        tensors = {f"baseline.{name}": w.detach().cpu().contiguous() for name, w in self.network.state_dict().items()}
        with replacing_folder(Path(folder)) as partial:
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            config = ModelConfig(format=FORMAT, baseline=self.config)
            write_json(partial / "config.json", config.model_dump(mode="json", exclude_none=True), indent=2)
            if isinstance(self.vocabulary, BPE):
                self.vocabulary.save(partial / TOKENIZER)

    @classmethod
    def load(cls, folder: Path, config: BaselineConfig, device: str = "cpu") -> "Baseline":
        """The baseline in a directory whose configuration is known. Raises UserError where it is damaged."""
        tokens = config.vocabulary != VOCAB_SIZE
        vocabulary: Vocabulary = BPE.read(folder / TOKENIZER) if tokens else Bytes()
        network = unfilled(build, config)
        try:
            tensors = load_file(folder / "model.safetensors")
            weights = {name.removeprefix("baseline."): weight for name, weight in tensors.items()}
            network.load_state_dict(weights, assign=True)
        except Exception as error:  # safetensors raises its own kind for a damaged file
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} is damaged or of another shape than its configuration says: {reason}") from None
        lay_out(network.to(device))
        return cls(network, vocabulary, config)


def build(config: BaselineConfig) -> nn.Module:
    """The network of a baseline, with random weights."""
    return (Transformer if config.stack else Mamba)(config.network, config.vocabulary)


def _draw(logits_RV: Tensor, temperature: float, generator: torch.Generator) -> list[int]:
    """An id of each row: a token, or EOS."""
    logits = logits_RV.float().cpu().clone()
    logits[:, :EOS] = logits[:, EOS + 1] = -torch.inf  # BOE and BOS; the delimiter of BPE
    if temperature == 0:
        return logits.argmax(-1).tolist()
    return torch.multinomial((logits / temperature).softmax(-1), 1, generator=generator)[:, 0].tolist()


def _end(data: bytes, id: int, sampling: Sampling) -> Continuation | None:
    """The text, where it has come to its end: a stop string, EOS or its length, whatever comes first."""
    places = [place for stop in sampling.stop if (place := data.find(stop)) >= 0]
    if places and min(places) < sampling.max_bytes:
        return _continuation(data[: min(places)], "stop")
    if id == EOS:
        return _continuation(data, "eos")
    return _continuation(data[: sampling.max_bytes], "length") if len(data) >= sampling.max_bytes else None


def _continuation(data: bytes, reason: str) -> Continuation:
    stream = TextStream()
    return Continuation(stream.feed(data) + stream.close(), data, reason)
