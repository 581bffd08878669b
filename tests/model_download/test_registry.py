"""flash-fetch against a real container registry: images and artifacts, resumed, verified, refused in a sentence."""

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

from download_harness import Bench, Fetch, Registries, a_small_disk
from image_registry import INDEX, ImageRegistry, tar_of
from local_cluster.oci_archive import ARCHITECTURES
from token_server_stub import TokenServerStub

USER, PASSWORD = "puller", "secret-of-the-tests"
HTPASSWD = f"{USER}:$2b$04$S0/TreduGeKtthneX9ThkO47mJafilMTrAR4jd6tJvSAmCek/RDmC\n"
"""bcrypt of it, with the least rounds."""

MIB = 1 << 20
NO_PATIENCE = {"FLASH_FETCH_STALL_SECONDS": "0.5"}


def layers(*, shards: int = 3, megabytes: int = 1) -> list[bytes]:
    """A model as images hold them: a configuration, then a shard in each layer."""
    chance = random.Random(0)
    shard = [{f"model-{number}.safetensors": chance.randbytes(megabytes * MIB)} for number in range(shards)]
    return [tar_of({"config.json": b"{}", "encoding/encode.py": b"#\n"}), *(tar_of(dict(files)) for files in shard)]


def source(registry: ImageRegistry, image: str = "team/model:1") -> dict[str, str]:
    return {"FLASH_MODEL_SOURCE": f"oci://{registry.host}/{image}"}


def model_files(fetch: Fetch) -> list[str]:
    return sorted(str(path.relative_to(fetch.model)) for path in fetch.model.rglob("*") if path.is_file())


WHOLE = ["config.json", "encoding/encode.py", *(f"model-{number}.safetensors" for number in range(3))]


def assert_told(code: int, fetch: Fetch, *words: str) -> None:
    assert code == 1, fetch.output
    for word in words:
        assert word in fetch.record["failure"]
    assert not [line for line in fetch.output.splitlines() if not line.startswith("{")], "every line is of the log"


@pytest.mark.parametrize("gzipped", [False, True], ids=["tar", "tar and gzip"])
async def test_an_image_comes_whole_and_the_engine_is_led_to_it(registries: Registries, *, gzipped: bool) -> None:
    digest = registries.open.push_image("team/model", layers(), gzipped=gzipped)
    code, fetch = await registries.bench.fetch(**source(registries.open))

    assert code == 0, fetch.output
    assert model_files(fetch) == WHOLE
    assert (fetch.model / "model-2.safetensors").stat().st_size == MIB
    assert fetch.model.name == digest
    assert (fetch.model / "config.json").stat().st_mode & 0o222 == 0, "engines share it, so none may change it"
    record = fetch.record
    assert (record["phase"], record["commit"]) == ("Complete", digest)
    assert f"at digest {digest[:19]}, fetched into the pod's own volume" in record["message"]
    assert "1 is a tag, so replicas may come to serve different images" in record["warning"]
    assert record["warning"].endswith(f"use oci://{registries.open.host}/team/model@{digest}")


async def test_a_digest_that_is_whole_in_the_cache_needs_no_registry(registries: Registries) -> None:
    digest = registries.open.push_image("team/model", layers())
    await registries.bench.fetch("first", **source(registries.open))
    gone = source(registries.open, f"team/model@{digest}")
    with ImageRegistry(registries.root).running() as other:
        assert other.port != registries.open.port
    code, fetch = await registries.bench.fetch("second", **gone, HTTP_PROXY="http://127.0.0.1:1", NO_PROXY="")

    assert code == 0, fetch.output
    assert "the registry was not asked" in fetch.record["message"]
    assert fetch.record["warning"] is None


