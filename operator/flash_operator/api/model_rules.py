"""CEL rules for `spec.model`."""

from flash_operator.api.image_rules import IMAGE, IMAGE_NAME, IMAGE_REMEDY
from flash_operator.api.rule import Rule, quoted

_SOURCE = (
    Rule(
        "self == oldSelf",
        "model.source is immutable: create another DeepSeekFlashDeployment for another checkpoint",
    ),
    Rule(
        "!self.startsWith('hf://') || self.matches('^hf://[^/:@]+/[^/:@]+$')",
        "an hf:// source must have the form hf://OWNER/NAME: put a branch or commit into model.revision",
    ),
    Rule(
        "!self.startsWith('pvc://') || self.matches('^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)*$')",
        "a pvc:// source must have the form pvc://CLAIM/FOLDER, with the claim's name in lower case and no trailing "
        "slash",
    ),
    Rule(
        f"!self.startsWith('oci://') || self.substring(6).matches({quoted(IMAGE_NAME)})",
        f"an oci:// source must name an image as a registry may have it: {IMAGE_REMEDY}",
    ),
    Rule("!self.contains('/..')", "model.source must not contain '..': write the folder's path from the claim's root"),
)

PVC_FOLDER = "^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)+$"

_RESTORE_SOURCE = (
    Rule(
        "self == oldSelf",
        "restoreMtp.source is immutable, because the restored checkpoint is found again by it: set restoreMtp on "
        "another DeepSeekFlashDeployment",
    ),
    Rule(
        "!self.startsWith('hf://') || self.matches('^hf://[^/:@]+/[^/:@]+(@[^/:@]+)?$')",
        "an hf:// source must have the form hf://OWNER/NAME@COMMIT",
    ),
    Rule(
        f"!self.startsWith('pvc://') || self.matches('{PVC_FOLDER}')",
        "a pvc:// source must have the form pvc://CLAIM/FOLDER, with the claim's name in lower case and no trailing "
        "slash",
    ),
    Rule("!self.contains('/..')", "restoreMtp.source must not contain '..': write the path from the claim's root"),
)

_RESTORE_CAPTURE = (
    Rule(
        f"self.matches('{PVC_FOLDER}')",
        "a capture must have the form pvc://CLAIM/FOLDER, with the claim's name in lower case and no trailing slash",
    ),
    Rule("!self.contains('/..')", "restoreMtp.capture must not contain '..': write the path from the claim's root"),
)

_FROM_A_HUB = "[self.source, has(self.restoreMtp) ? self.restoreMtp.source : ''].exists(s, s.startsWith('hf://'))"

_MODEL = (
    Rule(
        f"!has(self.restoreMtp) || self.restoreMtp.state != 'Enabled' || self.source.matches('{PVC_FOLDER}')",
        "restoreMtp writes the restored checkpoint next to the stripped one, so model.source must be a folder on a "
        "claim: copy the checkpoint to a claim and write pvc://CLAIM/FOLDER, or use a checkpoint that has its MTP head",
        ".restoreMtp",
    ),
    Rule(
        "!has(self.revision) || self.source.startsWith('hf://')",
        "revision is only for hf:// sources: remove it; pin an oci:// image by its digest, a pvc:// source by its "
        "folder",
        ".revision",
    ),
    Rule(
        "!has(self.cache) || !self.source.startsWith('pvc://')",
        "cache is for models that are downloaded, and a pvc:// model is already on a volume: remove it",
        ".cache",
    ),
    Rule(
        "!has(self.cache) || self.ociDelivery != 'ImageVolume'",
        "cache is for models that are downloaded, and the kubelet stores an image that it mounts itself: remove it, or "
        "set ociDelivery to Fetch",
        ".cache",
    ),
    Rule(
        "self.ociDelivery == 'Auto' || self.source.startsWith('oci://')",
        "ociDelivery is only for oci:// sources: remove it",
        ".ociDelivery",
    ),
    Rule(
        f"!has(self.credentialsSecret) || self.source.startsWith('oci://') || {_FROM_A_HUB}",
        "credentialsSecret is for a hub or registry, and nothing here comes from one: remove it",
        ".credentialsSecret",
    ),
    Rule(
        f"!has(self.hubEndpoint) || {_FROM_A_HUB}",
        "hubEndpoint is only for hf:// sources: remove it",
        ".hubEndpoint",
    ),
    Rule(
        "self.servedNames.all(n, self.servedNames.exists_one(m, m == n))",
        "servedNames contains a name twice: remove one of them",
        ".servedNames",
    ),
)

_CACHE = (
    Rule(
        "(self.type == 'Claim') == has(self.claimName)",
        "claimName and type Claim belong together: set both or neither",
        ".claimName",
    ),
    Rule(
        "self.type == 'Node' || !has(self.path)",
        "path is a folder on the node: set type to Node, or remove path",
        ".path",
    ),
    Rule(
        "!has(self.path) || !self.path.contains('/.')",
        "no part of path may begin with a dot: write the whole path from /",
        ".path",
    ),
)

MODEL_RULES: dict[str, tuple[Rule, ...]] = {
    "model": _MODEL,
    "model.source": _SOURCE,
    "model.cache": _CACHE,
    "model.restoreMtp.source": _RESTORE_SOURCE,
    "model.restoreMtp.capture": _RESTORE_CAPTURE,
    "model.restoreMtp.image": (IMAGE,),
}
