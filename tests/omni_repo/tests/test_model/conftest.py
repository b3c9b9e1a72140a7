"""Servers for the omni model, and what the command line of the speech tests may say."""

import sys

import pytest

from benchmarks.serving import start_server, stop_server
from sglang_omni.wire import free_ports
from tests.test_model.omni_router_utils import launch_managed_router, patience

pytest_plugins = ["tests.utils"]
QWEN3_OMNI = "Qwen/Qwen3-Omni-30B-A3B-Instruct"


def pytest_addoption(parser):
    parser.addoption("--concurrency", default="16")


@pytest.fixture(scope="session")
def selected_tts_concurrency(pytestconfig):
    return int(pytestconfig.getoption("--concurrency"))


@pytest.fixture(scope="module")
def qwen3_omni_router_server(tmp_path_factory):
    with launch_managed_router(tmp_path_factory, QWEN3_OMNI, "qwen3-omni", "--colocate") as router:
        yield router


@pytest.fixture(scope="module")
def qwen3_omni_talker_server_tp2(tmp_path_factory):
    """One server with its thinker on two GPUs; its log is read by a test."""
    (port,) = free_ports(1)
    log_file = tmp_path_factory.mktemp("server_logs_fp8_tp2") / "server.log"
    cmd = [sys.executable, "-m", "sglang_omni.serve", "--port", str(port), "--model-name", "qwen3-omni"]
    proc = start_server([*cmd, "--thinker-tp-size", "2"], port, patience(), log_file=log_file)
    yield proc, port, log_file
    stop_server(proc)
