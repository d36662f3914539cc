"""A study on Ray: on one that the driver starts, and on a cluster of two nodes that the tests start on this machine.
`ray stop` is never called: it would end every Ray on this machine. They skip where Ray is not installed, for it is a
few hundred MB and in no other extra."""
import os, random, signal, time
from contextlib import suppress
from pathlib import Path

import pytest

from test_scale import Driver, env, fresh, running_run, said, serial, until   # noqa: F401, fixtures

pytestmark = [pytest.mark.slow]
ray = pytest.importorskip('ray', reason="no Ray here: pip install 'xray_xfer[ray]'")

QUIET = dict(RAY_USAGE_STATS_ENABLED='0', RAY_worker_niceness='0', OMP_NUM_THREADS='1')

@pytest.fixture
def two_nodes(env, monkeypatch):   # noqa: F811
    "A cluster of two nodes with a processor each; each node ends by its process ids"
    from ray.cluster_utils import Cluster
    for name, value in (QUIET | dict(PYTHONPATH=env['PYTHONPATH'])).items(): monkeypatch.setenv(name, value)
    # Ray takes 127.0.0.1 in an address for the machine's name on its network; 127.0.0.2 is this machine, too
    node = dict(num_cpus=1, node_ip_address='127.0.0.2', object_store_memory=100_000_000)
    c = Cluster(initialize_head=True, head_node_args=node | dict(include_dashboard=False))
    try:
        c.second = c.add_node(**node)
        yield c
    finally: c.shutdown()

def at_work(out):
    "Processes that do a piece of this study"
    found = []
    for p in Path('/proc').glob('[0-9]*'):
        with suppress(OSError):
            words = (p/'cmdline').read_bytes().split(b'\0')
            if b'job' in words and str(out).encode() in words[-2]: found.append(int(p.name))
    return found

def parent(pid): return int(Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[1])

def test_undisturbed(serial, fresh, tmp_path):   # noqa: F811
    "A Ray of its own"
    d = Driver(tmp_path/'s', fresh | QUIET, '--engine', 'ray').wait()
    assert said(tmp_path/'s') == serial
    assert '0 waiting, 0 running, 9 done, 0 failed' in d.text()

def test_worker_killed(serial, fresh, tmp_path):   # noqa: F811
    "SIGKILL at random moments: for the process of a job, and for the worker of Ray above it"
    draw, killed = random.Random(2), []
    d = Driver(tmp_path/'s', fresh | QUIET, '--engine', 'ray', '--engine-args', 'retries=9')
    while len(killed) < 4 and d.process.poll() is None:
        time.sleep(draw.uniform(1, 15))
        for pid in at_work(tmp_path/'s')[:1]:
            with suppress(OSError):
                victim = pid if len(killed) % 2 else parent(pid)
                os.kill(victim, signal.SIGKILL)
                killed.append(victim)
    d.wait()
    assert said(tmp_path/'s') == serial and len(killed) > 1

def test_node_taken_away(serial, fresh, tmp_path, two_nodes):   # noqa: F811
    words = '--engine', 'ray', '--engine-args', f'address={two_nodes.address}'
    d = Driver(tmp_path/'s', fresh | QUIET, *words)
    until(lambda: len(at_work(tmp_path/'s')) == 2 and len(running_run(tmp_path/'s', 'ray')) > 1)
    two_nodes.remove_node(two_nodes.second, allow_graceful=False)
    d.wait()
    assert said(tmp_path/'s') == serial

def test_two_drivers_and_one_killed(serial, fresh, tmp_path, two_nodes):   # noqa: F811
    "Ray ends the tasks of a driver that is killed, and these their processes; the other driver takes over"
    words = '--engine', 'ray', '--engine-args', f'address={two_nodes.address}'
    one = Driver(tmp_path/'s', fresh | QUIET, *words)
    until(lambda: running_run(tmp_path/'s', 'ray') and at_work(tmp_path/'s'))
    two = Driver(tmp_path/'s', fresh | QUIET, *words)
    until(lambda: 'waits for the study in' in two.text())
    one.process.kill()
    one.process.wait()
    two.wait()
    assert said(tmp_path/'s') == serial

def test_refused(fresh, tmp_path):   # noqa: F811
    "No cluster there; more processors than there are"
    text = Driver(tmp_path/'a', fresh | QUIET, '--engine', 'ray', '--engine-args', 'address=127.0.0.1:9').wait(1).text()
    assert "engine='ray': no cluster at 127.0.0.1:9" in text
    text = Driver(tmp_path/'b', fresh | QUIET, '--engine', 'ray', '--engine-args', 'gpus=64').wait(1).text()
    assert 'each job wants 1 processors and 64 GPUs' in text
