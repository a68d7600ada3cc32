"""The verbs of the command line, one function per verb. A verb imports torch only when it runs, so that help is
fast."""

from collections.abc import Callable

from .asking import ask
from .converting import convert
from .models import eval, info
from .serving import serve
from .speed import bench
from .studies import compare, languages
from .text import generate, patch
from .training import distill, prepare, train

VERBS = (patch, generate, ask, train, prepare, distill, eval, compare, languages, info, bench, convert, serve)
FUNCTIONS: dict[str, Callable[..., None]] = {verb.__name__: verb for verb in VERBS}
