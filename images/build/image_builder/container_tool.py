"""The programs that build and push images: docker, podman and buildah, which differ in few options."""

import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from image_builder.progress import print_line
from image_builder.push_failure import why_not_built, why_not_pushed

CHECKS: Final = {
    # The client alone is on many machines. Only its daemon builds.
    "docker": ("version", "--format={{.Server.Version}}"),
    "podman": ("version",),
    "buildah": ("version",),
}
"""Tool -> a command that succeeds where it works. In the order in which they are tried."""

LINES_KEPT: Final = 200


class ToolError(RuntimeError):
    """A tool is missing or failed; the message says what to do."""


@dataclass(frozen=True)
class Tool:
    name: str
    command: tuple[str, ...]
    """The program with its global options."""

    def build(self, dockerfile: Path, context: Path, reference: str, arguments: Mapping[str, str]) -> None:
        given = [f"--build-arg={name}={value}" for name, value in arguments.items()]
        output = self._run("build", *given, f"--file={dockerfile}", f"--tag={reference}", str(context))
        if output is not None:
            raise ToolError(why_not_built(reference, self.name, output))

    def load(self, archive: Path) -> str:
        """Put the image of an OCI archive into the tool's storage. Returns its id."""
        done = subprocess.run(
            [*self.command, "pull", "--quiet", f"oci-archive:{archive}"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise ToolError(f"{self.name} cannot read {archive}: {done.stderr.strip()}")
        return done.stdout.split()[-1]

    def push(self, reference: str, scratch: Path, *, local: str | None = None, plain: bool = False) -> str:
        """Push to a registry. Returns the digest that it has there.

        `local`: what the image is called here, if not by `reference`. `plain`: without TLS.
        """
        digest_file = scratch / "digest"
        if self.name == "docker":
            output = self._run("push", reference)
        else:
            options = [f"--digestfile={digest_file}", *(["--tls-verify=false"] if plain else [])]
            output = self._run("push", *options, local or reference, f"docker://{reference}")
        if output is not None:
            raise ToolError(why_not_pushed(reference, self.name, output))
        return self._digest_docker_knows(reference) if self.name == "docker" else digest_file.read_text().strip()

    def remove(self, image: str) -> None:
        subprocess.run([*self.command, "rmi", image], capture_output=True, check=False)

    def _digest_docker_knows(self, reference: str) -> str:
        template = "--format={{range .RepoDigests}}{{println .}}{{end}}"
        done = subprocess.run(
            [*self.command, "image", "inspect", template, reference], capture_output=True, text=True, check=False
        )
        repository = reference.rpartition(":")[0]
        found = [line.partition("@") for line in done.stdout.split()]
        digests = [digest for name, _, digest in found if name == repository]
        if not digests:
            raise ToolError(f"docker pushed {reference}, and does not say its digest: {done.stderr.strip()}")
        return digests[0]

    def _run(self, *arguments: str) -> str | None:
        """Shows each line of output as it comes. Returns the last ones if the command failed."""
        pipe = subprocess.PIPE
        with subprocess.Popen([*self.command, *arguments], stdout=pipe, stderr=subprocess.STDOUT, text=True) as process:
            last: list[str] = []
            for line in process.stdout or ():
                print_line(f"  {line.rstrip()}")
                last = [*last[-LINES_KEPT:], line]
        return "".join(last) if process.returncode else None


def chosen(name: str | None = None, checks: Mapping[str, Sequence[str]] = CHECKS) -> Tool:
    """The named tool, or the first that works here. Raises ToolError."""
    wanted = [name] if name else list(checks)
    for one in wanted:
        if works(one, checks[one]):
            return Tool(one, (one,))
    found = f"{name} does not work" if name else "none of docker, podman and buildah works"
    raise ToolError(
        f"{found} on this machine: install one of the three, or start Docker's daemon if only its client is there. "
        "BUILDER=image_builder pushes images for CPUs only"
    )


def works(name: str, check: Sequence[str]) -> bool:
    if shutil.which(name) is None:
        return False
    return subprocess.run([name, *check], capture_output=True, check=False).returncode == 0
