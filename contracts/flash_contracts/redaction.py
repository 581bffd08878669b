"""Removes secrets from everything that is shown: logs, engine.json, /result, and the status of a deployment.

A secret is recognised by its name (`secrets`), in arguments, variables and `NAME=value`; by its form (`Bearer ...`,
`hf_...`, `user:password@` in a URL); and by its value, if an argument or variable with such a name had it.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from flash_contracts.secrets import is_secret_name

REDACTED = "[redacted]"

_HEADERS = frozenset(("authorization", "proxy-authorization", "cookie", "set-cookie"))
MIN_VALUE_LENGTH = 6
"""A shorter value may be part of any word."""

_VALUE = r"""(?:"[^"]*"|'[^']*'|\[[^\]]*\]|[^\s,;&"'\])}]+)"""
_FORMS = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{10,}|hf_(?=[A-Za-z]*\d)[A-Za-z0-9]{6,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,}"
    r"|github_pat_\w{16,}|glpat-[\w-]{16,}|xox[abprs]-[\w-]{10,}|nvapi-[\w-]{16,}|A(?:KIA|SIA)[0-9A-Z]{12,}"
    r"|AIza[\w-]{30,}|eyJ[\w-]{8,}\.[\w-]{8,}(?:\.[\w-]*)?)"
)
_SCHEMES = re.compile(r"\b(Bearer|Basic|Digest)\s+(?!auth|realm|token\b)([A-Za-z0-9._~+/=:-]{6,})", re.IGNORECASE)
_USERINFO = re.compile(r"(\b[a-z][a-z0-9+.-]*://)[^/\s@'\"]+@", re.IGNORECASE)
_SIGNED = re.compile(r"([?&](?:[\w-]*signature|sig)=)[^\s&'\"]+", re.IGNORECASE)
_ASSIGNED = re.compile(rf"(?<![\w.-])(?P<name>[A-Za-z-][\w.-]*)(?P<sign>\s?=\s?)(?P<value>{_VALUE})")
_QUOTED_NAME = re.compile(rf"(?P<name>(?P<quote>['\"])[\w.-]+(?P=quote))(?P<sign>\s*:\s*)(?P<value>{_VALUE})")
_QUOTED_OPTION = re.compile(rf"(?P<name>(?P<quote>['\"])--?[\w.-]+(?P=quote))(?P<sign>\s*,\s*)(?P<value>{_VALUE})")
_RANDOM = r"(?=[^\s,]*\d)(?=[^\s,]*[A-Za-z])[^\s,-][^\s,]{7,}"
_OPTION = re.compile(
    rf"(?<![\w-])(?P<name>--?[A-Za-z][\w.-]*)(?P<sign>\s+)(?P<value>(?!-|(?:is|in|and|or|of|to|must|cannot|needs|not)\b)"
    rf"{_VALUE}(?:\s+{_RANDOM})*)"
)
"""An option with its value, and further ones that look like secrets too. A sentence about the option has none."""
_PRIVATE_KEY = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL)
_HEADER = re.compile(
    rf"(?<![\w-])(?P<name>[\w-]*(?:password|passwd|secret|api[_-]?key|authorization|token)\b)(?P<sign>\s*:\s+)(?P<value>{_VALUE})",
    re.IGNORECASE,
)


def _is_secret(name: str) -> bool:
    return is_secret_name(name) or name.strip("'\"").lower() in _HEADERS


_SUSPECT = re.compile(
    r"token(?!s\b)|key|pass|pwd|secret|cred|auth|cookie|bearer|basic|digest|sig|jwt|pat\b|hf_|sk-|://|gh[pousr]_|github_"
    r"|glpat|xox|nvapi|akia|asia|aiza|eyj",
    re.IGNORECASE,
)
"""A text without any of this contains no secret that its name or form reveals."""


def redact(text: str, secrets: Iterable[str] = ()) -> str:
    """The text without secrets. `secrets` are known secret values (`secrets_of`)."""
    for value in secrets:
        text = text.replace(value, REDACTED)
    if not _SUSPECT.search(text):
        return text
    text = _PRIVATE_KEY.sub(REDACTED, text)
    text = _SIGNED.sub(rf"\1{REDACTED}", _USERINFO.sub(rf"\1{REDACTED}@", text))
    text = _SCHEMES.sub(rf"\1 {REDACTED}", _FORMS.sub(REDACTED, text))
    for pattern in (_ASSIGNED, _QUOTED_NAME, _QUOTED_OPTION, _OPTION, _HEADER):
        text = pattern.sub(_redact_named, text)
    return text


def _redact_named(found: "re.Match[str]") -> str:
    name, value = found["name"], found["value"]
    if not _is_secret(name) or not _may_be_secret(value) or _is_prose(name, found["sign"], value):
        return found[0]
    quote = value[0] if value[0] in "'\"" else ""
    return f"{name}{found['sign']}{quote}{REDACTED}{quote}"


def _is_prose(name: str, sign: str, value: str) -> bool:
    """Whether this is a sentence, as in `it has no key token: kubectl create secret`. A secret would have a digit."""
    return ":" in sign and name.lower() in ("token", "secret") and value.isalpha()


def _may_be_secret(value: str) -> bool:
    """Whether this is more than an engine logs about its own objects: `token=5`, `key=None`, `auth=False`, a class."""
    bare = value.strip("'\"[]")
    return bool(bare) and not re.fullmatch(r"None|True|False|null|true|false|<.*|\d{1,6}", bare)


def redact_arguments(arguments: Sequence[str]) -> tuple[str, ...]:
    """A command line without the values of secret options. An option may have several: `--api-key ONE TWO`."""
    shown: list[str] = []
    hides_values = False
    for argument in arguments:
        if argument.startswith("-") and argument.strip("-"):
            name, equals, _ = argument.partition("=")
            hides_values = is_secret_name(name) and not equals
            shown.append(f"{name}={REDACTED}" if equals and is_secret_name(name) else redact(argument))
        else:
            shown.append(REDACTED if hides_values else redact(argument))
    return tuple(shown)


def redact_fields(value: Any) -> Any:
    """Remove secrets from a value of any structure, for a log line or a document."""
    match value:
        case str():
            return redact(value)
        case dict():
            return {
                key: REDACTED if isinstance(item, str) and _is_secret(str(key)) else redact_fields(item)
                for key, item in value.items()
            }
        case list() | tuple():
            return [redact_fields(item) for item in value]
        case _:
            return value


def secrets_of(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The values of secret options and variables, longest first. They are secrets wherever they appear."""
    values = {value for name, value in environment.items() if is_secret_name(name)}
    hides_values = False
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if argument.startswith("-") and argument.strip("-"):
            hides_values = is_secret_name(name)
            values.update({value} if hides_values and equals else ())
            hides_values = hides_values and not equals
        elif hides_values:
            values.add(argument)
    return tuple(sorted((value for value in values if _is_distinct(value)), key=len, reverse=True))


def _is_distinct(value: str) -> bool:
    """Whether a value is long enough not to occur by chance, and is neither a path nor a plain word or number."""
    return (
        len(value) >= MIN_VALUE_LENGTH
        and not value.startswith("/")
        and not re.fullmatch(r"[A-Za-z]{1,10}|\d{1,7}", value)
    )
