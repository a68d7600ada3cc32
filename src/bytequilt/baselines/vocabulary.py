"""Vocabularies: text to ids and back. The first four ids are special in every vocabulary, as in that of bytes."""

import base64
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from .. import codec
from ..codec import BOS, EOS, LETTERS, OFFSET, VOCAB_SIZE, as_bytes
from ..config import UserError, library
from ..files import write_text

RANKS_FILE = "tokenizer.model"
"""The file of a BPE in a model directory."""
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Regular expression that divides text before BPE: that of Llama 3, which equals cl100k's except for upper and lower
case."""
LLAMA_3 = "`pip download --no-deps llama-models==0.3.0` downloads it: llama_models/llama3/tokenizer.model in the wheel"
NOT_TEXT = re.compile("[\udc80-\udcff]")
"""Matches a byte that is not UTF-8 after decoding with surrogateescape."""


def runs(text: str | bytes) -> Iterator[tuple[str, bytes]]:
    """A text as runs of UTF-8, each with the byte behind it that is not UTF-8; behind the last run b""."""
    whole, done = as_bytes(text).decode("utf-8", "surrogateescape"), 0
    for byte in NOT_TEXT.finditer(whole):
        yield whole[done : byte.start()], as_bytes(byte[0])
        done = byte.end()
    yield whole[done:], b""


class Bytes:
    """The vocabulary of single bytes."""

    size = VOCAB_SIZE
    """Number of ids, special ones included."""

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        """Ids (n,) int64 of a text of any bytes; BOS is added by default, EOS on request."""
        return codec.encode(text, bos=bos, eos=eos)

    def text(self, id: int) -> bytes:
        """The bytes of an id; empty for a special id."""
        return codec.decode([id])


class BPE:
    """Byte pair encoding (Sennrich et al. 2016) with a rank for every token: the pair with the lowest rank merges
    first. A byte that is not part of valid UTF-8 is never merged: it is a token of its own."""

    def __init__(self, ranks: dict[bytes, int]) -> None:
        """Raises UserError unless ranks are 0, 1, 2, ... and every single byte has a rank."""
        if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([b]) not in ranks for b in range(256)):
            raise UserError("ranks of a tokenizer must be 0, 1, 2, ... and every byte must have one")
        self.ranks = ranks
        tiktoken = library("tiktoken", "BPE baselines need tiktoken: pip install 'bytequilt[eval]'")
        self._encoding = tiktoken.Encoding("ranks", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._texts = sorted(ranks, key=ranks.__getitem__)

    @property
    def size(self) -> int:
        return len(self.ranks) + OFFSET

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        ranks: list[int] = []
        for run, byte in runs(text):
            ranks += self._encoding.encode_ordinary(run)
            ranks += [self.ranks[byte]] if byte else []
        ids = np.array(ranks, dtype=np.int64) + OFFSET
        return np.concatenate([np.full(int(bos), BOS), ids, np.full(int(eos), EOS)])

    def text(self, id: int) -> bytes:
        return self._texts[id - OFFSET] if id >= OFFSET else b""

    def save(self, path: Path) -> None:
        """Write the ranks in the format of tiktoken and Llama 3: per line, a token in base64 and its rank."""
        write_text(path, "".join(f"{base64.b64encode(text).decode()} {self.ranks[text]}\n" for text in self._texts))

    @classmethod
    def read(cls, path: Path, keep: int | None = None) -> "BPE":
        """The ranks of a file, or only the first `keep` of them, which also form a BPE. Raises UserError if the file
        does not exist, has fewer ranks, or is of another format."""
        try:
            lines = path.read_bytes().splitlines()
            ranks = {base64.b64decode(text): int(rank) for text, rank in (line.split() for line in lines if line)}
        except OSError as error:
            raise UserError(f"no tokenizer at {path} ({error.strerror}); that of Llama 3: {LLAMA_3}") from None
        except ValueError:
            raise UserError(f"{path} is not a tokenizer of ranks, which has lines of base64 and a number") from None
        if keep is not None and not 256 <= keep <= len(ranks):
            raise UserError(f"cannot take {keep:,} of the {len(ranks):,} ranks of {path}: give 256 to all of them")
        return cls({text: rank for text, rank in ranks.items() if keep is None or rank < keep})

    @classmethod
    def learn(cls, documents: Iterable[bytes], ranks: int) -> "BPE":
        """Learn a BPE from a corpus: `ranks` tokens, including the 256 bytes, by the library `tokenizers`. Raises
        UserError if the corpus does not give that many tokens."""
        tokenizers = library("tokenizers", "learning a BPE needs tokenizers: pip install 'bytequilt[eval]'")
        letters = tokenizers.pre_tokenizers.ByteLevel.alphabet()
        learner = tokenizers.Tokenizer(tokenizers.models.BPE())
        learner.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
            [
                tokenizers.pre_tokenizers.Split(tokenizers.Regex(PATTERN), "isolated"),
                tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        trainer = tokenizers.trainers.BpeTrainer(vocab_size=ranks, initial_alphabet=letters, show_progress=False)
        learner.train_from_iterator((document.decode("utf-8", "replace") for document in documents), trainer)
        learnt = {spelled(token): rank for token, rank in learner.get_vocab().items()}
        if len(learnt) != ranks:
            raise UserError(
                f"the corpus gives a vocabulary of {len(learnt):,}, not {ranks:,}: give a smaller number, at least 256"
            )
        return cls(learnt)


def spelled(token: str) -> bytes:
    """The bytes of a token of byte-level BPE. Raises KeyError for a character that stands for no byte."""
    return bytes(LETTERS[letter] for letter in token)


Vocabulary = Bytes | BPE
