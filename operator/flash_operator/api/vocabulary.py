"""Condition types and their reasons, each with its meaning.

The reference is generated from these and from the reasons of verdicts (`flash_contracts.verdict_reason`). Tests check
that the operator uses no reason that is not explained in one of the two.
"""

CONDITIONS = {
    "Ready": "The summary: all desired replicas have passed and serve.",
    "Available": "At least one replica serves.",
    "Progressing": "The operator is still working towards the spec. False with another reason than Settled means that "
    "it needs help.",
    "TopologyResolved": "Every bound replica runs with the flags that its node's labels call for.",
    "SpeculationActive": "The model accepts drafted tokens, by the engine's own counters.",
    "SmokeTestPassed": "Every replica was measured and passed.",
    "Degraded": "The deployment serves, but with fewer or slower replicas than it should.",
    "UpdateAvailable": "This operator would start other engines than those that run. Nothing restarts until the update "
    "is taken (spec.rollout.engineUpdates).",
    "ScalingActive": "An autoscaler sets spec.replicas by the demand. Only with spec.scaling, or where somebody's "
    "autoscaler scales the Deployment itself.",
    "SpecValid": "The API server would take the spec if it were written now. Only where it would not, or once would "
    "not have: the CRD got rules after the spec was stored.",
}

CONDITION_REASONS = {
    "SpecRefused": "The stored spec breaks rules that are newer than it. Its replicas serve on. The message has the "
    "fields and the remedies.",
    "SpecAccepted": "The spec breaks no rule any more.",
    "SpecUnreadable": "This operator does not understand the spec, which a newer CRD allowed. It changes nothing.",
    "ScaledToZero": "spec.replicas is 0. With scaling.minReplicas 0, the next request starts a replica.",
    "RollingOut": "A rollout is in progress.",
    "OutOfService": "A user took a replica out of service, whose engine works. It stays out until a user releases it.",
    "RolledBack": "New replicas failed or were slower than the previous ones, or a user ordered it. The previous "
    "template is in force again.",
    "Paused": "spec.rollout.state is Paused.",
    "RestoringMtp": "A Job is restoring the checkpoint's MTP head. Replicas start, or switch to it, once it is done.",
    "MtpRestoreFailed": "The Job could not restore the MTP head. The message has the Job's result and how to retry.",
    "ChildRefused": "The API server rejected a child object of this deployment. The message is the API server's.",
    "PodTemplateRefused": "spec.podTemplate contradicts what a replica is, or shows a secret. Replicas stay as they "
    "are. The message has the field and the remedy.",
    "NameTaken": "An object that this deployment does not own has the name of one of its children. It is left alone, "
    "and no engine is started or changed until it is gone.",
    "ImageVolumesAbsent": "model.ociDelivery asks for an image volume, and the cluster does not support them.",
    "PodsMissing": "The Deployment has not created all pods yet.",
    "Serving": "At least one replica serves.",
    "Settled": "Nothing is left to do.",
    "NoPodBound": "No pod is bound to a node yet, so no flags were derived.",
    "FlagsDerived": "Flags were derived from the nodes' labels.",
    "FlagsOutdated": "Replicas run with other flags than their nodes' labels now call for: take the engine update.",
    "NodeUnlabelled": "Nothing is known about the links of a node, so its replicas use the safe flags.",
    "LinksUnproved": "The driver permits peer-to-peer but nothing has tested it, so replicas there use the safe flags.",
    "RecoveredSlower": "A replica took the safe flags after a hang or wrong data, and is below its floor with them.",
    "Disabled": "spec.speculation.method is Disabled.",
    "DraftsAccepted": "Drafted tokens are accepted on every replica.",
    "NotMeasured": "No replica has been measured yet.",
    "FallbackFlags": "Replicas serve with the safe flags because the derived ones did not arrive in time.",
    "RevisionMoved": "Replicas serve different commits or images because a branch or tag has moved: pin one of them.",
    "AsWanted": "Every replica serves as it should.",
    "NumaUnknown": "Memory should be bound to NUMA nodes, but the node's labels do not give the nodes of its GPUs.",
    "ImpossibleLink": "A label gives a link that the GPU does not have.",
    "UnsafeNcclVariable": "A variable in spec.interconnect.env was left out because it loses or corrupts data.",
    "LabelNotUnderstood": "A node label has an invalid value, which is treated as unknown.",
    "UpToDate": "The engines run what this operator would start.",
    "UpdateWaiting": "spec.rollout.engineUpdates is Paced, and another deployment is taking its update.",
    "Updating": "The engine update is being taken, one replica at a time.",
    "UpdateRejected": "The engine update was taken, was slower or failed, and was rolled back.",
    "ScalerActive": "The autoscaler works.",
    "AtMaximum": "The demand calls for more replicas than scaling.maxReplicas.",
    "ScalerPending": "The autoscaler is being created, or has not been processed yet.",
    "ScalerConflict": "Another owner's autoscaler scales this deployment or its Deployment. The operator creates none.",
    "ScalerRefused": "The API server refused the autoscaler. The message is the API server's.",
    "ScalerForbidden": "The operator's role does not allow it to create the autoscaler.",
    "ScalersUnreadable": "The operator cannot list autoscalers, so it creates none.",
    "ScalerPaused": "The ScaledObject is paused by one of KEDA's annotations.",
    "ScalerNotReady": "KEDA cannot use the ScaledObject. The message is KEDA's.",
    "KedaMissing": "scaling.by or scaling.source needs KEDA, and the cluster does not have it.",
    "KedaTooOld": "KEDA does not support a field of the ScaledObject.",
    "DemandAddressMissing": "The operator does not know its own address, so KEDA cannot ask it for the demand.",
    "DemandUnknown": "The demand is unknown. Replicas stay as they are.",
    "MetricsMissing": "The autoscaler cannot read the demand. Replicas stay as they are.",
    "ActivatorMissing": "minReplicas is 0, and the chart has installed no activator. One replica is kept.",
    "ActivatorFull": "minReplicas is 0, and the activator has no port left for this deployment. One replica is kept.",
    "ActivatorSilent": "minReplicas is 0, and no activator answers the operator. One replica is kept.",
    "ActivatorNotReady": "The deployment is at zero, and no activator is ready: clients are refused until one is.",
    "HpaInactive": "The HPA that KEDA made does not scale.",
    "UnableToScale": "The HPA cannot set spec.replicas. The message is its own.",
    "CustomAllReduceForced": "spec.interconnect.customAllReduce is Enabled although no test shows that it works.",
    "PeerToPeerForced": "spec.interconnect.env sets NCCL_P2P_DISABLE=0 although no test shows that peer-to-peer works.",
    "PeerKernelWithoutP2p": "A variable in spec.interconnect.env was left out: it needs peer-to-peer, which is off.",
    "CustomAllReduceWithoutP2p": "spec.interconnect enables custom all-reduce without peer-to-peer, which it needs.",
    "ExpandableSegments": "PYTORCH_ALLOC_CONF, under one of its names, was removed: custom all-reduce crashes with it.",
}
"""Reasons of the deployment as a whole. The scheduler's and the kubelet's own reasons are copied unchanged."""
