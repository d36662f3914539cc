"""A study on a Slurm cluster of two nodes, which the tests start on this machine: munged, slurmctld and two slurmd, on
free ports of 127.0.0.1, each ended by its process id. They need Debian's packages and the rights of root, and skip with
a word where these are not to be had."""
import os, random, re, shlex, shutil, signal, socket, subprocess, tempfile, time
from contextlib import suppress
from pathlib import Path

import pytest

import xray_xfer
from test_scale import ARCHS, Driver, env, fresh, jobs, running_run, said, serial, until   # noqa: F401, fixtures

NEEDED = 'munged', 'slurmctld', 'slurmd', 'sbatch', 'squeue', 'scontrol'
HOW = 'apt-get install -y --no-install-recommends munge slurmctld slurmd slurm-client'
LACKING = [c for c in NEEDED if not shutil.which(c)]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(LACKING), reason=f"no {', '.join(LACKING)} here: {HOW}"),
    pytest.mark.skipif(not hasattr(os, 'geteuid') or os.geteuid() != 0, reason='daemons of Slurm are started as root'),
]

CONF = '''ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthType=auth/munge
AuthInfo=socket={at}/munge.sock
SlurmUser=root
SlurmdUser=root
StateSaveLocation={at}/state
SlurmdSpoolDir={at}/spool-%n
SlurmctldPidFile={at}/slurmctld.pid
SlurmdPidFile={at}/slurmd-%n.pid
SlurmctldLogFile={at}/slurmctld.log
SlurmdLogFile={at}/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SlurmdParameters=config_overrides
MpiDefault=none
ReturnToService=2
SlurmdTimeout=10
MinJobAge=10
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=1
JobAcctGatherParams=OverMemoryKill
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=debug Nodes=n1,n2 Default=YES DefMemPerCPU=4000 MaxTime=INFINITE State=UP
'''

def free_ports(n):
    sockets = [socket.socket() for _ in range(n)]
    for s in sockets: s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets: s.close()
    return ports

class Cluster:
    "Two nodes on this machine"
    def __init__(self):
        self.at = Path(tempfile.mkdtemp(prefix='slurm', dir='/tmp'))   # a socket's path must be short
        self.at.chmod(0o755)
        self.running = {}
        for name in ('state', 'spool-n1', 'spool-n2'): (self.at/name).mkdir()
        host = socket.gethostname().split('.')[0]
        (self.at/'slurm.conf').write_text(CONF.format(at=self.at, host=host, ports=free_ports(3)))
        (self.at/'munge.key').write_bytes(os.urandom(128))
        (self.at/'munge.key').chmod(0o400)
        self.env = dict(SLURM_CONF=str(self.at/'slurm.conf'))

    def start(self, name, *words):
        with open(self.at/f'{name}.out', 'ab') as log:
            self.running[name] = subprocess.Popen(words, env=os.environ | self.env, stdin=subprocess.DEVNULL,
                                                  stdout=log, stderr=log, start_new_session=True)

    def node(self, name, *mounts):
        "A node; `mounts` (words of the command mount) are what it alone sees otherwise"
        enter = '; '.join(['set -e', *(shlex.join(['mount', *words]) for words in mounts), 'exec "$@"'])
        own = ['unshare', '--mount', 'sh', '-c', enter, 'sh'] if mounts else []
        self.start(name, *own, 'slurmd', '-D', '-N', name)

    def stop(self, name):
        p = self.running.pop(name)
        p.terminate()
        try: p.wait(20)
        except subprocess.TimeoutExpired:
            p.kill()
            p.wait()

    def ask(self, *words):
        p = subprocess.run(words, env=os.environ | self.env, capture_output=True, text=True, timeout=60)
        return p.stdout
    def idle(self): return self.ask('sinfo', '-h', '-N', '-o', '%T').split() == ['idle', 'idle']
    def jobs(self): return self.ask('squeue', '-h', '-r', '-o', '%F_%K %T %N').splitlines()

    def up(self):
        self.start('munged', 'munged', '--foreground', '--force', f'--socket={self.at}/munge.sock',
                   f'--key-file={self.at}/munge.key', f'--pid-file={self.at}/munge.pid',
                   f'--log-file={self.at}/munge.log', f'--seed-file={self.at}/munge.seed')
        until((self.at/'munge.sock').exists, 20)
        self.start('slurmctld', 'slurmctld', '-D', '-c')
        for name in ('n1', 'n2'): self.node(name)
        try: until(self.idle, 60)
        except TimeoutError:
            logs = '\n'.join(f.read_text(errors='replace')[-2000:] for f in self.at.glob('*.log'))
            self.down()
            pytest.skip(f'Slurm does not start here: {logs}')
        return self

    def lose(self, name):
        "A node goes away at once, and what runs on it too"
        p = self.running.pop(name)
        mine = self.steps(name)
        p.kill()
        p.wait()
        for pid in mine:
            with suppress(ProcessLookupError): os.kill(pid, signal.SIGKILL)
        return mine

    def steps(self, name):
        "The processes of jobs on a node, and the daemons that mind them"
        found = []
        for p in Path('/proc').glob('[0-9]*'):
            try: about, parent = (p/'environ').read_bytes(), (p/'stat').read_text().rpartition(')')[2].split()[1]
            except (OSError, ValueError): continue
            if f'{self.at}/'.encode() not in about or f'SLURMD_NODENAME={name}\0'.encode() not in about: continue
            found.append(int(p.name))
            with suppress(OSError):
                if (Path('/proc')/parent/'comm').read_text().startswith('slurmstepd'): found.insert(0, int(parent))
        return list(dict.fromkeys(found))

    def pieces(self):
        "Those of them that do a piece of a study"
        found = []
        for pid in [*self.steps('n1'), *self.steps('n2')]:
            with suppress(OSError):
                if b'\0job\0' in Path(f'/proc/{pid}/cmdline').read_bytes(): found.append(pid)
        return found

    def down(self):
        for job in {line.split('_')[0] for line in self.jobs()}: self.ask('scancel', job)
        for name in ('n1', 'n2', 'slurmctld', 'munged'):
            if name in self.running: self.stop(name)
        shutil.rmtree(self.at, ignore_errors=True)

