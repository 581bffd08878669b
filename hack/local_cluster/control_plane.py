"""etcd and kube-apiserver: the light cluster, for tests of the API. It needs no root and boots in seconds."""

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

from local_cluster.binaries import CONTROL_PLANE, build
from local_cluster.cache import cache_dir
from local_cluster.network import Network, first_address
from local_cluster.pki import Authority
from local_cluster.processes import ProcessGroup, is_alive, start_of
from ports import a_free_port
from waiting import NotReadyError, eventually

KUBELET_CLIENT = "kube-apiserver-kubelet-client"
FRONT_PROXY = "front-proxy-client"


class ControlPlane:
    """An API server with its store. RBAC and node authorisation are on, as in a real cluster."""

    def __init__(
        self,
        run: Path,
        *,
        address: str = "127.0.0.1",
        port: int | None = None,
        services: str = Network.services,
        flags: Sequence[str] = (),
    ) -> None:
        """`flags` are further ones of kube-apiserver."""
        self.run = run
        self.flags = tuple(flags)
        self.services = services
        self.address = address
        self.port = port or a_free_port()
        self.url = f"https://{address}:{self.port}"
        self.processes = ProcessGroup(run)
        self.binaries: dict[str, Path] = {}
        self._authority: Authority | None = None

    @property
    def authority(self) -> Authority:
        if self._authority is None:
            self._authority = Authority(self.run / "pki")
        return self._authority

    @cached_property
    def _etcd_urls(self) -> tuple[str, str]:
        """For clients and for peers; the same after a restart."""
        client, peer = (f"http://127.0.0.1:{a_free_port()}" for _ in range(2))
        return client, peer

    @property
    def kubeconfig(self) -> Path:
        return self.run / "admin.conf"

    @property
    def certificate_authority(self) -> Path:
        return self.run / "pki" / "ca.crt"

    @property
    def client_certificate(self) -> Path:
        """The administrator's."""
        return self.run / "pki" / "admin.crt"

    @property
    def client_key(self) -> Path:
        return self.run / "pki" / "admin.key"

    @property
    def kubectl_path(self) -> Path:
        return build(["kubectl"])["kubectl"]

    def start(self) -> None:
        """Start both and wait until the API server is ready."""
        self.binaries = build(CONTROL_PLANE)
        self.run.mkdir(parents=True, exist_ok=True)
        self.identity("admin", "admin", groups=["system:masters"])
        self._start_etcd()
        self._start_api_server()
        eventually(
            self._api_is_ready,
            "kube-apiserver /readyz",
            seconds=60,
            log=self.processes.logs / "kube-apiserver.log",
            alive=lambda: self.processes.is_running("kube-apiserver"),
        )

    def stop(self) -> None:
        self.processes.stop(patience=0)
        shutil.rmtree(self.run, ignore_errors=True)

    def restart(self, program: str) -> None:
        """Kills etcd or kube-apiserver, and starts it again with its data, at once. Does not wait until it is ready."""
        self.processes.stop(program, patience=0)
        {"etcd": self._start_etcd, "kube-apiserver": self._start_api_server}[program]()

    def identity(self, file: str, name: str, *, groups: tuple[str, ...] | list[str] = ()) -> Path:
        """A kubeconfig FILE.conf for a user with a certificate of its own."""
        certificate, key = self.authority.issue(file, name, groups=groups)
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [
                {
                    "name": "local",
                    "cluster": {"server": self.url, **_inline("certificate-authority", self.authority.certificate)},
                }
            ],
            "users": [
                {"name": file, "user": {**_inline("client-certificate", certificate), **_inline("client-key", key)}}
            ],
            "contexts": [{"name": "local", "context": {"cluster": "local", "user": file}}],
            "current-context": "local",
        }
        path = self.run / f"{file}.conf"
        path.touch(mode=0o600)
        path.write_text(json.dumps(config))
        return path

    def kubectl(self, *args: str, stdin: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run kubectl as the administrator. A failure has kubectl's message."""
        # kubectl caches discovery by port, which another API server may have used an hour ago.
        kept = f"--cache-dir={self.run / 'kubectl'}"
        command = [str(self.kubectl_path), f"--kubeconfig={self.kubeconfig}", kept, *args]
        done = subprocess.run(command, input=stdin, capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise RuntimeError(f"kubectl {' '.join(args)} ended with {done.returncode}: {done.stderr.strip()}")
        return done

    def _start_etcd(self) -> None:
        client, peer = self._etcd_urls
        self.processes.start(
            "etcd", str(self.binaries["etcd"]), f"--data-dir={self.run / 'etcd'}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
            # The store is deleted with the cluster, so it need not survive a power cut.
            "--unsafe-no-fsync",
        )  # fmt: skip

    def _start_api_server(self) -> None:
        service = first_address(self.services)
        names = ["kubernetes", "kubernetes.default.svc", "localhost", "127.0.0.1", service, self.address]
        certificate, key = self.authority.issue("apiserver", "kube-apiserver", addresses=dict.fromkeys(names))
        kubelet_certificate, kubelet_key = self.authority.issue("kubelet-client", KUBELET_CLIENT)
        tokens = self.authority.signing_key("service-accounts")
        # API servers behind this one, such as a metrics adapter, trust who is named by this authority's certificate.
        front_proxy = Authority(self.run / "front-proxy")
        proxy_certificate, proxy_key = front_proxy.issue("client", FRONT_PROXY)
        self.processes.start(
            "kube-apiserver", str(self.binaries["kube-apiserver"]),
            f"--etcd-servers={self._etcd_urls[0]}", f"--bind-address={self.address}", f"--secure-port={self.port}",
            # Set explicitly, because otherwise a machine without a default route is refused.
            f"--advertise-address={self.address}",
            *(["--endpoint-reconciler-type=none"] if self.address == "127.0.0.1" else []),
            f"--tls-cert-file={certificate}", f"--tls-private-key-file={key}",
            f"--client-ca-file={self.authority.certificate}",
            f"--service-account-key-file={tokens}", f"--service-account-signing-key-file={tokens}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-cluster-ip-range={self.services}",
            "--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--kubelet-client-certificate={kubelet_certificate}", f"--kubelet-client-key={kubelet_key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={front_proxy.certificate}",
            f"--requestheader-allowed-names={FRONT_PROXY}", "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group", "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={proxy_certificate}", f"--proxy-client-key-file={proxy_key}",
            # A test cluster has one client, so draining for a minute is useless.
            "--shutdown-delay-duration=0s",
            *self.flags,
        )  # fmt: skip

    def _api_is_ready(self) -> bool:
        return self.kubectl("get", "--raw=/readyz", "--request-timeout=2s", check=False).returncode == 0


def a_light_control_plane(*flags: str) -> ControlPlane:
    """etcd and kube-apiserver on free ports, in a folder of their own; `flags` are further ones of the latter."""
    _stop_orphans()
    for _ in range(3):
        plane = ControlPlane(_light_folder(), flags=flags)
        try:
            plane.start()
        except NotReadyError as error:
            plane.stop()
            if "address already in use" not in str(error):
                raise
            continue  # another process took the port in the meantime
        except BaseException:
            plane.stop()
            raise
        return plane
    raise NotReadyError("no port stays free long enough for etcd and kube-apiserver")


def _light_folder() -> Path:
    """Named after its starter, to check whether that process is still alive."""
    return Path(tempfile.mkdtemp(prefix=f"light-{os.getpid()}-{start_of(os.getpid())}-", dir=cache_dir("run")))


def _stop_orphans() -> None:
    """Stop the control planes of killed starters."""
    for folder in cache_dir("run").glob("light-*"):
        _, pid, start, _ = folder.name.split("-", 3)
        if not is_alive(int(pid), int(start)):
            ControlPlane(folder).stop()


def _inline(name: str, file: Path) -> dict[str, str]:
    return {f"{name}-data": base64.b64encode(file.read_bytes()).decode()}
