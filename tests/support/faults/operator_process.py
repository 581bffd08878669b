"""The operator as a process that is started again whenever it ends, as its Deployment does with the pod."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from ports import a_free_port

RESYNC_SECONDS = 4
"""Instead of five minutes: only a whole list finds what lost events said."""
RESTART_SECONDS = 0.5


class OperatorProcess:
    """One replica of the operator's Deployment."""

    def __init__(self, identity: str, kubeconfig: Path, log: Path) -> None:
        self.identity = identity
        self._kubeconfig = kubeconfig
        self.log = log
        self._process: asyncio.subprocess.Process | None = None
        self.is_started_again = True

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        keeping = asyncio.create_task(self._keep())
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGKILL)
            if self._process:
                await self._process.wait()

    def signal(self, number: signal.Signals) -> None:
        if self._process and self._process.returncode is None:
            self._process.send_signal(number)

    async def _keep(self) -> None:
        while True:
            self._process = await self._start()
            await self._process.wait()
            if not self.is_started_again:
                return
            await asyncio.sleep(RESTART_SECONDS)

    async def _start(self) -> asyncio.subprocess.Process:
        with self.log.open("ab") as log:
            return await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "flash_operator",
                f"--health-port={a_free_port()}",
                f"--identity={self.identity}",
                f"--resync-seconds={RESYNC_SECONDS}",
                "--p2p-tests=off",
                env={**os.environ, "KUBECONFIG": str(self._kubeconfig)},
                stdout=log,
                stderr=log,
            )
