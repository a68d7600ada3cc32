"""Tokenizer files for Transformers: a tokenizer of single bytes with the ids of this package."""

import json
from typing import Any

from ..codec import BOE, BOS, BPE_DELIMITER, EOS, LETTERS, OFFSET

SPECIAL = {BOE: "<boe>", BOS: "<bos>", EOS: "<eos>", BPE_DELIMITER: "<bpe>"}


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

    units = {letter: byte + OFFSET for letter, byte in LETTERS.items()}
    tokenizer = Tokenizer(models.BPE({name: index for index, name in SPECIAL.items()} | units, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    first = SPECIAL[BOS]
    tokenizer.post_processor = processors.TemplateProcessing(f"{first} $A", f"{first} $A $B", [(first, BOS)])
    tokenizer.add_special_tokens([AddedToken(name, normalized=False) for name in SPECIAL.values()])
    return json.loads(tokenizer.to_str())