@pytest.fixture(scope='module')
def cluster():
    c = Cluster()
    try: yield c.up()
    finally: c.down()

@pytest.fixture
def there(cluster, fresh):   # noqa: F811
    "The environment of a driver on that cluster, both nodes idle"
    for name in ('n1', 'n2'):
        if name not in cluster.running: cluster.node(name)
    until(cluster.idle, 120)
    return fresh | cluster.env

SLURM = '--engine', 'slurm', '--engine-args', 'poll=1', 'mem=3000'

def test_undisturbed(serial, there, tmp_path, cluster):   # noqa: F811
    d = Driver(tmp_path/'s', there, *SLURM, 'partition=debug', 'time=30')
    until(lambda: len(jobs(tmp_path/'s', 'slurm')) > 5)
    d.wait()
    assert said(tmp_path/'s') == serial
    assert '0 waiting, 0 running, 9 done, 0 failed' in d.text()

def test_worker_killed(serial, there, tmp_path, cluster):   # noqa: F811
    "SIGKILL for the process of a job, at random moments, three times"
    draw, killed = random.Random(1), []
    d = Driver(tmp_path/'s', there, *SLURM, 'retries=9')
    while len(killed) < 3 and d.process.poll() is None:
        time.sleep(draw.uniform(1, 15))
        for pid in cluster.pieces()[:1]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)
    d.wait()
    assert said(tmp_path/'s') == serial and killed
    assert 'submitted again' in d.text()

def test_node_taken_away(serial, there, tmp_path, cluster):   # noqa: F811
    "A node and all that runs on it are gone; Slurm sees so after SlurmdTimeout, and the study is done on the other"
    d = Driver(tmp_path/'s', there, *SLURM)
    until(lambda: len(running_run(tmp_path/'s', 'slurm')) > 3 and all(cluster.steps(n) for n in ('n1', 'n2')))
    assert cluster.lose('n2')
    d.wait()
    assert said(tmp_path/'s') == serial
    assert 'down' in cluster.ask('sinfo', '-h', '-N', '-n', 'n2', '-o', '%T')

