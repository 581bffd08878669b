"""Mutation tests: breaks one line of the project at a time, and expects the tests named for it to fail.

    python -m mutations                           every break of hack/mutations/*.toml
    python -m mutations gate chart/crd-is-kept    a part, or single breaks
    python -m mutations --list                    list the breaks without running them
    python -m mutations --commit v0.1.0           the same breaks in the files of a commit

Tracked and untracked files are copied to a temporary folder and set up there (make setup); the originals are only read.
The named tests must pass there once before anything is broken. Then each break is applied, its tests run until one
fails, and the break is reverted. The copy is deleted in any case.

Exit code: 0 every break was caught, 1 some were not (a sentence for each), 2 nothing could be tried: the list is out of
date, a name is unknown, the copy cannot be made, or its tests fail without a break.

To add a break: copy an entry of the part's TOML file, and say what harm it does. `before` is a whole line that is
in the file once; name the cheapest test that fails, by its id. A survivor is a gap in the tests: write the test instead
of removing the break from the list.
"""

import argparse
import asyncio
import io
import signal
import sys
import tempfile
import time
from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from pathlib import Path

from mutations.breaks import Break, ListError, chosen, out_of_date, read_lists
from mutations.tree import Tree, TreeError, make_tree
from mutations.trial import Outcome, run_tests

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Result:
    """The result of one break."""

    one: Break
    outcome: Outcome
    seconds: float

    @property
    def survived(self) -> str | None:
        """Why it counts as not caught, in one sentence."""
        if self.outcome.failure:
            return f"{self.one.id}: its tests could not run with it, which proves nothing: {self.outcome.failure}"
        if not self.outcome.selected:
            return f"{self.one.id}: none of its tests has the marks that were asked for"
        if not self.outcome.red:
            return f"{self.one.id} survived: {self.one.harm}, and {', '.join(self.one.tests)} passed all the same"
        return None


def main(arguments: Sequence[str], root: Path = ROOT) -> int:
    """Returns the exit code."""
    options = _options(arguments)
    try:
        breaks = chosen(read_lists(root), options.names)
        if options.list:
            return _list(breaks, root)
        if options.commit is None:
            _require_fit(breaks, root)
        with tempfile.TemporaryDirectory(prefix="flash-mutations-", ignore_cleanup_errors=True) as folder:
            return asyncio.run(_until_signalled(_prove(breaks, root, Path(folder), options)))
    except (ListError, TreeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (asyncio.CancelledError, KeyboardInterrupt):
        print("ended before its end", file=sys.stderr)
        return 128 + signal.SIGINT
    except OSError as error:
        print(f"error: {error.filename or 'the copy'}: {error.strerror}", file=sys.stderr)
        return 2


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    summary, _, rest = (__doc__ or "").partition("\n\n")
    parser = argparse.ArgumentParser(
        prog="python -m mutations",
        description=summary,
        epilog=rest,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="ID", help="breaks, or parts such as gate; default: all")
    parser.add_argument("--list", action="store_true", help="list the breaks, and whether they fit the files")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="so many copies, and breaks at a time (1)")
    parser.add_argument("--commit", metavar="REF", help="break the files of this commit instead of those here")
    parser.add_argument("-m", dest="marks", metavar="EXPR", help='only tests of these pytest marks: -m "not cluster"')
    options = parser.parse_args(arguments)
    if options.jobs < 1:
        parser.error("--jobs is at least 1")
    return options


def _list(breaks: Sequence[Break], root: Path) -> int:
    for one in breaks:
        print(f"{one.id}: {one.harm}\n    {one.file}\n    - {one.before}\n    + {one.after}")
        print("".join(f"    {test}\n" for test in one.tests))
    stale = out_of_date(breaks, root)
    print(*stale, sep="\n", end="\n" if stale else "", file=sys.stderr)
    return 2 if stale else 0


def _require_fit(breaks: Sequence[Break], root: Path) -> None:
    stale = out_of_date(breaks, root)
    if stale:
        raise ListError("\n".join(stale))


async def _until_signalled(work: Coroutine[object, object, int]) -> int:
    """Handles SIGTERM like SIGINT: everything is cleaned up."""
    task = asyncio.ensure_future(work)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


async def _prove(breaks: Sequence[Break], root: Path, folder: Path, options: argparse.Namespace) -> int:
    began = time.monotonic()
    trees = [await make_tree(root, folder / f"tree{number}", options.commit) for number in range(options.jobs)]
    tried = [one.with_tests_of(trees[0].folder) for one in breaks]
    survivors = [message for one in tried if (message := _not_yet(one, trees[0].folder))]
    tried = [one for one in tried if not _not_yet(one, trees[0].folder)]
    await _require_green(trees[0], tried, options.marks)
    print(f"{len(tried)} to try; set up, and all their tests pass, after {time.monotonic() - began:.0f} s\n")
    survivors += [message for result in await _try_all(tried, trees, options.marks) if (message := result.survived)]
    caught = f"{len(breaks) - len(survivors)} of {len(breaks)} breaks were caught"
    print(f"\n{caught}, in {time.monotonic() - began:.0f} s")
    print(*survivors, sep="\n", end="\n" if survivors else "", file=sys.stderr)
    return 1 if survivors else 0


def _not_yet(one: Break, root: Path) -> str | None:
    """Why it cannot be tried in an older commit."""
    if not one.tests:
        return f"{one.id}: no test that notices was there yet"
    stale = out_of_date([one], root)
    return f"{stale[0]} (then)" if stale else None


async def _require_green(tree: Tree, breaks: Sequence[Break], marks: str | None) -> None:
    tests = dict.fromkeys(test for one in breaks for test in one.tests)
    outcome = await run_tests(tree, tuple(tests), marks=marks)
    if outcome.failure or outcome.red:
        why = outcome.failure or ", ".join(outcome.red)
        raise TreeError(f"the tests must pass before anything is broken, and they do not: {why}")


async def _try_all(breaks: Sequence[Break], trees: Sequence[Tree], marks: str | None) -> list[Result]:
    """Each tree takes the next break. A row is printed as soon as its result is known."""
    width = max((len(one.id) for one in breaks), default=0)
    print(f"{'id':{width}}  {'s':>4}  harm, and the test that noticed")
    left, results = iter(breaks), []

    async def work(tree: Tree) -> None:
        for one in left:
            result = await _try(one, tree, marks)
            results.append(result)
            caught = "NOT CAUGHT" if result.survived else result.outcome.red[0]
            print(f"{one.id:{width}}  {result.seconds:4.0f}  {one.harm}: {caught}")

    async with asyncio.TaskGroup() as group:
        for tree in trees:
            group.create_task(work(tree))
    return results


async def _try(one: Break, tree: Tree, marks: str | None) -> Result:
    began = time.monotonic()
    with tree.broken(one):
        outcome = await run_tests(tree, one.tests, marks=marks, until_red=True)
    return Result(one, outcome, time.monotonic() - began)


if __name__ == "__main__":
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)  # the log is read while it is written
    sys.exit(main(sys.argv[1:]))
