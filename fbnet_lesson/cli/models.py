"""``models``: what there is."""

from typing import Annotated

import typer

from fbnet_lesson.cli.errors import fail


def models(
    pattern: Annotated[str, typer.Argument(help="such as 'd2go/*'")] = "*",
    markdown: Annotated[bool, typer.Option("--markdown", help="as the README shows it")] = False,
) -> None:
    """List the models by name, with their size, published accuracy and weights."""
    import fbnet_lesson as fl
    from fbnet_lesson.zoo.table import as_markdown, as_text

    names = fl.list_models(pattern)
    if not names:
        fail(f"no model matches {pattern!r}; known are {', '.join(fl.list_models())}")
    typer.echo(as_markdown(names) if markdown else as_text(names))
