"""Every launch starts cold, and nothing outside the slice is ever touched."""

from __future__ import annotations

from pathlib import Path

import pytest
import toy

from tune_mcp.supervise.caches import wipe, wipe_home
from tune_mcp.verbs.start_run import start_run


@pytest.mark.rule("WDG-08", "WDG-09")
def test_a_wiped_cache_is_empty_and_its_neighbours_stay(tmp_path: Path) -> None:
    kernel = tmp_path / "slice/.cache/flashinfer/90a/kernel.so"
    kernel.parent.mkdir(parents=True)
    kernel.write_text("x")
    other = tmp_path / "slice/.torchinductor/graph"
    other.parent.mkdir()
    other.write_text("x")

    assert wipe(tmp_path / "slice", [".cache/absent"]) == (".cache/flashinfer",), "also where nobody names it"

    assert list((tmp_path / "slice/.cache/flashinfer").iterdir()) == []
    assert other.exists()


@pytest.mark.rule("WDG-08")
@pytest.mark.parametrize("relative", ["../outside", "/etc", ".", "link", "a/../../outside"])
def test_a_folder_outside_the_slice_is_refused(tmp_path: Path, relative: str) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    (tmp_path / "slice").mkdir()
    (tmp_path / "slice/kept").write_text("x")
    (tmp_path / "slice/link").symlink_to(outside)

    with pytest.raises(ValueError):
        wipe(tmp_path / "slice", [relative])

    assert (outside / "precious").exists() and (tmp_path / "slice/kept").exists()


def test_neither_the_root_nor_a_home_is_a_slice() -> None:
    for root in (Path("/"), Path.home()):
        with pytest.raises(ValueError, match="is no slice"):
            wipe(root, [".cache/flashinfer"])


@pytest.mark.rule("WDG-08", "WDG-09", "CIP-03")
@pytest.mark.usefixtures("warm")
def test_each_repeat_of_a_run_finds_the_cache_cold(tmp_path: Path) -> None:
    source = toy.toy_source().replace(
        "    folder = tmp_path_factory.mktemp",
        '    cache = Path(os.environ["OMNI_CI_HOME"]) / ".cache/flashinfer"\n'
        "    assert list(cache.iterdir()) == []\n"
        '    (cache / "kernel.so").write_text("warm")\n'
        "    folder = tmp_path_factory.mktemp",
    )
    cache = tmp_path / "slice/.cache/flashinfer"
    cache.mkdir(parents=True)
    (cache / "stale.so").write_text("x")
    config = {**toy.CONFIG, "auto_env": {"OMNI_CI_HOME": str(tmp_path / "slice")}}
    assert not {"omni_ci_home", "cache_wipes"} & set(config), "what configuration leaves out is no off switch"
    project = toy.make_toy(tmp_path / "repo", test_source=source, config=config)

    reply = start_run(project, toy.MODEL, repeats=2)

    assert toy.wait_until_rest(project, reply.run_id).state == "finished"
    assert [entry.name for entry in cache.iterdir()] == ["kernel.so"]


@pytest.mark.rule("WDG-08", "WDG-09")
@pytest.mark.parametrize("name", ["HOME", "FLASHINFER_WORKSPACE_BASE"])
def test_the_cache_that_flashinfer_itself_uses_is_emptied_where_the_settings_name_it(tmp_path: Path, name: str) -> None:
    cache, other = tmp_path / "home/.cache/flashinfer", tmp_path / "other/.cache/flashinfer"
    for folder in (cache / "0.6/90a", other):
        folder.mkdir(parents=True)
        (folder / "kernel.so").write_text("x")
    settings = {"HOME": str(tmp_path / "other"), name: str(tmp_path / "home")}

    assert wipe_home(settings) == str(cache)
    assert (list(cache.iterdir()), (other / "kernel.so").exists()) == ([], True)
    assert wipe_home({}) == wipe_home({"HOME": "home"}) == wipe_home(settings) == "", "a caller's home is a person's"


def test_a_home_cache_that_a_link_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious/kept").touch()
    (tmp_path / "home/.cache").mkdir(parents=True)
    (tmp_path / "home/.cache/flashinfer").symlink_to(tmp_path / "precious")

    with pytest.raises(ValueError):
        wipe_home({"HOME": str(tmp_path / "home")})
    assert (tmp_path / "precious/kept").exists()
