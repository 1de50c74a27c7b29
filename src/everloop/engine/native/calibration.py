"""What a model's layers read: a short text of our own, run through the model while it is packed.

Only the spread of the inputs is wanted: how large each channel is, and the few directions in which
inputs mostly lie. A few hundred tokens tell both.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from everloop.errors import InvalidRequest
from everloop.model.tokenizer import Tokenizer
from everloop.model.transformer import Transformer

WORK = 2e11
"""Floating-point operations that may be spent on it: a second or two."""

LEAST, MOST = 32, 1024
"""Tokens."""

TEXT = """\
The river rises in the hills north of the town and reaches the sea after ninety miles. In 1873 a \
stone bridge of seven arches replaced the old ferry, and the market moved to its southern end.
茶树喜欢温暖湿润的气候，多生长在山坡上。春天采下的嫩芽要先晾干，再经过炒制、揉捻和烘干，才能成为我们喝的茶叶。
<|im_start|>user
Write a short note to a neighbour about the noise last night.<|im_end|>
<|im_start|>assistant
Dear Sam, I hope you are well. The music was rather loud after midnight; could you keep it down \
on weekdays? Thank you very much!<|im_end|>
<|im_start|>user
请把这句话改得更礼貌一些：把窗户关上。<|im_end|>
<|im_start|>assistant
麻烦您把窗户关上，好吗？谢谢！<|im_end|>
def mean(values): return sum(values) / len(values)  # 3.5 for [2, 5]
"I don't know," she said, "whether he'll come back; nobody has seen him since Tuesday."
据报道，2019年该市常住人口为128万人，比上年增长2.3%。新建的地铁线路连接了机场与老城区，每天运送乘客约四十万人次。
Water boils at a lower temperature on a mountain, because the pressure of the air is smaller there.
他推开门，屋里一个人也没有，只有桌上的灯还亮着。
The Treaty of 1648 ended thirty years of war in central Europe; historians still argue about what \
it changed for ordinary people in the villages and small towns.
唐代诗人常在送别时写诗，其中许多作品描写了江水、月光和远行的朋友。这些诗至今仍被收入中小学课本。
Grey wolves live in packs of five to eleven animals. A pack defends its territory against others, \
and usually only one pair has young each year, in April or May.
该物种分布于中国南部、越南北部和老挝，生活在海拔500至1800米的阔叶林中，以果实和昆虫为食，已被列入保护名录。
Born in Lisbon, he studied law before he became a painter; his first exhibition opened in Paris.
第二次世界大战结束后，工厂恢复了生产，铁路和港口也陆续重建，这座城市逐渐成为重要的工业中心。
1. Wash the rice. 2. Add two cups of water. 3. Cook it slowly for twenty minutes.
"""
"""Prose, dialogue, instructions, numbers and code in two languages, so that any part has some."""


def ids_for(directory: Path, model: Transformer) -> Tensor:
    """(tokens,) of the text as the model in `directory` reads it, as many as it has time for.
    Without a tokenizer that fits they are any ids, always the same."""
    config = model.config
    most = int(WORK / (2 * max(config.matmul_parameters, 1)))
    most = min(max(most, LEAST), MOST, config.max_position_embeddings)
    try:
        ids = Tokenizer.load(directory).encode_special(TEXT)
    except InvalidRequest:
        ids = []
    if not ids or max(ids) >= config.vocab_size:
        draw = torch.Generator().manual_seed(0)
        return torch.randint(0, config.vocab_size, (most,), generator=draw)
    return torch.tensor(ids[:most])


@torch.inference_mode()
def record(model: Transformer, ids: Tensor) -> dict[str, Tensor]:
    """What each linear layer read at each token (tokens, inputs), by its module's name; each token
    with the same length, as a scale of its own makes it for the product."""
    found: dict[str, Tensor] = {}

    def hear(name: str) -> None:
        def keep(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            found[name] = _level(given[0][0])

        hooks.append(model.get_submodule(name).register_forward_pre_hook(keep))

    hooks: list[torch.utils.hooks.RemovableHandle] = []
    for i in range(len(model.model.layers)):
        for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.down_proj"):
            hear(f"model.layers.{i}.{part}")
    try:
        last = model.hidden(ids[None])
    finally:
        for hook in hooks:
            hook.remove()
    return {**found, "lm_head": _level(last[0])}


def _level(x: Tensor) -> Tensor:
    x = x.float()
    return x / x.pow(2).mean(-1, keepdim=True).sqrt().clamp_min(1e-30)
