"""Nothing that a user sends is ever logged: canaries in every place, and no trace of them."""

from __future__ import annotations

import io
import json
import logging
from pathlib import Path
from typing import Any

import pytest

from everloop.server import log
from tests.server.process import KEY, scripted

CANARY = "canary7f3a"


def test_no_canary_reaches_a_log_or_a_metric(tmp_path: Path) -> None:
    with scripted(tmp_path, log_level="debug") as server:
        with server.client() as http:
            headers = {f"x-{CANARY}": CANARY, "openai-organization": CANARY, "user-agent": CANARY}
            said = [{"role": "user", "content": f"defect:{CANARY}"}]
            for streams in (False, True):
                ask = {"model": "tiny", "messages": said, "stream": streams}
                reply = http.post("/v1/chat/completions", json=ask, headers=headers)
                assert CANARY not in reply.text
            for path, body in [
                ("/v1/completions", {"model": "tiny", "prompt": f"say:{CANARY}"}),
                ("/v1/completions", {"model": "tiny", "prompt": "die:1", "user": CANARY}),
                ("/v1/completions", {"model": CANARY, "prompt": "a"}),
                ("/v1/completions", {"model": "tiny", "prompt": "a", CANARY: 1}),
                ("/v1/completions", {"model": "tiny", "prompt": {CANARY: CANARY}}),
                (f"/v1/engines/{CANARY}/completions", {"prompt": "a"}),
                (f"/v1/{CANARY}", {}),
            ]:
                http.post(path, json=body, headers=headers)
            http.post("/v1/completions", content=f"{{{CANARY}".encode(), headers=headers)
            http.get(f"/v1/models/{CANARY}?{CANARY}={CANARY}", headers=headers)
            http.get("/v1/models", headers={"authorization": f"Bearer {CANARY}"})
            http.request(CANARY.upper().replace("7", "S").replace("3", "E"), "/v1/models")
            metrics = http.get("/metrics").text
        with server.connect() as raw:
            raw.sendall(f"{CANARY} {CANARY}\r\n\r\n".encode())
            raw.recv(65536)
        server.stop()
        text = server.log.read_text()
        assert server.logged(event="defect"), "the defect itself is logged"
        frames = [line["where"] for line in server.logged(event="defect")]
    assert all("scripted.py" in places for places in frames)
    for secret in (CANARY, KEY, KEY[:20]):
        assert secret.lower() not in text.lower()
        assert secret.lower() not in metrics.lower()


def test_a_field_that_is_not_allowed_is_a_defect() -> None:
    with pytest.raises(AssertionError, match="prompt"):
        log.event("request", prompt="x")


@pytest.mark.parametrize("line_of", [log.json_line, log.plain_line])
def test_lines_hold_the_fields_and_no_message_of_an_exception(line_of: Any) -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(log.Formatter(line_of))
    logger = logging.Logger("x")
    logger.addHandler(handler)
    try:
        raise ValueError("secret")
    except ValueError:
        logger.exception("something", extra={"fields": {"status": 500}})
    line = stream.getvalue()
    assert "secret" not in line
    assert "ValueError" in line
    assert "test_log.py" in line
    assert "500" in line
    if line_of is log.json_line:
        assert json.loads(line)["level"] == "error"
