"""The note of a Kubernetes event: one sentence of at most 200 characters.

`kubectl describe` prints a note on one line, among others. What is longer belongs in status, or in the log.
"""

NOTE_LIMIT = 200

_CUT_AFTER = ("; ", ". ", ", ", " ")
"""Where a sentence is cut, the best place first."""
_KEPT_SHARE = 0.6
"""A better place is not taken if less than this would be left."""


def note(message: str, *, details: str = "status", remedy: str = "") -> str:
    """The message and what to do, as one sentence. `details` says where a message is whole that is cut here.

    Messages contain words of users, engines and kubelets, so line breaks and control characters become spaces.
    """
    text = " ".join("".join(char if char.isprintable() else " " for char in message).split())
    text = text.rstrip(" .;:,") or "no details"
    whole = f"{text}; {remedy}." if remedy else f"{text}."
    if len(whole) <= NOTE_LIMIT:
        return whole
    ending = f" ...; {remedy}." if remedy else f" ... (more in {details})."
    return _shortened(text, NOTE_LIMIT - len(ending)) + ending


def _shortened(text: str, limit: int) -> str:
    ends = (text.rfind(place, 0, limit + 1) for place in _CUT_AFTER)
    end = next((end for end in ends if end >= _KEPT_SHARE * limit), limit)
    return text[:end].rstrip(" .;:,")
