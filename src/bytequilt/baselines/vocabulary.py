"""Vocabularies: text to ids and back. Ids of a BPE are laid out as those of bytes are, four special ones first."""

import base64
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .. import codec
from ..codec import BOS, EOS, OFFSET, VOCAB_SIZE, as_bytes
from ..config import UserError
from ..files import write_text

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Cuts text into pieces that tokens stay inside: the pattern of Llama 3, and of cl100k except for its case."""
LLAMA_3 = "`pip download --no-deps llama-models==0.3.0` has it, as llama_models/llama3/tokenizer.model in the wheel"
NOT_TEXT = re.compile("[\udc80-\udcff]")
"""How a byte that is not UTF-8 stands in a string."""


class Vocabulary(Protocol):
    """What a baseline reads and writes."""

    @property
    def size(self) -> int:
        """Ids, the special ones among them."""
        ...

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        """Ids (n,) int64 of a text: BOS first unless told otherwise, EOS last if asked. Any bytes are valid."""
        ...

    def text(self, id: int) -> bytes:
        """The bytes that an id stands for; none for a special one."""
        ...


class Bytes:
    """Every byte is an id."""

    size = VOCAB_SIZE

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        return codec.encode(text, bos=bos, eos=eos)

    def text(self, id: int) -> bytes:
        return codec.decode([id])


class BPE:
    """Byte pair encoding by ranks of byte strings (Sennrich et al. 2016): the lowest rank merges first.

    A byte that is not UTF-8 is a token of its own.
    """

    def __init__(self, ranks: dict[bytes, int]) -> None:
        """Raises UserError where ranks are not 0, 1, 2, ..., or a single byte has none."""
        if sorted(ranks.values()) != list(range(len(ranks))) or any(bytes([b]) not in ranks for b in range(256)):
            raise UserError("ranks of a tokenizer must be 0, 1, 2, ... and every byte must have one")
        self.ranks = ranks
        self._encoding = _tiktoken().Encoding("ranks", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens={})
        self._texts = sorted(ranks, key=ranks.__getitem__)

    @property
    def size(self) -> int:
        return len(self.ranks) + OFFSET

    def encode(self, text: str | bytes, *, bos: bool = True, eos: bool = False) -> np.ndarray:
        whole, ranks, done = as_bytes(text).decode("utf-8", "surrogateescape"), [], 0
        for byte in NOT_TEXT.finditer(whole):
            ranks += self._encoding.encode_ordinary(whole[done : byte.start()])
            ranks.append(self.ranks[byte[0].encode("utf-8", "surrogateescape")])
            done = byte.end()
        ranks += self._encoding.encode_ordinary(whole[done:])
        ids = np.array(ranks, dtype=np.int64) + OFFSET
        return np.concatenate([np.full(int(bos), BOS), ids, np.full(int(eos), EOS)])

    def text(self, id: int) -> bytes:
        return self._texts[id - OFFSET] if id >= OFFSET else b""

    def save(self, path: Path) -> None:
        """Write the ranks as tiktoken and Llama 3 do: a line each, base64 and rank."""
        write_text(path, "".join(f"{base64.b64encode(text).decode()} {self.ranks[text]}\n" for text in self._texts))

    @classmethod
    def read(cls, path: Path, keep: int | None = None) -> "BPE":
        """The ranks of a file, or the first so many of them, which are a BPE of the same family.

        Raises UserError where there is no such file, or it has fewer ranks, or is of another kind.
        """
        try:
            lines = path.read_bytes().splitlines()
            ranks = {base64.b64decode(text): int(rank) for text, rank in (line.split() for line in lines if line)}
        except OSError as error:
            raise UserError(f"no tokenizer at {path} ({error.strerror}); that of Llama 3: {LLAMA_3}") from None
        except ValueError:
            raise UserError(f"{path} is not a tokenizer of ranks: lines of base64 and a number") from None
        if keep is not None and not 256 <= keep <= len(ranks):
            raise UserError(
                f"a vocabulary of {keep:,} of the {len(ranks):,} ranks of {path}: ask for 256 to all of them"
            )
        return cls({text: rank for text, rank in ranks.items() if keep is None or rank < keep})

    @classmethod
    def learn(cls, documents: Iterable[bytes], ranks: int) -> "BPE":
        """The most frequent merges of a corpus, up to so many ranks, the 256 bytes among them (library tokenizers).

        Raises UserError where the corpus does not have so many.
        """
        tokenizers = _tokenizers()
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
        learnt = {_bytes_of(token): rank for token, rank in learner.get_vocab().items()}
        if len(learnt) != ranks:
            raise UserError(
                f"the corpus gives a vocabulary of {len(learnt):,}, not {ranks:,}: ask for fewer, at least 256"
            )
        return cls(learnt)


def _byte_letters() -> dict[str, int]:
    """The letters that byte-level BPE writes bytes with: printable ones are themselves, others follow from 256 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + place): byte for place, byte in enumerate(others)}


LETTERS = _byte_letters()


def _bytes_of(token: str) -> bytes:
    return bytes(LETTERS[letter] for letter in token)


def _tiktoken() -> Any:
    try:
        import tiktoken
    except ImportError:
        raise UserError("BPE baselines need tiktoken: pip install 'bytequilt[eval]'") from None
    return tiktoken


def _tokenizers() -> Any:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.pre_tokenizers
        import tokenizers.trainers
    except ImportError:
        raise UserError("learning a BPE needs tokenizers: pip install 'bytequilt[eval]'") from None
    return tokenizers
