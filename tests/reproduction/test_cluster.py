"""The same graph on a real Slurm of one node, which the test starts on the loopback address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import nbformat
import pytest
import yaml
from small_notebooks import write

from realqa_utils.records import provenance
from realqa_utils.reproduction import notebooks

PROFILE = provenance.home() / "notebooks" / "profiles" / "slurm" / "config.yaml"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "sinfo")
SLURM = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={place}/munge/socket
CredType=cred/munge
StateSaveLocation={place}/state
SlurmdSpoolDir={place}/spool
SlurmctldPidFile={place}/slurmctld.pid
SlurmdPidFile={place}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1
MpiDefault=none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES State=UP
"""
#: What a cluster of one node without accounting needs beside the shipped profile.
HERE = {
    "slurm-status-command": "squeue",
    "slurm-init-seconds-before-status-checks": 1,
    "seconds-between-status-checks": 1,
    "latency-wait": 5,
    "max-threads": 1,
    "default-resources": ["runtime=10", "mem_mb=1"],
}


def _why_not() -> str:
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        return f"not installed: {', '.join(missing)} (Debian: slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "only root can start Slurm's services"


pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "Slurm is here"),
]


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.fixture
def slurm(tmp_path_factory, monkeypatch) -> Iterator[Path]:
    """Slurm, running; its folder."""
    place = tmp_path_factory.mktemp("slurm")
    for name, mode in (("munge", 0o700), ("state", 0o755), ("spool", 0o755), ("bin", 0o755)):
        (place / name).mkdir(mode=mode)
    (place / "munge" / "key").write_bytes(os.urandom(1024))
    (place / "munge" / "key").chmod(0o400)
    host, cpus = socket.gethostname().split(".")[0], os.cpu_count()
    config = place / "slurm.conf"
    config.write_text(SLURM.format(host=host, cpus=cpus, place=place, ports=_free_ports(2)))
    # Within a job the plugin drops SLURM_CONF, which is at its default place on a true cluster.
    wrapped = place / "bin" / "srun"
    wrapped.write_text(f'#!/bin/sh\nSLURM_CONF={config} exec {shutil.which("srun")} "$@"\n')
    wrapped.chmod(0o755)
    monkeypatch.setenv("PATH", f"{place}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("SLURM_CONF", str(config))
    munge = [f"--{name}-file={place}/munge/{name}" for name in ("key", "pid", "log", "seed")]
    socket_ = f"--socket={place}/munge/socket"
    services = [
        ["munged", "--force", "--foreground", *munge, socket_],
        ["slurmctld", "-D", "-f", str(config)],
        ["slurmd", "-D", "-f", str(config)],
    ]
    started = []
    try:
        for command in services:
            with open(place / f"{command[0]}.out", "wb") as log:
                started.append(subprocess.Popen(command, stdout=log, stderr=log))
        _wait_until_idle(place)
        yield place
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def _wait_until_idle(place: Path) -> None:
    for _ in range(120):
        said = subprocess.run(["sinfo", "-ho", "%t"], capture_output=True, text=True)
        if said.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(path.read_text() for path in place.glob("*.out"))
    pytest.fail(f"Slurm did not start: {said.stdout} {said.stderr}\n{logs[-2000:]}")


def test_the_graph_runs_as_jobs_of_slurm(slurm, root, capsys):
    profile = root / "profile" / "config.yaml"
    profile.parent.mkdir()
    profile.write_text(yaml.safe_dump(yaml.safe_load(PROFILE.read_text()) | HERE))
    folder = root / "notebooks"
    write(folder, "05_job", "import os\nprint(os.environ['SLURM_JOB_ID'], seed)")
    write(folder, "06_fails", "1 / 0")
    given = ("smoke", None, {"seed": 3}, folder, str(profile.parent))

    assert notebooks.reproduce(*given) == 1

    assert "06_fails.ipynb: cell [3] ZeroDivisionError: division" in capsys.readouterr().out
    executed = nbformat.read(root / "runs/smoke/notebooks/05_job.ipynb", 4)
    job, seed = executed.cells[-1].outputs[0].text.split()
    assert job.isdecimal() and seed == "3"
    write(folder, "06_fails", "1 / 1")
    assert notebooks.reproduce(*given) == 0
    table = capsys.readouterr().out.split("notebook  ")[-1].splitlines()[1:3]
    assert [line.split()[-1] for line in table] == ["kept", "ok"]
