"""Short instructions of many kinds: public seeds and demonstrations, short answers only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from convert.common import Item, chinese_share, load_json, load_rows, side, turns
from convert.text import worked

LONGEST = {"zh": (120, 120), "en": (350, 350)}  # characters asked, answered
_UNFIT = re.compile(
    r"OpenAI|ChatGPT|GPT|As an AI|AI language model|作为(一个|一名)?(AI|人工智能)|"
    r"人工智能(助手|模型)|```|<noinput>|https?:|\|\s*-{2,}|无法提供|抱歉|图片|下图|附件"
)


def told(source: str, instruction: str, given: str, answer: str) -> Iterator[Item]:
    """One row, if it is short and fit."""
    instruction, answer = instruction.strip(), answer.strip()
    given = re.sub(r"^(输入：|Input:)\s*", "", given.strip()).replace("`<noinput>`", "")
    asked = f"{instruction}\n\n{given}" if given else instruction
    lang = "zh" if chinese_share(asked + answer) > 0.3 else "en"
    most_asked, most_answered = LONGEST[lang]
    if not answer or len(asked) > most_asked or len(answer) > most_answered:
        return
    if _UNFIT.search(asked) or _UNFIT.search(answer):
        return
    yield Item(
        task="instruct",
        lang=lang,
        source=source,
        side=side(asked),
        messages=turns(asked, answer),
        fields={"messages": turns(asked), "reference": answer},
    )


def items(data: Path) -> Iterator[Item]:
    """Self-Instruct and BELLE seeds, alpaca demonstrations, Dolly's sample, BELLE's evaluation
    set, and the shortest word problems of GSM8K."""
    for name, source in (("selfinstruct", "self-instruct"), ("belle_zh", "belle-seeds")):
        for row in load_rows(data, f"instruct/{name}_seed_tasks.jsonl.zst"):
            for instance in row["instances"]:
                yield from told(source, row["instruction"], instance["input"], instance["output"])
    for lang in ("en", "zh"):
        for row in load_json(data, f"instruct/llamafactory_alpaca_{lang}_demo.json.zst"):
            yield from told("alpaca-demo", row["instruction"], row["input"], row["output"])
    for row in load_rows(data, "instruct/dolly_sample150.jsonl.zst"):
        prompt = row["prompt"].split("### Instruction:\n")[1].removesuffix("\n\n### Response:")
        asked, _, given = prompt.partition("\n\n### Input:\n")
        yield from told("dolly", asked, given, row["answer"].replace("###eos_token###", ""))
    for row in load_rows(data, "instruct/belle_eval_set.jsonl.zst"):
        if row["class"] not in ("math", "code"):
            yield from told("belle-eval", row["question"], "", str(row["std_answer"] or ""))
    for row in load_rows(data, "instruct/gsm8k_train.jsonl.zst"):
        answer = worked(row["answer"])
        if len(row["question"]) <= 160 and len(answer) <= 140:
            yield from told("gsm8k", row["question"], "", answer)
