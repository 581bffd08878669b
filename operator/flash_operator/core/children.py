"""The objects that a deployment should have, but for the Job that restores an MTP head and the autoscaler."""

from functools import partial

from flash_operator.core.decisions import Decisions
from flash_operator.core.observed.snapshot import RawObject
from flash_operator.core.replicas.baseline import baseline_config_map
from flash_operator.core.resources.deployment import deployment
from flash_operator.core.resources.disruption_budget import disruption_budget, protects
from flash_operator.core.resources.drift import with_hash
from flash_operator.core.resources.gate_config import gate_config, gate_config_name, is_own_gate_config
from flash_operator.core.resources.service import service
from flash_operator.core.resources.stored_document import together
from flash_operator.core.rollout.rollout import last_known_good_config_map
from flash_operator.core.rollout.surge import surges
from flash_operator.core.scaling.activation import activator_slice


def children_of(decided: Decisions) -> tuple[RawObject, ...]:
    """What a pod needs comes before the Deployment, so that no pod has to wait for it."""
    flash, last_known_good = decided.observed.flash, decided.rollout.last_known_good
    made_deployment, activator_endpoints = _deployment(decided), activator_slice(decided.observed, decided.replicas)
    children = (
        *_gate_config(decided),
        *(made.to_object(flash) for made in decided.revisions),
        service(flash),
        *((activator_endpoints,) if activator_endpoints else ()),
        *_disruption_budget(decided, made_deployment),
        *made_deployment,
        *together(
            (
                *((last_known_good_config_map(flash, last_known_good),) if last_known_good else ()),
                *((baseline_config_map(flash, decided.baseline),) if decided.keeps_baseline else ()),
            )
        ),
    )
    remembered = decided.observed.remembered
    return tuple(remembered.result(number, child, partial(with_hash, child)) for number, child in enumerate(children))


def _gate_config(decided: Decisions) -> tuple[RawObject, ...]:
    """The configuration of the gates that the spec is about; those of older templates stay as they are.

    A held Deployment keeps its gates' configuration: a new one may require the MTP head that is not restored yet. One
    that was rolled back keeps it too: its engines do not run what the spec asks for.
    """
    name = gate_config_name(decided.rollout.template)
    observed, rollout = decided.observed, decided.rollout
    if name is None or not is_own_gate_config(observed.flash, name):
        return ()
    keeps = decided.held or (rollout.state == "RolledBack" and not rollout.is_update)
    if not keeps:
        inputs = observed.flash.spec, observed.flash, name
        return (observed.remembered.result("gate's configuration", inputs, lambda: gate_config(*inputs)),)
    if ("ConfigMap", name) in observed.children:
        return ()
    made_from = rollout.made_from.stored_spec if rollout.made_from else None
    return (gate_config(made_from or observed.flash.spec, observed.flash, name),)


def _disruption_budget(decided: Decisions, made_deployment: tuple[RawObject, ...]) -> tuple[RawObject, ...]:
    """Empty while it could protect nothing and there is none."""
    flash = decided.observed.flash
    is_there = ("PodDisruptionBudget", flash.name) in decided.observed.children
    if not is_there and not protects(next(iter(made_deployment), None), flash):
        return ()
    return (disruption_budget(flash, sum(replica.stuck for replica in decided.replicas)),)


def _deployment(decided: Decisions) -> tuple[RawObject, ...]:
    """Empty until there is a checkpoint to load."""
    if decided.held and decided.live_deployment is None:
        return ()
    template = decided.rollout.template
    surge, has_successor = surges(decided.observed, template), decided.flags_update.surges
    made = deployment(decided.observed.flash, template, surge=surge, has_successor=has_successor)
    paused_by_hand = decided.live_deployment is not None and decided.live_deployment["spec"].get("paused")
    if decided.live_deployment is not None and decided.scaling.decision.follows_deployment:
        made["spec"]["replicas"] = decided.live_deployment["spec"].get("replicas", made["spec"]["replicas"])
    if paused_by_hand and not made["spec"].get("paused"):
        # Only an explicit value takes the field from whoever ran `kubectl rollout pause`.
        made["spec"]["paused"] = False
    return (made,)
