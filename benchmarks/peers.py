"""The models that bytequilt is measured against, built to be equal to ours."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bytequilt import LM, convert
from bytequilt.config import BLTConfig, EntropyConfig, HashConfig, StackConfig

LOCAL = {"heads": 4, "window": 512, "rope_theta": 500_000.0}
SMALL = BLTConfig(
    encoder=StackConfig(dim=256, layers=1, ffn_dim=704, **LOCAL),
    latent=StackConfig(dim=512, layers=8, heads=8, ffn_dim=1408, rope_theta=500_000.0),
    decoder=StackConfig(dim=256, layers=4, ffn_dim=704, **LOCAL),
    hash=HashConfig(rows=4001),
    slots=2,
    cross_heads=4,
)
"""37.7 M parameters; 41 M with the entropy model."""
SMALL_ENTROPY = EntropyConfig(dim=256, layers=4, heads=4, ffn_dim=704)


def hugging_face(ours: LM) -> Any:
    """Hugging Face's BltForCausalLM with our weights, by conversion. It needs `use_cache=False` in every call."""
    from transformers import BltForCausalLM

    with TemporaryDirectory() as scratch:
        ours.save(Path(scratch) / "ours")
        convert(Path(scratch) / "ours", Path(scratch) / "theirs", "hf")
        return BltForCausalLM.from_pretrained(Path(scratch) / "theirs", attn_implementation="sdpa")


def llama(layers: int, dim: int, heads: int, ffn_dim: int, vocabulary: int) -> Any:
    """Hugging Face's LlamaForCausalLM of that shape, with random weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        num_hidden_layers=layers,
        hidden_size=dim,
        num_attention_heads=heads,
        intermediate_size=ffn_dim,
        vocab_size=vocabulary,
        attn_implementation="sdpa",
    )
    return LlamaForCausalLM(config)
