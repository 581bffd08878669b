"""Results of earlier plans, so that a deployment that is looked at again is not rendered again.

A deployment is planned several times while it starts, and most of a plan is what its spec is rendered to: the pod
template, the gate's configuration, and the JSON and hashes of both. These depend on their inputs alone, so a result
holds as long as its inputs are equal. Nobody may change one.
"""

from collections.abc import Callable, Hashable
from typing import Any, TypeVar, cast

T = TypeVar("T")


class Remembered:
    """The last result of each computation for one deployment."""

    def __init__(self) -> None:
        self._results: dict[Hashable, tuple[Any, Any]] = {}
        """By name of the computation: its inputs and its result."""

    def result(self, name: Hashable, inputs: object, compute: Callable[[], T]) -> T:
        """What `compute` returns, or has returned for equal inputs. It must depend on nothing else."""
        known = self._results.get(name)
        # Compared in a tuple, because that takes the same object as equal without looking into it.
        if known is not None and (known[0],) == (inputs,):
            return cast("T", known[1])
        found = compute()
        self._results[name] = inputs, found
        return found
