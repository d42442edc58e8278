"""The live preview route on a real server: valid, hostile and concurrent requests."""

from __future__ import annotations

import io
import json
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import comfy
import numpy as np
import psutil
import pytest
from live_bodies import hostile_bodies
from PIL import Image
from prompts import Prompt, camera, node, render, tiny_prompt
from trainings import when_training


def seen(seed: int, yaw: float = 0.0) -> Prompt:
    """A head of the generator's own, rendered from one camera."""
    return {
        "load": node("LoadGenerator", file="tiny.safetensors"),
        "heads": node("RandomLatent", model=["load", 0], count=1, truncation=1.0, seed=seed),
        "camera": camera(yaw),
        "render": render("load", 1, latents="heads", cameras="camera"),
        "save": {"class_type": "SaveImage", "inputs": {"images": ["render", 0], "filename_prefix": "live"}},
    }


def handle_of(result: comfy.Result) -> str:
    assert (result.status, result.error) == ("success", "")
    return result.outputs["render"]["my3dgen_live"][0]["handle"]


def post(server: comfy.Server, body: bytes, kind: str = "application/json") -> tuple[int, bytes]:
    request = urllib.request.Request(
        f"http://{server.address}/my3dgen/live", body, {"Content-Type": kind}, method="POST"
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


def ask(server: comfy.Server, **fields: Any) -> tuple[int, bytes]:
    return post(server, json.dumps(fields).encode())


def pixels(answer: tuple[int, bytes]) -> np.ndarray:
    assert answer[0] == 200, answer
    return np.asarray(Image.open(io.BytesIO(answer[1]))).astype(int)


@pytest.fixture(scope="module")
def handles(server: comfy.Server) -> list[str]:
    """Two heads in one workflow: a handle lives as long as the model of the last prompt."""
    prompt = seen(1)
    for name, source in seen(2).items():
        if name != "load":
            inputs = {
                key: [f"{value[0]}2", 0] if isinstance(value, list) and value[0] != "load" else value
                for key, value in source["inputs"].items()
            }
            prompt[f"{name}2"] = {**source, "inputs": inputs}
    result = server.run(prompt)
    return [handle_of(result), result.outputs["render2"]["my3dgen_live"][0]["handle"]]


def test_the_live_picture_is_the_rendered_one(server: comfy.Server) -> None:
    result = server.run(seen(1, 25.0))
    live = pixels(ask(server, head=handle_of(result), yaw=25.0, aim="origin"))
    rendered = io.BytesIO()  # the same loss by JPEG: noise of random weights suffers much
    Image.open(server.files(result, "save")[0]).save(rendered, "JPEG", quality=88)
    assert np.abs(live - np.asarray(Image.open(rendered))).mean() < 2
    frames = result.outputs["render"]["my3dgen_frames"][0]
    assert (frames["count"], frames["columns"], frames["type"]) == (1, 1, "temp")
    # A page that was not there hears the same.
    assert server.get("/my3dgen/nodes")["nodes"]["render"] == result.outputs["render"]


def test_hostile_requests_get_a_message_and_the_server_stays(
    server: comfy.Server, handles: list[str]
) -> None:
    before = server.log.read_text().count("Traceback")
    program = psutil.Process(server.process.pid)
    post(server, b"{}")
    memory, threads = program.memory_info().rss, program.num_threads()
    for body in hostile_bodies(handles[0]):
        status, answer = post(server, body)
        assert 400 <= status < 500, body[:200]
        assert json.loads(answer)["error"].endswith(".")
        assert b"Traceback" not in answer
    assert post(server, b"{}", "text/plain")[0] == 415  # what another site's page could send
    assert ask(server, head=handles[0])[0] == 200
    assert server.log.read_text().count("Traceback") == before
    assert program.memory_info().rss - memory < 32 << 20
    assert program.num_threads() <= threads + 2


def test_twenty_clients_at_once_get_their_own_head_or_a_message(
    server: comfy.Server, handles: list[str]
) -> None:
    alone = [pixels(ask(server, head=handle, quality="drag")) for handle in handles]
    assert np.abs(alone[0] - alone[1]).mean() > 1

    def client(number: int) -> int:
        drawn = 0
        for _ in range(3):
            status, body = ask(server, head=handles[number % 2], quality="drag")
            assert status in (200, 409)
            if status == 200:
                drawn += 1
                assert np.array_equal(pixels((status, body)), alone[number % 2])
        return drawn

    with ThreadPoolExecutor(20) as pool:
        assert sum(pool.map(client, range(20))) >= 2


def test_while_a_prompt_trains_live_pictures_wait(server: comfy.Server) -> None:
    handle = handle_of(server.run(seen(3)))
    answers: list[tuple[int, bytes]] = []

    def ask_and_cancel() -> None:
        answers.append(ask(server, head=handle))
        server.interrupt()

    result = server.run(tiny_prompt(train={"steps": 100_000}), when_training(server, 10, ask_and_cancel))
    assert result.status == "interrupted"
    status, body = answers[0]
    assert status == 503
    assert "A prompt is running" in json.loads(body)["error"]
    training = server.get("/my3dgen/training")["trainings"]["train"]
    assert (training["state"], training["total"]) == ("stopped", 100_000)
    assert [step for step, _ in training["curve"]] == list(range(1, training["step"] + 1))
    assert training["step"] >= 10
    assert training["target"].startswith("data:image/jpeg;base64,")
