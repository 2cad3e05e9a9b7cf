"""Both clients against a real HTTP server whose answers are scripted."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from smartbatch.client import Client
from smartbatch.errors import DeadlineError, ModelNotReadyError, NotRunningError, RequestRefusedError, UsageError
from smartbatch.server.ports import free_ports

from tests.unit.control.client.scripted import FULL, OK, TOKEN, Reply, Scripted

Serve = Callable[..., Scripted]


def test_answer_headers_and_deadline(serve: Serve, make: Any) -> None:
    server = serve(OK)
    with make(server.url, "resnet18", "secret") as client:
        answer = client.predict(
            [[1, 2], [3, 4]], deadline_s=2.5, output="raw", accept="npy", headers={"X-Request-Id": "7"}
        )
    path, headers, body = server.requests[0]
    assert answer.json() == {"result": [1]}
    assert (answer.batch_size, answer.forward_size) == (7, None)
    assert (answer.attempts, answer.url, answer.media_type) == (1, server.url, "application/json")
    assert path == "/predictions/resnet18"
    assert json.loads(body) == {"data": [[1, 2], [3, 4]]}
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Bearer secret"
    assert headers["X-Request-Deadline-Ms"] == "2500"
    assert headers["X-SmartBatch-Output"] == "raw"
    assert headers["Accept"] == "application/x-npy"
    assert headers["X-Request-Id"] == "7"
    assert abs(float(headers["X-Request-Start"]) - time.time()) < 60


def test_headers_of_the_caller_beat_the_clients(serve: Serve, make: Any) -> None:
    server = serve(OK)
    with make(server.url, "m", "secret") as client:
        client.predict(b"x", headers={"Content-Type": "image/jpeg", "Authorization": "Bearer other"})
    headers = server.requests[0][1]
    assert (headers["Content-Type"], headers["Authorization"]) == ("image/jpeg", "Bearer other")


def test_connections_are_reused(serve: Serve, make: Any) -> None:
    server = serve(OK)
    with make(server.url, "m") as client:
        for _ in range(5):
            client.predict(b"x")
    assert len(server.connections) == 1


def test_503_is_retried_and_the_start_of_the_request_stays(serve: Serve, make: Any) -> None:
    server = serve(FULL, FULL, OK)
    with make(server.url, "m") as client:
        answer = client.predict(b"x")
    assert answer.attempts == 3
    assert len({headers["X-Request-Start"] for _, headers, _ in server.requests}) == 1


def test_retry_after_is_waited_for(serve: Serve, make: Any) -> None:
    server = serve((503, {"Retry-After": "1"}, b""), OK)
    with make(server.url, "m") as client:
        answer = client.predict(b"x")
    assert answer.attempts == 2
    assert answer.seconds >= 1


def test_503_until_the_deadline_is_a_refusal(serve: Serve, make: Any) -> None:
    server = serve(FULL)
    with make(server.url, "m") as client, pytest.raises(RequestRefusedError, match="no worker") as caught:
        client.predict(b"x", deadline_s=0.5)
    assert (caught.value.status, caught.value.message) == (503, "Model has no worker")
    assert len(server.requests) > 1


def test_a_refusal_is_told_though_the_last_attempt_ran_out_of_time(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(FULL)
    client = Client(server.url, "m")
    attempt = client._attempt

    def only_the_first_is_in_time(*args: Any) -> Any:
        if server.requests:
            raise DeadlineError("late")
        return attempt(*args)

    monkeypatch.setattr(client, "_attempt", only_the_first_is_in_time)
    with client, pytest.raises(RequestRefusedError, match="no worker") as caught:
        client.predict(b"x", deadline_s=5)
    assert isinstance(caught.value.__cause__, DeadlineError)


def test_a_wait_longer_than_the_deadline_is_not_begun(serve: Serve, make: Any) -> None:
    server = serve((503, {"Retry-After": "3600"}, b"later"))
    with make(server.url, "m") as client, pytest.raises(RequestRefusedError, match="later"):
        client.predict(b"x", deadline_s=5)
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        ((422, {}, b'{"error": {"code": "shape", "message": "3 channels"}}'), RequestRefusedError, "422 shape: 3 chan"),
        ((500, {}, b"Worker died."), RequestRefusedError, "500: Worker died."),
        ((307, {"Location": "http://127.0.0.1:1/"}, b""), RequestRefusedError, "307: HTTP status 307"),
        ((404, {}, b'{"code": 404, "type": "T", "message": "Model not found: m"}'), ModelNotReadyError, "not found"),
    ],
)
def test_other_errors_are_not_retried(serve: Serve, make: Any, reply: Reply, error: type[Exception], text: str) -> None:
    server = serve(reply)
    with make(server.url, "m") as client, pytest.raises(error, match=text):
        client.predict(b"x")
    assert len(server.requests) == 1


def test_nobody_there_is_retried_until_the_deadline(make: Any) -> None:
    url = f"http://127.0.0.1:{free_ports(1)[0]}"
    with make(url, "m") as client, pytest.raises(NotRunningError, match=url):
        client.predict(b"x", deadline_s=0.3)


def test_a_server_that_comes_up_late_still_answers(make: Any) -> None:
    (port,) = free_ports(1)
    late: list[Scripted] = []
    timer = threading.Timer(0.2, lambda: late.append(Scripted(OK, port=port)))
    timer.start()
    with make(f"http://127.0.0.1:{port}", "m") as client:
        answer = client.predict(b"x", deadline_s=30)
    timer.join()
    late[0].end()
    assert answer.attempts > 1


def test_no_answer_in_time_is_a_deadline_error(serve: Serve, make: Any) -> None:
    server = serve(OK)
    server.gate.clear()
    with make(server.url, "m") as client, pytest.raises(DeadlineError, match=r"within 0\.2 s"):
        client.predict(b"x", deadline_s=0.2)


def test_deadline_must_be_ahead(make: Any) -> None:
    with make("http://127.0.0.1:1", "m") as client, pytest.raises(DeadlineError, match="above 0 s, got 0 s"):
        client.predict(b"x", deadline_s=0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"base_url": "127.0.0.1:8080"}, "must begin with http:// or https:// and name a host, got '127.0.0.1:8080'"),
        ({"base_url": "http://"}, "got 'http://'"),
        ({"base_url": []}, "a list of at least one, got none"),
        ({"connect_timeout_s": 0}, "connect_timeout_s must be above 0 s, got 0 s"),
    ],
)
def test_settings_that_cannot_be(make: Any, settings: dict[str, Any], text: str) -> None:
    with pytest.raises(UsageError, match=text):
        make(**{"base_url": "http://127.0.0.1:1", "model": "m", **settings})


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"output": "best"}, "output must be one of auto, raw, topk, .* got 'best'"),
        ({"accept": "xml"}, "accept must be one of json, npy, npz, safetensors, got 'xml'"),
    ],
)
def test_wishes_that_cannot_be(make: Any, given: dict[str, str], text: str) -> None:
    with make("http://127.0.0.1:1", "m") as client, pytest.raises(UsageError, match=text):
        client.predict(b"x", **given)


def test_a_token_that_has_expired_is_read_anew_once(serve: Serve, make: Any) -> None:
    server = serve(TOKEN, OK)
    tokens = iter(["old", "new"])
    with make(server.url, "m", lambda: next(tokens)) as client:
        assert client.predict(b"x").attempts == 2
    assert [headers["Authorization"] for _, headers, _ in server.requests] == ["Bearer old", "Bearer new"]
    server = serve(TOKEN)
    with make(server.url, "m", lambda: "the same") as client, pytest.raises(RequestRefusedError, match="token_refused"):
        client.predict(b"x")
    assert len(server.requests) == 1


class TestSeveralServers:
    def test_a_refused_request_goes_to_another_at_once(self, serve: Serve, make: Any) -> None:
        dead, full, living = f"http://127.0.0.1:{free_ports(1)[0]}", serve((503, {"Retry-After": "60"}, b"")), serve(OK)
        with make([dead, full.url, living.url], "m") as client:
            answers = [client.predict(b"x", deadline_s=30) for _ in range(10)]
        assert {answer.url for answer in answers} == {living.url}
        assert max(answer.attempts for answer in answers) <= 3
        assert len(full.requests) <= 1, "it asked for a minute"

    def test_one_that_was_set_aside_comes_back_when_it_is_ready(
        self, serve: Serve, make: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("smartbatch.client.targets.FIRST_PAUSE_S", 0.01)
        ready = {"/v2/models/m/ready": (503, b"")}
        limping, living = serve(FULL, OK, questions=ready), serve(OK)
        with make([limping.url, living.url], "m") as client:
            while not limping.requests:
                client.predict(b"x")
            while not limping.asked:
                assert client.predict(b"x").url == living.url
            assert client.predict(b"x").url == living.url
            ready["/v2/models/m/ready"] = (200, b"")
            while client.predict(b"x").url != limping.url:
                assert set(limping.asked) == {"/v2/models/m/ready"}

    def test_all_of_them_gone_is_told_at_the_deadline(self, make: Any) -> None:
        urls = [f"http://127.0.0.1:{port}" for port in free_ports(2)]
        with make(urls, "m") as client, pytest.raises(NotRunningError, match="no server answers"):
            client.predict(b"x", deadline_s=0.5)

    def test_the_one_that_owes_the_fewest_answers_is_asked(self, serve: Serve) -> None:
        slow, fast = serve(OK), serve(OK)
        slow.gate.clear()
        with Client([slow.url, fast.url], "m") as client:
            waiting = []
            while not slow.requests:
                waiting.append(threading.Thread(target=client.predict, args=(b"x",)))
                waiting[-1].start()
                waiting[-1].join(0.2)
            assert {client.predict(b"x").url for _ in range(10)} == {fast.url}
            slow.gate.set()
            for thread in waiting:
                thread.join()


class TestIsReady:
    @pytest.mark.parametrize(
        ("questions", "is_ready"),
        [
            ({"/v2/models/m/ready": (200, b"")}, True),
            ({"/v2/models/m/ready": (503, b"")}, False),
            ({"/readyz": (200, b"")}, False),
            ({"/ping": (200, b'{"status": "Healthy"}')}, True),
            ({"/ping": (200, b'{"status": "Partial Healthy"}')}, False),
            ({}, False),
        ],
        ids=["ready", "not yet", "unknown model", "stock", "stock, not yet", "something else"],
    )
    def test_what_servers_say(
        self, serve: Serve, make: Any, questions: dict[str, tuple[int, bytes]], is_ready: bool
    ) -> None:
        server = serve(OK, questions=questions)
        with make(server.url, "m") as client:
            assert client.is_ready() is is_ready

    def test_one_of_several_is_enough_and_nobody_is_not(self, serve: Serve, make: Any) -> None:
        dead = f"http://127.0.0.1:{free_ports(1)[0]}"
        server = serve(OK, questions={"/v2/models/m/versions/2.0/ready": (200, b"")})
        with make([dead, server.url], "m/2.0") as client:
            assert client.is_ready()
        with make(dead, "m") as client:
            assert not client.is_ready(timeout_s=1)
