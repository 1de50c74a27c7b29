"""The page at /: what this is, and how to call it."""

from __future__ import annotations

from html import escape

import everloop

_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>Everloop 生生</title>
<style>body{{font:16px/1.5 system-ui,sans-serif;max-width:46rem;margin:3rem auto;padding:0 1rem}}
pre{{background:#f4f4f4;padding:1rem;overflow:auto}}</style>
<h1>Everloop 生生 {version}</h1>
<p>An OpenAI-compatible API that you own, served from this machine by the model
<code>{model}</code>. 这台机器上的 OpenAI 兼容接口，由您自己的模型回答。</p>
<pre>from openai import OpenAI

client = OpenAI(base_url="{base}", api_key="YOUR_KEY")
answer = client.chat.completions.create(
    model="{model}",
    messages=[{{"role": "user", "content": "今天天气怎么样？"}}],
)
print(answer.choices[0].message.content)</pre>
<pre>curl {base}/models -H "Authorization: Bearer YOUR_KEY"</pre>
<p><code>everloop keys create NAME</code> makes a key. Every path but this page,
<code>/health</code> and <code>/ready</code> needs one; <code>/openapi.json</code> describes them
all.</p>
</html>
"""


def page(base: str, model: str) -> str:
    """HTML for a base URL and the default model."""
    return _PAGE.format(version=everloop.__version__, base=escape(base), model=escape(model))
