"""Decides what counts as a secret, by its name or by the form of its value.

The same rules apply to the spec, which must not contain secrets, and to logs, documents and messages, which must not
show them (`redaction`).
"""

import re

PLAIN_NOUN = "password|passwd|passphrase|passcode|secret|credentials?|bearer"
JOINED_NOUN = "apikey|password|passwd|passphrase|authtoken|accesstoken|apitoken|hftoken|secretkey"
"""These also count at the end of a longer word, as in PGPASSWORD."""

_NOUN = re.compile(rf"{PLAIN_NOUN}|token|pwd|pass|pat|key|auth|.*(?:{JOINED_NOUN})")
AFTER_NOUN = re.compile("v|[0-9]+|value|plain|plaintext|string|literal|base|b|primary|secondary|current|old|new|prod")
"""Words after the noun with which it is still a secret, as in API_KEY_2. With others it is not: HF_TOKEN_PATH."""

SWITCH = re.compile("disabled?|enabled?|use|no|skip|allow|requires?|has|is|without|ignore")
NO_TOKEN = re.compile(
    "eos|bos|pad|unk|sep|cls|mask|stop|special|think|thinking|reasoning|tool|image|audio|video|vision|start|end|begin"
    "|first|last|next|output|input|prompt|per|draft|drafted|single|each|one|multi|text|placeholder|blank|bonus|spec"
    "|speculative|accepted|rejected|cached|routed|sampled|generated|decoded|target|logit|position|sub|byte|word|new"
    "|added|current|max|min|num|number"
)
"""Words before `token` with which it is a token of text."""

SECRET_KEY = re.compile(
    "api|access|secret|private|auth|authentication|authorization|encryption|encrypt|signing|sign|master|ssh|ssl|tls"
    "|license|account|storage|shared|subscription|service|session|admin|application|app|client|deploy|hmac|jwt|sas"
    "|server|webhook"
)
NO_KEY = re.compile(
    "public|cache|sort|primary|foreign|partition|routing|map|dict|hash|group|object|metric|label|row|index|lookup"
    "|query|request|prefix|block|kv|value|trace|cross|attention"
)
USER = re.compile("db|database|smtp|user|redis|proxy|root|admin|mysql|mongo|postgres")
"""Words before `pass` with which it is a password."""

_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def is_secret_name(name: str) -> bool:
    """Whether a variable, an argument or a key of this name is a secret: HF_TOKEN, --api-key, dbPassword."""
    words = [word.lower() for word in _WORD.findall(name)]
    while len(words) > 1 and AFTER_NOUN.fullmatch(words[-1]):
        words.pop()
    if not words or not _NOUN.fullmatch(words[-1]) or any(map(SWITCH.fullmatch, words)):
        return False
    *qualifiers, noun = words
    return _is_secret(noun, qualifiers, is_variable=name.isupper())


def _is_secret(noun: str, qualifiers: list[str], *, is_variable: bool) -> bool:
    """Decide about an ambiguous noun by the words before it. A variable's KEY is a secret after almost any word."""
    before = qualifiers[-1] if qualifiers else ""
    match noun:
        case "token":
            return not NO_TOKEN.fullmatch(before)
        case "key":
            is_known = any(map(SECRET_KEY.fullmatch, qualifiers))
            return bool(before) and not NO_KEY.fullmatch(before) and (is_variable or is_known)
        case "pass":
            return USER.fullmatch(before) is not None
        case "pwd":
            return before not in ("", "old")
        case "pat" | "auth":
            return bool(before)
        case _:
            return True


RECOGNISABLE = (
    r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}"
    r"|glpat-[A-Za-z0-9_-]{16,}|xox[abprs]-[A-Za-z0-9-]{10,}|nvapi-[A-Za-z0-9_-]{20,}|AKIA[A-Z0-9]{16}"
    r"|AIza[A-Za-z0-9_-]{30,}|eyJ[A-Za-z0-9_-]{8,}\.eyJ[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]+)?)"
)
"""Tokens with a recognisable form. Valid for Python's `re` and for RE2."""

USER_IN_ADDRESS = r"://[^/\s:@'\"]*:[^/\s@'\"]+@"
"""A password in a URL."""

_PRIVATE_KEY = r"-----BEGIN [A-Z ]*PRIVATE KEY-----"
_ISSUERS = "hf|hub|api|access|auth|bearer|refresh|github|gitlab|slack|session|bot|service|deploy|registry|client|jwt"
_NAMED_VALUE = (
    r"(?:[A-Za-z0-9_.-]*(?:password|passwd|passphrase|secret|credentials?|apikey|(?:api|secret|access|private|signing"
    rf"|encryption|auth|account|storage)[_-]?key)|(?:[A-Za-z0-9_.-]*[_.-])?(?:{_ISSUERS})[_-]?token|token)"
)
_IN_JSON = rf"[\"']{_NAMED_VALUE}[\"']\s*:\s*[\"'][^\"'\s]"
_ASSIGNED = rf"(?:^|[\s,;&?]){_NAMED_VALUE}=[^\s,;&]"
_IN_HEADER = r"\bauthorization[\"']?\s*[:=]\s*[\"']?\S"
_IN_TEXT = rf"(?i:{_IN_HEADER}|{_IN_JSON}|{_ASSIGNED}|\bbearer [a-z0-9._-]{{8,}})"
SECRET_VALUE = rf"{RECOGNISABLE}|{USER_IN_ADDRESS}|{_PRIVATE_KEY}|{_IN_TEXT}"
"""A text with a secret in it. Valid for Python's `re` and for RE2."""

_SECRET = re.compile(SECRET_VALUE)


def is_secret_value(value: str) -> bool:
    """Whether a text contains a secret that is recognisable by its form, whatever its name."""
    return _SECRET.search(value) is not None
