"""The cores that a process may use, from control groups as containers, systemd and Kubernetes make them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from earlybell.inference.cores import available_cores

V2 = "28 23 0:25 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = "32 31 0:29 {root} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct"
V1_MEMORY = "33 31 0:30 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory"
ROOT_MOUNT = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"


@pytest.fixture(autouse=True)
def sixteen_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)), raising=False)


def system(root: Path, mounts: list[str], groups: list[str], files: dict[str, str]) -> Path:
    for name, text in {
        "proc/self/mountinfo": "\n".join([ROOT_MOUNT, *mounts]),
        "proc/self/cgroup": "\n".join(groups),
        **files,
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"{text}\n")
    return root


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000", 16), ("400000 100000", 4), ("150000 100000", 1), ("50000 100000", 1), ("9900000 100000", 16)],
)
def test_version_2_in_a_container(tmp_path: Path, quota: str, cores: int) -> None:
    assert available_cores(system(tmp_path, [V2], ["0::/"], {"sys/fs/cgroup/cpu.max": quota})) == cores


def test_the_tightest_group_around_a_service_counts(tmp_path: Path) -> None:
    files = {
        "sys/fs/cgroup/system.slice/cpu.max": "300000 100000",
        "sys/fs/cgroup/system.slice/earlybell.service/cpu.max": "800000 100000",
        "sys/fs/cgroup/other.slice/cpu.max": "100000 100000",
    }
    assert available_cores(system(tmp_path, [V2], ["0::/system.slice/earlybell.service"], files)) == 3


@pytest.mark.parametrize(("quota", "cores"), [("-1", 16), ("250000", 2)])
@pytest.mark.parametrize("mounted", ["/", "/docker/4f1"])
def test_version_1_seen_from_the_host_and_from_inside(tmp_path: Path, quota: str, cores: int, mounted: str) -> None:
    directory = "sys/fs/cgroup/cpu,cpuacct" + ("/docker/4f1" if mounted == "/" else "")
    files = {f"{directory}/cpu.cfs_quota_us": quota, f"{directory}/cpu.cfs_period_us": "100000"}
    groups = ["12:memory:/docker/4f1", "4:cpu,cpuacct:/docker/4f1", "0::/docker/4f1"]
    assert available_cores(system(tmp_path, [V1_MEMORY, V1.format(root=mounted)], groups, files)) == cores


def test_a_group_outside_the_mount_is_the_mount_itself(tmp_path: Path) -> None:
    system(tmp_path, [V2], ["0::/../../kubepods/pod7"], {"sys/fs/cgroup/cpu.max": "200000 100000"})
    assert available_cores(tmp_path) == 2


@pytest.mark.parametrize("text", ["", "max", "x y", "100000 0"])
def test_what_cannot_be_read_is_no_limit(tmp_path: Path, text: str) -> None:
    assert available_cores(system(tmp_path, [V2], ["0::/"], {"sys/fs/cgroup/cpu.max": text})) == 16


def test_without_control_groups_affinity_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_cores(tmp_path) == 16
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert available_cores(tmp_path) == 1
