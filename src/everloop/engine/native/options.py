"""How the native engine runs; the pool fills it in from the settings."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeOptions:
    """Sizes and limits of one native engine."""

    quantization: str = "auto"
    """Weights as int8, int4 or none (float32); auto: int8 where the compiled kernels run."""
    device: str = "auto"
    """cpu, cuda or auto: a GPU where there is one and the model is large enough to gain by it."""
    cache_dir: str | None = None
    """Folder for weights packed for the kernels; None: one in the system's temporary folder."""
    threads: int = 0
    """CPU threads that a step may take; 0: as many as this process may use cores. Each step takes
    one or all, whichever was measured to be quicker; PyTorch one for small models."""
    max_running: int = 32
    """Sequences computed together."""
    max_queue: int = 256
    """Requests that may wait beyond those; the next one is refused."""
    kv_tokens: int = 0
    """Tokens the key-value cache holds; 0: max_running full contexts, at most half of the free
    memory."""
    kv_bits: int = 16
    """Bits of a number in the key-value cache, 16 or 8; PyTorch computes with its own."""
    prefill_chunk: int = 512
    """Prompt tokens computed per step at most."""
    drafting: bool = True
    """Whether tokens are drafted ahead and verified together, where that is faster."""
    block_size: int = 32
    """Tokens in a block of the cache, where PyTorch computes."""
    start_seconds: float = 180.0
    """Time to load the model."""
    hang_seconds: float = 60.0
    """A worker that is silent for this long is killed and started again."""
