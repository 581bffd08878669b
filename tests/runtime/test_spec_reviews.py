"""When the API server is asked about stored specs. What it answers is in test_stored_specs."""

from typing import cast

import pytest
from structlog.testing import capture_logs

from builders import a_flash_object
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.api_connection import TooLargeError
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import FlashKey, key_of
from flash_operator.runtime.spec_reviews import SpecReviews


class Asked:
    """Deployments in memory, and in place of a `Cluster` answers: each question gets the next one."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.stored: dict[FlashKey, RawObject] = {}
        self.schema: str | Exception | None = "/openapi/v3/apis/inference.deepseekflash.dev/v1alpha1?hash=A"
        self.reviews = SpecReviews(cast("Cluster", self), self.stored.get)

    async def objection(self, raw: RawObject) -> str:
        self.asked.append(raw["metadata"]["name"])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def schema_version(self) -> str | None:
        if isinstance(self.schema, Exception):
            raise self.schema
        return self.schema

    async def look(self, raw: RawObject) -> FlashKey | None:
        """A reconcile, and the next question."""
        self.stored[key_of(raw)] = raw
        self.reviews.notice(raw)
        return await self.reviews.ask_next()


def stored(name: str = "flash", generation: int = 1) -> RawObject:
    return {**a_flash_object(name, generation=generation), "status": {"observedGeneration": 1}}


KEY = key_of(stored())


async def test_a_new_deployment_is_never_asked_about() -> None:
    site = Asked()
    for raw in (a_flash_object(), stored(), stored(generation=2)):
        assert await site.look(raw) is None
    assert site.reviews.known(KEY) == ""


async def test_a_stored_one_that_breaks_no_rule_is_asked_about_once() -> None:
    site = Asked("")
    site.reviews.notice(stored())
    assert site.reviews.known(KEY) is None
    for generation in (1, 1, 2):
        assert await site.look(stored(generation=generation)) is None
    assert site.asked == ["flash"]


async def test_one_that_breaks_a_rule_is_asked_about_again_after_each_change() -> None:
    site = Asked("too long", "too long", "")
    news = [await site.look(stored(generation=generation)) for generation in (1, 1, 2, 3, 4)]
    assert news == [KEY, None, None, KEY, None]
    assert len(site.asked) == 3


async def test_many_are_asked_about_in_order_and_those_that_are_gone_are_not() -> None:
    site = Asked("", "")
    for name in ("a", "b", "c"):
        site.stored[key_of(stored(name))] = stored(name)
        site.reviews.notice(stored(name))
    del site.stored[key_of(stored("b"))]
    for _ in range(4):
        assert await site.reviews.ask_next() is None
    assert site.asked == ["a", "c"]


@pytest.mark.parametrize(("error", "questions"), [
    (UnreachableError("away"), 2), (ApiError(503, "busy"), 2), (ApiError(403, "no"), 1),
], ids=["away", "busy", "refuses the question"])  # fmt: skip
async def test_a_server_that_is_away_is_asked_again(error: Exception, questions: int) -> None:
    site = Asked(error, "")
    for _ in range(3):
        assert await site.look(stored()) is None
    assert len(site.asked) == questions
    assert site.reviews.known(KEY) == ("" if questions == 2 else None)


async def test_an_upgraded_crd_is_noticed_while_the_operator_runs() -> None:
    site = Asked("", "", "too long")
    await site.reviews.look_at_crd()
    await site.look(a_flash_object("new"))
    await site.look(stored("old"))
    site.schema = "/openapi/v3/apis/inference.deepseekflash.dev/v1alpha1?hash=B"
    await site.reviews.look_at_crd()
    assert site.reviews.known(key_of(stored("old"))) == "", "the last answer stays until there is another one"
    news = [await site.reviews.ask_next() for _ in range(3)]
    assert news == [None, key_of(stored("old")), None]
    assert site.asked == ["old", "new", "old"]
    assert site.reviews.known(key_of(stored("old"))) == "too long"


async def test_an_unchanged_crd_asks_nothing() -> None:
    site = Asked("")
    for _ in range(3):
        await site.reviews.look_at_crd()
        await site.look(stored())
        await site.reviews.ask_next()
    assert site.asked == ["flash"]


@pytest.mark.parametrize("answer", [ApiError(403, "no"), UnreachableError("away"), TooLargeError(), None],
                         ids=["refused", "away", "endless", "replaced just now"])  # fmt: skip
async def test_a_crd_that_cannot_be_seen_is_no_new_one(answer: Exception | None) -> None:
    site = Asked("")
    await site.reviews.look_at_crd()
    await site.look(stored())
    known, site.schema = site.schema, answer
    with capture_logs() as lines:
        for _ in range(3):
            await site.reviews.look_at_crd()
    assert len(lines) == (answer is not None), "it is told once"
    site.schema = known
    await site.reviews.look_at_crd()
    assert await site.reviews.ask_next() is None
    assert site.asked == ["flash"]
