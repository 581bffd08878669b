"""The CEL rule for names of images: only those that a registry may have.

The grammar is that of the OCI distribution specification and of github.com/distribution/reference, which the kubelet
uses: `[HOST[:PORT]/]PATH[:TAG][@DIGEST]`. A first part without dot and port is no host but a part of the path.
"""

from flash_operator.api.rule import Rule, quoted

_LABEL = "[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_PORT = ":[0-9]{1,5}"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})+(?:{_PORT})?|{_LABEL}{_PORT}|localhost)"
_PART = "[a-z0-9]+(?:(?:[.]|_|__|-+)[a-z0-9]+)*"
_TAG = ":[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = "@(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})"

IMAGE_NAME = rf"^(?:{_HOST}/)?{_PART}(?:/{_PART})*(?:{_TAG})?(?:{_DIGEST})?$"

IMAGE_REMEDY = (
    "write [HOST[:PORT]/]PATH[:TAG][@sha256:DIGEST], the path in lower case and without empty parts, a tag of at most "
    "128 characters, and all 64 digits of a digest"
)

IMAGE = Rule(
    f"self.matches({quoted(IMAGE_NAME)})",
    f"this is not a valid image name: {IMAGE_REMEDY}",
)
