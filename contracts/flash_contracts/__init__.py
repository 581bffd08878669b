"""Contracts between the operator, the engine pod, the labeller and the quantiser, each declared once.

The documents that one part writes and another reads, the names on Kubernetes objects, the reasons of verdicts, the
engine profiles, and the derivation of an engine's flags from the facts about its node. Standard library only, because
the launcher imports this package; only `gate_config` needs pydantic.
"""

CONTRACT_VERSION = 1
"""Version of the documents between the operator and an engine pod. It rises when an engine image of the version before
could no longer be run by the operator; the operator then takes its own default image with the next rollout."""
