"""The KV cache that `flash-checkpoint inspect` reports is the one that vLLM itself would plan.

The plan depends on the number of layers, their compression and the sizes of heads, which are the real ones here.
Everything else is small, so that the model can be built.
"""

import pytest

from fake_checkpoint import KINDS, REAL, TINY, FakeCheckpoint
from flash_contracts.profiles import PROFILES, Profile
from flash_engine.checkpoint.memory import GIB, block_bytes, blocks_of_request
from flash_engine.checkpoint.model_config import ModelConfig
from vllm_walk.walk import MTP, Plan, Walker

DEEP = {
    **TINY,
    "num_hidden_layers": REAL["num_hidden_layers"],
    "compress_ratios": REAL["compress_ratios"],
    "index_n_heads": REAL["index_n_heads"],
    "num_hash_layers": REAL["num_hash_layers"],
    "max_position_embeddings": 1048576,
}
BATCHED = (512, 2048, 8192)
AVAILABLE = (6 * GIB, 12 * GIB, 20 * GIB)
ASKED = [
    (profile, batched, available) for profile in PROFILES.values() for batched in BATCHED for available in AVAILABLE
]

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="session", params=[pytest.param(None, id="alone"), pytest.param(MTP, id="with MTP")])
def planned(
    walker: Walker, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> tuple[int, list[Plan]]:
    """How many drafters there are, and vLLM's answers."""
    model = FakeCheckpoint.make("seed", DEEP).save(tmp_path_factory.mktemp("deep"))
    budgets = [[p.context_tokens, p.max_sequences, batched, available] for p, batched, available in ASKED]
    return 1 if request.param else 0, walker.plan(model, budgets, request.param)


def test_tokens_and_requests_are_vllms(planned: tuple[int, list[Plan]]) -> None:
    drafters, answers = planned
    config = ModelConfig.parse(FakeCheckpoint.make("seed", DEEP).config)
    assert len(answers) == len(ASKED)
    assert len([answer for answer in answers if answer.tokens]) > len(ASKED) / 2
    for (profile, batched, available), answer in zip(ASKED, answers, strict=True):
        asked = Profile(profile.name, profile.context_tokens, profile.max_sequences, 0, batched)
        requests = available // block_bytes(config, drafters) / blocks_of_request(config, asked, drafters)
        if answer.error:
            assert requests < 1, answer
        else:
            assert requests == pytest.approx(answer.requests)
            assert int(requests * profile.context_tokens) == answer.tokens


def test_the_shape_of_the_real_model_is_what_it_depends_on() -> None:
    deep = ModelConfig.parse(FakeCheckpoint.make("seed", DEEP).config)
    real = ModelConfig.parse({**FakeCheckpoint.make("seed").config, **REAL, **KINDS["seed"].config})
    assert block_bytes(deep, 1) == block_bytes(real, 1)
    assert blocks_of_request(deep, PROFILES["LongContext"], 1) == blocks_of_request(real, PROFILES["LongContext"], 1)
