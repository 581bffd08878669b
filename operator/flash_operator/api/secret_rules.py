"""CEL rules against secrets in the spec: `flash_contracts.secrets` in CEL."""

from flash_contracts.secrets import (
    AFTER_NOUN,
    JOINED_NOUN,
    NO_KEY,
    NO_TOKEN,
    PLAIN_NOUN,
    SECRET_KEY,
    SECRET_VALUE,
    SWITCH,
    USER,
)
from flash_contracts.variable_aliases import HUB_TOKEN
from flash_operator.api.rule import Rule, quoted

API_KEY = "VLLM_API_KEY"

_END = rf"(?:[-_]?(?:{AFTER_NOUN.pattern}))*$"
_NOUNS = (
    rf"token|{PLAIN_NOUN}|[a-z0-9]*(?:{JOINED_NOUN})|(?:{SECRET_KEY.pattern})(?:[-_][a-z0-9]+)*[-_]key"
    rf"|(?:{USER.pattern})[-_]pass|[a-z0-9]+[-_](?:pat|auth|pwd)"
)
SECRET_ARGUMENT = rf"(?:^|[-_.])(?:{_NOUNS}){_END}"
"""The name of an argument that is a secret, in small letters, unless it is NO_SECRET as well."""

SECRET_VARIABLE = rf"(?:^|[-_.])(?:{_NOUNS}|[a-z0-9]+[-_]key){_END}"
"""Likewise the name of a variable."""

NO_SECRET = (
    rf"(?:^|[-_.])(?:(?:{SWITCH.pattern})(?:[-_.]|$)|(?:{NO_TOKEN.pattern})[-_]token{_END}"
    rf"|(?:{NO_KEY.pattern})[-_]key{_END}|old[-_]pwd$)"
)

_ELSEWHERE = (
    "anyone who may read pods could read it; put it into a Secret, and name that in model.credentialsSecret if it "
    "is for the hub of an hf:// source, in engine.apiKeysSecret if clients send it; any other, set as a variable of "
    "container engine with valueFrom.secretKeyRef in podTemplate"
)


def _is_named(name: str, secret: str) -> str:
    return f"{name}.matches({quoted(secret)}) && !{name}.matches({quoted(NO_SECRET)})"


_ARGUMENT = "a.split('=')[0].split(' ')[0].replace('_', '-').lowerAscii()"
_OWN_MESSAGE = "['--api-key', '--hf-token']"

SECRET_ARGUMENT_RULES = (
    Rule(
        f"!self.map(a, {_ARGUMENT}).exists(n, n.startsWith('-') && !(n in {_OWN_MESSAGE}) && "
        f"{_is_named('n', SECRET_ARGUMENT)})",
        f"an argument that is a secret is not allowed here: {_ELSEWHERE}",
    ),
    Rule(
        f"!self.exists(a, a.matches({quoted(SECRET_VALUE)}))",
        f"an item contains a token, a password or a key: {_ELSEWHERE}",
    ),
)

_HUB_TOKENS = f"[{', '.join(map(quoted, HUB_TOKEN))}]"

SECRET_VARIABLE_RULES = (
    Rule(
        f"!self.exists(v, size(v.value) > 0 && v.name != '{API_KEY}' && !(v.name in {_HUB_TOKENS}) && "
        f"{_is_named('v.name.lowerAscii()', SECRET_VARIABLE)})",
        f"a variable that is a secret is not allowed here: {_ELSEWHERE}",
    ),
    Rule(
        f"!self.exists(v, v.value.matches({quoted(SECRET_VALUE)}))",
        f"a value contains a token, a password or a key: {_ELSEWHERE}",
    ),
)
