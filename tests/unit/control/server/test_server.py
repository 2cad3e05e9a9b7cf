"""Settings, generated config, ports, state file, and how the server is found: all without starting one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from smartbatch.commands.options import server_asked
from smartbatch.errors import NotRunningError, StartupError, UsageError
from smartbatch.installation import files
from smartbatch.remote.endpoints import find_endpoints, find_state
from smartbatch.remote.management import ManagementError
from smartbatch.remote.process_identity import live_process, own_birth
from smartbatch.remote.state import STATE_FILE, ServerState, read_state
from smartbatch.server import ports
from smartbatch.server.announce import announcement, example_curl
from smartbatch.server.batching import Batching, count_gpus, resolve_batching
from smartbatch.server.jvm.command import MAIN_CLASS
from smartbatch.server.leftovers import refuse_second
from smartbatch.server.ports import free_ports, is_free, is_loopback
from smartbatch.server.properties import read_properties, write_properties
from smartbatch.server.settings import ServerSettings
from smartbatch.server.start_checks import check_free_space, check_letters, short_tmp_dir
from smartbatch.server.starting import start_server
from smartbatch.server.torchserve_config import torchserve_properties
from smartbatch_worker.contract.description import example_of

from tests.disks import fill
from tests.unit.describing import Says


def settings(tmp_path: Path, **changed: Any) -> ServerSettings:
    return ServerSettings(**{"model_store": tmp_path, "run_dir": tmp_path / "run", **changed})


def state(run_dir: Path, **changed: Any) -> ServerState:
    me = psutil.Process()
    fields = {
        "pid": me.pid,
        "pid_birth": own_birth(),
        "supervisor_pid": me.pid,
        "supervisor_birth": own_birth(),
        "supervisor_drains": True,
        "run_dir": str(run_dir),
        "tmp_dir": str(run_dir / "tmp"),
        "model_store": str(run_dir),
        "inference_url": "http://127.0.0.1:9080",
        "management_url": "http://127.0.0.1:9081",
        "metrics_url": "http://127.0.0.1:9082/metrics",
        "token_auth": False,
        "tls_cert": None,
        "started_at": time.time(),
    }
    run_dir.mkdir(parents=True, exist_ok=True)
    return ServerState(**{**fields, **changed})


class TestSettings:
    def test_loopback_needs_no_token(self, tmp_path: Path) -> None:
        assert not settings(tmp_path, host="127.0.0.1").token_auth
        assert not settings(tmp_path, host="localhost").token_auth

    @pytest.mark.parametrize("where", ["host", "management_host"])
    @pytest.mark.parametrize("host", ["0.0.0.0", "10.1.2.3", "models.example.com"])
    def test_other_addresses_need_tokens(self, tmp_path: Path, where: str, host: str) -> None:
        with pytest.raises(UsageError, match="needs token authorization"):
            settings(tmp_path, **{where: host})
        settings(tmp_path, **{where: host, "token_auth": True})

    @pytest.mark.parametrize(
        ("changed", "message"),
        [
            ({"inference_port": 70000}, "between 0 and 65534, got 70000"),
            ({"inference_port": 8081}, "must differ"),
            ({"model_store": Path("/nowhere")}, "model store must be a folder, got '/nowhere'"),
            ({"base_config": Path("/nowhere")}, "base config must be a file"),
            ({"tls_cert": Path("cert.pem")}, "belong together"),
            ({"host": "::1"}, "IPv4"),
            ({"token_expiration_min": 0.0}, "above 0, got 0"),
        ],
    )
    def test_refuses(self, tmp_path: Path, changed: dict[str, Any], message: str) -> None:
        with pytest.raises(UsageError, match=message):
            settings(tmp_path, **changed)

    def test_free_ports_may_all_be_zero(self, tmp_path: Path) -> None:
        settings(tmp_path, inference_port=0, management_port=0, metrics_port=0)


class TestGeneratedConfig:
    def test_addresses_and_absolute_paths(self, tmp_path: Path) -> None:
        properties, vm_args = torchserve_properties(settings(tmp_path, inference_port=9080), (7001, 7002), 9500)
        assert properties["inference_address"] == "http://127.0.0.1:9080"
        assert properties["grpc_inference_port"] == "7001"
        assert properties["disable_token_authorization"] == "true"
        assert properties["metrics_config"] == str(files() / "config/metrics.yaml")
        assert f"-Dlog4j.configurationFile={files() / 'config/log4j2.xml'}" in vm_args
        assert Path(properties["metrics_config"]).is_file()

    def test_tls_is_for_inference_and_whatever_leaves_the_machine(self, tmp_path: Path) -> None:
        pem = tmp_path / "x.pem"
        pem.touch()
        tls = settings(tmp_path, host="0.0.0.0", management_host="0.0.0.0", token_auth=True, tls_cert=pem, tls_key=pem)
        properties, _ = torchserve_properties(tls, (7001, 7002), 9500)
        assert properties["inference_address"] == "https://0.0.0.0:8080"
        assert properties["management_address"] == "https://0.0.0.0:8081"
        assert properties["metrics_address"] == "http://127.0.0.1:8082"
        assert properties["certificate_file"] == str(pem)

    def test_given_properties_win(self, tmp_path: Path) -> None:
        properties, _ = torchserve_properties(settings(tmp_path, properties={"job_queue_size": "7"}), (1, 2), 3)
        assert properties["job_queue_size"] == "7"

    def test_the_projects_config_keeps_to_loopback_and_the_store(self) -> None:
        shipped = read_properties(files() / "config.properties")
        for which in ("inference", "management", "metrics"):
            assert shipped[f"{which}_address"].startswith("http://127.0.0.1:")
        assert shipped["allowed_urls"] == "(?!)"
        assert shipped["install_py_dep_per_model"] == "false"

    def test_properties_survive_any_path(self, tmp_path: Path) -> None:
        path = tmp_path / "c.properties"
        write_properties(path, {"plain": "a=b", "umlaut": "/tmp/ä", "windows": r"C:\x"})
        assert path.read_text() == "plain=a=b\numlaut=/tmp/\\u00e4\nwindows=C:\\\\x\n"
        with pytest.raises(ValueError, match="one line"):
            write_properties(path, {"x": "a\nb"})

    def test_properties_in_another_encoding_are_said(self, tmp_path: Path) -> None:
        path = tmp_path / "c.properties"
        path.write_bytes(b"model_store=/tmp/\xf6\n")
        with pytest.raises(UsageError, match=rf"{path} must be UTF-8"):
            read_properties(path)


class TestPorts:
    def test_free_ports_differ_and_are_free(self) -> None:
        ports = free_ports(5)
        assert len(set(ports)) == 5
        assert all(is_free(port) for port in ports)

    @pytest.mark.skipif(sys.platform != "linux", reason="names of sockets that are no files")
    def test_a_port_that_another_process_was_given_is_passed_over(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """It binds it a second later; until then the port looks free to everybody."""
        monkeypatch.setattr(ports, "_CANDIDATES", range(31_990, 32_000))
        ask = "from smartbatch.server import ports; ports._CANDIDATES = range(31_990, 32_000); "
        ask += "print(*ports.free_ports(4), flush=True); input()"
        with subprocess.Popen([sys.executable, "-c", ask], stdin=-1, stdout=-1, text=True) as other:
            assert other.stdout is not None
            given = {int(port) for port in other.stdout.readline().split()}
            ours = set(free_ports(4))
            other.communicate("\n")
        assert len(given) == len(ours) == 4
        assert not given & ours
        assert len(free_ports(3)) == 3, "what one that has ended was given is free"

    def test_a_taken_port_stops_the_start_with_the_flag_to_use(self, tmp_path: Path) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            assert not is_free(port)
            with pytest.raises(StartupError, match=rf"inference port {port} .* in use .* --inference-port"):
                start_server(settings(tmp_path, inference_port=port, management_port=0, metrics_port=0))

    def test_loopback(self) -> None:
        assert is_loopback("127.0.0.1")
        assert is_loopback("127.1.2.3")
        assert is_loopback("localhost")
        assert not is_loopback("0.0.0.0")
        assert not is_loopback("example.com")


NO_STATES = (b"", b"{", b"null", b"[]", b"{}", b"\xff\xfe", b'{"pid": "one"}', b"x" * 2_000_000)


def spoil(path: Path, content: bytes) -> None:
    """Put something else where a state file belongs."""
    kept = path.read_text() if path.exists() else ""
    path.unlink(missing_ok=True)
    if content == b"a pipe":
        os.mkfifo(path)
    elif content == b"a folder":
        path.mkdir()
    elif content == b"a link":
        (path.parent / "real.json").write_text(kept)
        path.symlink_to("real.json")
    elif content == b"another folder's":
        path.write_text(json.dumps({**json.loads(kept), "run_dir": str(path.parent.parent)}))
    else:
        path.write_bytes(content)


class TestState:
    def test_is_read_back_and_readable_by_its_owner_only(self, tmp_path: Path) -> None:
        written = state(tmp_path)
        written.write()
        assert read_state(tmp_path) == written
        assert (tmp_path / STATE_FILE).stat().st_mode & 0o777 == 0o600

    def test_another_process_with_the_same_pid_is_not_taken_for_it(self) -> None:
        me = psutil.Process()
        assert live_process(me.pid, own_birth()) == me
        assert live_process(os.getppid(), own_birth()) is None

    def test_a_file_of_an_older_release_is_refused_and_nothing_of_its_server_touched(self, tmp_path: Path) -> None:
        (tmp_path / STATE_FILE).write_text(json.dumps({"pid": 1, "pid_started": 1.5, "supervisor_pid": 77}))
        with pytest.raises(NotRunningError, match=r"older smartbatch: end its server \(pid 77\) by SIGTERM"):
            read_state(tmp_path)
        assert (tmp_path / STATE_FILE).exists()

    def test_missing_and_broken_files_say_so(self, tmp_path: Path) -> None:
        with pytest.raises(NotRunningError, match="no server was started"):
            read_state(tmp_path)
        (tmp_path / STATE_FILE).write_text("{")
        with pytest.raises(NotRunningError, match="cannot read"):
            read_state(tmp_path)

    @pytest.mark.parametrize("content", [*NO_STATES, b"another folder's", b"a pipe", b"a folder", b"a link"])
    def test_a_file_that_names_no_server_does_no_harm(self, tmp_path: Path, content: bytes) -> None:
        run_dir = tmp_path / "run"
        precious = tmp_path / "smartbatch-precious"
        precious.mkdir()
        state(run_dir, tmp_dir=str(precious), pid_birth="gone").write()
        path = run_dir / STATE_FILE
        spoil(path, content)
        with pytest.raises(NotRunningError, match=rf"cannot read {path}: .*serve` moves it aside"):
            read_state(run_dir)
        refuse_second(run_dir)  # as `serve` begins
        assert not os.path.lexists(path)
        assert os.path.lexists(run_dir / f"{STATE_FILE}.unreadable-1")
        assert precious.is_dir()
        spoil(path, b"")
        refuse_second(run_dir)
        assert os.path.lexists(run_dir / f"{STATE_FILE}.unreadable-2")

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root may give files away")
    def test_another_users_file_is_not_believed(self, tmp_path: Path) -> None:
        state(tmp_path).write()
        os.chown(tmp_path / STATE_FILE, 12345, -1)
        with pytest.raises(NotRunningError, match=f"belongs to user id 12345, and this command runs as {os.geteuid()}"):
            read_state(tmp_path)

    def test_whatever_it_says_only_a_servers_temporary_folder_is_removed(self, tmp_path: Path) -> None:
        precious = tmp_path / "precious"
        precious.mkdir()
        gone = state(tmp_path / "run", tmp_dir=str(precious), pid_birth="gone")
        gone.write()
        refuse_second(tmp_path / "run")
        assert precious.is_dir()
        assert not (tmp_path / "run" / STATE_FILE).exists()

    def test_a_living_server_is_found_without_its_state_file(self, tmp_path: Path) -> None:
        run_dir = tmp_path / "run"
        state(run_dir).write()
        spoil(run_dir / STATE_FILE, b"")
        stands_in = [sys.executable, "-c", "input()", MAIN_CLASS, "-f", str(run_dir / "config.properties")]
        with subprocess.Popen(stands_in, stdin=subprocess.PIPE) as jvm:
            with pytest.raises(StartupError, match=rf"a server \(pid {jvm.pid}\) runs in .* is empty.*kill {jvm.pid}"):
                refuse_second(run_dir)
            jvm.communicate(b"\n", timeout=60)
        assert (run_dir / STATE_FILE).exists()

    def test_a_full_disk_leaves_the_file_as_it_was(self, small_disk: Path) -> None:
        written = state(small_disk / "run")
        written.write()
        fill(small_disk)
        with pytest.raises(OSError, match="No space left"):
            replace(written, inference_url="http://127.0.0.1/" + "x" * 9000).write()
        assert read_state(small_disk / "run") == written
        assert [path.name for path in (small_disk / "run").iterdir()] == [STATE_FILE]

    def test_a_second_server_in_the_same_folder_is_refused(self, tmp_path: Path) -> None:
        state(tmp_path / "run").write()
        with pytest.raises(StartupError, match=f"pid {os.getpid()}\\) already runs"):
            start_server(settings(tmp_path, inference_port=0, management_port=0, metrics_port=0))


class TestFinding:
    @pytest.fixture(autouse=True)
    def _in_empty_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        monkeypatch.delenv("SMARTBATCH_RUN_DIR", raising=False)
        monkeypatch.delenv("SMARTBATCH_TOKEN", raising=False)

    def test_the_only_living_server(self) -> None:
        state(Path(".smartbatch/9080")).write()
        state(Path(".smartbatch/9090"), pid_birth="gone").write()
        assert find_state().run_dir == ".smartbatch/9080"
        assert find_endpoints().management_url == "http://127.0.0.1:9081"

    def test_several_must_be_told_apart(self) -> None:
        state(Path(".smartbatch/9080")).write()
        state(Path(".smartbatch/9090"), inference_url="http://127.0.0.1:9090").write()
        with pytest.raises(UsageError, match="9080, 9090"):
            find_state()
        assert find_state(inference_port=9090).inference_url == "http://127.0.0.1:9090"

    @pytest.mark.parametrize("content", NO_STATES)
    def test_an_unreadable_state_file_hides_no_other_server(self, content: bytes) -> None:
        state(Path(".smartbatch/9080")).write()
        Path(".smartbatch/9090").mkdir()
        spoil(Path(".smartbatch/9090") / STATE_FILE, content)
        assert find_state().run_dir == ".smartbatch/9080"
        (Path(".smartbatch/9080") / STATE_FILE).unlink()
        for find in (find_state, find_endpoints):
            with pytest.raises(NotRunningError, match=r"cannot read \.smartbatch/9090/smartbatch\.json: "):
                find()
        assert find_endpoints(management_url="http://127.0.0.1:8081").state is None

    def test_plain_torchserve_on_its_standard_ports_is_the_fallback(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert find_endpoints().inference_url == "http://127.0.0.1:8080"
        assert server_asked(None, None).is_guess
        assert (
            "asking TorchServe's standard ports, http://127.0.0.1:8080, http://127.0.0.1:8081"
            in capsys.readouterr().err
        )
        assert not server_asked(None, None, metrics_url="http://127.0.0.1:8082").is_guess
        assert capsys.readouterr().err == ""
        with pytest.raises(NotRunningError):
            find_endpoints(inference_port=9999)

    def test_an_address_given_wins(self) -> None:
        state(Path(".smartbatch/9080")).write()
        found = find_endpoints(management_url="http://10.0.0.1:8081")
        assert found.management_url == "http://10.0.0.1:8081"
        assert found.state is None


class TestStartChecks:
    def test_a_temporary_folder_too_long_for_sockets_is_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # Not tmp_path, which is as long as this test's name.
        with tempfile.TemporaryDirectory() as short:
            for letters in (72, 73):
                folder = Path(short) / ("x" * (letters - len(short) - 1))
                folder.mkdir()
                monkeypatch.setattr("tempfile.tempdir", str(folder))
                if letters == 73:
                    with pytest.raises(UsageError, match=r"at most 72 bytes.* has 73: set TMPDIR to a shorter one"):
                        short_tmp_dir()
                    assert not list(folder.iterdir())
                else:
                    with socket.socket(socket.AF_UNIX) as fits:
                        fits.bind(str(short_tmp_dir() / ".ts.sock.65535"))

    def test_a_full_disk_is_refused(self, small_disk: Path) -> None:
        with pytest.raises(UsageError, match=rf"no space left on device: {small_disk} has \d+ KiB free"):
            check_free_space([small_disk])
        with pytest.raises(UsageError, match="no space left on device"):
            start_server(
                settings(small_disk, run_dir=small_disk / "run", inference_port=0, management_port=0, metrics_port=0)
            )

    def test_paths_that_java_cannot_spell_are_refused(self, monkeypatch: pytest.MonkeyPatch) -> None:
        check_letters([Path("/tmp/plain")])
        monkeypatch.setattr("locale.nl_langinfo", lambda _: "ANSI_X3.4-1968")
        check_letters([Path("/tmp/plain")])
        with pytest.raises(UsageError, match=r"'/tmp/ö' has letters .*\(ANSI_X3.4-1968\) lacks: set LC_ALL=C.UTF-8"):
            check_letters([Path("/tmp/ö")])


class TestBatching:
    def test_defaults_environment_and_flags(self) -> None:
        assert resolve_batching(None, None, 1, {})[0] == Batching(batch_size=32, max_batch_delay_ms=10, workers=1)
        env = {"MAX_BATCH_SIZE": "64", "MAX_WAIT_TIME": "0.05"}
        assert resolve_batching(None, None, 1, env)[0] == Batching(batch_size=64, max_batch_delay_ms=50, workers=1)
        assert resolve_batching(8, 3, 1, env)[0] == Batching(batch_size=8, max_batch_delay_ms=3, workers=1)

    @pytest.mark.parametrize(("wait", "delay_ms"), [("0", 1), ("0.0001", 1), ("0.0126", 13)])
    def test_rounding_is_said(self, wait: str, delay_ms: int) -> None:
        batching, notes = resolve_batching(None, None, 1, {"MAX_WAIT_TIME": wait})
        assert batching.max_batch_delay_ms == delay_ms
        assert len(notes) == 1

    def test_whole_ms_need_no_note(self) -> None:
        assert resolve_batching(None, None, 1, {"MAX_WAIT_TIME": "0.007"})[1] == []

    @pytest.mark.parametrize(
        ("script", "expected"),
        [(r"printf 'GPU 0: \374\nGPU 1: x\n'", 2), ("exit 1", 0), ("exec /nowhere/at/all", 0)],
    )
    def test_gpus_are_counted_whatever_they_are_called(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, expected: int
    ) -> None:
        smi = tmp_path / "nvidia-smi"
        smi.write_text(f"#!/bin/sh\n{script}\n")
        smi.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        assert count_gpus() == expected
        smi.write_bytes(b"\x7fELF of another machine")
        with pytest.raises(UsageError, match=r"cannot count GPUs.*give --workers"):
            count_gpus()

    @pytest.mark.parametrize(
        "env", [{"MAX_BATCH_SIZE": "many"}, {"MAX_BATCH_SIZE": "0"}, {"MAX_WAIT_TIME": "-1"}, {"MAX_WAIT_TIME": "nan"}]
    )
    def test_refuses(self, env: dict[str, str]) -> None:
        with pytest.raises(UsageError):
            resolve_batching(None, None, 1, env)


def told(input_shape: Any, body: bytes | None = None, content_type: str = "application/json", **config: Any) -> Any:
    """What a worker says of itself."""
    example = None if body is None else example_of(body, content_type)
    return {"pid": 1, "config": {"input_shape": input_shape, **config}, "example": example}


class TestExampleCurl:
    def test_image_model_gets_a_grey_image(self, tmp_path: Path) -> None:
        curl = example_curl(state(tmp_path), "resnet18", told([3, None, None]))
        assert curl == (
            "curl -s http://127.0.0.1:9080/predictions/resnet18 -H 'Content-Type: application/json' "
            "-d '{\"data\": [[0.1, 0.2], [0.3, 0.4]]}'"
        )

    def test_small_shapes_are_filled_and_large_ones_take_a_file(self, tmp_path: Path) -> None:
        assert '{"data": [0.5, 0.5]}' in example_curl(state(tmp_path), "tiny", told([2]))
        assert example_curl(state(tmp_path), "big", told([1, 100, 100])).endswith("-T FILE")
        assert example_curl(state(tmp_path), "any", told(None)).endswith("-T FILE")

    @pytest.mark.parametrize(
        "said", [None, [], "text", {}, {"config": None}, {"config": []}, ManagementError(500, "x")]
    )
    def test_a_handler_that_does_not_describe_itself_is_announced_too(self, tmp_path: Path, said: Any) -> None:
        text = announcement(state(tmp_path), "any", Batching(batch_size=1, max_batch_delay_ms=1, workers=1), Says(said))
        assert text.startswith("any is ready on 1 worker(s)")
        assert text.strip().endswith("-T FILE")

    def test_named_inputs_are_made_up(self, tmp_path: Path) -> None:
        named = {"ids": {"dtype": "int64", "shape": ["L"], "pad": 0}, "on": {"dtype": "bool", "shape": []}}
        curl = example_curl(state(tmp_path), "text", told(None, inputs=named, lengths={"L": [3, 6]}))
        assert '-d \'{"inputs": {"ids": [1, 1, 1], "on": true}}\'' in curl
        assert example_curl(state(tmp_path), "text", told(None, inputs={"x": {"shape": [None]}})).endswith("-T FILE")

    def test_the_archives_example_is_what_is_sent(self, tmp_path: Path) -> None:
        curl = example_curl(state(tmp_path), "mine", told([3, None, None], b'{"inputs": {"a": [1]}}\n'))
        assert curl.endswith("-H 'Content-Type: application/json' -d '{\"inputs\": {\"a\": [1]}}'")

    def test_an_example_that_fits_no_command_line_is_laid_into_the_run_folder(self, tmp_path: Path) -> None:
        curl = example_curl(state(tmp_path), "mine", told([3, None, None], b"\xff\xd8 picture", "image/jpeg"))
        assert curl.endswith(f"-H 'Content-Type: image/jpeg' -T {tmp_path}/example-mine.jpg")
        assert (tmp_path / "example-mine.jpg").read_bytes() == b"\xff\xd8 picture"
        long = told([9999], b"[" + b"1," * 999 + b"1]")
        assert example_curl(state(tmp_path), "long", long).endswith(f"-T {tmp_path}/example-long.json")
        (tmp_path / "example-full.json").mkdir()  # nothing can be written there
        assert example_curl(state(tmp_path), "full", long).endswith("-T FILE")

    def test_tokens_and_certificates_are_part_of_it(self, tmp_path: Path) -> None:
        curl = example_curl(state(tmp_path, token_auth=True, tls_cert="/c.pem"), "tiny", told([1]))
        assert "--cacert /c.pem" in curl
        assert f"Bearer $(smartbatch token show --run-dir {tmp_path})" in curl


def test_a_variable_no_handler_knows_is_said_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="unknown environment variable SMARTBATCH_PRECISON"):
        start_server(settings(tmp_path, env={"SMARTBATCH_PRECISON": "bf16"}))
    with pytest.raises(UsageError, match="SMARTBATCH_UI must be on or off; got 'no'"):
        start_server(settings(tmp_path, env={"SMARTBATCH_UI": "no"}))
    assert not (tmp_path / "run").exists()
