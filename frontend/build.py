"""Build the jar that mends TorchServe's frontend, and run its unit tests.

    python frontend/build.py [--check] [--test]

The jar is committed, so only those who change its sources need a compiler: Debian's `ecj` package on the Java that
SmartBatch brings, or any JDK from 17 on. The bytes are the same each time for the same compiler: entries are sorted and
have one fixed time. What is committed was compiled by ecj; a JDK's javac gives another jar that does the same.

`--check` without a compiler says so and succeeds, that `make check` works for those who write no Java; where CI is set
in the environment it fails.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from smartbatch.server.jvm.command import java_home, site_dir

ROOT = Path(__file__).resolve().parent
JAR = ROOT / "smartbatch-frontend.jar"
ECJ = Path("/usr/share/java/eclipse-jdt-core.jar")
_RELEASE = "17"
_NO_COMPILER = f"no Java compiler: install Debian's `ecj`, or a JDK from {_RELEASE} on"
_ENTRY_TIME = (2026, 1, 1, 0, 0, 0)
_SERVICE = "META-INF/services/org.pytorch.serve.servingsdk.ModelServerEndpoint"
_PROVIDER = "smartbatch.frontend.Plugin\n"


def main(argv: Sequence[str] | None = None) -> int:
    """Build, or compare with what is committed; 1 where they differ or a test fails."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare with the committed jar instead of writing it")
    parser.add_argument(
        "--test", action="store_true", help="run the unit tests (JUnit, which TorchServe's jar carries)"
    )
    options = parser.parse_args(argv)
    if options.check and not compiler() and "CI" not in os.environ:
        print(f"{JAR.name} is not compared with its sources here: {_NO_COMPILER}", file=sys.stderr)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        classes = Path(folder) / "classes"
        compile_sources(ROOT / "src", classes, [])
        built = Path(folder) / JAR.name
        write_jar(classes, built)
        if options.check and entries(built) != entries(JAR):
            print(f"{JAR.name} is not what its sources give: run `make frontend` and commit it", file=sys.stderr)
            return 1
        if not options.check:
            shutil.copyfile(built, partial := JAR.with_suffix(".partial"))
            partial.replace(JAR)  # a server that runs keeps the file that it has open
            print(f"{JAR}: {JAR.stat().st_size:,} bytes")
        return run_tests(Path(folder), built) if options.test else 0


def compiler() -> list[str]:
    """The command that compiles Java here, ecj before javac; empty where there is neither."""
    if ECJ.exists():
        main_class = "org.eclipse.jdt.internal.compiler.batch.Main"
        return [*_java(), "-cp", str(ECJ), main_class, "-proc:none", "-warn:none", f"-{_RELEASE}"]
    javac = shutil.which("javac", path=os.pathsep.join([str(java_home() / "bin"), os.environ.get("PATH", "")]))
    return [] if javac is None else [javac, "-proc:none", "-nowarn", "--release", _RELEASE]


def _java() -> list[str]:
    """For seconds of work, which Java's second compiler would only take part of."""
    return [str(java_home() / "bin" / "java"), "-XX:TieredStopAtLevel=1"]


def compile_sources(sources: Path, classes: Path, class_path: Sequence[Path]) -> None:
    """Compile every .java file under `sources` against TorchServe's jar."""
    if not compiler():
        raise SystemExit(_NO_COMPILER)
    jars = [*class_path, site_dir() / "ts" / "frontend" / "model-server.jar"]
    command = [*compiler(), "-encoding", "UTF-8", "-g:none", "-d", str(classes)]
    command += ["-cp", os.pathsep.join(map(str, jars))]
    finished = subprocess.run([*command, *sorted(map(str, sources.rglob("*.java")))], check=False)
    if finished.returncode:
        raise SystemExit(finished.returncode)


def write_jar(classes: Path, jar: Path) -> None:
    """Pack the classes; what stands in for TorchServe's lies under mended/, so that it is loaded only on purpose."""
    manifest = f"Manifest-Version: 1.0\r\nImplementation-Version: {version()}\r\n\r\n"
    contents = {_SERVICE: _PROVIDER.encode(), "META-INF/MANIFEST.MF": manifest.encode()}
    for path in classes.rglob("*.class"):
        name = path.relative_to(classes).as_posix()
        contents[name if name.startswith("smartbatch/") else f"mended/{name}"] = path.read_bytes()
    with zipfile.ZipFile(jar, "w") as archive:
        for name in sorted(contents, key=lambda name: (name != "META-INF/MANIFEST.MF", name)):
            info = zipfile.ZipInfo(name, _ENTRY_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = 0o644 << 16
            archive.writestr(info, contents[name], compresslevel=9)


def version() -> str:
    """Of SmartBatch, as pyproject.toml has it."""
    found = re.search(r'^version = "(.+)"$', (ROOT.parent / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert found is not None
    return found[1]


def entries(jar: Path) -> list[tuple[str, tuple[int, ...], bytes]]:
    """Each entry's name, time and contents, in order; how they are compressed is zlib's business."""
    with zipfile.ZipFile(jar) as archive:
        return [(info.filename, info.date_time, archive.read(info)) for info in archive.infolist()]


def run_tests(folder: Path, jar: Path) -> int:
    """Compile and run every test class (its name ends in Test)."""
    tests = ROOT / "test"
    classes = folder / "test-classes"
    compile_sources(tests, classes, [jar])
    names = [".".join(path.relative_to(tests).with_suffix("").parts) for path in sorted(tests.rglob("*Test.java"))]
    jars = [classes, jar, site_dir() / "ts" / "frontend" / "model-server.jar"]
    command = [*_java(), "-cp", os.pathsep.join(map(str, jars)), "org.junit.runner.JUnitCore"]
    return subprocess.run([*command, *names], check=False).returncode


if __name__ == "__main__":
    raise SystemExit(main())
