"""An untested version of vLLM is rejected by its number."""

import re

import pytest

from flash_engine.plugin.versions import RANGE, UnsupportedVersionError, require_supported


@pytest.mark.parametrize("version", ["0.26.0", "0.26.1", "0.32.0", "0.32.0+cpu", "0.33.0", "0.33.1.post1"])
def test_versions_of_the_range_are_supported(version: str) -> None:
    require_supported(version)


@pytest.mark.parametrize("version", ["0.25.9", "0.27.0", "0.31.9", "0.34.0", "0.34.0rc1", "1.0.0", "0.3.30", "dev"])
def test_other_versions_are_rejected_with_the_supported_range(version: str) -> None:
    with pytest.raises(UnsupportedVersionError, match=re.escape(version)) as refused:
        require_supported(version)
    assert RANGE in str(refused.value)
