"""Scaling to zero: when requests go to the activator instead of the replicas, and the route that it gets.

    minReplicas | activator | spec.replicas | a replica serves | the activator's EndpointSlice
    ----------- | --------- | ------------- | ---------------- | -----------------------------------------------
    not 0       | any       | any           | any              | none
    0           | none      | any           | any              | none, and one replica is kept
    0           | installed | not 0         | for 5 s          | empty: clients reach the replicas alone
    0           | installed | not 0         | for a moment     | has the ready activators, which pass requests on
    0           | installed | not 0         | no               | has the ready activators
    0           | installed | 0             | any              | the same, before the Deployment is scaled down

The slice is one of the Service's, beside those of Kubernetes' own controller, which ignores it because of a label.
kube-proxy merges all slices, so at zero every connection goes to an activator. Each deployment has its own port there,
because neither the Host header nor the address identifies the deployment reliably.
"""

import zlib
from collections.abc import Collection

from flash_contracts.activation import FIRST_PORT, PORTS, ActivatorRoute
from flash_contracts.names import FIELD_MANAGER
from flash_operator.api.scaling_spec import IdleSpec
from flash_operator.core.observed.kube import is_owned_by, is_terminating
from flash_operator.core.observed.snapshot import Observed, RawObject
from flash_operator.core.replicas.replica import Replica
from flash_operator.core.resources.engine_args import PORT
from flash_operator.core.resources.gate_config import startup_seconds
from flash_operator.core.resources.identity import metadata
from flash_operator.core.resources.service import PORT_NAME
from flash_operator.core.scaling.demand import serves

SLICE = "EndpointSlice"
SERVICE_LABEL = "kubernetes.io/service-name"
"""By which kube-proxy finds the slices of a Service."""
SLICE_MANAGER_LABEL = "endpointslice.kubernetes.io/managed-by"
SLICE_LABELS = {SLICE_MANAGER_LABEL: FIELD_MANAGER}
"""Labels of our slices alone: those of Kubernetes' controller have the labels of the Service, but not this value."""


HANDOVER_SECONDS = 5.0
"""How long the activator stays in the Service once a replica is ready. kube-proxy learns of both from different slices,
in any order, and within seconds: in between, the Service would lead nowhere."""


def receives_requests(observed: Observed, replicas: tuple[Replica, ...]) -> bool:
    """Whether requests go to the activator: from before the last replica stops, until a replica is known everywhere."""
    return observed.flash.spec.replicas == 0 or handover_seconds(observed, replicas) != 0.0


def handover_seconds(observed: Observed, replicas: tuple[Replica, ...]) -> float | None:
    """Seconds until the activator may leave the Service; 0 if it may now or has left it, None if no replica serves."""
    serving = [replica.uid for replica in replicas if serves(replica)]
    if not serving:
        return None
    if not _is_in_service(observed):
        return 0.0
    served = max(observed.ready_seconds.get(uid, 0.0) for uid in serving)
    return max(0.0, HANDOVER_SECONDS - served)


def _is_in_service(observed: Observed) -> bool:
    """By the live slices, so that an operator that has just started does not put the activator back."""
    live = (observed.children.get((SLICE, name)) for name in slice_names(observed.flash.name))
    return any(one.get("endpoints") for one in live if one is not None)


def activator_slice(observed: Observed, replicas: tuple[Replica, ...]) -> RawObject | None:
    """The activator's EndpointSlice in the deployment's Service."""
    activator = observed.activator
    if activator is None or not observed.may_go_to_zero:
        return None
    flash, is_ipv6 = observed.flash, any(":" in address for address in activator.addresses)
    # The address type of a slice cannot be changed.
    made = metadata(flash, slice_names(flash.name)[is_ipv6])
    made["labels"] = {**made["labels"], SERVICE_LABEL: flash.name, **SLICE_LABELS}
    addresses = activator.addresses if receives_requests(observed, replicas) else ()
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": SLICE,
        "metadata": made,
        "addressType": "IPv6" if is_ipv6 else "IPv4",
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}} for address in addresses],
        "ports": [{"name": PORT_NAME, "port": activator.port, "protocol": "TCP"}],
    }


def slice_names(name: str) -> tuple[str, str]:
    """Of a deployment's slice with IPv4 addresses, and with IPv6 addresses."""
    return f"{name}-activator", f"{name}-activator-ipv6"


def needless_slices(observed: Observed, replicas: tuple[Replica, ...]) -> tuple[RawObject, ...]:
    """Slices to delete, where the spec no longer asks for zero or the activator is gone: the Service must not lead to
    an address where no process listens."""
    wanted = activator_slice(observed, replicas)
    kept = wanted["metadata"]["name"] if wanted else None
    found = (child for (kind, name), child in observed.children.items() if kind == SLICE and name != kept)
    return tuple(one for one in found if is_owned_by(one, observed.flash.uid) and not is_terminating(one))


def activator_route(observed: Observed, replicas: tuple[Replica, ...]) -> ActivatorRoute | None:
    """The deployment's route for the activator; None if it may not be at zero."""
    activator, scaling = observed.activator, observed.flash.spec.scaling
    if activator is None or activator.port is None or scaling is None or not observed.may_go_to_zero:
        return None
    serving = observed.flash.spec.replicas > 0
    addresses = [_address(replica) for replica in replicas if serving and serves(replica)]
    return ActivatorRoute(
        namespace=observed.flash.namespace,
        name=observed.flash.name,
        port=activator.port,
        endpoints=tuple(sorted(filter(None, addresses))),
        hold_seconds=float((scaling.idle or IdleSpec()).hold_seconds),
        start_seconds=float(startup_seconds(observed.flash.spec)),
    )


def _address(replica: Replica) -> str:
    """Empty for a pod that has none."""
    host = (replica.pod.get("status") or {}).get("podIP") or ""
    return f"[{host}]:{PORT}" if ":" in host else f"{host}:{PORT}" if host else ""


def choose_port(uid: str, taken: Collection[int]) -> int | None:
    """A free port; None if there is none. The uid decides where to look first, so a port that has just become free is
    rarely the next deployment's: connections to its former owner may still be on their way."""
    begin = zlib.crc32(uid.encode()) % PORTS
    ports = (FIRST_PORT + (begin + step) % PORTS for step in range(PORTS))
    return next((port for port in ports if port not in taken), None)


def port_of(endpoint_slice: RawObject) -> int | None:
    """The port that a slice of ours has; None if its ports are not as we write them."""
    ports = endpoint_slice.get("ports") or []
    port = ports[0].get("port") if ports and isinstance(ports[0], dict) else None
    return port if isinstance(port, int) and FIRST_PORT <= port < FIRST_PORT + PORTS else None
