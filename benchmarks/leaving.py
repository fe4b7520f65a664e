"""How a script that has loaded Ray, PyTorch and MLflow leaves, so that its exit code is its own."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn


def leave_after(main: Callable[[], object]) -> NoReturn:
    """Run a script's body and leave at once: threads of the libraries now and then abort the interpreter's own way out.

    Args:
        main: the body; what it opens is closed when it returns or raises.
    """
    try:
        main()
        code = 0
    except SystemExit as leaving:
        code = _code(leaving)
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _code(leaving: SystemExit) -> int:
    if leaving.code is None or isinstance(leaving.code, int):
        return leaving.code or 0
    print(leaving.code, file=sys.stderr)
    return 1
