"""The engine profiles are declared once, for the operator's arguments and for `flash-checkpoint`."""

from typing import get_args

from flash_contracts.profiles import DEFAULT_BATCHED_TOKENS, PROFILES
from flash_operator.api.v1alpha1 import EngineSpec


def test_the_api_offers_these_profiles_and_custom() -> None:
    assert (*PROFILES, "Custom") == get_args(EngineSpec.model_fields["profile"].annotation)
    assert {name: profile.name for name, profile in PROFILES.items()} == {name: name for name in PROFILES}


def test_every_profile_has_the_batched_tokens_that_leave_memory_for_the_whole_context() -> None:
    assert {profile.batched_tokens for profile in PROFILES.values()} == {DEFAULT_BATCHED_TOKENS}


def test_the_description_of_the_field_gives_the_figures() -> None:
    described = EngineSpec.model_fields["profile"].description or ""
    for profile in PROFILES.values():
        text = f"{profile.name}: {profile.context_tokens} tokens, {profile.max_sequences} requests."
        assert text in " ".join(described.split())
