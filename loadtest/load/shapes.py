"""Step loads: how many users there are at each moment of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """`users` users until `until_s` seconds after the start."""

    until_s: float
    users: int


def even_steps(users: int, duration_s: float, num_steps: int) -> list[Step]:
    """Rise to `users` in `num_steps` equal steps of equal length.

    >>> even_steps(200, 30, 3)
    [Step(until_s=10.0, users=67), Step(until_s=20.0, users=133), Step(until_s=30.0, users=200)]
    """
    if users < 1:
        raise ValueError(f"users must be at least 1, got {users}")
    if duration_s <= 0:
        raise ValueError(f"duration must be above 0 seconds, got {duration_s}")
    if num_steps < 1:
        raise ValueError(f"steps must be at least 1, got {num_steps}")
    num_steps = min(num_steps, users)
    return [Step(duration_s * i / num_steps, round(users * i / num_steps)) for i in range(1, num_steps + 1)]


def listed_steps(users: Sequence[int], duration_s: float) -> list[Step]:
    """One step of equal length for each listed number of users."""
    if not users or min(users) < 1:
        raise ValueError(f"every step needs at least 1 user, got {list(users)}")
    if duration_s <= 0:
        raise ValueError(f"duration must be above 0 seconds, got {duration_s}")
    return [Step(duration_s * (i + 1) / len(users), count) for i, count in enumerate(users)]


def parse_steps(text: str, users: int, duration_s: float) -> list[Step]:
    """Read `--steps`: a number of even steps ("5"), or the users of each step ("10,50,200")."""
    try:
        numbers = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise ValueError(f'steps must be a number ("5") or users per step ("10,50,200"), got {text!r}') from error
    if len(numbers) == 1:
        return even_steps(users, duration_s, numbers[0])
    return listed_steps(numbers, duration_s)


def users_at(steps: Sequence[Step], elapsed_s: float) -> int | None:
    """Users at this moment; None when the run is over."""
    for step in steps:
        if elapsed_s < step.until_s:
            return step.users
    return None
