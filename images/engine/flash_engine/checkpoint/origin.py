"""Where a checkpoint comes from, which determines what its owner can do about a fault.

`model.source` is immutable, so another checkpoint always means another DeepSeekFlashDeployment.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Origin:
    """The remedies of one kind of source."""

    again: str
    """What to do about a damaged file."""
    edit: str
    """How to change a file, with `{change}` for the change."""

    subfolder: str
    """What to do if the checkpoint is in a subfolder, `{folder}`."""

    def change(self, change: str) -> str:
        """The remedy that makes this change to the files."""
        return self.edit.format(change=change)


VOLUME = Origin(
    again="copy the file again (for an oci:// source: build and push the image again) and compare its checksum with "
    "the source",
    edit="{change} (if it is an image, build a new one)",
    subfolder="create a DeepSeekFlashDeployment whose model.source ends with /{folder} (for an oci:// source: "
    "build the image with these files in its root)",
)
"""A folder: a claim, a mounted image, or a folder on the user's machine."""

HUB = Origin(
    again="downloads are verified, so the repository itself has this fault: set model.revision to a commit without it, "
    "or ask the owner to upload the file again",
    edit="a repository cannot be changed from here: copy it to a claim, {change}, and create a DeepSeekFlashDeployment "
    "with model.source pvc://CLAIM/FOLDER",
    subfolder="copy {folder} of the repository to a claim, and create a DeepSeekFlashDeployment with model.source "
    "pvc://CLAIM/FOLDER",
)

IMAGE = Origin(
    again="downloads are verified, so the image itself has this fault: build it again from the source, and create a "
    "DeepSeekFlashDeployment with its digest as model.source",
    edit="{change} in a new image, and create a DeepSeekFlashDeployment with its digest as model.source",
    subfolder="build the image with the files of {folder} in its root, and create a DeepSeekFlashDeployment with its "
    "digest as model.source",
)
"""An image that flash-fetch unpacked."""

ORIGINS = {"hf": HUB, "oci": IMAGE}
"""By the scheme of `model.source`, for models that flash-fetch downloaded."""


def another(what: str) -> str:
    """The remedy that replaces the checkpoint."""
    return f"create a DeepSeekFlashDeployment whose model.source contains {what}"
