"""What to do about each reason: of verdicts, of conditions, and of the scheduler and the kubelet.

The message of a reason often has the remedy for this one case; these texts hold for all. `NAME` and `NAMESPACE` stand
for the deployment's. Tests check that no reason is without one, and that they name what docs/readiness.md names.
"""

from flash_contracts.verdict_reason import Reason

NOTHING = "nothing: this is as it should be"
WAIT = "wait: it goes on by itself"

AS_THE_MESSAGE_SAYS = "do what the message says"
LOGS = "kubectl dsf logs NAME -n NAMESPACE"
LINKS = "kubectl dsf topology"
DESCRIBE = "kubectl describe pod -n NAMESPACE -l deepseekflash.dev/deployment=NAME"
FLOOR = f"check the link ({LINKS}), the cards' clocks and the flags (docs/topology.md)"

VERDICTS: dict[str, str] = {
    Reason.PASSED: NOTHING,
    Reason.ENGINE_STARTING: f"wait; {LOGS} -f shows its progress",
    Reason.MODEL_UNAVAILABLE: f"{AS_THE_MESSAGE_SAYS}: token, name, revision or network (docs/model-delivery.md); the "
    "replica tries again by itself",
    Reason.MODEL_REJECTED: f"{AS_THE_MESSAGE_SAYS}: serve another checkpoint, or restore its MTP head with "
    "model.restoreMtp (docs/checkpoint.md)",
    Reason.PLUGIN_ABSENT: "use an engine image with the plugin: remove spec.engine.image, or build it from this "
    "project",
    Reason.ENGINE_EXITED: f"{AS_THE_MESSAGE_SAYS}; {LOGS} --since=1h shows what came before",
    Reason.OUT_OF_MEMORY: f"{AS_THE_MESSAGE_SAYS}, which names the field to change",
    Reason.STARTUP_HANG: f"read the end of the log ({LOGS}): if it stops at NCCL's start or at graph capture, suspect "
    f"the GPUs' link ({LINKS}) and try spec.interconnect.mode: Safe",
    Reason.WRONG_OUTPUT: f"{AS_THE_MESSAGE_SAYS}: the links ({LINKS}), the checkpoint, a kernel, or fewer drafts",
    Reason.SPECULATION_ABSENT: "serve a checkpoint with an MTP head, restore it with model.restoreMtp, or set "
    "speculation.method: Disabled",
    Reason.DRAFT_DEAD: "the MTP head's weights are missing, misnamed or zero: restore them with model.restoreMtp "
    "(docs/checkpoint.md), serve another checkpoint, or set speculation.method: Disabled",
    Reason.ACCEPTANCE_TOO_LOW: f"{FLOOR}, and whether the MTP head belongs to this checkpoint; or lower "
    "readiness.minAcceptancePercent or readiness.minAcceptanceLengthPercent",
    Reason.TOO_SLOW: f"{FLOOR}; if only concurrent requests are slow, lower engine.maxSequences; if this is all that "
    "the cards can do, lower readiness.minDecodeTokensPerSecond",
    Reason.FIRST_TOKEN_TOO_SLOW: f"{FLOOR}, or engine.maxSequences; or raise readiness.maxFirstTokenMillis",
    Reason.PREFILL_TOO_SLOW: f"{FLOOR}, or engine.batchedTokens; or lower readiness.minPrefillTokensPerSecond",
    Reason.TOO_SLOW_AT_DEPTH: "look for the attention kernel in the engine's log; or lower "
    "readiness.minDepthDecodePercent",
    Reason.TOOL_CALLS_BROKEN: "correct the parser and the chat template in engine.extraArgs; or set "
    "readiness.features: Warn",
    Reason.REASONING_BROKEN: "correct the parser and the chat template in engine.extraArgs; or set readiness.features: "
    "Warn",
    Reason.JSON_SCHEMA_BROKEN: "correct the parser and the chat template in engine.extraArgs; or set "
    "readiness.features: Warn",
    Reason.DEGRADED: "act on what the message names; the replica comes back once it is fast again, and "
    "kubectl dsf bench NAME -n NAMESPACE measures it",
    Reason.INCONCLUSIVE: "nothing: it measures again; if metrics are missing, what the message says",
}

