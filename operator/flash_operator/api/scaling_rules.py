"""CEL rules for `spec.scaling` and `spec.podMetadata`."""

from flash_contracts.names import LABEL_PREFIX
from flash_operator.api.rule import Rule, quoted

LABEL_KEY = r"^([a-z0-9]([a-z0-9.-]*[a-z0-9])?/)?[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?$"

SCALING = (
    Rule(
        "self.minReplicas >= 1 || self.by != 'Hpa'",
        "minReplicas 0 is not possible by Hpa: an HPA neither stops the last replica nor starts the first one; set by "
        "to Keda, or minReplicas to 1",
        ".minReplicas",
    ),
    Rule(
        "self.minReplicas >= 1 || self.source == 'Operator'",
        "minReplicas 0 needs source Operator, which knows of requests that wait at zero: remove source and prometheus, "
        "or set minReplicas to 1",
        ".minReplicas",
    ),
    Rule(
        "self.minReplicas == 0 || !has(self.idle)",
        "idle has no effect, because minReplicas keeps at least one replica: remove idle, or set minReplicas to 0",
        ".idle",
    ),
    Rule(
        "self.minReplicas <= self.maxReplicas",
        "minReplicas is greater than maxReplicas: lower minReplicas, or raise maxReplicas",
        ".minReplicas",
    ),
    Rule(
        "self.source != 'Prometheus' || has(self.prometheus)",
        "source Prometheus needs prometheus.address: set it, or set source to Operator",
        ".prometheus",
    ),
    Rule(
        "self.source == 'Prometheus' || !has(self.prometheus)",
        "prometheus has no effect with source Operator: remove it, or set source to Prometheus",
        ".prometheus",
    ),
    Rule(
        "self.by != 'Hpa' || self.source == 'Operator'",
        "by Hpa reads metrics from the cluster's adapter, so source Prometheus has no effect: remove source and "
        "prometheus, or set by to Keda",
        ".source",
    ),
    Rule(
        "self.scaleUpStabilizationSeconds >= 15",
        "scaleUpStabilizationSeconds is less than the 15 s between two looks of an HPA, so a single reading would "
        "start replicas, and it may count a user twice: set 15 or more",
        ".scaleUpStabilizationSeconds",
    ),
    Rule(
        "self.scaleUpStabilizationSeconds <= 600",
        "scaleUpStabilizationSeconds lets users wait for more than 10 minutes before the first replica even starts to "
        "load: set 600 or less",
        ".scaleUpStabilizationSeconds",
    ),
    Rule(
        "self.scaleDownPeriodSeconds >= 15",
        "scaleDownPeriodSeconds is less than the 15 s between two looks of an HPA, so it would slow nothing down: set "
        "15 or more; scaleDownStabilizationSeconds says how long the demand must be lower",
        ".scaleDownPeriodSeconds",
    ),
)

PROMETHEUS = (
    Rule(
        "has(self.authMode) == has(self.triggerAuthentication)",
        "triggerAuthentication and authMode belong together: set both, or remove both",
        ".triggerAuthentication",
    ),
)

_IN_RANGE = (
    "(self.replicas <= 1 || (self.replicas >= self.scaling.minReplicas && self.replicas <= self.scaling.maxReplicas))"
)
_UNCHANGED = "oldSelf.hasValue() && has(oldSelf.value().scaling) && oldSelf.value().replicas == self.replicas"
"""A changed range does not contradict the number that the autoscaler had set in the former one."""

REPLICAS = Rule(
    f"!has(self.scaling) || {_IN_RANGE} || ({_UNCHANGED})",
    "replicas is outside scaling.minReplicas to scaling.maxReplicas, and the autoscaler sets it: remove replicas, or "
    "remove scaling",
    ".replicas",
    has_optional_old_self=True,
)
"""1 is the default, so the user need not have written it, and 0 stops the deployment (docs/scaling.md)."""

_OWN_LABELS = ("app.kubernetes.io/name", "app.kubernetes.io/instance", "app.kubernetes.io/managed-by")
_IS_OWN_LABEL = f"k.startsWith('{LABEL_PREFIX}') || k in [{', '.join(map(quoted, _OWN_LABELS))}]"
_VALID_KEY = Rule(
    f"self.all(k, size(k) < 318 && k.matches('{LABEL_KEY}'))",
    "a key is not a valid name: write PREFIX/NAME or NAME, of letters, digits, '-', '_' and '.'",
)

LABELS = (
    _VALID_KEY,
    Rule(
        f"!self.exists(k, {_IS_OWN_LABEL})",
        f"labels that begin with {LABEL_PREFIX}, and {', '.join(_OWN_LABELS)}, are the operator's: choose other names",
    ),
)
ANNOTATIONS = (
    _VALID_KEY,
    Rule(
        f"!self.exists(k, k.startsWith('{LABEL_PREFIX}'))",
        f"annotations that begin with {LABEL_PREFIX} are the operator's: choose other names",
    ),
    Rule(
        "!self.exists(k, k == 'controller.kubernetes.io/pod-deletion-cost')",
        "controller.kubernetes.io/pod-deletion-cost cannot be the same for all pods: remove it; with scaling the "
        "operator sets it for each",
    ),
)
