"""``python -m fbnet_lesson``: the command line, for ``torchrun -m fbnet_lesson`` above all."""

from fbnet_lesson.cli import app

if __name__ == "__main__":
    app(prog_name="fbnet-lesson")
