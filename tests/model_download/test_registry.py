"""flash-fetch with a real container registry: images and artifacts, resumed, verified or refused with a message."""

import base64
import json
import os
import random
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import oras.client
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from download_harness import DownloadHarness, FetchProcess, Registries, small_disk
from image_registry import INDEX, ImageRegistry, tar_of
from local_cluster.oci_archive import ARCHITECTURES
from token_server_stub import TokenServerStub

USER, PASSWORD = "puller", "secret-of-the-tests"
HTPASSWD = f"{USER}:$2b$04$S0/TreduGeKtthneX9ThkO47mJafilMTrAR4jd6tJvSAmCek/RDmC\n"
"""The bcrypt hash of the password, with the fewest rounds."""

MIB = 1 << 20
NO_PATIENCE = {"FLASH_FETCH_STALL_SECONDS": "0.5"}


def layers(*, shards: int = 3, megabytes: int = 1) -> list[bytes]:
    """The layers of a model image: the configuration, then one shard in each."""
    chance = random.Random(0)
    shard = [{f"model-{number}.safetensors": chance.randbytes(megabytes * MIB)} for number in range(shards)]
    return [tar_of({"config.json": b"{}", "encoding/encode.py": b"#\n"}), *(tar_of(dict(files)) for files in shard)]


def source(registry: ImageRegistry, image: str = "team/model:1") -> dict[str, str]:
    return {"FLASH_MODEL_SOURCE": f"oci://{registry.host}/{image}"}


def model_files(fetch: FetchProcess) -> list[str]:
    return sorted(str(path.relative_to(fetch.model)) for path in fetch.model.rglob("*") if path.is_file())


WHOLE = ["config.json", "encoding/encode.py", *(f"model-{number}.safetensors" for number in range(3))]


def assert_failed_with(code: int, fetch: FetchProcess, *fragments: str) -> None:
    assert code == 1, fetch.output
    for fragment in fragments:
        assert fragment in fetch.record["failure"]
    assert not [line for line in fetch.output.splitlines() if not line.startswith("{")], "every line is a log record"


@pytest.mark.parametrize("gzipped", [False, True], ids=["tar", "tar and gzip"])
async def test_an_image_is_downloaded_completely_and_linked_for_the_engine(
    registries: Registries, *, gzipped: bool
) -> None:
    digest = registries.open.push_image("team/model", layers(), gzipped=gzipped)
    code, fetch = await registries.harness.fetch(**source(registries.open))

    assert code == 0, fetch.output
    assert model_files(fetch) == WHOLE
    assert (fetch.model / "model-2.safetensors").stat().st_size == MIB
    assert fetch.model.name == digest
    assert (fetch.model / "config.json").stat().st_mode & 0o222 == 0, "engines share it, so none may change it"
    record = fetch.record
    assert (record["phase"], record["commit"]) == ("Complete", digest)
    assert f"at digest {digest[:19]}, downloaded into the pod's own volume" in record["message"]
    assert "1 is a tag, so replicas may serve different images" in record["warning"]
    assert record["warning"].endswith(f"set model.source to oci://{registries.open.host}/team/model@{digest}")


async def test_the_model_in_a_folder_of_its_image_is_linked_for_the_engine(registries: Registries) -> None:
    """As KServe packages it, on a base image."""
    base = tar_of({"etc/passwd": b"root:x:0:0::/:/bin/sh\n"})
    registries.open.push_image(
        "team/model", [base, tar_of({"models/config.json": b"{}", "models/a.safetensors": b"a"})]
    )
    proxies = dict.fromkeys(("http_proxy", "HTTP_PROXY", "ALL_PROXY", "all_proxy"), "http://127.0.0.1:1")
    code, fetch = await registries.harness.fetch(**source(registries.open), **proxies, NO_PROXY="", no_proxy="")

    assert code == 0, fetch.output
    assert model_files(fetch) == ["a.safetensors", "config.json"]
    assert fetch.model.name == "models"


