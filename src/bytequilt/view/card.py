"""The model card (README.md of a model's repository on the hub), written from the report of the training run."""

from typing import Any

from huggingface_hub import ModelCardData

from ..config import BLTConfig

INTRODUCTION = """# A Byte Latent Transformer

It reads and writes bytes, without a tokenizer: a small model cuts them into patches, a large one predicts over patches.

```python
from bytequilt import load

lm = load("OWNER/NAME")
print(lm.generate("The ", max_bytes=200, seed=0).text)
```
"""
MEASURED = [
    ("bpb", "bits per byte of held-out text", "{:.3f}"),
    ("entropy_model_bpb", "its entropy model alone", "{:.3f}"),
    ("xz_bpb", "xz -9 of that text", "{:.3f}"),
    ("gzip_bpb", "gzip -9 of that text", "{:.3f}"),
    ("held_out_bytes", "held-out bytes", "{:,}"),
    ("mean_patch_bytes", "mean bytes per patch", "{:.2f}"),
    ("threshold_bits", "threshold, bits", "{:.3f}"),
    ("flops_per_byte", "FLOPs per byte, forward", "{:.3g}"),
    ("steps", "training steps", "{:,}"),
    ("trained_bytes", "training bytes", "{:,}"),
    ("train_seconds", "training seconds", "{:,.0f}"),
]
"""The fields of a report that a card shows: name, description, number format."""


def card(config: BLTConfig, report: dict[str, Any], **fields: Any) -> str:
    """The card as Markdown. `fields`, such as a licence, are added to its front matter. If `report` is empty, the card
    shows only the shape of the model."""
    tags = ["byte-latent-transformer", "bytes", "tokenizer-free"]
    known = {"library_name": "bytequilt", "pipeline_tag": "text-generation", "tags": tags}
    front = ModelCardData(**(known | fields)).to_yaml()
    parts = {"encoder": config.encoder, "latent transformer": config.latent, "decoder": config.decoder}
    text = f"---\n{front}\n---\n{INTRODUCTION}" + "\n## Shape\n| | layers | width | heads |\n|---|---:|---:|---:|\n"
    text += "".join(f"| {name} | {s.layers} | {s.dim} | {s.heads} |\n" for name, s in parts.items())
    text += f"\nN-gram tables: {config.hash.tables} of {config.hash.rows:,} rows.\n"
    rows = [(what, form.format(report[field])) for field, what, form in MEASURED if report.get(field) is not None]
    if rows:
        text += "\n## Measured\n| | |\n|---|---:|\n" + "".join(f"| {what} | {value} |\n" for what, value in rows)
    if sample := report.get("sample"):
        quoted = "".join(f"    {line}\n" for line in sample.splitlines())
        text += f"\n## What it writes\n\n{quoted}"
    return text
