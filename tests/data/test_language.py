"""Languages by script and words; traditional Chinese is Chinese."""

from __future__ import annotations

import pytest

from everloop.data.language import language


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("今天天气怎么样？我们去公园散步吧。", "zh"),
        ("今天天氣怎麼樣？我們去公園散步吧，這是繁體中文。", "zh"),
        ("佢哋話唔知道點解會咁樣。", "zh"),
        ("好", "zh"),
        ("The weather is fine and we are going for a walk in the park.", "en"),
        ("我用 Python 和 PyTorch 写了一个 Transformer 模型。", "zh"),
        ("The word 天气 means weather in Chinese, and 你好 is what you say to greet.", "en"),
        ("《となりのトトロ》是日本动画电影，由宫崎骏导演，在中国很受欢迎。", "zh"),
        ("今日はとても天気がいいので、公園を散歩しましょう。", "ja"),
        ("오늘은 날씨가 아주 좋아서 공원에서 산책합시다.", "ko"),
        ("Le temps est magnifique aujourd'hui et nous allons nous promener.", "fr"),
        ("Heute ist das Wetter schön und wir gehen im Park spazieren.", "de"),
        ("Сегодня хорошая погода, и мы идём гулять в парк.", "ru"),
        ("12345 67.8 !?", "und"),
        ("", "und"),
        ("😀😀", "und"),
    ],
)
def test_language(text: str, code: str) -> None:
    assert language(text) == code


def test_a_long_text_is_judged_by_both_its_ends() -> None:
    english = "The weather is fine and we are going for a walk. " * 40
    assert language(english + "今天天气很好，我们去公园散步。" * 400) == "zh"
