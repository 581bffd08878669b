"""An event loop whose time advances only when a test moves it."""

import asyncio


class ClockLoop(asyncio.SelectorEventLoop):
    """Its clock starts at 1000 seconds."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0

    def time(self) -> float:
        return self.now


async def pass_seconds(seconds: float) -> None:
    """Moves the clock of the running ClockLoop, and lets what is due then run."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockLoop)
    loop.now += seconds
    for _ in range(3):
        await asyncio.sleep(0)
