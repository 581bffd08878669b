"""One list serves all who ask at the same time."""

import asyncio
import math

from flash_operator.runtime.shared_listing import SharedListing


class Lists:
    """A list that takes until the test lets it end, and a clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.made = 0
        self.succeeds = True
        self.may_end = asyncio.Event()
        self.may_end.set()
        self.shared = SharedListing(self._list, lambda: self.now)

    async def _list(self) -> bool:
        self.made += 1
        await self.may_end.wait()
        return self.succeeds


async def test_all_who_ask_at_once_wait_for_one_list() -> None:
    lists = Lists()
    lists.may_end.clear()
    asking = [asyncio.create_task(lists.shared.refresh(20)) for _ in range(100)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in asking)
    lists.may_end.set()
    await asyncio.gather(*asking)
    assert lists.made == 1


async def test_it_is_made_again_when_it_is_too_old_for_somebody() -> None:
    lists = Lists()
    made = []
    for age, passed in ((20, 0), (20, 19), (1, 0), (20, 19), (math.inf, 1000), (20, 0)):
        lists.now += passed
        await lists.shared.refresh(age)
        made.append(lists.made)
    assert made == [1, 1, 2, 2, 2, 3]


async def test_a_list_that_failed_is_not_asked_for_at_every_look() -> None:
    lists = Lists()
    lists.succeeds = False
    assert not await lists.shared.renew()
    await lists.shared.refresh(20)
    assert lists.made == 1
    lists.succeeds = True
    assert await lists.shared.renew()


async def test_a_list_during_which_something_was_deleted_is_made_again() -> None:
    lists = Lists()
    lists.may_end.clear()
    first = asyncio.create_task(lists.shared.refresh(20))
    await asyncio.sleep(0)
    lists.shared.outdate()
    lists.may_end.set()
    await first
    await lists.shared.refresh(20)
    assert lists.made == 2
