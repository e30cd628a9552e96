"""What a running service says about itself."""

import os
import subprocess
import sys
from datetime import UTC, datetime

from pipelines.stores.service_status import SILENT_S, StatusFile, running_services

NOW = datetime(2026, 3, 1, tzinfo=UTC)


def test_a_service_is_found_with_its_bundle_until_it_says_that_it_is_over(tmp_path):
    status = StatusFile(tmp_path)
    assert running_services(tmp_path) == []
    status.write(bundle="b1", since=NOW)
    status.write(bundle="b2", since=NOW, refused="b3", reason="broken")
    [found] = running_services(tmp_path)
    assert (found.bundle, found.refused, found.process_id) == ("b2", "b3", os.getpid())
    status.remove()
    assert running_services(tmp_path) == []


def test_only_the_time_changes_where_nothing_else_did(tmp_path):
    status = StatusFile(tmp_path)
    status.write(bundle="b1", since=NOW)
    [path] = tmp_path.iterdir()
    os.utime(path, (1, 1))
    inode = path.stat().st_ino
    assert running_services(tmp_path) == []
    status.write(bundle="b1", since=NOW)
    assert path.stat().st_ino == inode
    assert len(running_services(tmp_path)) == 1


def test_a_process_that_is_gone_does_not_count_and_one_elsewhere_does_while_it_gives_signs(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    status = StatusFile(tmp_path)
    status._process_id = child.pid
    status.write(bundle="b1", since=NOW)
    assert running_services(tmp_path) == []
    elsewhere = StatusFile(tmp_path)
    elsewhere._host, elsewhere._path = "another", tmp_path / "another-1.json"
    elsewhere.write(bundle="b1", since=NOW)
    assert [service.host for service in running_services(tmp_path)] == ["another"]
    os.utime(elsewhere._path, (elsewhere._path.stat().st_mtime - SILENT_S - 1,) * 2)
    assert running_services(tmp_path) == []


def test_a_file_that_says_nothing_is_passed_over(tmp_path):
    (tmp_path / "x-1.json").write_text("{")
    assert running_services(tmp_path) == []


def test_a_service_that_starts_removes_what_killed_ones_left(tmp_path):
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()

    def write(name: str, age_s: float = 0, **who: object) -> None:
        other = StatusFile(tmp_path)
        other._host, other._process_id = str(who.get("host", other._host)), int(who.get("process_id", os.getpid()))
        other._path = tmp_path / f"{name}.json"
        other._written = object()  # it does not clean up
        other.write(bundle="b1", since=NOW)
        os.utime(other._path, (other._path.stat().st_mtime - age_s,) * 2)

    write("killed", process_id=child.pid)
    write("silent", 3_600)  # a process that is there may only be slow
    write("elsewhere", 3_600, host="another")
    write("long gone", 100_000, host="another")
    (tmp_path / "odd.json").write_text("{")
    StatusFile(tmp_path).write(bundle="b1", since=NOW)
    left = {path.stem for path in tmp_path.iterdir()} - {StatusFile(tmp_path)._path.stem}
    assert left == {"silent", "elsewhere", "odd"}
