"""An inspection as JSON, for programs."""

from typing import Any

from flash_engine.checkpoint.engine_flags import batched_tokens, flags
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.memory import PROFILES, Budget, budget, weights

VERSION = 1


def to_json(found: Inspection) -> dict[str, Any]:
    """All of it; sizes in bytes."""
    return {
        "version": VERSION,
        "place": found.place,
        "commit": found.commit,
        "servable": not found.refusals,
        "layout": found.layout.name if found.layout else None,
        "tensors": len(found.tensors),
        "storedBytes": found.stored_bytes,
        "findings": [finding.to_json() for finding in found.findings],
        **_costs(found),
    }


def _costs(found: Inspection) -> dict[str, Any]:
    config, layout = found.config, found.layout
    if config is None or layout is None or layout.family == "unknown":
        return {"weightsBytesPerGpu": None, "profiles": [], "flags": []}
    taken = weights(config, layout)
    return {
        "weightsBytesPerGpu": taken.total,
        "profiles": [
            {
                **_budget(budget(config, layout, taken, profile)),
                "advised": _budget(batched_tokens(config, layout, taken, profile)),
            }
            for profile in PROFILES
        ],
        "flags": [{"value": flag.value, "reason": flag.reason} for flag in flags(config, layout)],
    }


def _budget(one: Budget) -> dict[str, Any]:
    return {
        "profile": one.profile.name,
        "contextTokens": one.profile.context_tokens,
        "batchedTokens": one.profile.batched_tokens,
        "kvBytesPerGpu": one.kv_bytes,
        "kvTokens": one.tokens,
        "requestsOfWholeContext": round(one.requests, 2),
    }
