"""How large the key-value cache may be: computed before anything is allocated."""

from __future__ import annotations

import os
from pathlib import Path

from everloop.engine.native.options import NativeOptions
from everloop.errors import InvalidRequest
from everloop.model.config import ModelConfig

SMALLEST = 256
"""An engine that can't hold a context of this many tokens isn't started."""


def token_bytes(config: ModelConfig, *, bits: int) -> int:
    """Bytes of keys and values, `bits` a number, that one token takes in all layers. 8 bits have a
    scale for every head."""
    head = config.head_dim * bits // 8 + (4 if bits == 8 else 0)
    return config.num_hidden_layers * 2 * config.num_key_value_heads * head


def plan_blocks(
    config: ModelConfig, options: NativeOptions, available: int, *, block_size: int, bits: int
) -> int:
    """Blocks to allocate with `available` bytes of memory free; InvalidRequest with the numbers
    if the configuration can't work."""
    each = token_bytes(config, bits=bits)
    context = config.max_position_embeddings
    if options.kv_tokens:
        tokens = options.kv_tokens
        if tokens < min(context, SMALLEST):
            raise InvalidRequest(
                f"kv_tokens is {tokens}, but at least {min(context, SMALLEST)} are needed.",
                param="kv_tokens",
            )
        if tokens * each > available:
            raise InvalidRequest(
                f"kv_tokens={tokens} needs {_mb(tokens * each)} ({each} bytes a token), but only "
                f"{_mb(available)} are free. Set it to {available // each} or less.",
                param="kv_tokens",
            )
    else:
        tokens = min(options.max_running * context, available // 2 // each)
        if tokens < min(context, SMALLEST):
            raise InvalidRequest(
                f"The key-value cache needs {_mb(SMALLEST * each)} for {SMALLEST} tokens, but half "
                f"of the free memory is {_mb(available // 2)}. Free some, or use a smaller model.",
                param="kv_tokens",
            )
    return -(-tokens // block_size)


def available_memory() -> int:
    """Bytes that this process may still take: the machine's, or its control group's if less."""
    limits = [_machine()]
    for limit, usage in (
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ):
        try:
            most, now = Path(limit).read_text().strip(), Path(usage).read_text().strip()
        except OSError:
            continue
        if most.isdigit():
            limits.append(max(int(most) - int(now), 0))
    return min(limits)


def _machine() -> int:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _mb(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
