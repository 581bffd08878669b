"""No secret is shown, whether it is recognised by its name, its form or its value."""

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_contracts.redaction import REDACTED, redact, redact_arguments, redact_fields, secrets_of
from flash_contracts.secrets import is_secret_name

SECRET_NAMES = (
    "--hf-token", "hf_token", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "--api-key", "VLLM_API_KEY", "OPENAI_API_KEY",
    "apiKey", "password", "DB_PASSWORD", "--passwd", "client_secret", "AWS_SECRET_ACCESS_KEY", "X-Api-Key",
    "private.key", "redisPassword", "S3_CREDENTIALS", "--ssl-keyfile-password",
)  # fmt: skip
HARMLESS_NAMES = (
    "--max-num-batched-tokens", "--tokenizer", "--tokenizer-mode", "tokenizer_revision", "num_speculative_tokens",
    "eos_token", "pad_token_id", "--long-prefill-token-threshold", "--ssl-keyfile", "HF_TOKEN_PATH", "SSH_AUTH_SOCK",
    "KeyError", "monkey", "keyboard", "prompt_token_ids", "key_cache", "max_tokens", "tokens", "NCCL_P2P_LEVEL",
)  # fmt: skip


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_secret_name_is_recognised(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize("name", HARMLESS_NAMES)
def test_other_names_are_not_secret(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize("header", ["Authorization", "proxy-authorization", "Cookie"])
def test_a_header_that_carries_a_secret_is_hidden_in_documents(header: str) -> None:
    assert redact_fields({header: "whatever"}) == {header: REDACTED}


def test_a_sentence_about_a_token_keeps_its_words() -> None:
    text = "the Secret forgotten has no key token: kubectl create secret generic forgotten. Secret: name it"
    assert redact(text) == text
    assert redact("token: Zq8vXk2pLm9") == f"token: {REDACTED}"


SECRET = "Zq8vXk2pLm9"  # noqa: S105 - made up
TEXTS = (
    f"INFO non-default args: {{'model': '/m', 'hf_token': '{SECRET}', 'port': 8000}}",
    f"INFO non-default args: {{'api_key': ['{SECRET}', '{SECRET}2']}}",
    f"Namespace(model='/m', hf_token='{SECRET}', port=8000)",
    f"HF_TOKEN={SECRET} vllm serve",
    f'{{"token": "{SECRET}"}}',
    f"vllm serve /m --hf-token {SECRET} --port 1",
    f"vllm serve /m --hf-token={SECRET}",
    f"argv: ['serve', '--api-key', '{SECRET}']",
    f"headers: Authorization: Bearer {SECRET}",
    f"ClientError: 401, headers={{'authorization': 'Bearer {SECRET}'}}",
    f"OSError: https://user:{SECRET}@mirror.example/repo failed",
    f"OSError: https://{SECRET}@mirror.example/repo failed",
    f"GET https://hub.example/x?access_token={SECRET}&y=1",
    f"403 for https://s3.example/x?X-Amz-Date=1&X-Amz-Signature={SECRET}&y=1",
    f"x-api-key: {SECRET}",
    f"password: {SECRET}",
    f"client_secret = {SECRET}",
    f"Invalid token hf_{SECRET * 3}",
    f"using sk-{SECRET * 2}",
    f"--hf-token={SECRET} --port=8000",
    f"--hf-token {SECRET} --port=8000",
    f"--api-key {SECRET} {SECRET}x --port=8000",
    f"['serve', '--api-key', '{SECRET}', '--port=8000']",
    f'["--hf_token", "{SECRET}"]',
    f'{{"password": "{SECRET} with blanks", "user": "u"}}',
    f"Namespace(api_key=['{SECRET}', '{SECRET}'], port=8000)",
    f"non-default args: {{'hf_token': '{SECRET}', 'seed': 0}}",
    f"Authorization: Bearer {SECRET}",
    f"'authorization': 'Basic {SECRET}'",
    f"GET /v1/models?api_key={SECRET}&b=1",
    f"https://me:{SECRET}@hub.example/x",
    f"token: {SECRET}",
    f"export OPENAI_API_KEY='{SECRET}'",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_secret_in_a_text_is_redacted(text: str) -> None:
    assert SECRET not in redact(text)
    assert REDACTED in redact(text)


HARMLESS_TEXTS = (
    "KeyError: 'model.layers.43.mtp_block.main_norm.weight'",
    "ValueError: MTP weights missing, key='model.layers.43', token=128000",
    "tokenizer='/m', max_num_batched_tokens=2048, eos_token='</s>', enable_auth=False, api_key=None",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB (GPU 0; 94.97 GiB total)",
    "see https://pytorch.org/docs/stable/distributed.html#shutdown",
    "POST /v1/chat/completions HTTP/1.1",
    "Basic authentication is off",
    "KeyError: 'layers.1.attn.compressor.weight_scale'",
    "put it into a Secret: kubectl create secret generic NAME",
    "max_tokens=5 eos_token='</s>' first_token=0.2",
    "token: 17",
    "--hf-token is not allowed here",
    "the address is http://127.0.0.1:8000/health",
    "ValueError: To serve at least one request, 12.5 GiB KV cache is needed",
)


@pytest.mark.parametrize("text", HARMLESS_TEXTS)
def test_a_text_without_secrets_is_left_alone(text: str) -> None:
    assert redact(text) == text


def test_only_values_of_secret_options_are_removed_from_arguments() -> None:
    arguments = [
        "vllm",
        "serve",
        "/m",
        "--hf-token",
        "abc",
        "--api-key",
        "one",
        "two",
        "--port",
        "8000",
        "--api-key=three",
    ]
    assert redact_arguments(arguments) == (
        "vllm", "serve", "/m", "--hf-token", REDACTED, "--api-key", REDACTED, REDACTED, "--port", "8000",
        f"--api-key={REDACTED}",
    )  # fmt: skip


def test_a_secret_within_the_json_of_an_argument_is_redacted() -> None:
    assert SECRET not in "".join(
        redact_arguments(["--kv-transfer-config", f'{{"extra": {{"access_key": "{SECRET}"}}}}'])
    )


def test_a_value_known_as_secret_is_redacted_everywhere() -> None:
    secrets = secrets_of(
        ["--api-key", "first-secret", "--hf-token=second-secret"], {"DB_PASSWORD": "third-secret", "A": "b"}
    )
    shown = redact("echo first-secret; second-secretthird-secret", secrets)
    assert shown == f"echo {REDACTED}; {REDACTED}{REDACTED}"


def test_a_secret_value_that_is_a_common_word_is_not_searched_for() -> None:
    assert (
        secrets_of(["--api-key", "EMPTY"], {"HF_TOKEN": "none", "API_KEY": "/run/secrets/key", "X_KEY": "1234"}) == ()
    )


def test_a_long_line_is_redacted_quickly() -> None:
    """A pattern that backtracks would block the engine's output, which the launcher passes on."""
    for text in ("a" * 2000, "a=" * 1000, "-a" * 1000, "'a':" * 500, "://" * 600, "api-key" * 280, "token " * 330):
        assert len(redact(text)) > 0


def test_the_fields_of_a_log_line_are_redacted_however_they_are_nested() -> None:
    fields = {
        "url": f"https://u:{SECRET}@h/x",
        "signature": "S9",
        "headers": {"Authorization": SECRET},
        "n": [1, SECRET * 0],
    }
    shown = redact_fields(fields)
    assert SECRET not in str(shown)
    assert (shown["signature"], shown["n"]) == ("S9", [1, ""])


def test_a_command_is_redacted_word_by_word() -> None:
    words = ("serve", "--api-key", "a", "b", "--hf-token=c", "--seed", "1", '--x={"password": "d"}')
    hidden = (
        "serve",
        "--api-key",
        REDACTED,
        REDACTED,
        f"--hf-token={REDACTED}",
        "--seed",
        "1",
        f'--x={{"password": "{REDACTED}"}}',
    )
    assert redact_arguments(words) == hidden


@given(st.text(max_size=200))
@settings(max_examples=50)
def test_redaction_is_idempotent_for_any_text(text: str) -> None:
    once = redact(text)
    assert redact(once) == once


def test_long_lines_of_any_kind_are_redacted_quickly() -> None:
    began = time.process_time()
    for line in ("a" * 20_000, "password " * 5_000, "a=" * 10_000, "--a " * 10_000, "a://" * 10_000, "a=[" * 10_000):
        redact(line)
    assert time.process_time() - began < 1
