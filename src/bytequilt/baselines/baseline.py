"""A baseline: a language model over bytes or tokens that loads, saves, scores and generates, as LM does."""

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..codec import OFFSET, VOCAB_SIZE, as_bytes
from ..config import BaselineConfig, TrainConfig, UserError
from ..files import replacing_folder, write_json
from ..infer.batcher import Batcher
from ..infer.generate import Completion, complete_all
from ..infer.sampling import sampling_of
from ..infer.score import NetworkScorer, Piece, Score, score_documents, score_pieces
from ..interop.names import unfilled
from ..interop.native import FORMAT, STALE, ModelConfig
from ..model.layers import lay_out
from ..model.loss import target_nats
from .networks import baseline_flops, build
from .vocabulary import BPE, RANKS_FILE, Bytes, Vocabulary

if TYPE_CHECKING:  # optional dependencies of training
    from ..data.batches import Batch, Batches

ROWS = 64  # largest number of texts that are generated side by side
SPACE = b" \t\n\r\f\v"


class Baseline:
    """A language model over bytes or tokens that a BLT is compared with. It has those methods of LM that comparisons
    need."""

    def __init__(self, network: nn.Module, vocabulary: Vocabulary, config: BaselineConfig) -> None:
        self.network, self.vocabulary, self.config = network.eval(), vocabulary, config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def batches(self, shards: Path, train: TrainConfig) -> "Batches":
        """Training batches from a folder of shards."""
        from ..data.batches import Batches  # needs the extra `train`

        return Batches(shards, train, None, encode=self.vocabulary.encode)

    def units(self, batch: "Batch") -> tuple[int, int]:
        """Number of bytes and number of tokens in a batch."""
        return int(self._sizes_V[batch.ids_BN[batch.ids_BN >= OFFSET]].sum()), batch.ids

    def encode(self, text: bytes) -> Tensor:
        """Ids (N,) of a text, starting with BOS."""
        return torch.from_numpy(self.vocabulary.encode(text))

    @torch.no_grad()
    def logits(self, ids_BN: Tensor) -> Tensor:
        """Logits (B, N, V) of ids (B, N) in one forward pass."""
        return self.network(ids_BN.to(self.device))

    def score_documents(
        self, documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None, context: int | None = None
    ) -> list[Score]:
        """Scores of documents, EOS included, each in its full context or in at most `context` tokens.

        A text is scored with the tokens that the tokenizer gives; other spellings of the same text are not added.
        `advance` is called with the approximate number of bytes just scored.
        """
        size = self.config.token_bytes
        return score_documents(self._scorer, documents, lambda ids: advance(round(ids * size)), context)

    def loss(self, batch: "Batch") -> Tensor:
        """Sum of nats over the targets of a batch."""
        single = {"single": batch.single} if self.config.stack else {}
        return target_nats(self.network(batch.ids_BN, **single), batch.ids_BN, batch.learn_BN)

    def bytes_of(self, batch: "Batch") -> int:
        """Number of bytes that the targets of a batch represent; an EOS counts as one."""
        return int(self._sizes_V[batch.ids_BN[:, 1:][batch.learn_BN[:, 1:]]].sum())

    @cached_property
    def _sizes_V(self) -> Tensor:
        return torch.tensor([len(self.vocabulary.text(id)) or 1 for id in range(self.vocabulary.size)])

    def flops(self, unit_bytes: float, context: float) -> dict[str, float]:
        """Forward FLOPs per byte: `body`, `head` and `total`. `context` is the length of a document in bytes."""
        return baseline_flops(self.config.model_copy(update={"token_bytes": unit_bytes}), context)

    @property
    def _scorer(self) -> NetworkScorer:
        return NetworkScorer(self.network, self.config.vocabulary, self.vocabulary.encode)

    def bits_per_byte(self, data: str | bytes) -> float:
        """Bits per byte of one document, EOS included, in its full context."""
        return self.score_documents([as_bytes(data)])[0].bits_per_byte

    @overload
    def score(self, context: str | bytes, continuation: str | bytes) -> Score: ...
    @overload
    def score(self, context: Sequence[tuple[str | bytes, str | bytes]]) -> list[Score]: ...
    @torch.inference_mode()
    def score(self, context, continuation=None):
        """The score of a continuation given its context, without EOS; or a list of scores for (context, continuation)
        pairs.

        Context and continuation are tokenized separately. White space at the end of the context is moved to the
        continuation, where tokenizers expect it.
        """
        if continuation is not None:
            return self.score([(context, continuation)])[0]
        pieces = []
        for before, after in context:
            before_n, after_n = self._cut(as_bytes(before), as_bytes(after))
            pieces.append(Piece(torch.cat([before_n, after_n]), len(before_n), len(as_bytes(after))))
        return score_pieces(self._scorer, pieces)

    def _cut(self, context: bytes, continuation: bytes) -> tuple[Tensor, Tensor]:
        """Ids of a context, starting with BOS, and ids of its continuation."""
        if self.config.vocabulary != VOCAB_SIZE:
            kept = context.rstrip(SPACE)
            context, continuation = kept, context[len(kept) :] + continuation
        encode = self.vocabulary.encode
        return torch.from_numpy(encode(context)), torch.from_numpy(encode(continuation, bos=False))

    @overload
    def generate(self, prompt: str | bytes, **sampling: Any) -> Completion: ...
    @overload
    def generate(self, prompt: Sequence[str] | Sequence[bytes], **sampling: Any) -> list[Completion]: ...
    def generate(self, prompt, **sampling):
        """Continue a prompt, or a list of prompts side by side. The options are the fields of `Sampling`. The options
        utf8, logit_bias, logprobs and top_logprobs concern single bytes, so a model over tokens refuses them."""
        if not isinstance(prompt, list | tuple):
            return self.generate([prompt], **sampling)[0]
        chosen = sampling_of(sampling)
        if self.config.vocabulary != VOCAB_SIZE:
            for name in ("utf8", "logit_bias", "logprobs", "top_logprobs"):
                if getattr(chosen, name):
                    raise UserError(f"{name} is about bytes, but this model generates tokens of several bytes")
        requests = [(as_bytes(text), chosen) for text in prompt]
        return complete_all(self.batcher(min(ROWS, len(requests))), requests) if requests else []

    def batcher(self, rows: int = 16) -> Batcher:
        """A batcher, which generates up to `rows` texts side by side; texts can be added and removed at any time."""
        return Batcher(TokenDecoder(self.network, self.vocabulary, rows))

    def save(self, folder: str | Path) -> None:
        """Write a model directory: config.json, model.safetensors and, for a BPE, tokenizer.model."""
        tensors = {f"baseline.{name}": w.detach().cpu().contiguous() for name, w in self.network.state_dict().items()}
        with replacing_folder(Path(folder), stale=STALE) as partial:
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            config = ModelConfig(format=FORMAT, baseline=self.config)
            write_json(partial / "config.json", config.model_dump(mode="json", exclude_none=True), indent=2)
            if isinstance(self.vocabulary, BPE):
                self.vocabulary.save(partial / RANKS_FILE)

    @classmethod
    def load(cls, folder: Path, config: BaselineConfig, device: str = "cpu") -> "Baseline":
        """Load a baseline from a directory whose configuration is known. Raises UserError if the files are damaged."""
        tokens = config.vocabulary != VOCAB_SIZE
        vocabulary: Vocabulary = BPE.read(folder / RANKS_FILE) if tokens else Bytes()
        network = unfilled(build, config)
        try:
            tensors = load_file(folder / "model.safetensors")
            weights = {name.removeprefix("baseline."): weight for name, weight in tensors.items()}
            network.load_state_dict(weights, assign=True)
        except Exception as error:  # safetensors raises its own exceptions for damaged files
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"{folder} is damaged or of another shape than its configuration says: {reason}") from None
        lay_out(network.to(device))
        return cls(network, vocabulary, config)


