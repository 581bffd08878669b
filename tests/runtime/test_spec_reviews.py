"""When the API server is asked about stored specs. What it answers is in test_stored_specs."""

from typing import Any, cast

from builders import a_flash_object
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.runtime.cluster import ApiError, Cluster, UnreachableError
from flash_operator.runtime.keys import key_of
from flash_operator.runtime.spec_reviews import NEWS_SECONDS, QUESTION_SECONDS, SpecReviews


class Answers:
    """In place of a `Cluster`: each question gets the next answer."""

    def __init__(self, *answers: str | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []

    async def objection(self, raw: RawObject) -> str:
        self.asked.append(raw["metadata"]["name"])
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer


def reviews_of(answers: Answers, clock: Any = lambda: 100.0) -> SpecReviews:
    return SpecReviews(cast("Cluster", answers), clock)


def stored(name: str = "flash", generation: int = 1) -> RawObject:
    return {**a_flash_object(name, generation=generation), "status": {"observedGeneration": 1}}


async def test_a_new_deployment_is_never_asked_about() -> None:
    reviews = reviews_of(Answers())
    reviews.notice(a_flash_object())
    assert await reviews.review(stored()) is None
    assert await reviews.review(stored(generation=2)) is None
    assert reviews.known(key_of(stored())) == ""


async def test_a_stored_one_that_breaks_no_rule_is_asked_about_once() -> None:
    answers = Answers("")
    reviews = reviews_of(answers)
    reviews.notice(stored())
    assert reviews.known(key_of(stored())) is None
    for generation in (1, 1, 2):
        assert await reviews.review(stored(generation=generation)) is None
    assert answers.asked == ["flash"]


async def test_one_that_breaks_a_rule_is_asked_about_again_after_each_change() -> None:
    answers = Answers("too long", "too long", "")
    reviews = reviews_of(answers, iter(range(100, 200)).__next__)
    said = [await reviews.review(stored(generation=generation)) for generation in (1, 1, 2, 3, 4)]
    assert said == [NEWS_SECONDS, None, None, NEWS_SECONDS, None]
    assert len(answers.asked) == 3


async def test_many_are_asked_about_one_after_the_other() -> None:
    now = 100.0
    answers = Answers("", "", "")
    reviews = reviews_of(answers, lambda: now)
    names = ("a", "b", "c")
    assert [await reviews.review(stored(name)) for name in names] == [None, QUESTION_SECONDS, 2 * QUESTION_SECONDS]
    now += QUESTION_SECONDS
    assert [await reviews.review(stored(name)) for name in names] == [None, None, QUESTION_SECONDS]
    assert answers.asked == ["a", "b"]


async def test_a_server_that_is_away_is_asked_again_and_one_that_refuses_the_question_is_not() -> None:
    answers = Answers(UnreachableError("away"), ApiError(503, "busy"), ApiError(403, "no"))
    reviews = reviews_of(answers)
    for _ in range(4):
        assert await reviews.review(stored()) is None
    assert len(answers.asked) == 3
    assert reviews.known(key_of(stored())) is None
