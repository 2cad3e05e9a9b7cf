"""Step loads, durations and configs."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch_load.load.config import ENV_CONFIG, LoadConfig, user_class_name
from smartbatch_load.load.durations import parse_duration
from smartbatch_load.load.payloads import PayloadSettings
from smartbatch_load.load.shapes import Step, even_steps, parse_steps, users_at


def test_the_default_run_rises_to_200_in_five_steps() -> None:
    steps = even_steps(200, 30.0, 5)
    assert [step.users for step in steps] == [40, 80, 120, 160, 200]
    assert [step.until_s for step in steps] == [6, 12, 18, 24, 30]


def test_fewer_users_than_steps_make_fewer_steps() -> None:
    assert [step.users for step in even_steps(3, 30, 5)] == [1, 2, 3]


def test_steps_may_be_listed() -> None:
    assert parse_steps("10, 50,200", 1, 30) == [Step(10, 10), Step(20, 50), Step(30, 200)]
    assert parse_steps("2", 10, 30) == [Step(15, 5), Step(30, 10)]


@pytest.mark.parametrize("text", ["", "many", "10,,20", "0,5", "0", "-3"])
def test_other_steps_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"step|user"):
        parse_steps(text, 10, 30)


def test_a_run_ends_with_its_last_step() -> None:
    steps = [Step(1, 5), Step(2, 9)]
    assert [users_at(steps, at) for at in (0, 0.99, 1, 1.99, 2, 50)] == [5, 5, 9, 9, None, None]


@pytest.mark.parametrize(("text", "seconds"), [("30s", 30), ("2m", 120), ("1.5", 1.5), (" 500 ms ", 0.5), ("1h", 3600)])
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "-3s", "0", "10 days", "1e3"])
def test_other_durations_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration must look like"):
        parse_duration(text)


def test_zero_is_a_duration_where_it_makes_sense() -> None:
    assert parse_duration("0s", zero=True) == 0


def test_a_config_survives_the_way_to_another_process() -> None:
    payload = PayloadSettings(formats=("json", "npy-float"), images=Path("/pictures"), bodies=(Path("a.json"),))
    config = LoadConfig(model="m", payload=payload, steps=(Step(1.5, 3),))
    assert LoadConfig.from_env(config.to_env()) == config
    assert LoadConfig.from_env({}) == LoadConfig()
    assert config.from_anywhere().payload.bodies == (Path("a.json").resolve(),)
    with pytest.raises(ValueError, match=ENV_CONFIG):
        LoadConfig.from_env({ENV_CONFIG: '{"steps": 5}'})


def test_user_classes_are_named_after_their_formats() -> None:
    assert [user_class_name(f) for f in ("json", "npy-float", "file")] == ["JsonUser", "NpyFloatUser", "FileUser"]
