"""Tokenizer files for Transformers: a tokenizer of single bytes with the ids of this package."""

import json
from typing import Any

from ..codec import BOE, BOS, BPE_DELIMITER, EOS, OFFSET

SPECIAL = {BOE: "<boe>", BOS: "<bos>", EOS: "<eos>", BPE_DELIMITER: "<bpe>"}
PRINTABLE = (*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100))
"""Bytes that a byte-level tokenizer writes as the character with the same number; other bytes use numbers from 256
on."""


def tokenizer_files() -> dict[str, dict[str, Any]]:
    """The files that `AutoTokenizer` reads, as JSON by file name: a byte-level BPE without merges, which puts BOS
    first. A text that looks like a special token is encoded as its bytes."""
    return {
        "tokenizer.json": _tokenizer(),
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": SPECIAL[BOS],
            "eos_token": SPECIAL[EOS],
            "pad_token": SPECIAL[BOE],
            "padding_side": "left",
            "clean_up_tokenization_spaces": False,
            "split_special_tokens": True,
            "model_input_names": ["input_ids", "attention_mask"],
        },
        "special_tokens_map.json": {"bos_token": SPECIAL[BOS], "eos_token": SPECIAL[EOS], "pad_token": SPECIAL[BOE]},
    }


def _tokenizer() -> dict[str, Any]:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    units = {unit: byte + OFFSET for byte, unit in enumerate(byte_units())}
    tokenizer = Tokenizer(models.BPE({name: index for index, name in SPECIAL.items()} | units, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = SPECIAL[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(f"{first} $A", f"{first} $A $B", [(first, BOS)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL.values()])
    return json.loads(tokenizer.to_str())


def byte_units() -> list[str]:
    """The character that represents each byte in a byte-level vocabulary; all are printable, and none is a space."""
    beyond = iter(range(0x100, 0x200))
    return [chr(byte if byte in PRINTABLE else next(beyond)) for byte in range(256)]
