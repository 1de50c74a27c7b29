"""How a task is put into words, in Chinese and English.

The same bytes are used to make training rows and to call the model. Several phrasings of each
instruction teach the task rather than the wording; the first is the canonical one, used most in
training and always by `tasks`. The instruction comes first, then an empty line, then the text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from string import Formatter
from types import MappingProxyType
from typing import Final, Literal

from everloop.errors import InvalidRequest

Lang = Literal["zh", "en"]

INSTRUCTIONS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "sentiment": {
            "zh": (
                "这段话的情感是正面还是负面？\n\n{text}",
                "判断下面文字的情感倾向，回答“正面”或“负面”。\n\n{text}",
                "情感分析（正面、负面）：\n\n{text}",
                "说这段话的人是满意还是不满意？满意答“正面”，不满意答“负面”。\n\n{text}",
                "{text}\n\n这条评论是正面的还是负面的？",
            ),
            "en": (
                "Is the sentiment of this text positive or negative?\n\n{text}",
                "Classify the sentiment as positive or negative.\n\n{text}",
                "Sentiment analysis (positive, negative):\n\n{text}",
                "Does the writer like it? Answer positive or negative.\n\n{text}",
                "{text}\n\nIs this review positive or negative?",
            ),
        },
        "topic": {
            "zh": (
                "从下列类别中选出这段文字的主题：{labels}。\n\n{text}",
                "这段文字属于哪一类？可选：{labels}。\n\n{text}",
                "按主题分类。类别：{labels}。\n\n{text}",
                "{text}\n\n上面的文字是关于什么的？从中选一个：{labels}。",
            ),
            "en": (
                "Choose the topic of this text from: {labels}.\n\n{text}",
                "Which category does this text belong to? Options: {labels}.\n\n{text}",
                "Classify by topic. Categories: {labels}.\n\n{text}",
                "{text}\n\nWhat is the text above about? Pick one: {labels}.",
            ),
        },
        "classify": {
            "zh": (
                "从下列标签中选出最合适的一个：{labels}。\n\n{text}",
                "给这段文字选一个标签：{labels}。\n\n{text}",
                "{text}\n\n哪个标签最合适：{labels}？",
            ),
            "en": (
                "Choose the label that fits best from: {labels}.\n\n{text}",
                "Pick one label for this text: {labels}.\n\n{text}",
                "{text}\n\nWhich label fits best: {labels}?",
            ),
        },
        "spam": {
            "zh": (
                "这条信息是垃圾信息吗？回答“垃圾”或“正常”。\n\n{text}",
                "判断这条短信：垃圾还是正常？\n\n{text}",
                "垃圾信息识别（垃圾、正常）：\n\n{text}",
            ),
            "en": (
                "Is this message spam? Answer spam or ham.\n\n{text}",
                "Classify this message as spam or ham.\n\n{text}",
                "Spam filter (spam, ham):\n\n{text}",
            ),
        },
        "intent": {
            "zh": (
                "用户想做什么？用几个字说出意图。\n\n{text}",
                "说出这句话的意图。\n\n{text}",
                "意图识别：\n\n{text}",
            ),
            "en": (
                "What does the user want? Name the intent in a few words.\n\n{text}",
                "Name the intent of this request.\n\n{text}",
                "Intent detection:\n\n{text}",
            ),
        },
        "translate": {
            "zh": (
                "翻译成{target}：\n\n{text}",
                "把下面的话翻译成{target}。\n\n{text}",
                "请将这段文字译为{target}：\n\n{text}",
                "“{text}”用{target}怎么说？",
            ),
            "en": (
                "Translate into {target}:\n\n{text}",
                "Translate the following text into {target}.\n\n{text}",
                "Please give the {target} translation:\n\n{text}",
                'How do you say "{text}" in {target}?',
            ),
        },
        "correct": {
            "zh": (
                "改正下面文字中的错误，没有错误就原样返回。\n\n{text}",
                "纠正错别字：\n\n{text}",
                "检查并改正这段话里的错字。\n\n{text}",
                "下面这句话有没有写错？给出正确的写法。\n\n{text}",
            ),
            "en": (
                "Correct the mistakes; if there are none, return the text unchanged.\n\n{text}",
                "Fix the spelling:\n\n{text}",
                "Proofread this text and correct any errors.\n\n{text}",
                "Rewrite this sentence without mistakes.\n\n{text}",
            ),
        },
        "summarize": {
            "zh": (
                "用一句话概括下面的内容。\n\n{text}",
                "总结这段文字：\n\n{text}",
                "这段话主要讲了什么？\n\n{text}",
            ),
            "en": (
                "Summarize this text in one sentence.\n\n{text}",
                "Give a short summary:\n\n{text}",
                "What is this text mainly about?\n\n{text}",
            ),
        },
        "title": {
            "zh": (
                "给下面的内容起一个标题。\n\n{text}",
                "写出这段文字的标题：\n\n{text}",
                "为这段话拟一个合适的题目。\n\n{text}",
            ),
            "en": (
                "Give this text a title.\n\n{text}",
                "Write a title for the following text.\n\n{text}",
                "Title this passage:\n\n{text}",
            ),
        },
        "answer": {
            "zh": (
                "根据资料回答问题，资料中没有就说没有提到。\n\n资料：{passage}\n\n问题：{question}",
                "阅读下面的资料，回答问题。\n\n{passage}\n\n问题：{question}",
                "资料：{passage}\n\n根据以上资料回答：{question}",
            ),
            "en": (
                "Answer from the passage; if it does not say, say so.\n\n"
                "Passage: {passage}\n\nQuestion: {question}",
                "Read the passage and answer the question.\n\n{passage}\n\nQuestion: {question}",
                "Passage: {passage}\n\nUsing only the passage above, answer: {question}",
            ),
        },
        "edit": {
            "zh": ("{instruction}\n\n{input}",),
            "en": ("{instruction}\n\n{input}",),
        },
        "rewrite": {
            "zh": (
                "换一种说法，意思不变。\n\n{text}",
                "改写这句话：\n\n{text}",
                "用别的话表达同样的意思。\n\n{text}",
            ),
            "en": (
                "Say this in other words, keeping the meaning.\n\n{text}",
                "Rewrite this sentence:\n\n{text}",
                "Paraphrase the following text.\n\n{text}",
            ),
        },
    }
)

LABELS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = MappingProxyType(
    {
        "sentiment": {"zh": ("正面", "负面"), "en": ("positive", "negative")},
        "spam": {"zh": ("垃圾", "正常"), "en": ("spam", "ham")},
    }
)
"""The answers of the tasks whose labels are fixed."""

LANGUAGE_NAMES: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {"zh": {"zh": "中文", "en": "英文"}, "en": {"zh": "Chinese", "en": "English"}}
)
"""`LANGUAGE_NAMES[lang][target]`: what `target` is called in an instruction written in `lang`."""

NOT_IN_PASSAGE: Final[Mapping[str, str]] = MappingProxyType(
    {"zh": "资料中没有提到。", "en": "The passage does not say."}
)
"""The answer when the passage has none."""


def instruction(task: str, lang: str, variant: int = 0, **fields: str | Sequence[str]) -> str:
    """The user turn that asks for `task` in `lang`; variant 0 is the canonical phrasing.

    `fields` are the named parts: text; labels (a sequence, listed in the given order); target (a
    language code, "zh" or "en"); passage and question; instruction and input. `variant` may be
    any number and is taken modulo the number of phrasings. Raises InvalidRequest for an unknown
    task, language, target, or for a missing or extra field.
    """
    phrasings = INSTRUCTIONS.get(task, {}).get(lang)
    if phrasings is None:
        raise InvalidRequest(
            f"No instruction for task {task!r} in language {lang!r}. Use one of "
            f"{', '.join(INSTRUCTIONS)} with zh or en.",
            param="lang" if task in INSTRUCTIONS else "task",
        )
    phrasing = phrasings[variant % len(phrasings)]
    wanted = {name for _, name, _, _ in Formatter().parse(phrasing) if name}
    if wanted != set(fields):
        raise InvalidRequest(
            f"An instruction for {task!r} needs {', '.join(sorted(wanted))}, "
            f"but was given {', '.join(sorted(fields)) or 'nothing'}.",
            param="fields",
        )
    return phrasing.format(**{name: _said(name, value, lang) for name, value in fields.items()})


def _said(name: str, value: str | Sequence[str], lang: str) -> str:
    if name == "target" and isinstance(value, str):
        if value not in LANGUAGE_NAMES[lang]:
            raise InvalidRequest(f"Can't name language {value!r}. Use zh or en.", param="target")
        return LANGUAGE_NAMES[lang][value]
    return value if isinstance(value, str) else ("、" if lang == "zh" else ", ").join(value)
