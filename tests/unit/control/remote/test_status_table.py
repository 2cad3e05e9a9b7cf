"""What `smartbatch status` says of the frontend."""

from __future__ import annotations

from smartbatch.remote.status_table import frontend_lines


def test_a_frontend_wholly_mended() -> None:
    frontend = {"frontend": "mended", "version": "1.2", "classes": {"a.B": "mended", "a.C": "mended"}}
    assert frontend_lines(frontend) == ["frontend: mended 1.2, 2 of 2 classes"]


def test_a_class_left_alone_is_said_with_its_reason() -> None:
    frontend = {"frontend": "mended", "version": "1.2", "classes": {"a.B": "another build", "a.C": "mended"}}
    assert frontend_lines(frontend) == [
        "frontend: mended 1.2, 1 of 2 classes",
        "  a.B is left as TorchServe has it: another build",
    ]


def test_torchserves_own() -> None:
    (line,) = frontend_lines({"frontend": "stock"})
    assert "TorchServe's as it came" in line
