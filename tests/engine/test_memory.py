from __future__ import annotations

import pytest

from everloop.engine.native.memory import available_memory, plan_blocks, token_bytes
from everloop.engine.native.options import NativeOptions
from everloop.errors import InvalidRequest
from tests.engine.conftest import CONTEXT, small_config

CONFIG = small_config(330, ())
EACH = 3 * 2 * 2 * 24 * 4


def blocks(available: int, **changes: int) -> int:
    return plan_blocks(CONFIG, NativeOptions(**changes), available, block_size=16, bits=32)


def test_bytes_of_a_token() -> None:
    assert token_bytes(CONFIG, bits=32) == EACH
    assert token_bytes(CONFIG, bits=16) == EACH // 2
    assert token_bytes(CONFIG, bits=8) == EACH // 4 + 3 * 2 * 2 * 4  # a scale for every head


def test_derived_from_the_load_or_from_half_of_the_memory() -> None:
    assert blocks(10**12, max_running=8) == 8 * CONTEXT // 16
    assert blocks(2 * EACH * 640, max_running=8) == 640 // 16


def test_what_is_asked_for() -> None:
    assert blocks(10**12, kv_tokens=1000) == 63
    assert blocks(EACH * 1000, kv_tokens=1000) == 63


@pytest.mark.parametrize(
    ("available", "kv_tokens", "match"),
    [
        (EACH * 1000 - 1, 1000, "kv_tokens=1000 needs 1 MB .* Set it to 999 or less"),
        (10**12, 100, "kv_tokens is 100, but at least 256 are needed"),
        (2 * EACH * 200, 0, "half of the free memory is 0 MB"),
    ],
)
def test_the_impossible_is_refused_with_the_numbers(
    available: int, kv_tokens: int, match: str
) -> None:
    with pytest.raises(InvalidRequest, match=match) as caught:
        blocks(available, kv_tokens=kv_tokens)
    assert caught.value.param == "kv_tokens"


def test_available_memory_is_a_plausible_number() -> None:
    assert 10**8 < available_memory() < 10**14
