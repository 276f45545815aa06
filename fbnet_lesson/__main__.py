"""``python -m fbnet_lesson``: the command line, for ``torchrun -m fbnet_lesson`` above all."""

import os
import sys

from fbnet_lesson.cli import app
from fbnet_lesson.cli.errors import complain


def main() -> None:
    """Run the command; of many processes the first alone says what it cannot understand of it."""
    if os.environ.get("RANK", "0") == "0":
        app(prog_name="fbnet-lesson")
    try:
        sys.exit(app(prog_name="fbnet-lesson", standalone_mode=False))
    except Exception as error:
        if not hasattr(error, "format_message"):  # typer's, of a wrong option
            raise
        complain(error.format_message())
        sys.exit(2)


if __name__ == "__main__":
    main()
