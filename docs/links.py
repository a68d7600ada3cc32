"""A hook of the docs site: a link to a file outside docs/ becomes the name of that file, since the site has no such page."""

import re
from typing import Any

OUTSIDE = re.compile(r"\[([^\]]+)\]\((?:\.\./)+([^)]+)\)")


def on_page_markdown(markdown: str, **_: Any) -> str:
    return OUTSIDE.sub(r"\1 (`\2`)", markdown)
