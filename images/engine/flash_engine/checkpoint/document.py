"""Converts an inspection to `checkpoint.json`."""

from dataclasses import replace

from flash_contracts.checkpoint_record import CheckpointRecord, KvBudget, ProfileBudget
from flash_contracts.profiles import PROFILES, Profile
from flash_engine.checkpoint.engine_flags import advised_budget, engine_flags
from flash_engine.checkpoint.inspection import Inspection
from flash_engine.checkpoint.layout import Layout
from flash_engine.checkpoint.memory import KvCacheBudget, WeightBytes, kv_cache_budget, weight_bytes
from flash_engine.checkpoint.model_config import ModelConfig


def to_record(inspection: Inspection) -> CheckpointRecord:
    record = CheckpointRecord(
        place=inspection.place,
        commit=inspection.commit,
        servable=not inspection.refusals,
        layout=inspection.layout.name if inspection.layout else None,
        tensors=len(inspection.tensors),
        stored_bytes=inspection.stored_bytes,
        findings=inspection.findings,
    )
    config, layout = inspection.config, inspection.layout
    if config is None or layout is None or layout.family == "unknown":
        return record
    weights = weight_bytes(config, layout)
    return replace(
        record,
        weights_bytes_per_gpu=weights.total,
        profiles=tuple(_profile_budget(config, layout, weights, profile) for profile in PROFILES.values()),
        flags=tuple(engine_flags(config, layout)),
    )


def _profile_budget(config: ModelConfig, layout: Layout, weights: WeightBytes, profile: Profile) -> ProfileBudget:
    advised = _kv_budget(advised_budget(config, layout, weights, profile))
    return ProfileBudget(**vars(_kv_budget(kv_cache_budget(config, layout, weights, profile))), advised=advised)


def _kv_budget(budget: KvCacheBudget) -> KvBudget:
    return KvBudget(
        profile=budget.profile.name,
        context_tokens=budget.profile.context_tokens,
        batched_tokens=budget.profile.batched_tokens,
        kv_bytes_per_gpu=budget.kv_bytes,
        kv_tokens=budget.tokens,
        requests_of_whole_context=round(budget.requests, 2),
    )