def test_two_drivers(serial, there, tmp_path):   # noqa: F811
    one, two = (Driver(tmp_path/'s', there, *SLURM) for _ in range(2))
    one.wait()
    two.wait()
    assert said(tmp_path/'s') == serial
    assert sum('waits for the study in' in d.text() for d in (one, two)) == 1

def test_driver_killed(serial, there, tmp_path, cluster):   # noqa: F811
    "The whole study is in Slurm's queue by then; the next driver submits nothing"
    d = Driver(tmp_path/'s', there, *SLURM)
    until(lambda: len(running_run(tmp_path/'s', 'slurm')) == 6)
    d.process.kill()
    d.process.wait()
    before = set(cluster.jobs())
    until(lambda: set(cluster.jobs()) != before)   # it goes on
    Driver(tmp_path/'s', there, *SLURM).wait()
    assert said(tmp_path/'s') == serial
    logs = [f.name for f in (tmp_path/'s'/'.jobs').glob('slurm-*.log')]
    assert len(logs) == 10, logs   # a probe, nine pieces

def test_stopped(there, tmp_path, cluster):
    "SIGINT without a terminal: the jobs stay in the queue, and the words to cancel them are said"
    d = Driver(tmp_path/'s', there, *SLURM)
    until(lambda: len(running_run(tmp_path/'s', 'slurm')) == 6)
    d.process.send_signal(signal.SIGINT)
    d.wait(130)
    assert 'nothing was cancelled' in d.text() and cluster.jobs()
    words = d.text().rpartition('to cancel: ')[2].splitlines()[0].split()
    assert words[0] == 'scancel'
    cluster.ask(*words)
    until(lambda: not cluster.jobs(), 60)

def test_refused(there, tmp_path):
    "A partition that there is not; a folder that the node does not see; not enough memory"
    text = Driver(tmp_path/'a', there, *SLURM, 'partition=gpus').wait(1).text()
    assert 'invalid partition specified: gpus' in text and 'partitions here: debug' in text
    text = Driver(tmp_path/'b', there, *SLURM, 'mem=9000000').wait(1).text()
    assert 'Slurm does not take the jobs of this study' in text
    text = Driver(tmp_path/'c', there | dict(SLURM_CONF='/dev/null'), *SLURM).wait(1).text()
    assert 'Slurm does not answer' in text

def test_out_of_memory(there, tmp_path):
    "Slurm's word is passed on, with what to type; it is not tried again"
    d = Driver(tmp_path/'s', there, *SLURM, 'mem=100').wait(1)
    words = r'Slurm says (OUT_OF_MEMORY|Exceeded job memory limit): give its jobs more, such as mem=16G'
    assert re.search(words, d.text()), d.text()
    assert 'submitted again' not in d.text()

def test_a_node_that_sees_something_else(there, tmp_path, cluster):
    "Node n1 has a disk of its own where the driver has the study, or the cache; then, another version of the package"
    local = tmp_path/'local'
    local.mkdir()
    words = *SLURM, 'nodelist=n1'
    cluster.stop('n1')
    cluster.node('n1', ['-t', 'tmpfs', 'none', str(local)])
    until(cluster.idle, 60)
    try:
        text = Driver(local/'s', there, *words).wait(1).text()
        assert f'cannot see {local}/s: its job' in text and 'Give out= (--out) on a file system that all' in text
        text = Driver(tmp_path/'s', there | dict(XRAY_XFER_CACHE=f'{local}/cache'), *words).wait(1).text()
        assert f'cannot see {local}/cache, the cache: set XRAY_XFER_CACHE to one on a file system' in text
    finally: cluster.stop('n1')
    package = Path(xray_xfer.__file__)
    (tmp_path/'other.py').write_text(package.read_text().replace(xray_xfer.__version__, '9.9.9'))
    cluster.node('n1', ['--bind', str(tmp_path/'other.py'), str(package)])
    until(cluster.idle, 60)
    try:
        text = Driver(tmp_path/'s', there, *words).wait(1).text()
        assert f'has xray_xfer 9.9.9, this is {xray_xfer.__version__}: install the same version there' in text
    finally: cluster.stop('n1')
