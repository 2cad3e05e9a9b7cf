"""`smartbatch doctor` on a real server: each illness is made, found as its model's worst, and cured by what is printed;
and what else needs models of known times: `tune`, `autoscale`, `target_p95_ms`.

Not here: `batching-cannot-help`, `no-tokens` and `settings`, which would need a model whose times are exact, a port
open to the network, and minutes; tests/unit/control/doctor has them.
"""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from smartbatch.autoscaling.run import Autoscaler, AutoscaleSettings, Event
from smartbatch.doctor.report import Report
from smartbatch.remote.scrape import scrape
from smartbatch.remote.status import describe_workers
from smartbatch.retune.targets import scale_target
from smartbatch_worker.contract.machine import num_cores

from bench.clinic import Clinic, Load, of_model
from tests.archived import checked_here
from tests.conftest import StartServer

pytestmark = [pytest.mark.timeout(600), pytest.mark.mended]
wants_the_machine = pytest.mark.slow
"""What is found by how much CPU there is, and what a model of the server says: not beside other tests."""

BODY = json.dumps({"data": [1.0, 2.0, 3.0, 4.0]}).encode()
SELDOM_S = 0.03
"""Where a few requests tell: a client's pause, which leaves the processor to the tests beside."""


class InProcess(Clinic):
    """Archives are checked in the tests' own process, which has imported what that needs."""

    def archive(self, name: str, *, shape: str = "4", overrides: Mapping[str, str] | None = None, **does: Any) -> None:
        with checked_here():
            super().archive(name, shape=shape, overrides=overrides, **does)


def illnesses(report: Report, model: str) -> list[str]:
    return [finding.illness for finding in of_model(report, model)]


def cure(clinic: Clinic, report: Report, model: str) -> None:
    """Type what is printed of the worst."""
    clinic.cure(of_model(report, model)[0])


@pytest.fixture(scope="module")
def clinic(start: StartServer, tmp_path_factory: pytest.TempPathFactory) -> Clinic:
    store = tmp_path_factory.mktemp("clinic")
    found = InProcess(start(model_store=store), store)
    found.archive("quick")
    found.archive("burns", burns=0.004)
    return found


def test_what_a_registration_says(clinic: Clinic) -> None:
    cores = num_cores()
    clinic.archive("threads", overrides={"threads": str(max(2, cores))})
    ill = {
        "zero": ("quick", "delay-zero", {"batch": 8, "delay_ms": 0}),
        "none": ("quick", "no-worker", {"batch": 8, "delay_ms": 5, "workers": 0}),
        "threads": ("threads", "threads-over-cores", {"batch": 8, "delay_ms": 5, "workers": 2}),
    }
    with ExitStack() as stack:
        for name, (archive, _, settings) in ill.items():
            stack.enter_context(clinic.registered(archive, name, **settings))
        loads = {name: Load(1, BODY, SELDOM_S) for name in ill if name != "none"}
        found = clinic.examine(loads, 1.0)
        for name, (_, illness, _) in ill.items():
            assert illnesses(found, name)[:1] == [illness], found.text()
            cure(clinic, found, name)
        after = clinic.examine(loads, 1.0)
        for name, (_, illness, _) in ill.items():
            assert illness not in illnesses(after, name), after.text()


@pytest.mark.slow  # half a minute; tests/unit/control/doctor has the illness
def test_a_delay_that_brings_nobody(clinic: Clinic) -> None:
    with (
        clinic.registered("quick", "lone", batch=32, delay_ms=60),
        clinic.registered("quick", "four", batch=32, delay_ms=60),
    ):
        loads = {"lone": Load(1, BODY), "four": Load(4, BODY)}
        found = clinic.examine(loads, 3.0)
        assert illnesses(found, "lone") == ["delay-for-nobody"], found.text()
        assert illnesses(found, "four") == ["batch-never-filled"], found.text()
        for model in loads:
            gain = of_model(found, model)[0].gain
            assert gain is not None
            assert gain.before > 50
            assert gain.after < 0.5 * gain.before
            cure(clinic, found, model)
        after = clinic.examine(loads)
        assert not {"delay-for-nobody", "batch-never-filled"} & {f.illness for f in after.findings}, after.text()


@wants_the_machine
def test_batches_of_one_and_forwards_of_one(clinic: Clinic) -> None:
    clinic.archive("singly", burns=0.004, overrides={"micro_batch": "1"})
    for archive, illness, batch in (("burns", "batch-of-one", 1), ("singly", "forwards-of-one", 8)):
        with clinic.registered(archive, archive, batch=batch, delay_ms=5):
            loads = {archive: Load(8, BODY)}
            found = clinic.examine(loads)
            assert illnesses(found, archive)[:1] == [illness], found.text()
            cure(clinic, found, archive)
            after = clinic.examine(loads)
            assert illness not in illnesses(after, archive), after.text()
            (model,) = after.as_dict()["models"]
            assert model["requests_per_s"] > found.as_dict()["models"][0]["requests_per_s"]


