"""Client and server, held against each other."""

from __future__ import annotations

import pytest
from smartbatch_load.account.agreement import Account, compare
from smartbatch_load.account.records import Request
from smartbatch_load.account.series import ServerSample


def answers(count: int, batch_size: int) -> list[Request]:
    return [Request(float(i), 0.1, True, 200, batch_size, "npy", "") for i in range(count)]


def server(requests: float, batches: float, failures: float = 0) -> ServerSample:
    return ServerSample(0, requests, failures, batches, requests, None)


def test_equal_accounts_have_no_discrepancy() -> None:
    found = compare(answers(32, 8), 2.0, [server(100, 50), server(132, 54)])
    assert found.requests == Account(client=32, server=32)
    assert found.batches.discrepancy == pytest.approx(0)
    assert (found.rps.client, found.rps.server) == (16, 16)
    assert found.within_limit is True


def test_a_request_the_client_did_not_send_is_noticed() -> None:
    found = compare(answers(32, 8), 2.0, [server(100, 50), server(133, 54)])
    assert found.requests.discrepancy == pytest.approx(1 / 33)
    assert found.within_limit is False


def test_answers_of_the_frontend_are_not_the_workers() -> None:
    refused = Request(1.0, 0.1, False, 503, 0, "npy", "HTTP 503")
    found = compare([*answers(8, 8), refused], 1.0, [server(0, 0), server(8, 1)])
    assert found.within_limit is True


def test_failed_rows_are_no_part_of_the_rate() -> None:
    bad = Request(1.0, 0.1, False, 400, 8, "npy", "HTTP 400")
    found = compare([*answers(7, 8), bad], 1.0, [server(0, 0), server(8, 1, failures=1)])
    assert (found.rps.client, found.rps.server) == (7, 7)
    assert found.within_limit is True


def test_without_counters_nothing_is_claimed() -> None:
    assert compare(answers(8, 8), 1.0, []).within_limit is None
    assert compare([], 0.0, []).to_dict()["requests"] == {"client": None, "server": None, "discrepancy": None}


def test_refusals_are_answers_in_both_accounts() -> None:
    refused = [Request(1.0, 0.1, False, 503, 0, "npy", "HTTP 503")] * 4
    gone = Request(1.0, 0.1, False, 0, 0, "npy", "timed out")
    samples = [ServerSample(0, 0, 0, 0, 0, None, answers=7), ServerSample(1, 8, 0, 1, 8, None, answers=19)]
    found = compare([*answers(8, 8), *refused, gone], 1.0, samples)
    assert found.answers == Account(client=12, server=12)
    assert found.within_limit is True
    one_too_many = [samples[0], ServerSample(1, 8, 0, 1, 8, None, answers=20)]
    assert compare([*answers(8, 8), *refused], 1.0, one_too_many).within_limit is False


def test_a_frontend_as_it_came_tells_nothing_of_answers() -> None:
    assert compare(answers(8, 8), 1.0, [server(0, 0), server(8, 1)]).answers.server is None