class TokenDecoder:
    """A network over ids with a cache of `rows` rows. The host needs no state of a text apart from its ids."""

    def __init__(self, network: Any, vocabulary: Vocabulary, rows: int) -> None:
        self.network, self.size, self.vocabulary = network, rows, vocabulary.size
        self.device = next(network.parameters()).device
        self.cache = network.cache(rows)
        self.clear, self.encode, self.data = self.cache.clear, vocabulary.encode, vocabulary.text
        self._drawn = [0] * rows

    def prefill(self, ids_n: Tensor, row: int) -> Tensor:
        self._drawn[row] = 0
        return self.network(ids_n[None], self.cache, self.cache.rows([row]))[0, -1]

    def lookahead(self, ids_n: Tensor, rows: Sequence[int]) -> Tensor:
        return torch.zeros_like(ids_n)

    def advance(self, ids_n: Tensor, ids: Sequence[int], known: Sequence[int], rows: Sequence[int]) -> Tensor:
        for row in rows:
            self._drawn[row] += 1
        return self.network.step(ids_n, self.cache, self.cache.rows(rows), text=True)

    def counts(self, row: int) -> tuple[Counter[str], bool]:
        """Every id counts as one patch and one decoder call."""
        return Counter(patches=self._drawn[row], decoder_calls=self._drawn[row]), True
