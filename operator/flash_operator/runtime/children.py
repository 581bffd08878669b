"""Writes the children of a deployment, and never into another owner's object.

The API server itself compares: a child that was not observed is applied only where nothing has its name, and one that
was observed only while the object of that name has the same uid. So no look before a write is needed, and nobody can
slip an object in between.

    the name belongs to               | first plan               | plan made again from live objects
    --------------------------------- | ------------------------ | ---------------------------------
    what was observed, or nobody      | applied                  | applied
    another owner's object            | NameTakenError           | NameTakenError
    another object of this deployment | OutdatedError            | applied to that object
    nobody, and it was observed       | OutdatedError            | the API server's error
"""

import asyncio
from collections.abc import Sequence

import structlog

from flash_operator.core.observed.kube import is_owned_by, uid_of
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.runtime.answers import Answers
from flash_operator.runtime.cluster import ALREADY_EXISTS, ApiError, Cluster

log = structlog.get_logger("flash.children")


class OutdatedError(ApiError):
    """A child is not the object that was observed. Plan again from what the API server has."""


class NameTakenError(RuntimeError):
    """Another owner's object has the name of a child."""

    def __init__(self, observed: Observed, foreign: RawObject) -> None:
        super().__init__(_description_of(foreign))
        self.observed = observed


OTHER_OBJECT = (NameTakenError, OutdatedError)


class ChildWriter:
    """Applies children."""

    def __init__(self, cluster: Cluster, answers: Answers) -> None:
        self._cluster = cluster
        self._answers = answers

    async def apply(self, observed: Observed, children: Sequence[RawObject], *, live: bool) -> list[Exception]:
        """Applies every child, also where others are refused; what pods need first. Returns the errors of the API.

        `live` says that `observed` was read from the API server just now. No Deployment is made or changed beside a
        child whose name belongs to another object. Raises UnreachableError, once all have ended: no write is on its way
        when the next reconcile begins.
        """
        for child in children:
            known = _observed(observed, child)
            if known is not None and not is_owned_by(known, observed.flash.uid):
                return [NameTakenError(observed, known)]
        before = [child for child in children if child["kind"] != "Deployment"]
        after = [child for child in children if child["kind"] == "Deployment"]
        errors = await self._apply_all(observed, before, live=live)
        if any(isinstance(error, OTHER_OBJECT) for error in errors):
            return errors
        return [*errors, *await self._apply_all(observed, after, live=live)]

    async def _apply_all(self, observed: Observed, children: list[RawObject], *, live: bool) -> list[Exception]:
        """All at once. Returns ApiErrors and NameTakenErrors; raises what else there is, once all have ended."""
        applying = (self._apply(observed, child, live=live) for child in children)
        ended = await asyncio.gather(*applying, return_exceptions=True)
        for error in ended:
            if isinstance(error, BaseException) and not isinstance(error, (ApiError, NameTakenError)):
                raise error
        return [error for error in ended if isinstance(error, Exception)]

    async def _apply(self, observed: Observed, child: RawObject, *, live: bool) -> None:
        try:
            answer = await self._cluster.create_or_update(child, _observed(observed, child))
        except ApiError as error:
            log.warning("refused", namespace=observed.flash.namespace, child=_name_of(child), error=str(error))
            holder = await self._other_holder(observed, child, live=live) if error.conflict else None
            if holder is None:
                raise
            answer = await self._cluster.create_or_update(child, holder)
        self._answers.remember(observed.flash, child, answer)

    async def _other_holder(self, observed: Observed, child: RawObject, *, live: bool) -> RawObject | None:
        """The object of this deployment that has the child's name and was not observed; None if there is none."""
        name, namespace = child["metadata"]["name"], observed.flash.namespace
        # By a list of one, because the operator's role lets it list children and not get them.
        found = next(iter(await self._cluster.list(child["kind"], namespace, fields={"metadata.name": name})), None)
        if uid_of(found) == uid_of(_observed(observed, child)):
            return None
        if found is not None and not is_owned_by(found, observed.flash.uid):
            raise NameTakenError(observed, found)
        if not live:
            raise OutdatedError(ALREADY_EXISTS, f"{_name_of(child)} is not the object that was observed")
        return found


def _observed(observed: Observed, child: RawObject) -> RawObject | None:
    return observed.children.get((child["kind"], child["metadata"]["name"]))


def _name_of(child: RawObject) -> str:
    return f"{child['kind']} {child['metadata']['name']}"


def _description_of(foreign: RawObject) -> str:
    owners = foreign["metadata"].get("ownerReferences") or []
    owner = f"is owned by {owners[0]['kind']} {owners[0]['name']}" if owners else "has no owner"
    return f"{_name_of(foreign)} exists already and {owner}, so it is left alone: delete it, or rename this deployment"
