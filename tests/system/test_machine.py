"""CPU and memory bounds, on invented cgroup trees."""

import os
import sys

import pytest

from everycore.errors import ConfigurationError, UnsupportedPlatform
from everycore.system import machine
from everycore.system.machine import WORKER_MEMORY, Bound, cpu_bound, cpu_count, memory_limit, worker_bound

MIB = 2**20


@pytest.fixture
def cgroups(tmp_path):
    """Write /proc/self/cgroup and the files below /sys/fs/cgroup. Returns both as keyword arguments."""

    def write(membership: str, files: dict[str, str]) -> dict:
        paths = {"membership": tmp_path / "cgroup", "root": tmp_path / "sys"}
        paths["membership"].write_text(membership)
        for name, text in files.items():
            path = paths["root"] / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")
        return paths

    return write


def cpus(paths: dict, affinity: int = 8) -> int:
    return cpu_bound(environ={}, affinity=affinity, **paths).count


# CPU, version 2


@pytest.mark.parametrize(
    ("quota", "count"),
    [
        ("max 100000", 8),
        ("100000 100000", 1),
        ("150000 100000", 2),
        ("400000 100000", 4),
        ("10000 100000", 1),
        ("1000 100000", 1),
        ("6400000 100000", 8),
        ("50000 20000", 3),
    ],
)
def test_quota_is_rounded_up_and_capped_by_affinity(cgroups, quota, count):
    assert cpus(cgroups("0::/app\n", {"app/cpu.max": quota})) == count


def test_smallest_quota_of_all_ancestors_binds(cgroups):
    files = {"a/cpu.max": "200000 100000", "a/b/cpu.max": "600000 100000", "a/b/c/cpu.max": "max 100000"}
    assert cpus(cgroups("0::/a/b/c\n", files)) == 2


def test_root_binds_in_a_cgroup_namespace(cgroups):
    assert cpus(cgroups("0::/\n", {"cpu.max": "300000 100000"})) == 3


def test_the_limit_of_a_sibling_group_does_not_count(cgroups):
    assert cpus(cgroups("0::/ours\n", {"other/cpu.max": "100000 100000"})) == 8


def test_path_outside_the_namespace_leaves_only_the_root(cgroups):
    files = {"cpu.max": "400000 100000", "up/cpu.max": "100000 100000"}
    assert cpus(cgroups("0::/../up\n", files)) == 4


# CPU, version 1


@pytest.mark.parametrize("mount", ["cpu", "cpu,cpuacct"])
def test_v1_quota(cgroups, mount):
    files = {f"{mount}/app/cpu.cfs_quota_us": "250000", f"{mount}/app/cpu.cfs_period_us": "100000"}
    assert cpus(cgroups("4:cpu,cpuacct:/app\n3:cpuset:/x\n", files)) == 3


def test_v1_no_quota(cgroups):
    files = {"cpu/app/cpu.cfs_quota_us": "-1", "cpu/app/cpu.cfs_period_us": "100000"}
    assert cpus(cgroups("4:cpu:/app\n", files)) == 8


def test_v1_container_sees_its_group_at_the_root(cgroups):
    files = {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "50000"}
    assert cpus(cgroups("4:cpu:/docker/0123\n", files)) == 2


def test_v2_beside_v1(cgroups):
    membership = "4:cpu:/\n0::/app\n"
    assert cpus(cgroups(membership, {"unified/app/cpu.max": "200000 100000"})) == 2


# What may be missing or odd


@pytest.mark.parametrize("membership", ["", "nonsense", "::", "0::", "a:b", "\n\n"])
def test_odd_membership_means_no_limit(cgroups, membership):
    assert cpus(cgroups(membership, {})) == 8


@pytest.mark.parametrize(
    "text", ["", "max", "100000", "100000 0", "-1 100000", "x y", "0 100000", "1e5 100000"]
)
def test_odd_quota_means_no_limit(cgroups, text):
    assert cpus(cgroups("0::/app\n", {"app/cpu.max": text})) == 8


def test_no_cgroups_at_all(tmp_path):
    paths = {"membership": tmp_path / "absent", "root": tmp_path / "absent too"}
    assert cpus(paths) == 8
    assert memory_limit(**paths) is None


# Affinity, PYTHON_CPU_COUNT, reasons


def test_affinity_of_this_process():
    assert cpu_bound(environ={}).count <= len(os.sched_getaffinity(0))
    assert cpu_count() >= 1


def test_reasons(cgroups):
    paths = cgroups("0::/\n", {"cpu.max": "300000 100000"})
    assert cpu_bound(environ={}, affinity=2, **paths) == Bound(2, "the CPUs it may run on")
    assert cpu_bound(environ={}, affinity=4, **paths) == Bound(3, "the CPU quota of its cgroup")


def test_variable_overrides_both(cgroups):
    paths = cgroups("0::/\n", {"cpu.max": "100000 100000"})
    assert cpu_bound(environ={"PYTHON_CPU_COUNT": "16"}, affinity=2, **paths) == Bound(16, "PYTHON_CPU_COUNT")


@pytest.mark.parametrize("text", ["", "default"])
def test_variable_without_a_choice(cgroups, text):
    assert cpu_bound(environ={"PYTHON_CPU_COUNT": text}, affinity=2, **cgroups("", {})).count == 2


@pytest.mark.parametrize("text", ["0", "-1", "x", "1.5", "٣", " 2", "1_0"])
def test_bad_variable_is_named(text):
    with pytest.raises(ConfigurationError, match="PYTHON_CPU_COUNT") as caught:
        cpu_bound(environ={"PYTHON_CPU_COUNT": text})
    assert caught.value.source == "PYTHON_CPU_COUNT"
    assert repr(text) in str(caught.value)


# Memory


def test_memory_v2_smallest_of_all_ancestors(cgroups):
    files = {"a/memory.max": str(512 * MIB), "a/b/memory.max": "max", "memory.max": str(4096 * MIB)}
    assert memory_limit(**cgroups("0::/a/b\n", files)) == 512 * MIB


def test_memory_v1(cgroups):
    files = {
        "memory/memory.limit_in_bytes": "9223372036854771712",
        "memory/app/memory.limit_in_bytes": str(256 * MIB),
    }
    assert memory_limit(**cgroups("7:memory:/app\n", files)) == 256 * MIB


def test_memory_without_limit(cgroups):
    paths = cgroups(
        "7:memory:/\n0::/\n", {"memory/memory.limit_in_bytes": "9223372036854771712", "memory.max": "max"}
    )
    assert memory_limit(**paths) is None


# Workers


@pytest.mark.parametrize(
    ("memory", "count"),
    [(None, 8), (8 * WORKER_MEMORY, 8), (8 * WORKER_MEMORY - 1, 7), (WORKER_MEMORY, 1), (MIB, 1)],
)
def test_workers_are_capped_by_memory(memory, count):
    assert worker_bound(Bound(8, "CPUs"), memory).count == count


def test_the_bound_that_won_is_named():
    assert worker_bound(Bound(2, "CPUs"), 1024 * MIB).reason == "CPUs"
    assert (
        worker_bound(Bound(8, "CPUs"), 200 * MIB).reason == "the memory limit of 200 MiB at 96 MiB a worker"
    )


# Linux


def test_linux_is_required_by_name(monkeypatch):
    machine.require_linux("a cluster")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not machine.is_linux()
    with pytest.raises(UnsupportedPlatform, match="a cluster needs Linux; this is darwin"):
        machine.require_linux("a cluster")
