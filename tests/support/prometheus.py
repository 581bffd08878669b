"""A real Prometheus on the host, which scrapes the operator: Debian's, at an address that pods reach."""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
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


@dataclass
class Prometheus:
    """A context in which it runs. It keeps what it has scraped from one context to the next, as after a restart."""

    cluster: LocalCluster
    folder: Path
    port: int = field(default_factory=a_free_port)

    @property
    def address(self) -> str:
        """As pods reach it."""
        return f"http://{self.cluster.network.gateway}:{self.port}"

    def __enter__(self) -> Self:
        config = self.folder / "prometheus.yml"
        config.write_text(yaml.safe_dump(self._config()))
        command = [
            *("setpriv", "--pdeathsig=KILL", str(program()), f"--config.file={config}"),
            *(f"--storage.tsdb.path={self.folder / 'data'}", f"--web.listen-address={self.address[7:]}"),
        ]
        self._log = (self.folder / "prometheus.log").open("ab")
        self._process = subprocess.Popen(command, stdout=self._log, stderr=self._log)
        eventually(self._has_scraped, "Prometheus has scraped the operator", seconds=60)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._process.terminate()
        self._process.wait(timeout=30)
        self._log.close()

    def _config(self) -> dict[str, Any]:
        service = get_json(self.cluster, "service", f"{RELEASE}-metrics", "-n", OPERATOR_NAMESPACE)
        targets = [f"{service['spec']['clusterIP']}:8080"]
        scrape = {"job_name": "operator", "static_configs": [{"targets": targets}]}
        return {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": [scrape]}

    def _has_scraped(self) -> bool:
        if self._process.poll() is not None:
            raise PrometheusError(f"Prometheus ended: {(self.folder / 'prometheus.log').read_text()[-2000:]}")
        return bool(self.query('up{job="operator"} == 1'))

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query; none while it does not answer."""
        try:
            with WITHOUT_PROXY.open(
                f"{self.address}/api/v1/query?{urlencode({'query': expression})}", timeout=5
            ) as page:
                found: list[dict[str, Any]] = json.load(page)["data"]["result"]
        except OSError:
            return []
        return found