async def test_a_digest_in_the_cache_needs_no_registry(registries: Registries) -> None:
    digest = registries.open.push_image("team/model", layers())
    await registries.harness.fetch("first", **source(registries.open))
    gone = source(registries.open, f"team/model@{digest}")
    with ImageRegistry(registries.root).running() as other:
        assert other.port != registries.open.port
    code, fetch = await registries.harness.fetch("second", **gone, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")

    assert code == 0, fetch.output
    assert "the registry was not asked" in fetch.record["message"]
    assert fetch.record["warning"] is None


async def test_files_of_an_artifact_keep_their_names(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed by the real ORAS client, which packs the folder."""
    folder = tmp_path / "weights"
    (folder / "encoding").mkdir(parents=True)
    for name, content in (("config.json", "{}"), ("a.safetensors", "weights"), ("encoding/encode.py", "#")):
        (folder / name).write_text(content)
    monkeypatch.setenv("NO_PROXY", registries.open.address)
    client = oras.client.OrasClient(insecure=True)
    pushed = [str(folder / "config.json"), str(folder / "a.safetensors"), str(folder / "encoding")]
    monkeypatch.chdir(folder)
    client.push(f"{registries.open.host}/team/artifact:1", files=pushed, disable_path_validation=True)

    code, fetch = await registries.harness.fetch(**source(registries.open, "team/artifact:1"))
    assert code == 0, fetch.output
    assert (fetch.model / "config.json").read_text() == "{}"
    assert (fetch.model / "a.safetensors").read_text() == "weights"
    assert "encoding/encode.py" in model_files(fetch)


async def test_this_machines_image_of_an_index_is_downloaded_and_the_indexs_digest_reported(
    registries: Registries,
) -> None:
    registry = registries.open
    manifests = []
    for architecture in ("s390x", "amd64", "arm64"):
        digest = registry.push_image("team/model", [tar_of({"machine": architecture.encode()})], tag=architecture)
        platform = {"architecture": architecture, "os": "linux"}
        manifests.append({"digest": digest, "size": 1, "mediaType": "application/vnd.oci.image.manifest.v1+json"})
        manifests[-1]["platform"] = platform
        manifests[-1]["size"] = len(_manifest_of(registry, digest))
    index = registry.push_manifest("team/model", "all", {"manifests": manifests}, kind=INDEX)

    code, fetch = await registries.harness.fetch(**source(registry, "team/model:all"))
    assert code == 0, fetch.output
    assert (fetch.model / "machine").read_text() == ARCHITECTURES[os.uname().machine]
    assert fetch.record["commit"] == index


def _manifest_of(registry: ImageRegistry, digest: str) -> bytes:
    return (registry.root / registry.blob_file(digest)).read_bytes()


def a_secret(folder: Path, host: str, password: str = PASSWORD, name: str = "pull") -> dict[str, str]:
    """The docker config as the pod mounts it, and the settings for it."""
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / f"{name}.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return {"FLASH_REGISTRY_SECRETS": str(folder), "FLASH_REGISTRY_SECRET": name}


def basic(root: Path) -> dict[str, Any]:
    file = root / "htpasswd"
    file.write_text(HTPASSWD)
    return {"htpasswd": {"realm": "Registry of the tests", "path": str(file)}}


async def test_credentials_of_a_docker_config_are_used(registries: Registries, tmp_path: Path) -> None:
    registries.open.push_image("team/model", layers())
    closed = registries.start(auth=basic(registries.root))
    code, fetch = await registries.harness.fetch(**source(closed), **a_secret(tmp_path / "secrets", closed.host))

    assert code == 0, fetch.output
    assert model_files(fetch) == WHOLE
    assert PASSWORD not in fetch.output + json.dumps(fetch.record)


async def test_a_registry_that_denies_access_is_reported_at_once(registries: Registries, tmp_path: Path) -> None:
    """oras itself would retry for two minutes."""
    registries.open.push_image("team/model", layers())
    closed = registries.start(auth=basic(registries.root))
    began = time.monotonic()
    repository = f"{closed.host}/team/model"
    code, fetch = await registries.harness.fetch(**source(closed))
    assert_failed_with(
        code, fetch, f"{closed.host} denies anonymous clients access to {repository} (401)", "model.credentialsSecret"
    )
    wrong = a_secret(tmp_path / "secrets", closed.host, password="wrong")  # noqa: S106
    code, fetch = await registries.harness.fetch(**source(closed), **wrong)
    assert_failed_with(
        code, fetch, f"the registry {closed.host} denies {USER} access to {repository} (401)", "imagePullSecrets"
    )
    assert time.monotonic() - began < 20


async def test_a_missing_secret_is_named_with_the_command_that_creates_it(
    registries: Registries, tmp_path: Path
) -> None:
    registries.open.push_image("team/model", layers())
    missing = {"FLASH_REGISTRY_SECRETS": str(tmp_path / "none"), "FLASH_REGISTRY_SECRET": "pull"}
    code, fetch = await registries.harness.fetch(**source(registries.open), **missing)
    assert_failed_with(
        code,
        fetch,
        "the Secret pull does not exist, or has no key .dockerconfigjson",
        "create secret docker-registry pull",
    )


async def test_a_token_is_sent_only_to_the_registry_and_renewed_when_it_expires(
    registries: Registries, tmp_path: Path
) -> None:
    """The storage host that it redirects to must not get it. Transfers are interrupted until the token has expired."""
    made = layers(shards=1, megabytes=4)
    registries.open.push_image("team/model", made)
    async with TokenServerStub({USER: PASSWORD}, {"team/model"}, valid_seconds=2).running() as tokens:
        closed = registries.start_redirecting(auth=tokens.settings(registries.root))
        storage = registries.harness.hub
        shard = largest_blob(registries)
        storage.cut_after[shard] = [MIB, 300_000, 1, 1]
        code, fetch = await registries.harness.fetch(**source(closed), **a_secret(tmp_path / "secrets", closed.host))

        assert code == 0, fetch.output
        assert "model-0.safetensors" in model_files(fetch)
        assert storage.storage_tokens == {None}
        assert tokens.issued >= 2
        assert storage.sent[shard] < 1.5 * len(made[-1]), "what was on disk was not downloaded again"
        assert storage.cut_after[shard] == []


async def test_a_repository_that_the_token_may_not_pull(registries: Registries, tmp_path: Path) -> None:
    registries.open.push_image("team/model", layers())
    async with TokenServerStub({USER: PASSWORD}, {"other/model"}).running() as tokens:
        closed = registries.start(auth=tokens.settings(registries.root))
        secret = a_secret(tmp_path / "secrets", closed.host)
        code, fetch = await registries.harness.fetch(**source(closed), **secret)
        assert_failed_with(code, fetch, f"denies {USER} access to {closed.host}/team/model (401)")


def largest_blob(registries: Registries) -> str:
    storage = registries.root
    found = max(storage.glob("docker/registry/v2/blobs/sha256/*/*/data"), key=lambda path: path.stat().st_size)
    return str(found.relative_to(storage))


def serve_slowly(registries: Registries) -> tuple[ImageRegistry, list[bytes]]:
    """An image whose layers take seconds to download."""
    made = layers(megabytes=32)
    registries.open.push_image("team/model", made)
    registries.harness.hub.bytes_per_second = 8 * MIB
    return registries.start_redirecting(), made


def partial_bytes(harness: DownloadHarness) -> int:
    return sum(path.stat().st_size for path in (harness.cache / "hub").rglob("*.flash-part"))


async def test_a_download_that_was_killed_is_resumed(registries: Registries) -> None:
    slow, made = serve_slowly(registries)
    harness, total = registries.harness, sum(map(len, made))
    fetch = await harness.start(**source(slow))
    record = await fetch.wait_until(lambda record: record["bytes"] > 0.3 * record.get("totalBytes", 1 << 60))
    fetch.process.send_signal(signal.SIGKILL)
    assert await fetch.wait() == -signal.SIGKILL
    assert record["totalBytes"] == total
    stored = partial_bytes(harness)
    assert stored > 0.25 * total
    harness.hub.sent.clear()
    harness.hub.bytes_per_second = None

    code, again = await harness.fetch(**source(slow))
    assert code == 0, again.output
    assert model_files(again) == WHOLE
    assert harness.hub.sent.total() <= total - stored
    assert again.record["attempts"] == 2


async def test_two_replicas_on_a_node_download_once_and_the_second_reports_the_firsts_progress(
    registries: Registries,
) -> None:
    slow, made = serve_slowly(registries)
    harness = registries.harness
    first = await harness.start("first", **source(slow))
    await first.wait_until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 0)
    second = await harness.start("second", **source(slow))
    await second.wait_until(lambda record: record["phase"] == "Waiting" and "fetching" in record["message"])

    assert [await first.wait(), await second.wait()] == [0, 0]
    assert first.model == second.model
    assert harness.hub.sent.total() == sum(map(len, made))


async def test_a_layer_with_the_wrong_digest_is_never_unpacked(registries: Registries) -> None:
    registries.open.push_image("team/model", layers())
    broken = registries.start_redirecting()
    blob = largest_blob(registries)
    registries.harness.hub.corrupt[blob] = 2
    code, fetch = await registries.harness.fetch(**source(broken))

    digest = Path(blob).parent.name
    assert_failed_with(
        code,
        fetch,
        f"{digest} of {broken.host}/team/model has the wrong checksum",
        f"expected SHA-256 {digest}",
        "twice",
    )
    assert not (fetch.run_dir / "model").exists()
    assert registries.harness.hub.corrupt[blob] == 0

    code, again = await registries.harness.fetch(**source(broken))
    assert code == 0, again.output
    assert model_files(again) == WHOLE


async def test_a_manifest_with_the_wrong_digest_is_refused(registries: Registries) -> None:
    """A stub, because a real registry verifies what it sends."""
    wanted = f"sha256:{'a' * 64}"

    async def send_another_manifest(_: web.Request) -> web.Response:
        return web.json_response({"layers": []})

    app = web.Application()
    app.router.add_get("/v2/{path:.*}", send_another_manifest)
    async with TestServer(app) as lying_registry_stub:
        address = f"oci://127.0.0.1:{lying_registry_stub.port}/team/model@{wanted}"
        code, fetch = await registries.harness.fetch(FLASH_MODEL_SOURCE=address)
    assert_failed_with(code, fetch, "sent the wrong manifest", f"expected {wanted}, found sha256:", "it was not served")


async def test_an_image_above_the_limit_is_refused_before_its_download(registries: Registries) -> None:
    """All layers, and the largest once more while it is unpacked: 3 MiB, 1 MiB, and the overhead of the tars."""
    registries.open.push_image("team/model", layers())
    slow = registries.start_redirecting()
    code, fetch = await registries.harness.fetch(**source(slow), FLASH_MODEL_CACHE_GIBIBYTES="0.0038")
    assert_failed_with(
        code,
        fetch,
        "needs 4.0 MiB while its layers are unpacked",
        "allows only 3.9 MiB",
        "raise model.cache.maxGibibytes",
    )
    assert registries.harness.hub.sent.total() == 0

    code, fetch = await registries.harness.fetch(**source(slow), FLASH_MODEL_CACHE_GIBIBYTES="0.0041")
    assert code == 0, fetch.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_an_image_is_refused_if_it_does_not_fit_and_the_space_that_the_message_asks_for_is_enough(
    registries: Registries,
) -> None:
    registries.open.push_image("team/model", layers(megabytes=8))
    slow = registries.start_redirecting()
    for megabytes, message in ((47, "needs 32.0 MiB more"), (50, None)):
        registries.harness.folder = registries.harness.folder / str(megabytes)
        registries.harness.folder.mkdir()
        with small_disk(registries.harness.cache, f"size={megabytes}m"):
            code, fetch = await registries.harness.fetch(**source(slow))
            if message:
                assert_failed_with(code, fetch, message, "nothing was downloaded")
                assert registries.harness.hub.sent.total() == 0
            else:
                assert code == 0, fetch.output


ABSENT: dict[str, tuple[str, Sequence[str]]] = {
    "a tag": ("team/model:2", ("has no team/model at 2", "check model.source")),
    "a repository": ("team/other:1", ("has no team/other at 1",)),
    "a digest": (f"team/model@sha256:{'a' * 64}", (f"has no team/model at sha256:{'a' * 64}",)),
}


@pytest.mark.parametrize(("image", "fragments"), ABSENT.values(), ids=ABSENT.keys())
async def test_a_missing_image_is_named(registries: Registries, image: str, fragments: Sequence[str]) -> None:
    registries.open.push_image("team/model", layers())
    code, fetch = await registries.harness.fetch(**source(registries.open, image), **NO_PATIENCE)
    assert_failed_with(code, fetch, *fragments)


async def test_a_registry_whose_name_cannot_be_resolved(registries: Registries) -> None:
    nowhere = {"FLASH_MODEL_SOURCE": "oci://registry.invalid/team/model:1"}
    code, fetch = await registries.harness.fetch(**nowhere, **NO_PATIENCE)
    assert_failed_with(code, fetch, "the registry registry.invalid cannot be reached", "DNS")


async def test_plain_http_is_used_only_for_registries_that_are_configured(registries: Registries) -> None:
    """Reached by this machine's host name, which does not count as local."""
    registries.open.push_image("team/model", layers())
    with ImageRegistry(registries.root, address=os.uname().nodename).running() as other:
        code, fetch = await registries.harness.fetch(**source(other), **NO_PATIENCE)
        assert_failed_with(code, fetch, "the TLS certificate", "cannot be verified", "FLASH_REGISTRY_PLAIN_HTTP")
        code, fetch = await registries.harness.fetch(**source(other), FLASH_REGISTRY_PLAIN_HTTP=f"a:1,{other.host}")
        assert code == 0, fetch.output


async def test_an_image_that_writes_outside_its_folder_is_refused(registries: Registries) -> None:
    registries.open.push_image("team/model", [*layers(), tar_of({"../../../outside": b"x"})])
    code, fetch = await registries.harness.fetch(**source(registries.open))
    assert_failed_with(code, fetch, "'../../../outside' leads outside the model's folder", "do not use this image")
    assert not list(registries.harness.folder.rglob("outside"))
    assert not (fetch.run_dir / "model").exists()


@pytest.mark.parametrize("image", ["Team/Model", "registry.example/model@sha256:abc"])
async def test_an_invalid_image_name_is_a_bad_setting(registries: Registries, image: str) -> None:
    code, fetch = await registries.harness.fetch(FLASH_MODEL_SOURCE=f"oci://{image}")
    assert code == 2
    assert image in json.loads(fetch.output.splitlines()[-1])["error"]
