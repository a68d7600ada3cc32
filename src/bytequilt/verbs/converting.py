"""The verb `convert`: writes a model in another layout or number type."""

import sys
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro
from pydantic import ValidationError

from ..config import UserError, one_line
from .shared import Files, Flag, Json, Positional, print_json

if TYPE_CHECKING:
    from ..config import RuleConfig

Source = Annotated[Positional[str], tyro.conf.arg(metavar="SRC")]
Target = Annotated[Positional[Path], tyro.conf.arg(metavar="DST")]
Rule = Annotated[Literal["entropy", "monotonic", "budget"] | None, tyro.conf.arg(help_behavior_hint="")]
Kind = Annotated[Literal["float32", "bfloat16", "int8"] | None, tyro.conf.arg(help_behavior_hint="")]
EntropyKind = Annotated[Literal["float32", "int8"] | None, tyro.conf.arg(help_behavior_hint="")]
Mean = Annotated[float | None, tyro.conf.arg(metavar="BYTES", help_behavior_hint="")]
Revision = Annotated[str | None, tyro.conf.arg(metavar="REVISION", help_behavior_hint="")]


def convert(
    src: Source,
    dst: Target,
    files: Files = (),
    to: Literal["bytequilt", "hf", "meta"] = "bytequilt",
    dtype: Kind = None,
    entropy_dtype: EntropyKind = None,
    lossy: Flag = False,
    rule: Rule = None,
    target_bytes: Mean = None,
    revision: Revision = None,
    json: Json = False,
) -> None:
    """Write a model in another layout or number type. SRC may be bytequilt's own, Hugging Face's or Meta's.

    Weights are copied in small pieces, so a large model needs no more memory than a small one.

    Examples:
      bytequilt convert facebook/blt-1b blt-1b
      bytequilt convert runs/mine mine-hf --to hf
      bytequilt convert runs/mine mine-small --dtype int8
      bytequilt convert runs/mine mine-hf held-out.txt --to hf --rule entropy --target-bytes 4.5

    Args:
        src: A shipped model, a model or run directory, or a hub id.
        dst: The directory to write. It must not exist.
        files: Text on which the threshold of --rule is calibrated.
        to: The layout to write.
        dtype: Number type of the BLT's weights; int8 applies to its matrices, with one scale per row.
        entropy_dtype: Number type of the entropy model's weights. A change may move patch boundaries.
        lossy: Convert even if the layout cannot express everything, and print what changes.
        rule: Patching rule to use instead of the model's own, with the same entropy model.
        target_bytes: Mean bytes per patch to which the threshold of --rule is calibrated on FILE...
        revision: Branch, tag or commit of a model on the hub. The hub's access token is read from HF_TOKEN.
    """
    from ..interop import convert as write
    from ..view.progress import progress

    if (rule is None) != (target_bytes is None) or (rule is None) != (not files):
        raise UserError(
            "--rule, --target-bytes and FILE... go together: convert SRC DST FILE... --rule R --target-bytes X"
        )
    if dst.exists():
        raise UserError(f"{dst} exists already; give another name, or remove it")
    patching = None
    if rule is not None and target_bytes is not None:
        patching = _recalibrated(src, rule, target_bytes, files, revision)
    with ExitStack() as stack:
        bar = progress()

        def advance(done: int, total: int) -> None:
            if not bar.tasks:  # the bar appears at the first progress
                stack.enter_context(bar).add_task("convert", total=total)
            bar.advance(bar.task_ids[0], done)

        kinds = {"dtype": dtype, "entropy_dtype": entropy_dtype}
        written = write(src, dst, to, **kinds, lossy=lossy, patching=patching, revision=revision, advance=advance)
    for said in (*written["notes"], *written["changed"]):
        print(f"note: {said}", file=sys.stderr)
    if json:
        return print_json(written)
    size = f"{written['tensors']} tensors, {written['bytes'] / 1e6:,.1f} MB"
    print(f"{dst}: {size}, from {written['from']} to {written['to']}")


def _recalibrated(src: str, kind: str, target: float, files: Sequence[str], revision: str | None) -> "RuleConfig":
    """A rule of this kind for `src`'s entropy model, calibrated on the first text for `target` bytes per patch."""
    from ..config import PatchingConfig
    from ..evals.corpora import texts
    from ..lm import load
    from ..patching.calibration import first_bytes
    from ..patching.patcher import Patcher

    try:
        options = PatchingConfig(kind=kind, target_bytes=target)
    except ValidationError as error:
        raise UserError(f"--{one_line(error).replace('_', '-', 1)}") from None
    documents = [text for path in files for text in texts(path)]
    lm = load(src, revision=revision)
    patcher = Patcher(options.rule(**{str(options.calibrated): 0.0}), lm.patcher.model)
    reached = patcher.calibrate(first_bytes(documents, options.sample_bytes), target)
    print(
        f"note: patches differ from the model's own: kind '{kind}' instead of '{lm.patcher.rule.kind}', "
        f"{reached.threshold_bits:.3f} bits for {reached.mean_patch_bytes:.2f} bytes per patch",
        file=sys.stderr,
    )
    return patcher.rule
