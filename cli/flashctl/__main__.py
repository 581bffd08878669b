"""The command line."""

import typer

app = typer.Typer(name="kubectl dsf", no_args_is_help=True)


@app.callback()
def root() -> None:
    """Show, explain and operate DeepSeek-Flash deployments."""


def main() -> None:
    app()


if __name__ == "__main__":
    main()
