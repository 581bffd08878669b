"""The words that status speaks in: condition types and reasons, each with what it means.

The reference is made from them and from the reasons of verdicts (`flash_contracts.verdict_reason`). Tests hold that
the operator says nothing that is not explained in either.
"""

CONDITIONS = {
    "Ready": "The summary: as many replicas as wanted have passed and serve.",
    "Available": "At least one replica serves.",
    "Progressing": "Something still moves by itself. False with a reason other than Settled: only a person can help.",
    "TopologyResolved": "Every bound replica runs with the flags that its node's labels call for.",
    "SpeculationActive": "The MTP head's drafts are accepted, by the engine's own counters.",
    "SmokeTestPassed": "Every replica was judged and passed.",
    "Degraded": "It serves, but with fewer or slower replicas than it should.",
}

CONDITION_REASONS = {
    "ScaledToZero": "spec.replicas is 0.",
    "RollingOut": "A rollout is under way.",
    "RolledBack": "New replicas were slower than those before, or failed: the former template is in force again.",
    "Paused": "spec.rollout.state is Paused.",
    "RestoringMtp": "A Job gives the checkpoint its MTP head back; replicas start, or change to it, once that is done.",
    "MtpRestoreFailed": "The Job could not restore the MTP head; the message is its own, and says how to try again.",
    "ChildRefused": "The API server refused a child of this deployment; the message is its own.",
    "ImageVolumesAbsent": "The cluster drops the image volume that model.ociDelivery asks for.",
    "PodsMissing": "The Deployment has not made all pods yet.",
    "Serving": "At least one replica serves.",
    "Settled": "Nothing is left to do.",
    "NoPodBound": "No pod is bound to a node yet, so no flags follow.",
    "FlagsDerived": "Flags follow from the nodes' labels.",
    "FlagsOutdated": "Replicas run with other flags than their nodes' labels call for by now; delete their pods.",
    "NodeUnlabelled": "Nothing is known of a node's links, so the safe set is in force there.",
    "LinksUnproved": "The driver grants peer-to-peer and nothing has tested it, so the safe set is in force there.",
    "RecoveredSlower": "A replica took the safe flags after a hang or wrong data, and misses its floor with them.",
    "Disabled": "spec.speculation.method is Disabled.",
    "DraftsAccepted": "Drafted tokens are accepted on every replica.",
    "NotMeasured": "No replica has been measured yet.",
    "FallbackFlags": "Replicas serve with the safe set because their flags came too late.",
    "RevisionMoved": "Replicas serve different commits or images, for a branch or tag has moved: pin one of them.",
    "AsWanted": "Nothing serves below what it should.",
    "NumaUnknown": "Memory is to be bound to NUMA nodes, and the node's labels do not say where its GPUs are.",
    "ImpossibleLink": "A label names a link that the card does not have.",
    "UnsafeNcclVariable": "A variable of spec.interconnect.env was left out because it loses or corrupts data.",
    "LabelNotUnderstood": "A label of a node has a value that means nothing, and counts as unknown.",
    "CustomAllReduceForced": "spec.interconnect.customAllReduce is Enabled against a verdict of the node's test.",
    "PeerToPeerForced": "spec.interconnect.env sets NCCL_P2P_DISABLE=0 where nothing proves peer-to-peer.",
    "PeerKernelWithoutP2p": "A variable of spec.interconnect.env was left out, for peer-to-peer is off as a whole.",
    "CustomAllReduceWithoutP2p": "Custom all-reduce is wanted, and peer-to-peer is switched off.",
    "ExpandableSegments": "PYTORCH_CUDA_ALLOC_CONF was removed because custom all-reduce crashes with it.",
}
"""Of a deployment as a whole. Beside these, the scheduler's and the kubelet's own reasons are copied."""
