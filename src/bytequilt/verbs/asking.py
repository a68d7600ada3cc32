"""The verb `ask`: questions about letters and numbers."""

import sys
from typing import Annotated

import tyro

from .shared import Flag, Json, Model, Positional, bytes_of, print_json

QuestionText = Annotated[Positional[str], tyro.conf.arg(metavar="QUESTION|-")]


def ask(
    question: QuestionText, model: Model = "letters", show: Flag = False, json: Json = False, device: str = "cpu"
) -> None:
    """Answer a question on the letters of a word or on two numbers, in English or Russian.

    The model writes its working and then the answer. Only the answer is printed, spelled letters with spaces between.

    Examples:
      bytequilt ask "How many r in strawberry?"
      bytequilt ask 'Does 380 come before 381?' --show
      bytequilt ask 'Сколько букв "р" в слове "карбюратор"?'

    Args:
        question: The question; - reads standard input.
        show: Also print the question and the working, divided into patches, above the answer.
        device: Where the model runs: cpu, cuda, mps.
    """
    from ..config import UserError
    from ..evals.ask import ask as ask_model
    from ..evals.ask import prompt, read_question
    from ..lm import load
    from ..view.terminal import shown

    asked = read_question(bytes_of(question).decode("utf-8", "replace"))
    lm = load(model, device)
    print(f"{model} answers: {asked.text}", file=sys.stderr)
    (reply,) = ask_model(lm, [asked])
    if reply.answer is None:
        raise UserError(f"{model} wrote no answer; the model `letters` has learnt such questions")
    if json:
        return print_json({"model": model, "question": asked.text, "text": reply.text, "answer": reply.answer})
    if show:
        print(shown(lm.patch(prompt(asked) + reply.text)), end="\n\n")
    print(" ".join(reply.answer) if asked.task == "reverse" else reply.answer)  # task `spell` has spaces already