@wants_the_machine
def test_more_workers_than_cores(clinic: Clinic) -> None:
    clinic.archive("heavy", burns=0.03)
    with clinic.registered("heavy", "many", batch=2, delay_ms=5, workers=num_cores() + 1):
        loads = {"many": Load(8, BODY)}
        found = clinic.examine(loads)
        assert illnesses(found, "many")[:1] == ["workers-over-cores"], found.text()
        cure(clinic, found, "many")
        assert "workers-over-cores" not in illnesses(clinic.examine(loads), "many")


@wants_the_machine
def test_bodies_and_answers_that_cost_more_than_the_model(clinic: Clinic) -> None:
    clinic.archive("reads", shape="3,*,*", wide="1, 1, 1")
    clinic.archive("writes", wide=20_000)
    picture = io.BytesIO()
    Image.linear_gradient("L").resize((3000, 2000)).convert("RGB").save(picture, "JPEG")
    for model, illness, body in (
        ("reads", "decode-bound", picture.getvalue()),
        ("writes", "response-bound", BODY),
    ):
        with clinic.registered(model, model, batch=8, delay_ms=1):
            found = clinic.examine({model: Load(6, body)})
        assert illness in illnesses(found, model), found.text()


FIXED = {"micro_batch": "8"}  # nothing is measured, which would sleep as well


@pytest.mark.slow  # half a minute of models that sleep
def test_a_queue_too_short_and_a_time_too_short(clinic: Clinic) -> None:
    clinic.archive("short", sleeps=0.2, overrides={**FIXED, "jobQueueSize": "2"})
    clinic.archive("late", sleeps=2.2, overrides={**FIXED, "responseTimeout": "4"})
    clinic.archive("full", sleeps=0.2, overrides={**FIXED, "jobQueueSize": "16"})
    ill = {"short": ("queue-too-short", 8, 24), "late": ("near-timeout", 2, 2), "full": ("overloaded", 4, 40)}
    with ExitStack() as stack:
        for name, (_, batch, _) in ill.items():
            stack.enter_context(clinic.registered(name, name, batch=batch, delay_ms=1))
        loads = {name: Load(count, BODY) for name, (_, _, count) in ill.items()}
        found = clinic.examine(loads, 5.0)
        for name, (illness, _, _) in ill.items():
            assert illnesses(found, name)[:1] == [illness], found.text()
        del loads["full"]  # more clients than it can serve are not cured here
        for name in loads:
            cure(clinic, found, name)
        after = clinic.examine(loads, 5.0)
        for name in loads:
            assert ill[name][0] not in illnesses(after, name), after.text()


@wants_the_machine
def test_a_handler_that_waits(clinic: Clinic) -> None:
    clinic.archive("waits", sleeps=0.05, overrides=FIXED)
    with clinic.registered("waits", "waits", batch=2, delay_ms=1):
        loads = {"waits": Load(8, BODY)}
        found = clinic.examine(loads)
        assert illnesses(found, "waits")[:1] == ["handler-waits"], found.text()
        cure(clinic, found, "waits")
        assert "handler-waits" not in illnesses(clinic.examine(loads), "waits")


def test_answers_that_are_none(clinic: Clinic) -> None:
    clinic.archive("quick_random", overrides={"weights_source": "random"})
    with (
        clinic.registered("quick_random", "quick_random", batch=4, delay_ms=1),
        clinic.registered("quick", "dies", batch=4, delay_ms=1),
        clinic.registered("quick", "fails", batch=4, delay_ms=1),
        clinic.server.management() as client,
    ):
        poison = json.dumps({"data": [666.0, 2.0, 3.0, 4.0]}).encode()
        sent = {"quick_random": BODY, "dies": BODY, "fails": poison}
        loads = {name: Load(1, body, SELDOM_S) for name, body in sent.items()}
        (worker,) = client.describe("dies").workers
        killer = threading.Timer(1.0, os.kill, (worker.pid, signal.SIGKILL))
        killer.start()
        found = clinic.examine(loads, 4.0)
        assert illnesses(found, "quick_random")[:1] == ["random-weights"], found.text()
        assert illnesses(found, "fails")[:1] == ["answers-fail"], found.text()
        assert illnesses(found, "dies")[:1] == ["crash-loop"], found.text()


