"""What the schema cannot say of `spec.model`, in CEL."""

from flash_operator.api.cel_rule import Rule

_SOURCE = (
    Rule(
        "self == oldSelf",
        "model.source cannot be changed: another checkpoint is another deployment; create one beside this",
    ),
    Rule(
        "!self.startsWith('hf://') || self.matches('^hf://[^/:@]+/[^/:@]+$')",
        "an hf:// source is hf://OWNER/NAME; a branch or commit goes into model.revision",
    ),
    Rule(
        "!self.startsWith('pvc://') || self.matches('^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)*$')",
        "a pvc:// source is pvc://CLAIM/FOLDER, with the claim's name in lower case and no slash at the end",
    ),
    Rule("!self.contains('/..')", "model.source may not contain '..': write the folder's path from the claim's root"),
)

PVC_FOLDER = "^pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/[^/]+)+$"

_RESTORE_SOURCE = (
    Rule(
        "self == oldSelf",
        "restoreMtp.source cannot be changed: what was made of it is kept and found again by it; set restoreMtp on "
        "another deployment",
    ),
    Rule(
        "!self.startsWith('hf://') || self.matches('^hf://[^/:@]+/[^/:@]+(@[^/:@]+)?$')",
        "an hf:// source is hf://OWNER/NAME@COMMIT",
    ),
    Rule(
        f"!self.startsWith('pvc://') || self.matches('{PVC_FOLDER}')",
        "a pvc:// source is pvc://CLAIM/FOLDER, with the claim's name in lower case and no slash at the end",
    ),
    Rule("!self.contains('/..')", "restoreMtp.source may not contain '..': write the path from the claim's root"),
)

_RESTORE_CAPTURE = (
    Rule(
        f"self.matches('{PVC_FOLDER}')",
        "a capture is pvc://CLAIM/FOLDER, with the claim's name in lower case and no slash at the end",
    ),
    Rule("!self.contains('/..')", "restoreMtp.capture may not contain '..': write the path from the claim's root"),
)

_FROM_A_HUB = "[self.source, has(self.restoreMtp) ? self.restoreMtp.source : ''].exists(s, s.startsWith('hf://'))"

_MODEL = (
    Rule(
        f"!has(self.restoreMtp) || self.restoreMtp.state != 'Enabled' || self.source.matches('{PVC_FOLDER}')",
        "restoreMtp writes the restored checkpoint beside the stripped one, which only a claim's folder allows: bring "
        "the checkpoint to a claim and give pvc://CLAIM/FOLDER as model.source, or give one that has its MTP head",
        ".restoreMtp",
    ),
    Rule(
        "!has(self.revision) || self.source.startsWith('hf://')",
        "revision belongs to an hf:// source; an oci:// image is pinned by its digest, a pvc:// folder by its owner",
        ".revision",
    ),
    Rule(
        "!has(self.cache) || !self.source.startsWith('pvc://')",
        "cache is for a model that is fetched, and a pvc:// model is on a volume already; remove it",
        ".cache",
    ),
    Rule(
        "!has(self.cache) || self.ociDelivery != 'ImageVolume'",
        "cache is for a model that is fetched, and the kubelet keeps an image that it mounts: remove it, or set "
        "ociDelivery to Fetch",
        ".cache",
    ),
    Rule(
        "self.ociDelivery == 'Auto' || self.source.startsWith('oci://')",
        "ociDelivery is for an oci:// source: remove it",
        ".ociDelivery",
    ),
    Rule(
        f"!has(self.credentialsSecret) || self.source.startsWith('oci://') || {_FROM_A_HUB}",
        "credentialsSecret is for the hub or registry that the model is from: remove it",
        ".credentialsSecret",
    ),
    Rule(
        f"!has(self.hubEndpoint) || {_FROM_A_HUB}",
        "hubEndpoint is the hub of an hf:// source: remove it",
        ".hubEndpoint",
    ),
    Rule(
        "self.servedNames.all(n, self.servedNames.exists_one(m, m == n))",
        "servedNames holds a name twice: remove one of them",
        ".servedNames",
    ),
)

_CACHE = (
    Rule(
        "(self.type == 'Claim') == has(self.claimName)",
        "claimName and type Claim belong together: give both, or neither",
        ".claimName",
    ),
    Rule(
        "self.type == 'Node' || !has(self.path)",
        "path is a folder of the node: set type to Node, or remove it",
        ".path",
    ),
    Rule(
        "!has(self.path) || !self.path.contains('/.')",
        "path may not contain a part that begins with a dot: write the whole path from /",
        ".path",
    ),
)

MODEL_RULES: dict[str, tuple[Rule, ...]] = {
    "model": _MODEL,
    "model.source": _SOURCE,
    "model.cache": _CACHE,
    "model.restoreMtp.source": _RESTORE_SOURCE,
    "model.restoreMtp.capture": _RESTORE_CAPTURE,
}
