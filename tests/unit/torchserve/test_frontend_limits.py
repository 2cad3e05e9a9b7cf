"""frontend_limits: the largest answer, as TorchServe's frontend works it out."""

from __future__ import annotations

from pathlib import Path

import pytest
from smartbatch_worker.torchserve.frontend_limits import TORCHSERVE_DEFAULT_BYTES, response_limit

JAVA = ("java", "-cp", "x", "org.pytorch.serve.ModelServer")


def test_the_limit_of_the_file_that_the_frontend_reads(tmp_path: Path) -> None:
    (tmp_path / "mine.properties").write_text("# max_response_size=1\nmax_request_size=2\nmax_response_size = 3000 \n")
    (tmp_path / "config.properties").write_text("max_response_size: 4000\n")
    (tmp_path / "empty").mkdir()
    named = (*JAVA, "-f", "mine.properties", "-ncs")
    assert response_limit(named, tmp_path, {}) == 3000
    assert response_limit((*JAVA, "--ts-config-file", str(tmp_path / "mine.properties")), Path("/"), {}) == 3000
    assert response_limit(JAVA, tmp_path, {}) == 4000
    assert response_limit(JAVA, tmp_path / "empty", {}) == TORCHSERVE_DEFAULT_BYTES
    assert response_limit(named, tmp_path, {"TS_CONFIG_FILE": "config.properties"}) == 4000


def test_a_variable_beats_it_where_variables_are_read(tmp_path: Path) -> None:
    path = tmp_path / "config.properties"
    path.write_text("max_response_size=4000\n")
    assert response_limit(JAVA, tmp_path, {"TS_MAX_RESPONSE_SIZE": "5000"}) == 4000
    path.write_text("max_response_size=4000\nenable_envvars_config=true\n")
    assert response_limit(JAVA, tmp_path, {"TS_MAX_RESPONSE_SIZE": "5000"}) == 5000


def test_what_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="absent"):
        response_limit((*JAVA, "-f", "absent"), tmp_path, {})
    (tmp_path / "config.properties").write_text("max_response_size=many\n")
    with pytest.raises(ValueError, match="many"):
        response_limit(JAVA, tmp_path, {})