CONDITIONS: dict[str, str] = {
    "OutOfService": "kubectl dsf release POD -n NAMESPACE gives it back, once whoever inspects it has finished",
    "SpecRefused": f"{AS_THE_MESSAGE_SAYS}: it names the fields; the replicas serve on until then",
    "SpecAccepted": NOTHING,
    "SpecUnreadable": "correct the spec, or upgrade the operator; the replicas serve on until then",
    "ScaledToZero": "kubectl scale dsf NAME -n NAMESPACE --replicas=1 starts it; with scaling.minReplicas 0, the next "
    "request does",
    "RollingOut": WAIT,
    "RolledBack": "read why the new replicas failed in the message, change the spec and it is tried again; "
    "kubectl dsf retry NAME -n NAMESPACE tries the same once more",
    "Paused": 'kubectl patch dsf NAME -n NAMESPACE --type=merge -p \'{"spec":{"rollout":{"state":"Active"}}}\'',
    "RestoringMtp": "wait; kubectl logs -f -n NAMESPACE job/NAME-restore shows its progress",
    "MtpRestoreFailed": f"{AS_THE_MESSAGE_SAYS}; then kubectl dsf retry NAME -n NAMESPACE",
    "ChildRefused": "the message is the API server's: raise the quota, change the policy, or correct what it names in "
    "the spec",
    "PodTemplateRefused": "correct the field of spec.podTemplate that the message names",
    "NameTaken": "delete or rename the object that the message names, or give this deployment another name; no engine "
    "is started or changed until then",
    "ImageVolumesAbsent": "use a cluster with image volumes (kubectl dsf check), or set model.ociDelivery to Fetch",
    "PodsMissing": "wait some seconds; if it lasts: kubectl describe deployment NAME -n NAMESPACE",
    "Serving": NOTHING,
    "Settled": NOTHING,
    "NoPodBound": "nothing: the reason for Ready says what the pods wait for",
    "FlagsDerived": NOTHING,
    "FlagsOutdated": "kubectl dsf update NAME -n NAMESPACE takes the new flags, one replica at a time",
    "NodeUnlabelled": "install the labeller with the chart, or label the node with gpu-link and gpu-p2p "
    "(docs/topology.md); the safe flags work, only slower",
    "LinksUnproved": "leave both GPUs of the node free for two minutes, and the operator tests them; the safe flags "
    "work, only slower",
    "RecoveredSlower": f"repair the host, whose links {LINKS} shows (docs/topology.md); or lower the floor",
    "Disabled": "nothing, unless you want drafts: set speculation.method: Mtp",
    "DraftsAccepted": NOTHING,
    "NotMeasured": WAIT,
    "FallbackFlags": "kubectl dsf update NAME -n NAMESPACE takes the derived flags, one replica at a time; check that "
    "the operator runs",
    "RevisionMoved": "set model.revision to one commit, or the image to a digest, so that all replicas serve the same",
    "AsWanted": NOTHING,
    "NumaUnknown": "set the node's label gpu-numa-nodes, such as 0-1, or interconnect.numaBinding: Cpus",
    "ImpossibleLink": "correct the node's label gpu-link; it has the safe flags until then",
    "UnsafeNcclVariable": "remove the variable that the message names from spec.interconnect.env",
    "LabelNotUnderstood": "correct the label that the message names, or remove it",
    "UpToDate": NOTHING,
    "UpdateAvailable": "kubectl dsf update NAME -n NAMESPACE takes it when you want; nothing restarts before that",
    "UpdateWaiting": "wait for the deployment that the message names; kubectl dsf update NAME -n NAMESPACE takes it "
    "now",
    "Updating": WAIT,
    "UpdateRejected": "read why in the message; the former engines serve, and kubectl dsf retry NAME -n NAMESPACE "
    "tries it again",
    "ScalerActive": NOTHING,
    "AtMaximum": "raise scaling.maxReplicas if you have the GPUs",
    "ScalerPending": "wait some seconds; if it lasts, check that KEDA's operator or the HPA controller runs",
    "ScalerConflict": "delete the other autoscaler that the message names, or remove spec.scaling",
    "ScalerRefused": "the message is the API server's: correct what it names",
    "ScalerForbidden": "upgrade the operator's chart, so that its role allows it",
    "ScalersUnreadable": "upgrade the operator's chart, so that its role allows it to list autoscalers",
    "ScalerPaused": "remove KEDA's annotation autoscaling.keda.sh/paused from the ScaledObject",
    "ScalerNotReady": "the message is KEDA's: correct what it names",
    "KedaMissing": "install KEDA 2.17 or later, or set scaling.by: Hpa",
    "KedaTooOld": "install KEDA 2.17 or later",
    "DemandAddressMissing": "set metrics.service.enabled in the operator's chart",
    "DemandUnknown": "the message says which replicas do not report; the number of replicas stays as it is",
    "MetricsMissing": "check the metrics adapter, or KEDA's way to the operator (docs/scaling.md)",
    "ActivatorMissing": "set activator.enabled in the operator's chart, or scaling.minReplicas to 1",
    "ActivatorFull": "set scaling.minReplicas to 1 here or in another deployment, which frees its port",
    "ActivatorSilent": "check the activator's pods, and that a NetworkPolicy lets the operator reach their port 8080",
    "ActivatorNotReady": "check the activator's pods: clients are refused until one is ready",
    "HpaInactive": "the message is the HPA's: correct what it names",
    "UnableToScale": "the message is the HPA's: correct what it names",
    "CustomAllReduceForced": "set interconnect.customAllReduce to Auto, unless you have tested it on this host",
    "PeerToPeerForced": "remove NCCL_P2P_DISABLE from interconnect.env, unless you have tested peer-to-peer here",
    "PeerKernelWithoutP2p": "remove the variable that the message names from interconnect.env",
    "CustomAllReduceWithoutP2p": "remove either customAllReduce: Enabled or what switches peer-to-peer off",
    "ExpandableSegments": "remove expandable_segments from the engine's variables, or set "
    "interconnect.customAllReduce: Disabled",
}

