"""What the watchdog concludes: which line stops pytest, which is only reported, and what else people hear of."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tune_mcp.config.signatures import OwnSignatures, rules
from tune_mcp.procfs import Process
from tune_mcp.session.state import Alert
from tune_mcp.supervise.watch.alerts import AlertBook, AlertReader
from tune_mcp.supervise.watch.slow_start import LaunchFacts
from tune_mcp.supervise.watch.watchdog import Senses, Watchdog

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB"
SEGFAULT = "Fatal Python error: Segmentation fault"
PYTEST, SERVER = (100, 1), (101, 2)


@dataclass
class Scene:
    """A pytest and its server as the watchdog sees them; time passes only in ``after``."""

    folder: Path
    own: OwnSignatures = field(default_factory=OwnSignatures)
    variables: dict[str, str] = field(default_factory=dict)
    doubted: frozenset[str] = frozenset()
    at: float = 1000.0
    wall: float = 1_800_000_000.0
    free: int = 1 << 40
    reason: str = ""
    looks: int = 0

    def __post_init__(self) -> None:
        self.tree = {PYTEST: Process(100, "S", 50), SERVER: Process(101, "S", 500)}
        self.log, self.guard = self.folder / "run1.log", self.folder / "guard_run1.jsonl"
        self.log.touch()
        self.dog = Watchdog(
            rules(self.own),
            self.log,
            self.guard,
            LaunchFacts(self.variables, self.folder / "venv/bin/python", self.wall),
            AlertBook(self.folder / "watch.json", self.now),
            Senses(lambda: self.at, self.now, self._table, lambda _: self.free),
            self.doubted,
        )
        self.after(0)

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.wall, UTC)

    def _table(self) -> dict[tuple[int, int], Process]:
        self.looks += 1
        return dict(self.tree)

    def says(self, *lines: str, end: str = "\n") -> None:
        with self.log.open("a") as stream:
            stream.write("".join(line + end for line in lines))

    def reports(self, when: str, outcome: str = "passed", name: str = "t::a") -> None:
        if not self.guard.exists():
            self.guard.write_text(json.dumps({"event": "collected", "ids": ["t::a", "t::b"], "dropped": []}) + "\n")
        with self.guard.open("a") as stream:
            stream.write(json.dumps({"event": "report", "id": name, "when": when, "outcome": outcome}) + "\n")

    def works(self, seconds: float) -> None:
        who = SERVER if SERVER in self.tree else next(iter(self.tree))
        member = self.tree[who]
        self.tree[who] = replace(member, cpu_ticks=member.cpu_ticks + round(seconds * 100))

    def after(self, seconds: float, busy: float = 0.0) -> str:
        """Look every 0.1 s (every second of a long wait); ``busy`` is the share of a core that the server uses."""
        step = 0.1 if seconds <= 20 else 1.0
        for _ in range(max(1, round(seconds / step))):
            passed = step if seconds else 0.0
            self.at, self.wall = self.at + passed, self.wall + passed
            self.works(busy * passed)
            self.reason = self.reason or self.dog.look()
        return self.reason

    def alert(self, name: str) -> Alert:
        return self.dog.book.alerts[name]

    @property
    def open(self) -> set[str]:
        return {name for name, alert in self.dog.book.alerts.items() if not alert.over}


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.rule("WDG-01", "XPY-05")
@pytest.mark.parametrize(
    "line",
    [
        OOM,
        "[2026-06-16 10:00:00 TP0] torch.OutOfMemoryError: CUDA out of memory.",
        "tests/test_x_ci.py::test_a RuntimeError: CUDA error: out of memory",
        SEGFAULT,
        "RuntimeError: NCCL error in: ProcessGroupNCCL.cpp",
        "torch.AcceleratorError: CUDA error: an illegal memory access was encountered",
        "[TP0] Scheduler hit an exception: Traceback (most recent call last):",
        "router worker died unexpectedly",
    ],
)
@pytest.mark.parametrize("end", ["\n", ""], ids=["whole line", "no line end"])
def test_a_crash_after_which_nothing_moves_stops_pytest_within_a_second(scene: Scene, line: str, end: str) -> None:
    scene.after(5, busy=1.0)
    scene.says(line, end=end)

    reason = scene.after(0.9)

    assert line[:60] in reason and "no log line and no processor time" in reason
    assert scene.dog.stopped_by in scene.open


@pytest.mark.rule("WDG-01")
def test_a_crash_whose_process_ended_stops_pytest_although_the_others_are_busy(scene: Scene) -> None:
    scene.after(5, busy=1.0)
    scene.tree[PYTEST] = replace(scene.tree[PYTEST], state="R")
    del scene.tree[SERVER]
    scene.tree[103, 9] = Process(103, "R", 0)
    scene.says(SEGFAULT, "waiting for the server", "waiting for the server")

    assert "process ended: 101" in scene.after(0.3)


@pytest.mark.rule("WDG-01")
def test_a_zombie_counts_as_ended(scene: Scene) -> None:
    scene.after(5, busy=1.0)
    scene.tree[SERVER] = replace(scene.tree[SERVER], state="Z")
    scene.says(OOM)
    assert "process ended" in scene.after(0.3)


@pytest.mark.rule("WDG-01", "XPY-05")
@pytest.mark.parametrize(
    "line",
    [
        "ConnectionRefusedError: Connection refused (retrying /health)",
        "OSError: [Errno 98] Address already in use, trying the next port",
        "AssertionError: the server's router and worker gave 0.4",
        "E   assert 0.4 >= 0.5  # worker health",
        "subprocess.TimeoutExpired: Command 'x' timed out",
        "INFO: worker exited with code 0",
    ],
)
def test_a_line_that_healthy_tests_print_neither_stops_nor_alerts(scene: Scene, line: str) -> None:
    scene.says(line)
    assert scene.after(20) == "" and scene.open == set()


def test_a_socket_below_tmp_path_is_told_with_the_place_whose_path_is_short(scene: Scene) -> None:
    scene.says("E       OSError: AF_UNIX path too long")
    scene.after(1, busy=0.5)
    assert "tempfile.mkdtemp()" in scene.alert("socket path too long").remedy


@pytest.mark.rule("WDG-01")
def test_a_crash_line_while_the_test_goes_on_is_told_and_does_not_stop_it(scene: Scene) -> None:
    scene.says(OOM)
    for _ in range(30):
        assert scene.after(1, busy=0.5) == ""
        scene.says("another sample done")
    assert "CUDA out of memory" in scene.open


@pytest.mark.rule("WDG-01")
@pytest.mark.parametrize("line", [SEGFAULT, "[TP0] sigquit from a child process", OOM])
@pytest.mark.parametrize(
    "reports",
    [[("setup", "passed"), ("call", "failed")], [("setup", "failed")]],
    ids=["after the call", "after a failed set-up"],
)
def test_an_orderly_stop_of_a_server_is_no_crash_whatever_it_prints(
    scene: Scene, line: str, reports: list[tuple[str, str]]
) -> None:
    scene.after(5, busy=1.0)
    for when, outcome in reports:
        scene.reports(when, outcome)
    del scene.tree[SERVER]
    scene.says(line)

    assert scene.after(5) == "", "the test waits a moment after it stopped its server"


def test_a_crash_in_the_next_test_counts_again(scene: Scene) -> None:
    for when in ("setup", "call", "teardown"):
        scene.reports(when)
    scene.says(SEGFAULT)
    assert "segmentation fault" in scene.after(0.9)


@pytest.mark.rule("WDG-01")
def test_what_pytest_itself_reports_is_not_acted_on_at_once(scene: Scene) -> None:
    scene.says(f"E   {OOM}", "E   RuntimeError: NCCL error")
    assert scene.after(5) == ""


@pytest.mark.rule("WDG-01")
def test_a_signature_that_stopped_the_attempt_before_is_only_suspicious_now(tmp_path: Path) -> None:
    scene = Scene(tmp_path, doubted=frozenset({"CUDA out of memory"}))
    scene.says(OOM)
    assert scene.after(20) == ""
    assert "no processor time for 120 s" in scene.after(110)


def test_a_fatal_line_that_nothing_confirms_stops_when_all_stands_still_later(scene: Scene) -> None:
    scene.says(OOM)
    assert scene.after(15, busy=0.5) == ""
    assert scene.after(100) == ""
    assert "CUDA out of memory" in scene.after(30)


@pytest.mark.rule("WDG-01", "FAIL-07")
@pytest.mark.parametrize(
    ("line", "name", "window"),
    [
        ("retrying after CUDA out of memory", "out of memory, only mentioned", 15),
        ("worker 1: CUDA out of memory", "second worker out of memory", 120),
        ("server process exited with code -9", "killed (137)", 120),
        ("OSError: [Errno 28] No space left on device", "disk full", 120),
    ],
)
def test_a_suspicious_line_stops_only_when_nothing_moves_for_its_whole_window(
    scene: Scene, line: str, name: str, window: float
) -> None:
    scene.says(line)
    assert scene.after(window + 30, busy=0.1) == "" and name in scene.open
    assert scene.after(window - 5) == ""
    assert name in scene.after(10) and scene.dog.stopped_by == name


@pytest.mark.parametrize("quote", ["", ">   "])
def test_an_error_in_the_source_that_a_traceback_quotes_is_no_alert(scene: Scene, quote: str) -> None:
    scene.says(f'{quote}        raise RuntimeError("Server exited with code 1.")')
    scene.after(1, busy=0.5)
    assert not scene.open

    scene.says("E           RuntimeError: Server exited with code 1.")
    scene.after(1, busy=0.5)
    assert scene.open == {"server did not start"}


@pytest.mark.rule("FAIL-07")
def test_a_second_worker_out_of_memory_is_told_as_a_launch_into_a_teardown(scene: Scene) -> None:
    scene.says("[worker-1] loading", "worker 1: torch.OutOfMemoryError: CUDA out of memory")
    scene.after(0.2)
    told = scene.alert("second worker out of memory").line()
    assert "as when a server before it is still being torn down" in told and "stay so for 3 s" in told


@pytest.mark.rule("WDG-12")
def test_slow_weights_are_told_as_competition_for_the_disk_and_never_as_a_threshold(scene: Scene) -> None:
    scene.says("Loading safetensors checkpoint shards:  20% Completed | 3/15 [01:40<06:40, 33.41s/it]")
    scene.says("Loading safetensors checkpoint shards: 100% Completed | 15/15 [00:30<00:00,  2.01s/it]")
    scene.after(0.2)
    told = scene.alert("slow weights").line()
    assert "compete for the disk" in told and "33.41s/it" in told
    assert "threshold" not in told


@pytest.mark.rule("WDG-12")
def test_processes_that_sleep_for_the_disk_are_told_and_are_no_standstill(scene: Scene) -> None:
    scene.tree[SERVER] = replace(scene.tree[SERVER], state="D")
    assert scene.after(1000) == ""
    assert "compete for the disk" in scene.alert("disk sleep").line()
    scene.tree[SERVER] = replace(scene.tree[SERVER], state="S")
    scene.after(60, busy=1)
    assert scene.open == {"slow start"}


@pytest.mark.rule("WDG-02", "WDG-03", "WDG-06", "ENV-31")
def test_a_start_over_a_minute_is_told_with_its_evidence_and_never_stops(tmp_path: Path) -> None:
    scene = Scene(tmp_path, variables={"STARTUP_TIMEOUT": "600", "QWEN3_OMNI_ROUTER_WAIT_TIMEOUT": "180"})
    scene.says("ninja: build stopped", "nvcc gen_cutlass_fused_moe_sm90_module.cu")
    assert scene.after(58, busy=1.0) == "" and scene.open == set()

    scene.after(5, busy=1.0)

    slow = scene.alert("slow start")
    assert "60 s after pytest's start" in slow.cause and "FlashInfer JIT" in slow.cause
    assert slow.evidence[:2] == ("ninja: build stopped", "nvcc gen_cutlass_fused_moe_sm90_module.cu")
    assert scene.after(2000, busy=1.0) == "", "the tests' own waits decide"
    scene.says("INFO: Uvicorn running on http://0.0.0.0:8000")
    scene.after(3)
    assert scene.alert("slow start").over == "up after 2063 s"


@pytest.mark.rule("WDG-02")
@pytest.mark.parametrize(
    "line", ["INFO: Application startup complete.", '127.0.0.1 - "GET /health HTTP/1.1" 200 OK', "router is healthy"]
)
def test_a_server_that_answers_within_the_minute_is_no_slow_start(scene: Scene, line: str) -> None:
    scene.says('"GET /health HTTP/1.1" 503 Service Unavailable')
    scene.after(50, busy=1.0)
    scene.says(line)
    scene.after(60, busy=1.0)
    assert "slow start" not in scene.dog.book.alerts


@pytest.mark.rule("WDG-02")
def test_a_test_whose_fixtures_are_up_is_no_slow_start(scene: Scene) -> None:
    scene.reports("setup")
    scene.after(100, busy=1.0)
    assert "slow start" not in scene.dog.book.alerts


@pytest.mark.rule("WDG-02", "WDG-07", "WDG-12")
@pytest.mark.parametrize(
    ("lines", "why", "never"),
    [
        (
            ["Loading safetensors checkpoint shards:  20% Completed | 3/15 [01:40<06:40, 33.41s/it]", "loading"],
            "the log shows slow weights: weights load slowly",
            "FlashInfer",
        ),
        (["starting 8 threads", "thread 8 is up"], "no cause is known; last line: thread 8 is up", "JIT"),
        ([], "no cause is known; last line: (the log is empty)", "JIT"),
        (["Requirement already satisfied: ninja==1.11"], "no cause is known", "FlashInfer"),
        (["router: worker http://127.0.0.1:3001 is unhealthy"], "the log shows router worker unhealthy", "CI_HOME"),
        (["waiting, HF_TOKEN=hf_abcdefghijklmnop"], "HF_TOKEN=[redacted]", "mnop"),
    ],
)
def test_a_slow_start_names_a_cause_only_where_its_own_evidence_stands(
    scene: Scene, lines: list[str], why: str, never: str
) -> None:
    scene.says(*lines)
    scene.after(65, busy=1.0)

    told = scene.alert("slow start").line()

    assert why in told and never not in told


@pytest.mark.rule("WDG-03")
def test_evidence_that_comes_later_amends_the_alert(scene: Scene) -> None:
    scene.after(65, busy=1.0)
    assert "no cause is known" in scene.alert("slow start").cause

    scene.says("[1/9] /usr/local/cuda/bin/nvcc -c gen_cutlass_fused_moe_sm90_module.cu")
    scene.after(5, busy=1.0)

    assert "FlashInfer JIT" in scene.alert("slow start").cause


def test_when_a_start_is_slow_is_data(tmp_path: Path) -> None:
    scene = Scene(tmp_path, own=OwnSignatures.model_validate({"startup": {"after_s": 5}}))
    scene.after(7, busy=1)
    assert scene.open == {"slow start"}


@pytest.mark.rule("WDG-01", "XPY-05")
def test_a_silent_idle_pytest_is_told_after_five_minutes_and_stopped_after_fifteen(scene: Scene) -> None:
    scene.reports("setup")
    scene.after(290)
    assert scene.open == set()
    scene.after(20)
    assert scene.open == {"no progress"}
    assert scene.after(580) == ""
    assert "no progress" in scene.after(20) and scene.dog.stopped_by == "no progress"


@pytest.mark.parametrize("sign", ["log", "processor", "new process"])
def test_any_sign_of_life_ends_the_standstill(scene: Scene, sign: str) -> None:
    scene.reports("setup")
    scene.after(800)
    match sign:
        case "log":
            scene.says("here I am")
        case "processor":
            scene.works(1.0)
        case _:
            scene.tree[200, 7] = Process(200, "S", 0)
    assert scene.after(120) == ""
    assert scene.alert("no progress").over == "it goes on"


@pytest.mark.parametrize("name", ["lock", "module.lock"])
def test_a_standstill_names_the_lock_that_a_killed_build_left(tmp_path: Path, name: str) -> None:
    lock = tmp_path / "ext/py311/mod" / name
    lock.parent.mkdir(parents=True)
    lock.touch()
    scene = Scene(tmp_path, variables={"TORCH_EXTENSIONS_DIR": str(tmp_path / "ext")}, wall=lock.stat().st_mtime + 100)
    scene.reports("setup")
    (lock.parent / "mod.so").touch()

    scene.after(320)

    told = scene.alert("no progress")
    assert str(lock) in told.cause and f"delete {lock}" in told.remedy


def test_a_disk_that_fills_up_is_told_until_it_has_room_again(scene: Scene) -> None:
    scene.reports("setup")
    scene.free = 500 << 20
    scene.after(3, busy=1)
    assert "500 MiB are free" in scene.alert("disk nearly full").line()
    scene.free = 5000 << 20
    scene.after(3, busy=1)
    assert scene.open == set()


def test_a_log_that_grows_without_bound_is_told(scene: Scene) -> None:
    with scene.log.open("r+b") as stream:
        stream.truncate(100 << 20)
    scene.after(3, busy=1)
    assert {"log grows", "log too fast"} <= scene.open
    assert scene.reason == ""


@pytest.mark.parametrize(("jump", "word"), [(3600, "forward"), (-3600, "back")])
def test_a_clock_that_jumps_is_told_and_ends_nothing(scene: Scene, jump: float, word: str) -> None:
    scene.reports("setup")
    scene.after(10, busy=1)
    scene.wall += jump
    assert scene.after(10, busy=1) == ""
    assert f"{word} by 3600 s" in scene.alert("clock jump").cause


@pytest.mark.rule("WDG-11")
def test_the_processes_are_counted_by_the_roles_that_people_know(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commands = {
        100: "python -m pytest tests/test_x_ci.py", 101: "python -m sglang_omni_router --port 1",
        102: "/venv/bin/sgl-omni serve --model m", 103: "python -c from multiprocessing.spawn import spawn_main",
        104: "/usr/local/cuda/bin/nvcc -c a.cu", 105: "ninja -v", 106: "sleep 1",
    }  # fmt: skip
    monkeypatch.setattr("tune_mcp.procfs.command", lambda pid: commands[pid])
    scene = Scene(tmp_path)
    scene.tree = {(pid, pid): Process(pid, "S", 0) for pid in commands}
    scene.after(3, busy=0)

    assert scene.dog.book.processes == {
        "compiler": 2, "pytest": 1, "router": 1, "server": 1, "spawn worker": 1, "other": 1
    }  # fmt: skip
    scene.after(60)
    assert "running: 2 compiler" in scene.alert("slow start").evidence[-1]


def test_a_compiler_that_ends_confirms_no_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tune_mcp.procfs.command", lambda pid: "ninja" if pid == 101 else "python")
    scene = Scene(tmp_path)
    scene.after(5, busy=1)
    ended = scene.tree.pop(SERVER)
    scene.tree[PYTEST] = replace(scene.tree[PYTEST], cpu_ticks=ended.cpu_ticks)
    scene.says(OOM)
    for _ in range(20):
        scene.tree[PYTEST] = replace(scene.tree[PYTEST], cpu_ticks=scene.tree[PYTEST].cpu_ticks + 10)
        assert scene.after(0.1) == ""


def test_the_process_table_is_read_less_often_where_it_is_expensive(tmp_path: Path) -> None:
    def looks(cost: float) -> int:
        scene = Scene(tmp_path)

        def table() -> dict[tuple[int, int], Process]:
            scene.looks += 1
            scene.at += cost
            return dict(scene.tree)

        scene.dog.senses = replace(scene.dog.senses, tree=table)
        scene.after(100)
        return scene.looks

    assert looks(0.0) > 40
    assert looks(0.05) <= 12


def test_a_line_that_comes_without_end_is_told_once_and_costs_little(scene: Scene) -> None:
    for _ in range(20):
        scene.says(*["out of memory somewhere"] * 1000)
        scene.after(0.1, busy=1)
    news = AlertReader(scene.folder / "watch.json")
    assert [one.name for one in news.read()] == ["out of memory, only mentioned"]
    assert news.read() == ()


def test_a_secret_in_a_line_is_not_told(scene: Scene) -> None:
    scene.says(f"{OOM} HF_TOKEN=hf_abcdefghSECRET")
    scene.after(0.2)
    assert "SECRET" not in (scene.folder / "watch.json").read_text()
