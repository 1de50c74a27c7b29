"""A small real tokenizer and small real files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from everloop.model.train_tokenizer import train_tokenizer

CHINESE = (
    "今天天气很好，我们一起去公园散步吧。",
    "他打开窗户，看见院子里的花都开了。",
    "老师说：“学习要有耐心，每天进步一点点。”",
    "晚饭以后，全家人坐在一起喝茶聊天。",
    "这家饭店的菜味道不错，就是上菜有点慢。",
)
ENGLISH = (
    "The weather is fine today, so we are going for a walk in the park. ",
    "She opened the window and saw that the flowers in the yard were out. ",
    "Learning takes patience, said the teacher, and a little work every day. ",
    "After dinner the whole family sat together and drank tea. ",
    "The food in this restaurant is good, but the service is a bit slow. ",
)


def documents(count: int, sentences: int = 6) -> list[str]:
    """Different documents, Chinese and English in turn, of a few paragraphs each."""
    made = []
    for i in range(count):
        pool = CHINESE if i % 2 else ENGLISH
        lines = [f"{pool[(i * 7 + j * j) % 5]}{i * 31 + j}" for j in range(sentences)]
        made.append("\n\n".join(lines))
    return made


@pytest.fixture(scope="session")
def tokenizer_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained byte-level tokenizer with its chat template."""
    path = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(iter(documents(60)), path, vocab_size=400)
    return path


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes bytes, text, or rows as jsonl under tmp_path."""

    def make(name: str, content: bytes | str | list[object]) -> Path:
        if isinstance(content, list):
            content = b"".join(orjson.dumps(row) + b"\n" for row in content)
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return make
