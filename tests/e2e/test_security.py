"""Who is let in: tokens, their renewal, TLS, and what management refuses."""

from __future__ import annotations

import ipaddress
import json
import subprocess
import sys
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import requests
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from smartbatch.client import Client
from smartbatch.errors import NotRunningError, RequestRefusedError
from smartbatch.remote.endpoints import find_endpoints
from smartbatch.remote.key_file import is_expired
from smartbatch.remote.management import ManagementClient, ManagementError
from smartbatch.remote.state import KEY_FILE
from smartbatch.remote.tokens import living_tokens
from smartbatch.server.running import RunningServer

from tests.e2e.browser import browser, needs_chromium

COMMAND = [sys.executable, "-m", "smartbatch.cli"]
BODY = {"data": [1, 2, 3, 4]}


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its RSA key."""
    folder = tmp_path_factory.mktemp("tls")
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "smartbatch test")])
    now = datetime.now(timezone.utc)
    cert = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (folder / "cert.pem").write_bytes(cert.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def guarded(start: Any, certificate: tuple[Path, Path]) -> RunningServer:
    """A server open to the network: tokens and TLS."""
    cert, key = certificate
    server: RunningServer = start(tiny_workers=1, host="0.0.0.0", token_auth=True, tls_cert=cert, tls_key=key)
    return server


def predict(server: RunningServer, token: str | None) -> requests.Response:
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    url = f"{server.inference_url}/predictions/tiny"
    return requests.post(url, json=BODY, headers=headers, verify=server.state.tls_cert, timeout=60)


@pytest.mark.mended
def test_requests_need_the_inference_token(guarded: RunningServer) -> None:
    tokens = living_tokens(guarded.state)
    assert predict(guarded, tokens.inference).json() == {"result": [3, 5, 7, 9]}
    for wrong in (None, "", "guess", tokens.management):
        refused = predict(guarded, wrong)
        assert refused.status_code == 400
        assert refused.json()["error"]["code"] == "token_refused"


@pytest.mark.mended
def test_the_page_is_for_everybody_and_its_figures_are_not(guarded: RunningServer) -> None:
    def get(path: str, token: str | None = None) -> requests.Response:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return requests.get(guarded.inference_url + path, headers=headers, verify=guarded.state.tls_cert, timeout=60)

    assert get("/ui/").ok
    assert get("/openapi.json").ok
    tokens = living_tokens(guarded.state)
    for wrong in (None, "guess", tokens.management):
        refused = get("/ui/metrics", wrong)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "token_refused")
        assert "smartbatch_" not in refused.text
    assert "smartbatch_workers{" in get("/ui/metrics", tokens.inference).text


@pytest.mark.mended
@needs_chromium
def test_the_page_asks_for_the_token(guarded: RunningServer, tmp_path: Path) -> None:
    with browser(tmp_path) as page:
        page.open(f"{guarded.inference_url}/ui/")
        page.wait(page["token-form"].is_displayed, "no token is asked for")
        page.wait_text("connection", "waiting for a token")
        page["token"].send_keys("guess\n")
        page.wait(lambda: not page["token"].get_attribute("value"), "the token is not taken")
        page.wait(page["token-form"].is_displayed, "a wrong token is asked for again")
        page["token"].send_keys(living_tokens(guarded.state).inference + "\n")
        page.wait_text("connection", "live")
        assert not page["token-form"].is_displayed()
        page.choose("tiny")
        page["text"].send_keys(json.dumps(BODY))
        page.send()
        page.wait_text("summary", "Answered in")
        assert json.loads(page["raw"].find_element("tag name", "pre").text) == {"result": [3, 5, 7, 9]}
        kept = page.run("return [localStorage.length, document.cookie, location.href]")
        assert kept == [0, "", f"{guarded.inference_url}/ui/"], "the token is kept in this tab alone"


def test_management_needs_its_own_token(guarded: RunningServer) -> None:
    for wrong in (None, living_tokens(guarded.state).inference):
        with ManagementClient(guarded.management_url, wrong) as client, pytest.raises(ManagementError) as caught:
            client.models()
        assert caught.value.status == 400
    with guarded.management() as client:
        assert [m.model_name for m in client.models()] == ["tiny"]


@pytest.mark.mended
def test_the_client_needs_certificate_and_token(guarded: RunningServer) -> None:
    endpoints = find_endpoints(guarded.run_dir)
    assert endpoints.inference_url.startswith("https://127.0.0.1:")
    with Client(endpoints.inference_url, "tiny", endpoints.inference_token(), verify=endpoints.verify) as client:
        assert client.predict([1, 2, 3, 4]).json() == {"result": [3, 5, 7, 9]}
    stranger = Client(endpoints.inference_url, "tiny", "wrong", verify=endpoints.verify)
    with stranger, pytest.raises(RequestRefusedError, match="token_refused"):
        stranger.predict([1, 2, 3, 4])
    doubter = Client(endpoints.inference_url, "tiny", endpoints.inference_token())
    with doubter, pytest.raises(NotRunningError, match="certificate verify failed"):
        doubter.predict([1, 2, 3, 4])


@pytest.mark.mended
def test_many_rows_need_certificate_and_token(guarded: RunningServer, tmp_path: Path) -> None:
    out = tmp_path / "answers.jsonl"
    command = [*COMMAND, "predict", "-", f"--out={out}", "--model=tiny", f"--run-dir={guarded.run_dir}"]
    subprocess.run(command, input=b"[1, 2, 3, 4]\n[0, 0, 0, 0]\n", check=True)
    answers = [json.loads(line)["answer"] for line in out.read_text().splitlines()]
    assert answers == [{"result": [3, 5, 7, 9]}, {"result": [1, 1, 1, 1]}]


def test_rotation_ends_the_old_token(guarded: RunningServer) -> None:
    old = living_tokens(guarded.state).inference
    command = [*COMMAND, "token", "rotate", "--type=inference", f"--run-dir={guarded.run_dir}"]
    rotated = subprocess.run(command, capture_output=True, text=True, check=True)
    new = rotated.stdout.strip()
    shown = subprocess.run(
        [*COMMAND, "token", "show", f"--run-dir={guarded.run_dir}"], capture_output=True, text=True, check=True
    )
    assert shown.stdout.strip() == new != old
    assert predict(guarded, old).status_code == 400
    assert predict(guarded, new).status_code == 200


def test_keys_are_for_the_owner_only(guarded: RunningServer) -> None:
    assert (guarded.run_dir / "key_file.json").stat().st_mode & 0o777 == 0o600
    assert "Bearer" not in (guarded.run_dir / "logs" / "access_log.log").read_text()


def test_predict_command_finds_token_and_certificate(guarded: RunningServer) -> None:
    result = subprocess.run(
        [*COMMAND, "predict", "-", "--model=tiny", f"--run-dir={guarded.run_dir}"],
        input=json.dumps(BODY).encode(),
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == {"result": [3, 5, 7, 9]}


def test_expired_tokens_are_refused_and_renewed_by_the_command(start: Any) -> None:
    server = start(token_auth=True, token_expiration_min=0.02)  # 1.2 s
    tokens = living_tokens(server.state)
    while not is_expired(tokens.management_expires):
        time.sleep(0.05)
    time.sleep(1)  # the fraction of a second that is_expired forgoes
    outdated = ManagementClient(server.management_url, tokens.management)
    with outdated, pytest.raises(ManagementError, match="Token Authorization failed"):
        outdated.models()
    with server.management() as client:
        assert client.models() == []
    assert living_tokens(server.state).inference != tokens.inference
    assert server.stop().complete


def test_a_token_renewed_by_somebody_else_meanwhile_is_renewed_once_more(guarded: RunningServer) -> None:
    key_file = guarded.run_dir / KEY_FILE
    keys = json.loads(key_file.read_text())
    keys["management"]["key"] = "outdated"
    key_file.write_text(json.dumps(keys))
    with guarded.management() as client:
        assert [m.model_name for m in client.models()] == ["tiny"]
    assert living_tokens(guarded.state).management != "outdated"
    good = key_file.read_text()
    keys = json.loads(good)
    keys["API"]["key"] = keys["management"]["key"] = "guess"  # now nothing helps, and it is said
    key_file.write_text(json.dumps(keys))
    try:
        with guarded.management() as client, pytest.raises(ManagementError, match="Token Authentication failed"):
            client.models()
    finally:
        key_file.write_text(good)


def test_management_stays_on_loopback(guarded: RunningServer) -> None:
    config = (guarded.run_dir / "config.properties").read_text()
    assert "inference_address=https://0.0.0.0:" in config
    assert "management_address=http://127.0.0.1:" in config
    assert "metrics_address=http://127.0.0.1:" in config
