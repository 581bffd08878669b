"""Contracts between the operator, the engine pod, the labeller and the quantiser, each declared once.

They are the documents that one part writes and another reads, the names on Kubernetes objects, the reasons of verdicts,
the engine profiles, and the derivation of an engine's flags from the facts about its node. The launcher imports this
package, so it uses only the standard library; the exception is `gate_config`, which needs pydantic.
"""

CONTRACT_VERSION = 1
"""Version of the documents between the operator and an engine pod. It rises when the operator can no longer run an
engine image of the previous version; the operator then uses its own default image in the next rollout."""