IMAGE = "check the image's name and tag, its registry, and imagePullSecrets of the namespace's pods"
KUBERNETES: dict[str, str] = {
    "Unschedulable": f"the message is the scheduler's; {DESCRIBE}",
    "SchedulingGated": f"something holds the pod back by a scheduling gate: {DESCRIBE}",
    "SchedulerError": "the scheduler failed: look at its log, and wait",
    "ErrImagePull": IMAGE,
    "ImagePullBackOff": IMAGE,
    "ErrImageNeverPull": "load the image on the node, or set imagePullPolicy: IfNotPresent",
    "InvalidImageName": "correct the image's name",
    "ImageInspectError": f"the node's image store is damaged: {DESCRIBE}, and look at the node's container runtime",
    "RegistryUnavailable": "check that the registry answers from the node; the kubelet tries again by itself",
    "CreateContainerConfigError": "create the Secret or ConfigMap that the message names",
    "CreateContainerError": f"the message is the container runtime's; {DESCRIBE}",
    "RunContainerError": "the message is the container runtime's: often the NVIDIA runtime is missing on the node "
    "(kubectl dsf check)",
    "CrashLoopBackOff": f"the gate itself ends: {LOGS} -c gate shows why",
    "SetupOverdue": f"{DESCRIBE} shows what the kubelet waits for: a claim that another node holds, or the network",
    "FailedCreate": "the message is the API server's: raise the quota, or change the policy or LimitRange that it "
    "names",
    "ReplicaFailure": "kubectl describe deployment NAME -n NAMESPACE shows why no pod can be made",
    "Evicted": "the node ran short of what the message names; a new pod is made by itself",
    "UnexpectedAdmissionError": "the node's device plugin refused the GPUs: look at nvidia-smi on that node; one may "
    "have fallen off the bus",
    "PodFailed": f"{DESCRIBE} shows how it ended; a new pod is made by itself",
}
"""Reasons that the operator copies from the scheduler, the kubelet and the Deployment controller."""

OTHERS = f"the reason is Kubernetes' own: {AS_THE_MESSAGE_SAYS}; {DESCRIBE}"

NO_GPUS = (
    "no node has two free GPUs: kubectl dsf topology shows who has some; free a pair, add a node, or lower "
    "spec.replicas; if cards are there and not offered, look at the device plugin"
)
SCHEDULING = (
    ("persistentvolumeclaim", "create the claim that model.source names, in this namespace, or correct the name"),
    ("unbound immediate", "the claim has no volume yet: kubectl describe pvc -n NAMESPACE shows what it waits for"),
    ("volume node affinity", "the volume is bound to a node without free GPUs: use a volume that both can reach"),
    ("nvidia.com/gpu", NO_GPUS),
    ("untolerated taint", "tolerate the node's taint in spec.podTemplate.spec.tolerations"),
    ("node affinity/selector", "correct nodeSelector or affinity in spec.podTemplate.spec, or label a node"),
)
"""By the first of the scheduler's words that its message has."""


def remedy(reason: str, message: str, *, name: str, namespace: str) -> str:
    """What to do about a reason of this deployment. Never empty."""
    text = _scheduling(message) if reason == "Unschedulable" else None
    text = text or VERDICTS.get(reason) or CONDITIONS.get(reason) or KUBERNETES.get(reason, OTHERS)
    return text.replace("NAMESPACE", namespace).replace("NAME", name)


def _scheduling(message: str) -> str | None:
    return next((text for words, text in SCHEDULING if words in message), None)
