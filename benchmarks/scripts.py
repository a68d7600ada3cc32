"""Draws how a model cuts five scripts into patches, with tokens below: the figure of docs/patch.md.

python benchmarks/scripts.py --model tiny --out docs/scripts.svg
"""

import argparse
from dataclasses import replace
from pathlib import Path

from bytequilt import load
from bytequilt.baselines.tokenizer import Tokenizer
from bytequilt.files import write_text
from bytequilt.view.html import svg
from bytequilt.view.patched import Tokens

LINES = (
    "Все люди рождаются свободными и равными в своём достоинстве.",
    "人人生而自由,在尊严和权利上一律平等。",
    "يولد جميع الناس أحرارًا متساوين في الكرامة والحقوق.",
    "सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है।",
    "def area(radius):\n    return math.pi * radius**2\n",
)
"""Article 1 of the Universal Declaration of Human Rights, which anyone may reproduce; and a line of Python."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--tokens", default="default")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    data = "\n".join(LINES).encode()
    tokenizer = Tokenizer.find(given.tokens)
    tokens = Tokens(tokenizer.name, tuple(tokenizer.pieces(data)), tokenizer.about)
    write_text(given.out, svg(replace(load(given.model).patch(data), tokens=tokens)))


if __name__ == "__main__":
    main()
