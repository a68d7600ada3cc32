"""A baseline as one thing that loads, saves, scores and generates, as an LM does."""

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, overload

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..codec import VOCAB_SIZE, as_bytes
from ..config import UserError
from ..infer.batcher import Batcher
from ..infer.generate import Completion, complete_all
from ..infer.sampling import sampling_of
from ..infer.score import NetworkScorer, Piece, Score, score_documents, score_pieces
from ..interop.native import FORMAT, ModelConfig, beside
from ..model.layers import lay_out
from ..model.transformer import Transformer
from .config import BaselineConfig
from .decoder import TokenDecoder
from .mamba import Mamba
from .vocabulary import BPE, Bytes, Vocabulary

TOKENIZER = "tokenizer.model"
ROWS = 64  # texts that are generated side by side
SPACE = b" \t\n\r\f\v"


class Baseline:
    """A language model over bytes or tokens, with the methods of an LM that measure it."""

    def __init__(self, network: nn.Module, vocabulary: Vocabulary, config: BaselineConfig) -> None:
        self.network, self.vocabulary, self.config = network.eval(), vocabulary, config

    @property
    def device(self) -> torch.device:
        return next(self.network.parameters()).device

    def score_documents(
        self, documents: Iterable[bytes], advance: Callable[[int], None] = lambda _: None
    ) -> list[Score]:
        """Scores of documents, EOS included, each in its full context.

        Of all the tokens that could spell a text, those that the tokenizer makes of it are scored. `advance` hears of
        bytes, about.
        """
        size = self.config.token_bytes
        return score_documents(self._scorer, documents, lambda ids: advance(round(ids * size)))

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
        """What a continuation costs after its context, or each of many pairs; their EOS is not counted.

        Context and continuation are cut into tokens apart, but that white space between them goes to the continuation,
        where a tokenizer looks for it.
        """
        if continuation is not None:
            return self.score([(context, continuation)])[0]
        pieces = []
        for before, after in context:
            before_n, after_n = self._cut(as_bytes(before), as_bytes(after))
            pieces.append(Piece(torch.cat([before_n, after_n]), len(before_n), len(as_bytes(after))))
        return score_pieces(self._scorer, pieces)

    def _cut(self, context: bytes, continuation: bytes) -> tuple[Tensor, Tensor]:
        """Ids of a context, BOS first, and of its continuation."""
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
        """Continue one prompt, or all of a list side by side; options are the fields of `Sampling`.

        Those that speak of single bytes (utf8, logit_bias, logprobs, top_logprobs) are for vocabularies of bytes.
        """
        if not isinstance(prompt, list | tuple):
            return self.generate([prompt], **sampling)[0]
        chosen = sampling_of(sampling)
        if self.config.vocabulary != VOCAB_SIZE:
            for name in ("utf8", "logit_bias", "logprobs", "top_logprobs"):
                if getattr(chosen, name):
                    raise UserError(f"{name} is about bytes, and this model writes tokens of several bytes")
        requests = [(as_bytes(text), chosen) for text in prompt]
        return complete_all(self.batcher(min(ROWS, len(requests))), requests) if requests else []

    def batcher(self, rows: int = 16) -> Batcher:
        """Generates up to so many texts side by side, which come and go as they please."""
        return Batcher(TokenDecoder(self.network, self.vocabulary, rows))

    def save(self, folder: str | Path) -> None:
        """Write a model directory: config.json, model.safetensors, and tokenizer.model where there is one."""
        tensors = {f"baseline.{name}": w.detach().cpu().contiguous() for name, w in self.network.state_dict().items()}
        with beside(Path(folder), replace=True) as partial:
            save_file(tensors, partial / "model.safetensors", metadata={"format": "pt"})
            config = ModelConfig(format=FORMAT, baseline=self.config)
            (partial / "config.json").write_text(config.model_dump_json(indent=2, exclude_none=True) + "\n")
            if isinstance(self.vocabulary, BPE):
                self.vocabulary.save(partial / TOKENIZER)

    @classmethod
    def load(cls, folder: Path, config: BaselineConfig, device: str = "cpu") -> "Baseline":
        """The baseline in a directory whose configuration is known. Raises UserError where it is damaged."""
        tokens = config.vocabulary != VOCAB_SIZE
        vocabulary: Vocabulary = BPE.read(folder / TOKENIZER) if tokens else Bytes()
        with torch.device("meta"):
            network = build(config)
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
