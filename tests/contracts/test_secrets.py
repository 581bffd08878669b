"""What counts as a secret, and text without it."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_contracts.secrets import HIDDEN, is_secret_name, is_secret_value, redacted, redacted_words

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
VALUE = "s3cretValue42"


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
    assert HIDDEN in redacted(f"failed with {value} in it")


@pytest.mark.parametrize("value", ["main", "http://proxy.example:3128", "hf_hub", "sk-learn", "user@host", "a:b@c"])
def test_other_values_are_not_secrets(value: str) -> None:
    assert not is_secret_value(value)
    assert redacted(value) == value


TEXTS = [
    f"--hf-token={VALUE} --port=8000",
    f"--hf-token {VALUE} --port=8000",
    f"--api-key {VALUE} {VALUE}x --port=8000",
    f"['serve', '--api-key', '{VALUE}', '--port=8000']",
    f'["--hf_token", "{VALUE}"]',
    f'{{"password": "{VALUE} with blanks", "user": "u"}}',
    f"Namespace(api_key=['{VALUE}', '{VALUE}'], port=8000)",
    f"non-default args: {{'hf_token': '{VALUE}', 'seed': 0}}",
    f"Authorization: Bearer {VALUE}",
    f"'authorization': 'Basic {VALUE}'",
    f"HF_TOKEN={VALUE} vllm serve",
    f"GET /v1/models?api_key={VALUE}&b=1",
    f"https://me:{VALUE}@hub.example/x",
    f"password: {VALUE}",
    f"token: {VALUE}",
    f"export OPENAI_API_KEY='{VALUE}'",
]


@pytest.mark.parametrize("text", TEXTS)
def test_no_secret_is_left_in_a_text(text: str) -> None:
    assert VALUE not in redacted(text)
    assert HIDDEN in redacted(text)


PLAIN = [
    "KeyError: 'layers.1.attn.compressor.weight_scale'",
    "put it into a Secret: kubectl create secret generic NAME",
    "max_tokens=5 eos_token='</s>' first_token=0.2",
    "token: 17",
    "--hf-token is not allowed here",
    "the address is http://127.0.0.1:8000/health",
    "ValueError: To serve at least one request, 12.5 GiB KV cache is needed",
]


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert redacted(text) == text


def test_a_command_is_redacted_word_by_word() -> None:
    words = ("serve", "--api-key", "a", "b", "--hf-token=c", "--seed", "1", '--x={"password": "d"}')
    hidden = (
        "serve",
        "--api-key",
        HIDDEN,
        HIDDEN,
        f"--hf-token={HIDDEN}",
        "--seed",
        "1",
        f'--x={{"password": "{HIDDEN}"}}',
    )
    assert redacted_words(words) == hidden


@given(st.text(max_size=200))
@settings(max_examples=50)
def test_any_text_can_be_redacted_and_again_without_a_change(text: str) -> None:
    once = redacted(text)
    assert redacted(once) == once


def test_a_long_line_takes_no_long_time() -> None:
    began = time.process_time()
    for line in ("a" * 20_000, "password " * 5_000, "a=" * 10_000, "--a " * 10_000, "a://" * 10_000, "a=[" * 10_000):
        redacted(line)
    assert time.process_time() - began < 1
