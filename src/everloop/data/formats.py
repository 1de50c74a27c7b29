"""How a row of any known layout becomes an example: messages for the chat template, or a raw
prompt and completion. The one place where training data meets task wording.

Layouts, detected by their columns or told:
    messages        {"messages": [{"role", "content"}, …]}                      OpenAI chat
    completion      {"prompt", "completion"}                 raw text, no template
    alpaca          {"instruction", "output"} and perhaps "input", "system", "history"
    sharegpt        {"conversations": [{"from", "value"}, …]}
    question        {"question", "answer"} and perhaps "passage"
    translation     {"en", "zh"}, or {"translation": {"en", "zh"}}
    edit            {"before", "after"} and perhaps "instruction"
    classification  {"text", "label"}
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from everloop.data.clean import clean
from everloop.data.instructions import INSTRUCTIONS, LABELS, instruction
from everloop.data.language import language
from everloop.data.layouts import Layout, bad_row, columns_of, find_layout
from everloop.data.row import Row
from everloop.data.split import document_hash, mix, share
from everloop.errors import DataError

Message = dict[str, str]

_ROLES = {"system": "system", "developer": "system", "user": "user", "assistant": "assistant"}
_SPEAKERS = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant",
    "bot": "assistant", "chatgpt": "assistant", "system": "system",
}  # fmt: skip
_PHRASING_SALT = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """What is asked and what is to be learnt: either `messages`, or `prompt` and `completion`."""

    messages: tuple[Message, ...] = ()
    prompt: str = ""
    completion: str = ""
    task: str = ""
    lang: str = ""

    @property
    def is_raw(self) -> bool:
        """Whether it is a prompt and its completion, without a template."""
        return not self.messages

    @property
    def text(self) -> str:
        """All of its text, for statistics and for finding copies."""
        if self.is_raw:
            return self.prompt + self.completion
        return "\n\n".join(message["content"] for message in self.messages)

    def to_json(self) -> dict[str, Any]:
        """The row that training reads."""
        body: dict[str, Any] = (
            {"prompt": self.prompt, "completion": self.completion}
            if self.is_raw
            else {"messages": list(self.messages)}
        )
        return {**body, "task": self.task, "lang": self.lang}


def to_messages(
    row: Row, layout: Layout | None = None, clean_steps: tuple[str, ...] = ()
) -> Example:
    """The row as an example; a part that is missing, empty or of the wrong type is a DataError
    with file, line and repair."""
    layout = layout or find_layout(row)
    value = columns_of(row)
    missing = [c for c in layout.columns.values() if c not in value]
    if missing:
        raise bad_row(
            row,
            f"column {missing[0]!r} is missing; columns: {', '.join(map(str, value))}.",
            "Give every row the same columns.",
        )
    return _Maker(row, layout, value, clean_steps).make()


class _Maker:
    """One row on its way to an example."""

    def __init__(
        self, row: Row, layout: Layout, value: Mapping[str, Any], steps: tuple[str, ...]
    ) -> None:
        self.row, self.layout, self.value, self.steps = row, layout, value, steps

    def make(self) -> Example:
        make = getattr(self, f"_{self.layout.name}")
        example: Example = make()
        return example

    def _raw(self, part: str) -> Any:
        column = self.layout.columns.get(part)
        return None if column is None else self.value.get(column)

    def _text(self, part: str, *, optional: bool = False) -> str:
        value = self._raw(part)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)  # a label or a cell of a spreadsheet
        if value is None and optional:
            return ""
        column = self.layout.columns.get(part, part)
        if not isinstance(value, str):
            raise self._wrong(f"column {column!r} is {_kind(value)}, not text")
        text = clean(value, self.steps)
        if not text.strip() and not optional:
            raise self._wrong(f"column {column!r} is empty", "Fill it or delete the row.")
        return text

    def _wrong(self, message: str, repair: str = "") -> DataError:
        return bad_row(
            self.row, message + ".", repair or f"This row is read as {self.layout.name!r}."
        )

    def _example(self, messages: Sequence[Message], sample: str, task: str) -> Example:
        return Example(
            messages=tuple(messages), task=task or self.layout.name, lang=self._lang(sample)
        )

    def _lang(self, sample: str) -> str:
        return self.layout.lang or str(self.value.get("lang") or "") or _zh_or_en(sample)

    def _task(self, default: str) -> str:
        return self.layout.task or str(self.value.get("task") or "") or default

    def _asked(self, user: str, answer: str, task: str, system: str = "") -> Example:
        messages = [{"role": "system", "content": system}] if system else []
        messages += [{"role": "user", "content": user}, {"role": "assistant", "content": answer}]
        return self._example(messages, user + answer, task)

    def _phrased(self, task: str, sample: str, lang: str, **fields: str | Sequence[str]) -> str:
        """The canonical wording for half of the texts, one of the others for the rest."""
        value = mix(document_hash(sample), _PHRASING_SALT)
        variant = 0 if share(value) < 0.5 else value % len(INSTRUCTIONS[task][lang])
        return instruction(task, lang, variant, **fields)

    def _messages(self) -> Example:
        turns = self._raw("messages")
        if not isinstance(turns, list) or not turns:
            raise self._wrong(f"messages is {_kind(turns)}, not a list of messages")
        messages = [self._message(turn, i) for i, turn in enumerate(turns)]
        return self._conversation(messages)

    def _message(self, turn: object, i: int) -> Message:
        if not isinstance(turn, dict):
            raise self._wrong(f"messages[{i}] is {_kind(turn)}, not an object")
        if turn.get("tool_calls") or turn.get("function_call") or turn.get("role") == "tool":
            raise self._wrong(
                f"messages[{i}] is a tool call", "Tool calls can't be trained on: leave it out."
            )
        if turn.get("weight", 1) == 0:
            raise self._wrong(
                f"messages[{i}] has weight 0", "End the conversation before it, or leave it out."
            )
        role = turn.get("role")
        if role not in _ROLES:
            raise self._wrong(f"messages[{i}].role is {role!r}", "Use system, user or assistant.")
        content = turn.get("content")
        if isinstance(content, list):  # OpenAI's list of parts
            texts = [p.get("text") if isinstance(p, dict) else None for p in content]
            if not all(isinstance(t, str) for t in texts):
                raise self._wrong(f"messages[{i}].content has parts that aren't text")
            content = "".join(t for t in texts if t)
        return self._said(_ROLES[role], content, f"messages[{i}].content")

    def _said(self, role: str, content: object, where: str) -> Message:
        if not isinstance(content, str):
            raise self._wrong(f"{where} is {_kind(content)}, not text")
        text = clean(content, self.steps)
        if role == "assistant" and not text.strip():
            raise self._wrong(f"{where} is empty: there is nothing to learn")
        return {"role": role, "content": text}

    def _conversation(self, messages: list[Message]) -> Example:
        if not any(m["role"] == "assistant" for m in messages):
            raise self._wrong(
                "no message is the assistant's: there is nothing to learn",
                'Add one with role "assistant".',
            )
        sample = "".join(m["content"] for m in messages if m["role"] != "system")
        return self._example(messages, sample, self._task("chat"))

    def _sharegpt(self) -> Example:
        turns = self._raw("conversations")
        if not isinstance(turns, list) or not turns:
            raise self._wrong(f"conversations is {_kind(turns)}, not a list of turns")
        system = self._text("system", optional=True)
        messages = [{"role": "system", "content": system}] if system else []
        for i, turn in enumerate(turns):
            speaker = turn.get("from", turn.get("role")) if isinstance(turn, dict) else None
            if speaker not in _SPEAKERS:
                raise self._wrong(
                    f"conversations[{i}].from is {speaker!r}", "Use human, gpt or system."
                )
            content = turn.get("value", turn.get("content"))
            messages.append(self._said(_SPEAKERS[speaker], content, f"conversations[{i}].value"))
        return self._conversation(messages)

    def _completion(self) -> Example:
        prompt, completion = self._raw("prompt"), self._text("completion")
        if not isinstance(prompt, str):  # it may be empty: then all is completion
            raise self._wrong(f"column 'prompt' is {_kind(prompt)}, not text")
        return Example(
            prompt=clean(prompt, self.steps),
            completion=completion,
            task=self._task("completion"),
            lang=self._lang(prompt + completion),
        )

    def _alpaca(self) -> Example:
        user = self._text("instruction")
        if given := self._text("input", optional=True):
            user = f"{user}\n\n{given}"
        example = self._asked(
            user, self._text("output"), self._task("instruct"), self._text("system", optional=True)
        )
        return self._with_history(example)

    def _with_history(self, example: Example) -> Example:
        history = self._raw("history")
        if not history:
            return example
        if not isinstance(history, list) or not all(
            isinstance(pair, list) and len(pair) == 2 for pair in history
        ):
            raise self._wrong("column 'history' is not a list of [question, answer]")
        earlier = [
            self._said(role, content, "history")
            for pair in history
            for role, content in zip(("user", "assistant"), pair, strict=True)
        ]
        head = [m for m in example.messages if m["role"] == "system"]
        tail = [m for m in example.messages if m["role"] != "system"]
        return Example(messages=(*head, *earlier, *tail), task=example.task, lang=example.lang)

    def _question(self) -> Example:
        question, answer = self._text("question"), self._text("answer")
        passage = self._text("passage", optional=True)
        if not passage:
            return self._asked(question, answer, self._task("question"))
        lang = self._worded(question)
        user = self._phrased("answer", passage + question, lang, passage=passage, question=question)
        return self._asked(user, answer, self._task("answer"))

    def _translation(self) -> Example:
        english, chinese = self._text("en"), self._text("zh")
        # Each pair is trained in one direction, by its hash: half of them each way.
        value = mix(document_hash(english + chinese), _PHRASING_SALT + 1)
        source, answer, target = (english, chinese, "zh") if value & 1 else (chinese, english, "en")
        worded = ("zh", "en")[value >> 1 & 1]
        user = self._phrased("translate", english, worded, target=target, text=source)
        return self._asked(user, answer, self._task("translate"))

    def _edit(self) -> Example:
        before, after = self._text("before"), self._text("after")
        lang = self._worded(before)
        if asked := self._text("instruction", optional=True):
            user = instruction("edit", lang, instruction=asked, input=before)
            return self._asked(user, after, self._task("edit"))
        user = self._phrased("correct", before, lang, text=before)
        return self._asked(user, after, self._task("correct"))

    def _classification(self) -> Example:
        text, label = self._text("text"), self._text("label")
        label = self.layout.labels.get(label, label)
        lang = self._worded(text)
        task = self._task("")
        if not task:
            task = next((t for t, by in LABELS.items() if label in by[lang]), "classify")
        if task in LABELS or task == "intent":
            user = self._phrased(task, text, lang, text=text)
        else:
            offered = list(dict.fromkeys(self.layout.labels.values()))
            if label not in offered:
                raise self._wrong(
                    f"label {label!r} is not among the labels ({', '.join(offered) or 'none'})",
                    'Name them all: labels = {"0" = "…", "1" = "…"}.',
                )
            known = task if task in ("topic", "classify") else "classify"
            user = self._phrased(known, text, lang, text=text, labels=offered)
        return self._asked(user, label, task)

    def _worded(self, sample: str) -> str:
        lang = self._lang(sample)
        return lang if lang in ("zh", "en") else "en"


def _zh_or_en(sample: str) -> str:
    return "zh" if language(sample) == "zh" else "en"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    if value is None:
        return "empty"
    return names.get(type(value), "a number")
