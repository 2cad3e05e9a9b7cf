"""The frontend's jar: what is in the one that is committed, and its check where nobody can compile."""

from __future__ import annotations

import zipfile

import pytest

from frontend import build

MAX_BYTES = 112_000


def test_the_committed_jar_is_small_and_holds_what_torchserve_looks_for() -> None:
    assert build.JAR.stat().st_size <= MAX_BYTES
    with zipfile.ZipFile(build.JAR) as jar:
        names = set(jar.namelist())
        assert jar.read("META-INF/services/org.pytorch.serve.servingsdk.ModelServerEndpoint").decode().split() == [
            "smartbatch.frontend.Plugin"
        ]
        assert f"Implementation-Version: {build.version()}" in jar.read("META-INF/MANIFEST.MF").decode()
    assert not {name for name in names if name.startswith("org/")}, "they would be loaded though nobody asked"
    sources = {path.relative_to(build.ROOT / "src").with_suffix(".class") for path in build.ROOT.rglob("src/**/*.java")}
    packed = {name.removeprefix("mended/") for name in names}
    assert {path.as_posix() for path in sources} <= packed


def test_without_a_compiler_the_check_is_left_to_ci(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(build, "compiler", list)
    monkeypatch.delenv("CI", raising=False)
    assert build.main(["--check", "--test"]) == 0
    assert "no Java compiler: install Debian's `ecj`" in capsys.readouterr().err
    monkeypatch.setenv("CI", "true")
    with pytest.raises(SystemExit, match="no Java compiler"):
        build.main(["--check", "--test"])