def test_the_command_says_it_and_ends_by_the_worst(clinic: Clinic) -> None:
    with clinic.registered("quick", "asked", batch=32, delay_ms=60):
        command = [sys.executable, "-m", "smartbatch.cli", "doctor", "asked", "--run-dir", clinic.server.state.run_dir]
        idle = subprocess.run([*command, "--seconds", "1"], capture_output=True, text=True, timeout=120)
        assert idle.returncode == 0, idle.stderr
        assert "no request since the server started" in idle.stdout
        probed = [*command, "--probe", "--clients", "1", "--seconds", "2", "--json"]
        ill = subprocess.run(probed, capture_output=True, text=True, timeout=120)
        assert ill.returncode == 8, ill.stderr
        said = json.loads(ill.stdout)
        assert said["healthy"] is False
        assert said["findings"][0]["illness"] == "delay-for-nobody"
        clinic_command = f"smartbatch retune asked --max-delay-ms 1 --run-dir {clinic.server.state.run_dir}"
        assert said["findings"][0]["cure"] == clinic_command
        wrong = subprocess.run([*command, "--body", "x"], capture_output=True, text=True, timeout=120)
        assert (wrong.returncode, wrong.stderr.count("--probe")) == (2, 2)


@pytest.mark.slow  # half a minute; tests/unit/control/tuning has the search
def test_tune_tries_and_leaves_the_best_behind(clinic: Clinic, tmp_path: Path) -> None:
    run_dir = clinic.server.state.run_dir
    command = [sys.executable, "-m", "smartbatch.cli", "tune", "burns", "--run-dir", run_dir, "--clients", "8"]
    with clinic.registered("burns", "burns", batch=1, delay_ms=1):
        kept = [*command, "--slo-p95-ms", "0.5", "--seconds", "1", "--json"]
        far = subprocess.run(kept, capture_output=True, text=True, timeout=300)
        assert far.returncode == 1, far.stderr
        assert json.loads(far.stdout)["out_of_reach"]["nearest"]["batch_size"] >= 1
        assert [trial["why"] for trial in json.loads(far.stdout)["trials"]] == ["as it is", "to time batches"]
        tuned = [*command, "--seconds", "1.5", "--apply", "--out", str(tmp_path), "--json"]
        done = subprocess.run(tuned, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert found == json.loads((tmp_path / "tuning.json").read_text())
        assert (tmp_path / "tuning.png").stat().st_size > 10_000
        assert 2 <= len(found["trials"]) <= 6
        assert set(found["requests"]) == {"200"}, "no request is lost"
        assert found["best"] == found["serving"]
        with clinic.server.management() as client:
            status = client.describe("burns")
        assert status.batch_size == found["best"]["batch_size"]
        assert len(status.workers) == found["best"]["workers"]


@pytest.mark.slow  # a minute; tests/unit/control/tuning has the parts
@pytest.mark.parametrize("load", ["rate", "trace"])
def test_tune_for_requests_that_wait_for_nobody(clinic: Clinic, tmp_path: Path, load: str) -> None:
    trace = tmp_path / "trace.csv"
    trace.write_text("".join(f"{n // 4 / 5}\n" for n in range(100)))  # four at a time, 20 a second
    given = {"rate": ["--rate", "20"], "trace": ["--trace", str(trace)]}[load]
    run_dir = clinic.server.state.run_dir
    command = [sys.executable, "-m", "smartbatch.cli", "tune", "burns", "--run-dir", run_dir, *given, "--json"]
    with clinic.registered("burns", "burns", batch=32, delay_ms=300):
        tuned = [*command, "--seconds", "5", "--apply", "--out", str(tmp_path)]
        done = subprocess.run(tuned, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        assert set(found["requests"]) == {"200"}, "no request is lost"
        assert found["load"].endswith(" requests/s")
        assert found["clients"] is None
        assert 18 < found["rate"] < 22
        first, *_, best = sorted(found["trials"], key=lambda trial: -trial["p95_ms"])
        assert (first["batch_size"], first["why"]) == (32, "as it is")
        assert best["p95_ms"] < 0.5 * first["p95_ms"]
        assert (tmp_path / "tuning.png").stat().st_size > 10_000


@pytest.mark.slow  # half a minute; tests/unit/control/tuning has the search
def test_tune_frees_a_forward_that_is_held(clinic: Clinic) -> None:
    clinic.archive("alone", burns=0.004, overrides={"micro_batch": "1"})
    run_dir = clinic.server.state.run_dir
    command = [sys.executable, "-m", "smartbatch.cli", "tune", "alone", "--run-dir", run_dir, "--clients", "16"]
    with clinic.registered("alone", "alone", batch=8, delay_ms=5):
        done = subprocess.run(
            [*command, "--seconds", "1.5", "--apply", "--json"], capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout)
        held, free, *_ = found["trials"]
        assert (held["handler"], free["handler"]) == ([], [["micro_batch", "auto"]])
        assert free["requests_per_s"] > 2 * held["requests_per_s"]
        assert found["serving"] == found["best"]
        assert found["best"]["handler"] == [["micro_batch", "auto"]]
        assert found["retune"].endswith(" --set micro_batch=auto")
        assert found["serve"].startswith("SMARTBATCH_MICRO_BATCH=auto smartbatch serve ")
        assert set(found["requests"]) == {"200"}, "no request is lost"
        with clinic.server.management() as client:
            workers = describe_workers(client, client.describe("alone"))
        assert [worker["config"]["micro_batch"] for worker in workers.values()] == ["auto"] * len(workers)
    wrong = subprocess.run([*command, "--allow", "threads"], capture_output=True, text=True, timeout=120)
    assert wrong.returncode == 2
    assert "--allow takes micro_batch, compile, precision; got threads" in wrong.stderr


def test_autoscale_adds_workers_and_takes_them_back(clinic: Clinic) -> None:
    clinic.archive("away", sleeps=0.1, overrides=FIXED)
    run_dir = clinic.server.state.run_dir
    command = [sys.executable, "-m", "smartbatch", "autoscale", "away", "--run-dir", run_dir, "--json"]
    with clinic.registered("away", "away", batch=2, delay_ms=1):
        said: list[Event] = []
        target = scale_target(clinic.endpoints, "away", None, None, 120.0, 120.0, lambda line: None)
        only_said = AutoscaleSettings(objective_s=0.25, max_workers=3, interval_s=0.5, dry_run=True, seconds=60.0)
        dry = Autoscaler(target, only_said, said.append)

        def until_up(event: Event) -> None:
            said.append(event)
            if event.kind == "up":
                dry.ended.set()

        dry.tell = until_up
        with clinic.asking({"away": Load(10, BODY)}):
            dry.run()
        kinds = [event.kind for event in said]
        assert (kinds[0], kinds[-1], "up" in kinds) == ("start", "end", True), kinds
        with clinic.server.management() as client:
            assert len(client.describe("away").workers) == 1, "nothing is changed by a dry run"
        options = ["--slo-p95-ms", "250", "--max-workers", "3", "--interval", "0.5", "--cool-down", "2"]
        with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as scaler:
            assert scaler.stdout is not None
            with clinic.asking({"away": Load(10, BODY)}):
                events = events_until(scaler.stdout, "up")
            events += events_until(scaler.stdout, "down", to=1)
            scaler.terminate()
            events += [json.loads(line) for line in scaler.stdout]
        assert scaler.returncode == 0, "ended by SIGTERM, after what went on then"
        assert not [event for event in events if event["kind"] == "failed"], events
        assert events[-1]["kind"] == "end"
        with clinic.server.management() as client:
            status = client.describe("away")
        assert (len(status.workers), status.pending_requests) == (1, 0)
        (answered,) = {
            sample.labels["status"]
            for sample in scrape(clinic.server.metrics_url).named("smartbatch_http_requests_total", model="away")
        }
        assert answered == "200", "no request was refused, failed or cut off"


def test_batches_are_bounded_by_what_they_may_take(clinic: Clinic) -> None:
    # Each item sleeps 10 ms, one after the other: six of them are late, however fast the machine is.
    clinic.archive("bounded", sleeps=0.01, overrides={"micro_batch": "1", "target_p95_ms": "50"})
    sizes: list[int] = []
    together = threading.Barrier(16)  # the first batch waits for them: nothing is known before it has been answered

    def ask() -> None:
        url = f"{clinic.server.inference_url}/predictions/bounded"
        with requests.Session() as session:
            together.wait()
            for _ in range(20):
                reply = session.post(url, BODY, headers={"Content-Type": "application/json"}, timeout=60)
                assert reply.json() == {"result": [1, 2, 3, 4]}
                assert "X-SmartBatch-Batch-Limit" not in reply.headers, "between worker and frontend"
                sizes.append(int(reply.headers["X-SmartBatch-Batch-Size"]))

    with clinic.registered("bounded", "bounded", batch=32, delay_ms=300), clinic.server.management() as client:
        with ThreadPoolExecutor(16) as pool:
            for asked in [pool.submit(ask) for _ in range(16)]:
                asked.result()
        described = client.describe("bounded", customized=True).customized
        assert described is not None
        assert 1 <= described["batch_limit"] <= 5
        assert max(sizes) > 5, "nothing was known of them at first"
        assert max(sizes[-100:]) <= 5
        samples = scrape(clinic.server.metrics_url)
        assert samples.total("smartbatch_batch_limit", model="bounded") <= 5
        assert samples.total("smartbatch_late_batches_total", model="bounded") >= 1


def events_until(lines: Iterable[str], kind: str, to: int | None = None) -> list[Any]:
    """Read events up to one of a kind, which asks for so many workers."""
    events = []
    for line in lines:
        events.append(json.loads(line))
        if events[-1]["kind"] == kind and to in (None, events[-1]["wanted"]):
            return events
    raise AssertionError(f"no {kind} to {to}: {events}")