async def test_an_artifact_of_files_comes_under_their_names(
    registries: Registries, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pushed by the real ORAS client, a folder of it packed."""
    folder = tmp_path / "weights"
    (folder / "encoding").mkdir(parents=True)
    for name, content in (("config.json", "{}"), ("a.safetensors", "weights"), ("encoding/encode.py", "#")):
        (folder / name).write_text(content)
    client = oras.client.OrasClient(insecure=True)
    pushed = [str(folder / "config.json"), str(folder / "a.safetensors"), str(folder / "encoding")]
    monkeypatch.chdir(folder)
    client.push(f"{registries.open.host}/team/artifact:1", files=pushed, disable_path_validation=True)

    code, fetch = await registries.bench.fetch(**source(registries.open, "team/artifact:1"))
    assert code == 0, fetch.output
    assert (fetch.model / "config.json").read_text() == "{}"
    assert (fetch.model / "a.safetensors").read_text() == "weights"
    assert "encoding/encode.py" in model_files(fetch)


async def test_of_an_index_this_machines_image_comes_and_the_indexs_digest_is_told(registries: Registries) -> None:
    registry = registries.open
    manifests = []
    for architecture in ("s390x", "amd64", "arm64"):
        digest = registry.push_image("team/model", [tar_of({"machine": architecture.encode()})], tag=architecture)
        platform = {"architecture": architecture, "os": "linux"}
        manifests.append({"digest": digest, "size": 1, "mediaType": "application/vnd.oci.image.manifest.v1+json"})
        manifests[-1]["platform"] = platform
        manifests[-1]["size"] = len(_manifest_of(registry, digest))
    index = registry.push_manifest("team/model", "all", {"manifests": manifests}, kind=INDEX)

    code, fetch = await registries.bench.fetch(**source(registry, "team/model:all"))
    assert code == 0, fetch.output
    assert (fetch.model / "machine").read_text() == ARCHITECTURES[os.uname().machine]
    assert fetch.record["commit"] == index


def _manifest_of(registry: ImageRegistry, digest: str) -> bytes:
    return (registry.root / registry.blob_file(digest)).read_bytes()


def a_secret(folder: Path, host: str, password: str = PASSWORD, name: str = "pull") -> dict[str, str]:
    """As the kubelet mounts it."""
    folder.mkdir(exist_ok=True)
    auth = base64.b64encode(f"{USER}:{password}".encode()).decode()
    (folder / f"{name}.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return {"FLASH_REGISTRY_SECRETS": str(folder), "FLASH_REGISTRY_SECRET": name}


def basic(root: Path) -> dict[str, Any]:
    file = root / "htpasswd"
    file.write_text(HTPASSWD)
    return {"htpasswd": {"realm": "Registry of the tests", "path": str(file)}}


async def test_a_password_of_a_docker_config_opens_a_registry(registries: Registries, tmp_path: Path) -> None:
    registries.open.push_image("team/model", layers())
    closed = registries.start(auth=basic(registries.root))
    code, fetch = await registries.bench.fetch(**source(closed), **a_secret(tmp_path / "secrets", closed.host))

    assert code == 0, fetch.output
    assert model_files(fetch) == WHOLE
    assert PASSWORD not in fetch.output + json.dumps(fetch.record)


async def test_a_registry_that_refuses_is_told_of_at_once(registries: Registries, tmp_path: Path) -> None:
    """A client of its own would try for two minutes."""
    registries.open.push_image("team/model", layers())
    closed = registries.start(auth=basic(registries.root))
    began = time.monotonic()
    told = f"the registry {closed.host} refuses {closed.host}/team/model"
    code, fetch = await registries.bench.fetch(**source(closed))
    assert_told(code, fetch, f"{told} to one without credentials (401)", "model.credentialsSecret")
    wrong = a_secret(tmp_path / "secrets", closed.host, password="wrong")  # noqa: S106
    code, fetch = await registries.bench.fetch(**source(closed), **wrong)
    assert_told(code, fetch, f"{told} to {USER} (401)", "imagePullSecrets")
    assert time.monotonic() - began < 20


async def test_a_secret_that_is_not_there_is_named_with_how_to_make_it(registries: Registries, tmp_path: Path) -> None:
    registries.open.push_image("team/model", layers())
    missing = {"FLASH_REGISTRY_SECRETS": str(tmp_path / "none"), "FLASH_REGISTRY_SECRET": "pull"}
    code, fetch = await registries.bench.fetch(**source(registries.open), **missing)
    assert_told(code, fetch, "the Secret pull has no key .dockerconfigjson", "create secret docker-registry pull")


async def test_a_token_reaches_the_registry_alone_and_is_got_anew_when_it_ends(
    registries: Registries, tmp_path: Path
) -> None:
    """The storage that it redirects to is none of the registry's. Its transfers break until the token has ended."""
    made = layers(shards=1, megabytes=4)
    registries.open.push_image("team/model", made)
    async with TokenServerStub({USER: PASSWORD}, {"team/model"}, valid_seconds=2).running() as tokens:
        closed = registries.start_redirecting(auth=tokens.settings(registries.root))
        storage = registries.bench.hub
        shard = largest_blob(registries)
        storage.cut_after[shard] = [MIB, 300_000, 1, 1]
        code, fetch = await registries.bench.fetch(**source(closed), **a_secret(tmp_path / "secrets", closed.host))

        assert code == 0, fetch.output
        assert "model-0.safetensors" in model_files(fetch)
        assert storage.storage_tokens == {None}
        assert tokens.given >= 2
        assert storage.sent[shard] < 1.5 * len(made[-1]), "what was here was not fetched again"
        assert storage.cut_after[shard] == []


async def test_a_repository_that_the_token_is_not_for(registries: Registries, tmp_path: Path) -> None:
    registries.open.push_image("team/model", layers())
    async with TokenServerStub({USER: PASSWORD}, {"other/model"}).running() as tokens:
        closed = registries.start(auth=tokens.settings(registries.root))
        secret = a_secret(tmp_path / "secrets", closed.host)
        code, fetch = await registries.bench.fetch(**source(closed), **secret)
        assert_told(code, fetch, f"refuses {closed.host}/team/model to {USER} (401)")


def largest_blob(registries: Registries) -> str:
    storage = registries.root
    found = max(storage.glob("docker/registry/v2/blobs/sha256/*/*/data"), key=lambda path: path.stat().st_size)
    return str(found.relative_to(storage))


def slow_and_large(registries: Registries) -> tuple[ImageRegistry, list[bytes]]:
    """An image whose layers take seconds."""
    made = layers(megabytes=32)
    registries.open.push_image("team/model", made)
    registries.bench.hub.bytes_per_second = 8 * MIB
    return registries.start_redirecting(), made


def parts(bench: Bench) -> int:
    return sum(path.stat().st_size for path in (bench.cache / "hub").rglob("*.flash-part"))


async def test_killed_at_a_third_it_goes_on_from_there(registries: Registries) -> None:
    slow, made = slow_and_large(registries)
    bench, total = registries.bench, sum(map(len, made))
    fetch = await bench.start(**source(slow))
    record = await fetch.until(lambda record: record["bytes"] > 0.3 * record.get("totalBytes", 1 << 60))
    fetch.process.send_signal(signal.SIGKILL)
    assert await fetch.end() == -signal.SIGKILL
    assert record["totalBytes"] == total
    stored = parts(bench)
    assert stored > 0.25 * total
    bench.hub.sent.clear()
    bench.hub.bytes_per_second = None

    code, again = await bench.fetch(**source(slow))
    assert code == 0, again.output
    assert model_files(again) == WHOLE
    assert bench.hub.sent.total() <= total - stored
    assert again.record["attempts"] == 2


async def test_two_replicas_on_a_node_fetch_once_and_the_second_tells_of_the_first(registries: Registries) -> None:
    slow, made = slow_and_large(registries)
    bench = registries.bench
    first = await bench.start("first", **source(slow))
    await first.until(lambda record: record["phase"] == "Downloading" and record["bytes"] > 0)
    second = await bench.start("second", **source(slow))
    await second.until(lambda record: record["phase"] == "Waiting" and "fetching" in record["message"])

    assert [await first.end(), await second.end()] == [0, 0]
    assert first.model == second.model
    assert bench.hub.sent.total() == sum(map(len, made))


async def test_a_layer_that_is_not_what_its_digest_says_is_never_unpacked(registries: Registries) -> None:
    registries.open.push_image("team/model", layers())
    spoilt = registries.start_redirecting()
    blob = largest_blob(registries)
    registries.bench.hub.spoil[blob] = 2
    code, fetch = await registries.bench.fetch(**source(spoilt))

    digest = Path(blob).parent.name
    assert_told(code, fetch, f"{digest} of {spoilt.host}/team/model is not what", f"expected SHA-256 {digest}", "twice")
    assert not (fetch.run_dir / "model").exists()
    assert registries.bench.hub.spoil[blob] == 0

    code, again = await registries.bench.fetch(**source(spoilt))
    assert code == 0, again.output
    assert model_files(again) == WHOLE


async def test_a_manifest_that_is_not_what_its_digest_says_is_refused(registries: Registries) -> None:
    """A stub, for a real registry looks at what it hands over."""
    wanted = f"sha256:{'a' * 64}"

    async def another_one(_: web.Request) -> web.Response:
        return web.json_response({"layers": []})

    app = web.Application()
    app.router.add_get("/v2/{path:.*}", another_one)
    async with TestServer(app) as lying_registry_stub:
        address = f"oci://127.0.0.1:{lying_registry_stub.port}/team/model@{wanted}"
        code, fetch = await registries.bench.fetch(FLASH_MODEL_SOURCE=address)
    assert_told(code, fetch, f"sends for {wanted}", "is another one, sha256:", "nothing was served from it")


async def test_an_image_beyond_the_bound_is_refused_before_its_first_byte(registries: Registries) -> None:
    """All layers, and the largest once more while it is unpacked: 3 MiB and 1 MiB, and what tars add."""
    registries.open.push_image("team/model", layers())
    slow = registries.start_redirecting()
    code, fetch = await registries.bench.fetch(**source(slow), FLASH_MODEL_CACHE_GIBIBYTES="0.0038")
    assert_told(code, fetch, "takes 4.0 MiB while it is unpacked", "allows all models 3.9 MiB", "raise it")
    assert registries.bench.hub.sent.total() == 0

    code, fetch = await registries.bench.fetch(**source(slow), FLASH_MODEL_CACHE_GIBIBYTES="0.0041")
    assert code == 0, fetch.output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts a small file system; CI is root")
async def test_a_disk_without_room_is_refused_and_one_with_as_much_as_was_said_is_enough(
    registries: Registries,
) -> None:
    registries.open.push_image("team/model", layers(megabytes=8))
    slow = registries.start_redirecting()
    for megabytes, told in ((47, "needs 32.0 MiB more"), (50, None)):
        registries.bench.folder = registries.bench.folder / str(megabytes)
        registries.bench.folder.mkdir()
        with a_small_disk(registries.bench.cache, f"size={megabytes}m"):
            code, fetch = await registries.bench.fetch(**source(slow))
            if told:
                assert_told(code, fetch, told, "nothing was fetched")
                assert registries.bench.hub.sent.total() == 0
            else:
                assert code == 0, fetch.output


ABSENT: dict[str, tuple[str, Sequence[str]]] = {
    "a tag": ("team/model:2", ("has no team/model at 2", "check model.source")),
    "a repository": ("team/other:1", ("has no team/other at 1",)),
    "a digest": (f"team/model@sha256:{'a' * 64}", (f"has no team/model at sha256:{'a' * 64}",)),
}


@pytest.mark.parametrize(("image", "words"), ABSENT.values(), ids=ABSENT.keys())
async def test_what_is_not_there_is_named(registries: Registries, image: str, words: Sequence[str]) -> None:
    registries.open.push_image("team/model", layers())
    code, fetch = await registries.bench.fetch(**source(registries.open, image), **NO_PATIENCE)
    assert_told(code, fetch, *words)


async def test_a_registry_that_nothing_answers_for(registries: Registries) -> None:
    nowhere = {"FLASH_MODEL_SOURCE": "oci://registry.invalid/team/model:1"}
    code, fetch = await registries.bench.fetch(**nowhere, **NO_PATIENCE)
    assert_told(code, fetch, "the registry registry.invalid cannot be reached", "DNS")


async def test_a_registry_without_tls_is_asked_only_where_it_is_named(registries: Registries) -> None:
    """By a name of this machine that is not known to be of it."""
    registries.open.push_image("team/model", layers())
    with ImageRegistry(registries.root, address=os.uname().nodename).running() as other:
        code, fetch = await registries.bench.fetch(**source(other), **NO_PATIENCE)
        assert_told(code, fetch, "has no TLS that is believed here", "FLASH_REGISTRY_PLAIN_HTTP")
        code, fetch = await registries.bench.fetch(**source(other), FLASH_REGISTRY_PLAIN_HTTP=f"a:1,{other.host}")
        assert code == 0, fetch.output


async def test_an_image_that_would_write_elsewhere_is_refused(registries: Registries) -> None:
    registries.open.push_image("team/model", [*layers(), tar_of({"../../../outside": b"x"})])
    code, fetch = await registries.bench.fetch(**source(registries.open))
    assert_told(code, fetch, "'../../../outside' leads out of the model's folder", "do not use this image")
    assert not list(registries.bench.folder.rglob("outside"))
    assert not (fetch.run_dir / "model").exists()


@pytest.mark.parametrize("image", ["Team/Model", "registry.example/model@sha256:abc"])
async def test_a_name_that_is_none_is_a_bad_setting(registries: Registries, image: str) -> None:
    code, fetch = await registries.bench.fetch(FLASH_MODEL_SOURCE=f"oci://{image}")
    assert code == 2
    assert image in json.loads(fetch.output.splitlines()[-1])["error"]
