"""The command line: `flashctl`, and `kubectl dsf` as kubectl finds it."""

import typer

from flashctl import actions, commands
from flashctl.exits import epilog

app = typer.Typer(name="kubectl dsf", no_args_is_help=True, epilog=epilog(), pretty_exceptions_enable=False)
for each in (*commands.COMMANDS, *actions.COMMANDS):
    app.command(epilog=epilog())(each)


@app.callback()
def root() -> None:
    """Show, explain and operate DeepSeek-Flash deployments with your own kubeconfig and rights."""


def main() -> None:
    app()


if __name__ == "__main__":
    main()
