"""The command line: `flashctl`, and `kubectl dsf` as kubectl finds it."""

import os
import shlex
import sys

import typer

from flashctl import actions, commands
from flashctl.exits import epilog

NO_FILES = "\n:4\n"
"""Cobra's directive to complete no names of files (ShellCompDirectiveNoFileComp)."""

app = typer.Typer(name="kubectl dsf", no_args_is_help=True, epilog=epilog(), pretty_exceptions_enable=False)
for each in (*commands.COMMANDS, *actions.COMMANDS):
    app.command(epilog=epilog())(each)


@app.callback()
def root() -> None:
    """Show, explain and operate DeepSeek-Flash deployments with your own kubeconfig and rights."""


def main() -> None:
    app()


def complete() -> None:
    """`kubectl_complete-dsf WORDS`: kubectl asks it for completions, one a line, and what the shell shall do then."""
    words = ["kubectl-dsf", *sys.argv[1:]]
    asked = {"COMP_WORDS": shlex.join(words), "COMP_CWORD": str(len(words) - 1)}
    os.environ.update(asked, _KUBECTL_DSF_COMPLETE="complete_bash")
    try:
        app(prog_name="kubectl-dsf")
    finally:
        sys.stdout.write(NO_FILES)


if __name__ == "__main__":
    main()
