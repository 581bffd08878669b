"""The expressions and lists of which the CEL rules are made. tests/apiserver tests the rules on an API server."""

import re
from pathlib import Path

import pytest

from flash_contracts.secrets import SECRET_VALUE, is_secret_name, is_secret_value
from flash_contracts.vllm_options import OPTIONS, VERSION
from flash_operator.api.argument_rules import GRAPH_SIZES, OWNED_ARGUMENTS, SIZES
from flash_operator.api.image_rules import IMAGE_NAME
from flash_operator.api.schema import NOT_RE2
from flash_operator.api.secret_rules import NO_SECRET, SECRET_ARGUMENT, SECRET_VARIABLE

ROOT = Path(__file__).resolve().parents[3]
OWNED = OWNED_ARGUMENTS | SIZES | GRAPH_SIZES


def test_the_list_of_options_is_of_the_vllm_that_the_image_pins() -> None:
    lock = (ROOT / "images/engine/requirements-cuda.lock").read_text()
    assert re.search(rf"^vllm=={re.escape(VERSION)}\b", lock, re.MULTILINE), "make contracts' vllm_options.py anew"


def test_only_arguments_that_vllm_has_are_owned() -> None:
    assert set(OWNED) <= OPTIONS


NAMES = [
    *("HF_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "OPENAI_API_KEY", "AWS_SECRET_ACCESS_KEY", "PGPASSWORD", "MYSQL_PWD"),
    *("DB_PASS", "GITHUB_PAT", "API_KEY_2", "WANDB_KEY", "LMCACHE_REMOTE_PASSWORD", "REDIS_AUTH", "CLIENT_SECRET"),
    *("PASSWORD_BASE64", "S3_SECRET_KEY", "MY_CREDENTIALS", "AZURE_STORAGE_KEY", "PROXY_PASS", "JWT_SIGNING_KEY"),
    *("--hf-token", "--api-key", "--auth-token", "--ssl-keyfile-password", "--kv.extra.secret-key", "--redis-password"),
    *("TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PWD", "OLDPWD", "EOS_TOKEN"),
    *("AWS_ACCESS_KEY_ID", "PUBLIC_KEY", "CACHE_KEY", "MAX_TOKENS", "SECRET_NAME", "PATH", "NCCL_DEBUG", "AUTHOR"),
    *("--tokenizer", "--max-num-batched-tokens", "--ssl-keyfile", "--long-prefill-token-threshold", "--seed", "--key"),
    *("--return-tokens-as-token-ids", "--enable-prompt-tokens-details", "--tokens-only", "--prefix-match-unit"),
]


@pytest.mark.parametrize("name", [*NAMES, *sorted(OPTIONS)])
def test_the_rules_mean_the_same_secrets_as_everybody_else(name: str) -> None:
    expression = SECRET_ARGUMENT if name.startswith("-") else SECRET_VARIABLE
    by_rule = bool(re.search(expression, name.lower())) and not re.search(NO_SECRET, name.lower())
    assert by_rule == is_secret_name(name)


def test_of_vllms_own_options_only_two_are_secrets_by_name() -> None:
    assert {name for name in OPTIONS if is_secret_name(name)} == {"--api-key", "--hf-token"}


def test_the_rules_expressions_are_re2() -> None:
    for expression in (SECRET_ARGUMENT, SECRET_VARIABLE, NO_SECRET, SECRET_VALUE, IMAGE_NAME):
        assert not NOT_RE2.search(expression.replace("(?i:", "(?:"))


VALUES = {
    '{"kv_connector_extra_config": {"password": "x"}}': True,
    '{"redisPassword": "x"}': True,
    "{'hf_token': 'x'}": True,
    '{"api_key": "x"}': True,
    "authorization=Basic%20abc": True,
    "api-key=abc": True,
    "host=h;password=x;db=1": True,
    "Authorization: Bearer abcdefgh": True,
    '{"eos_token": "</s>", "pad_token": "x"}': False,
    '{"eos_token_id": 1}': False,
    '{"password": ""}': False,
    "max_tokens=5": False,
    "http://127.0.0.1:8000": False,
    "--key=value": False,
    '{"tokenizer": "x"}': False,
    "a,b;c=d": False,
}


@pytest.mark.parametrize(("value", "is_secret"), VALUES.items())
def test_a_value_with_a_secret_in_it(value: str, *, is_secret: bool) -> None:
    assert is_secret_value(value) is is_secret


DIGEST = "sha256:" + "0123456789abcdef" * 4
IMAGES = {
    "engine": True,
    "engine:7": True,
    "owner/engine:7": True,
    "registry.example/a/b/c": True,
    "registry:5000/engine": True,
    "Registry.Example:5000/engine:V1": True,
    "localhost/flash/engine:cpu": True,
    "10.0.0.1:5000/engine": True,
    f"registry.example/engine@{DIGEST}": True,
    f"registry.example/engine:7@{DIGEST}": True,
    "a.b__c--d/e_f:_1": True,
    "Owner/engine": False,
    "engine:": False,
    "engine@": False,
    "owner//engine": False,
    "/engine": False,
    "registry.example/": False,
    "registry.example/Engine": False,
    "engine/": False,
    "engine:7:8": False,
    "engine:-7": False,
    f"engine:{'x' * 129}": False,
    "engine@sha256:abc": False,
    f"engine@{DIGEST}0": False,
    f"engine@{DIGEST.upper()}": False,
    "engine@md5:" + "0" * 32: False,
    "https://registry.example/engine": False,
    "docker://engine": False,
    "registry.example:port/engine": False,
    "-registry.example/engine": False,
    "engine_": False,
    "_engine": False,
    "a..b": False,
    "a___b": False,
    "": False,
}


@pytest.mark.parametrize(("image", "exists"), IMAGES.items())
def test_names_that_a_registry_may_have(image: str, *, exists: bool) -> None:
    assert bool(re.search(IMAGE_NAME, image)) is exists
