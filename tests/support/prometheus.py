"""A real Prometheus on the host: Debian's."""

import json
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast
from urllib.error import HTTPError
from urllib.parse import urlencode

import yaml

from direct_http import WITHOUT_PROXY
from e2e_env import OPERATOR_NAMESPACE, RELEASE, get_json
from failure_reason import reason_in
from local_cluster.cache import cache_dir, exclusive
from local_cluster.cluster import LocalCluster
from ports import a_free_port
from waiting import eventually

PACKAGE = "prometheus"
SCRAPE_SECONDS = 2
REFUSED = (400, 422)
"""What it answers to an expression that it cannot parse, or cannot evaluate."""


class PrometheusError(RuntimeError):
    """Prometheus cannot be had or does not start; the message says why."""


def program(name: str = "prometheus") -> Path:
    """Prometheus or promtool of Debian's package, kept in the cache. Installing the package would start it."""
    folder = cache_dir("debian")
    path = folder / "usr/bin" / name
    with exclusive(folder / ".lock", "another run that unpacks Prometheus"):
        if not path.exists():
            _run("apt-get", "update", "-qq", "--error-on=any", cwd=folder)
            _run("apt-get", "download", PACKAGE, cwd=folder)
            (archive,) = folder.glob(f"{PACKAGE}_*.deb")
            _run("dpkg-deb", "--extract", str(archive), str(folder), cwd=folder)
            archive.unlink()
    return path


def _run(*command: str, cwd: Path) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise PrometheusError(f"{' '.join(command)} failed: {reason_in(done.stderr)}")


class QueryError(RuntimeError):
    """Prometheus refuses a query; the message is its own."""


class PrometheusProcess:
    """A context in which it runs. It keeps what it has scraped from one context to the next, as after a restart."""

    def __init__(self, folder: Path, scrapes: list[dict[str, Any]], host: str = "127.0.0.1", seconds: int = 1) -> None:
        """`scrapes` are the jobs of its configuration, and `seconds` is how often they are scraped."""
        self.folder = folder
        self._scrapes = scrapes
        self._seconds = seconds
        self._listens = f"{host}:{a_free_port()}"

    @property
    def address(self) -> str:
        return f"http://{self._listens}"

    def scrapes(self) -> list[dict[str, Any]]:
        return self._scrapes

    def __enter__(self) -> Self:
        config = self.folder / "prometheus.yml"
        every = {"scrape_interval": f"{self._seconds}s", "scrape_timeout": f"{self._seconds}s"}
        config.write_text(yaml.safe_dump({"global": every, "scrape_configs": self.scrapes()}))
        command = [
            *("setpriv", "--pdeathsig=KILL", str(program()), f"--config.file={config}"),
            *(f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={self._listens}"),
        ]
        self._log = (self.folder / "prometheus.log").open("ab")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        try:
            eventually(self._has_scraped, "Prometheus has scraped everything", seconds=60)
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()

    def _has_scraped(self) -> bool:
        if self._process.poll() is not None:
            raise PrometheusError(f"Prometheus ended: {(self.folder / 'prometheus.log').read_text()[-2000:]}")
        return len(self.query("up == 1")) >= len(self._scrapes)

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; none while it does not answer. Raises QueryError."""
        try:
            with WITHOUT_PROXY.open(self._url(expression), timeout=5) as page:
                found = json.load(page)
        except HTTPError as error:
            if error.code not in REFUSED:
                return []
            raise QueryError(f"{expression}: {error.read().decode()}") from error
        except OSError:
            return []
        return cast("list[dict[str, Any]]", found["data"]["result"])

    def _url(self, expression: str) -> str:
        return f"{self.address}/api/v1/query?{urlencode({'query': expression})}"


class Prometheus(PrometheusProcess):
    """Scrapes the operator of the local cluster, at an address that pods reach."""

    def __init__(self, cluster: LocalCluster, folder: Path) -> None:
        super().__init__(folder, [{}], cluster.network.gateway, SCRAPE_SECONDS)
        self._cluster = cluster

    def scrapes(self) -> list[dict[str, Any]]:
        """The operator's Service exists only once the chart is installed."""
        service = get_json(self._cluster, "service", f"{RELEASE}-metrics", "-n", OPERATOR_NAMESPACE)
        return [{"job_name": "operator", "static_configs": [{"targets": [f"{service['spec']['clusterIP']}:8080"]}]}]
