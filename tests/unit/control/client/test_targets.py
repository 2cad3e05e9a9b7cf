"""Which server is asked, with a clock of the test's own."""

from __future__ import annotations

import pytest
from smartbatch.client.targets import MAX_PAUSE_S, Target, Targets


class Clock:
    """Seconds, as the test sets them."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def targets(clock: Clock) -> Targets:
    return Targets(["http://a", "http://b/", "http://c"], "m", clock)


def picked(targets: Targets, times: int = 50, tried: tuple[Target, ...] = ()) -> set[str]:
    return {targets.pick(tried)[0].base_url for _ in range(times)}


def by_name(targets: Targets) -> dict[str, Target]:
    return {target.base_url[-1]: target for target in targets}


def test_addresses(targets: Targets) -> None:
    assert [target.predictions_url for target in targets] == [f"http://{name}/predictions/m" for name in "abc"]
    assert targets.hosts == {"a", "b", "c"}
    assert len(Targets(["http://a", "http://a/"], "m")) == 1, "one server by two spellings"
    (odd,) = Targets("http://a/base/", "my model/2.0")
    assert odd.predictions_url == "http://a/base/predictions/my%20model/2.0"


def test_the_fewest_outstanding_and_else_any(targets: Targets) -> None:
    assert picked(targets) == {"http://a", "http://b", "http://c"}
    named = by_name(targets)
    with targets.asked(named["a"]), targets.asked(named["b"]):
        assert picked(targets) == {"http://c"}
        with targets.asked(named["c"]), targets.asked(named["c"]):
            assert picked(targets) == {"http://a", "http://b"}
    assert [target.num_outstanding for target in targets] == [0, 0, 0]


def test_a_failed_one_is_set_aside_then_asked_by_one_caller(targets: Targets, clock: Clock) -> None:
    failed = by_name(targets)["a"]
    targets.failed(failed)
    assert picked(targets) == {"http://b", "http://c"}
    clock.now += 0.6
    assert targets.pick() == (failed, True)
    assert picked(targets) == {"http://b", "http://c"}, "somebody asks it already"
    targets.succeeded(failed)
    assert picked(targets) == {"http://a", "http://b", "http://c"}


def test_pauses_double_up_to_a_bound(targets: Targets, clock: Clock) -> None:
    failed = by_name(targets)["a"]
    pauses = []
    for _ in range(12):
        targets.failed(failed)
        pauses.append(failed.aside_until_s - clock.now)
        clock.now = failed.aside_until_s
    assert all(0.5 * 2**n / 2 <= pause <= 0.5 * 2**n for n, pause in enumerate(pauses[:6]))
    assert all(MAX_PAUSE_S / 2 <= pause <= MAX_PAUSE_S for pause in pauses[6:])


def test_failures_of_requests_in_flight_count_once(targets: Targets) -> None:
    failed = by_name(targets)["a"]
    for _ in range(50):
        targets.failed(failed)
    assert failed.num_failures == 1


def test_what_a_server_asks_for_is_kept(targets: Targets, clock: Clock) -> None:
    failed = by_name(targets)["a"]
    targets.failed(failed, retry_after_s=90)
    assert failed.aside_until_s == clock.now + 90


def test_those_that_were_tried_are_asked_last(targets: Targets) -> None:
    named = by_name(targets)
    targets.failed(named["a"])
    assert picked(targets, tried=(named["a"], named["b"])) == {"http://c"}
    assert targets.has_other({named["a"], named["b"]})
    assert not targets.has_other({named["b"], named["c"]})


def test_all_set_aside_the_first_to_come_back_is_asked(targets: Targets, clock: Clock) -> None:
    for name, retry_after_s in {"a": 30, "b": 20, "c": 25}.items():
        targets.failed(by_name(targets)[name], retry_after_s)
    assert targets.pick() == (by_name(targets)["b"], False)


def test_one_alone_is_never_set_aside(clock: Clock) -> None:
    alone = Targets("http://a", "m", clock)
    (target,) = alone
    alone.failed(target, 60)
    assert alone.pick() == (target, False)
