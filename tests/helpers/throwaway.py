"""A Slurm of our own on the loopback interface: a controller and two nodes on this machine, as root or as any user.

Daemons are started by hand, without systemd or cgroups; everything lies in one folder; every wait has a limit.
"""

import getpass
import os
import secrets
import shutil
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
CONF = """\
ClusterName=throwaway
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock,cred_expire=5
CryptoType=crypto/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd-%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,bf_interval=1
ReturnToService=2
JobRequeue=1
KillWait=5
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=2 RealMemory=8000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=2 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES MaxTime=2880 State=UP
"""


def missing() -> list[str]:
    """The programs of Slurm and munge that are not installed."""
    return [name for name in PROGRAMS if find(name) is None]


def find(name: str) -> str | None:
    """Debian puts daemons where an ordinary user's PATH does not look."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")


def wait_for(ready: Callable[[], object], seconds: float, what: str) -> object:
    """Poll until `ready` gives something true, and return that. Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if found := ready():
            return found
        time.sleep(0.02)
    raise TimeoutError(f"{what} did not happen within {seconds:.0f} s")


class Throwaway:
    """Starts with `start`, ends with `stop`. environment: what the client programs need to find it."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.daemons: list[subprocess.Popen[bytes]] = []
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        for name in [name for name in self.environment if name.startswith("SLURM_") and name != "SLURM_CONF"]:
            del self.environment[name]

    def start(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(secrets.token_bytes(1024))
        key.chmod(0o600)
        conf = CONF.format(host=socket.gethostname(), ports=_free_ports(3), user=getpass.getuser(), folder=self.folder)
        (self.folder / "slurm.conf").write_text(conf)
        files = {"socket": "munge.sock", "pid-file": "munge.pid", "log-file": "munge.log", "seed-file": "munge.seed"}
        options = [f"--{option}={self.folder / name}" for option, name in files.items()]
        self._daemon("munged", "--foreground", "--force", f"--key-file={key}", *options)
        wait_for((self.folder / "munge.sock").exists, 10, "munged's socket")
        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            self._daemon("slurmd", "-D", "-N", node)
        wait_for(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == ["idle", "idle"], 30, "two idle nodes")

    def clear(self) -> None:
        """End all jobs and wait until they are gone."""
        self.run("scancel", "-u", getpass.getuser(), check=False)
        wait_for(lambda: not self.run("squeue", "-h").strip(), 60, "an empty queue")

    def stop(self) -> None:
        self.run("scancel", "-u", getpass.getuser(), check=False)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(timeout=10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def run(self, *command: str, check: bool = True) -> str:
        """The output of a client program."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, check=False)
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
        return done.stdout

    def facts(self, job: str) -> dict[str, str]:
        """What scontrol shows of a job."""
        shown = self.run("scontrol", "show", "job", "-o", job).split()
        return dict(fact.partition("=")[::2] for fact in shown)

    def wait_for_state(self, job: str, states: set[str], seconds: float) -> str:
        return wait_for(
            lambda: state if (state := self.facts(job)["JobState"]) in states else None,
            seconds,
            f"job {job} in {' or '.join(sorted(states))}",
        )

    def _daemon(self, name: str, *options: str) -> None:
        log = open(self.folder / f"{name}-{len(self.daemons)}.out", "wb")  # noqa: SIM115, closed with the process
        self.daemons.append(subprocess.Popen([find(name), *options], env=self.environment, stdout=log, stderr=log))


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports
