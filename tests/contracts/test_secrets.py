"""What counts as a secret."""

import pytest

from flash_contracts.redaction import REDACTED, redact
from flash_contracts.secrets import is_secret_name, is_secret_value

SECRETS = (
    "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HUGGINGFACEHUB_API_TOKEN", "hf_token", "hf-token", "VLLM_API_KEY",
    "OPENAI_API_KEY", "OPENAI_APIKEY", "apiKey", "api_key", "API_KEY_2", "x-api-key", "AWS_SECRET_ACCESS_KEY",
    "AZURE_STORAGE_KEY", "WANDB_KEY", "PGPASSWORD", "MYSQL_PWD", "DB_PASS", "REDIS_AUTH_PASSWORD", "GITHUB_PAT",
    "ssl-keyfile-password", "client_secret", "clientSecret", "dbPassword", "accessToken", "passphrase",
    "--api-key", "--auth-token", "--hf-token", "PASSWORD_BASE64", "S3_SECRET", "token",
)  # fmt: skip
NO_SECRETS = (
    "tokenizer", "--tokenizer-mode", "--max-num-batched-tokens", "--max-num-queued-tokens",
    "TOKENIZERS_PARALLELISM", "HF_TOKEN_PATH", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "PWD", "OLDPWD", "eos_token",
    "eos_token_id", "first_token", "time_per_output_token", "--long-prefill-token-threshold", "--ssl-keyfile",
    "ssl-certfile", "KeyError", "num_key_value_heads", "key", "cache_key", "public_key", "PUBLIC_KEY",
    "secretName", "credentialsSecretName", "AWS_ACCESS_KEY_ID", "--seed", "--kv-cache-dtype", "AUTHOR", "bypass",
    "compass", "--enable-prompt-tokens-details", "NCCL_DEBUG", "PYTORCH_ALLOC_CONF", "--tokens-only", "PATH",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRETS)
def test_a_secret_is_recognised_by_its_name(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", NO_SECRETS)
def test_other_names_are_not_secrets(name: str) -> None:
    assert not is_secret_name(name)


SHAPES = {
    "hub token": "hf_" + "a1B2" * 9,
    "provider key": "sk-proj-" + "a1B2" * 6,
    "repository token": "ghp_" + "a1B2" * 9,
    "signed token": "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.c2lnbmF0dXJl",
    "access key": "AKIA" + "ABCD1234" * 2,
    "password in an address": "http://somebody:hunter2@proxy.example:3128",
    "private key": "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
}


@pytest.mark.parametrize("value", SHAPES.values(), ids=SHAPES.keys())
def test_a_secret_is_recognised_by_its_shape(value: str) -> None:
    assert is_secret_value(value)
    assert is_secret_value(f'{{"x": "{value}"}}')
    assert REDACTED in redact(f"failed with {value} in it")


@pytest.mark.parametrize("value", ["main", "http://proxy.example:3128", "hf_hub", "sk-learn", "user@host", "a:b@c"])
def test_other_values_are_not_secrets(value: str) -> None:
    assert not is_secret_value(value)
    assert redact(value) == value
