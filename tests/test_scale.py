"""A study past one process: the same bytes as the serial one, undisturbed and disturbed. Nearly all of it is slow: each
job is a process that imports PyTorch. What an engine is told, and what the driver does with it, the pages test."""
import json, os, random, signal, subprocess, sys, time
from pathlib import Path

import pytest

from xray_xfer import job
from xray_xfer.cli import main
from xray_xfer.core.files import cache_dir
from xray_xfer.data.demo import draw
from xray_xfer.scale.driver import Ledger
from xray_xfer.scale.engines import CODE, State, last_lines
from xray_xfer.scale.local import Local
from xray_xfer.study import study

ARCHS = 'resnet10t', 'test_efficientnet'
WORDS = ['study', 'demo', '--archs', *ARCHS, '--depths', '0', '1', '2', '--pretrained', 'false', '--size', '64',
         '--epochs', '2', '--bs', '32']
RUNS = [f'{a}_{d}' for a in ARCHS for d in (0, 1, 2)]

def said(folder):
    "What has to be the same to the last byte"
    files = [folder/'table.csv', *(folder/run/'metrics.json' for run in RUNS)]
    return {str(f.relative_to(folder)): f.read_bytes() for f in files}

@pytest.fixture(scope='module')
def env(tmp_path_factory):
    "One thread, a cache of its own"
    places = [str(Path(__file__).resolve().parents[1]), *filter(None, [os.environ.get('PYTHONPATH')])]
    return os.environ | dict(OMP_NUM_THREADS='1', XRAY_XFER_CACHE=str(tmp_path_factory.mktemp('shared')),
                             PYTHONPATH=os.pathsep.join(places))

class Driver:
    "The command in a process of its own, its output in a file"
    def __init__(self, out, env, *words):
        self.out, self.log = out, out.parent/f'{out.name}-{time.monotonic_ns()}.log'
        with open(self.log, 'wb') as log:
            self.process = subprocess.Popen([sys.executable, '-c', CODE, *WORDS, '--out', str(out), *words], env=env,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    def text(self): return last_lines(self.log, 400)
    def wait(self, code=0, seconds=900):
        try: got = self.process.wait(seconds)
        finally: self.process.kill()
        assert got == code, self.text()
        return self

@pytest.fixture(scope='module')
def serial(env, tmp_path_factory):
    out = tmp_path_factory.mktemp('serial')/'study'
    Driver(out, env).wait()
    return said(out)

@pytest.fixture
def fresh(env, tmp_path):
    "Another cache, so that nothing is found"
    return env | dict(XRAY_XFER_CACHE=str(tmp_path/'cache'))

def jobs(out, engine='local'):
    "{piece: job} as the driver has filed it"
    try: return Ledger(out, engine).jobs
    except FileNotFoundError: return {}

def until(condition, seconds=300):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition(): return found
        time.sleep(.05)
    raise TimeoutError

def pid_of(worker): return int(worker.partition(':')[0])

def running_run(out, engine='local'): return [j for n, j in jobs(out, engine).items() if n.startswith('run-')]

LOCAL = '--engine-args', 'workers=2'

# ---- local

@pytest.mark.slow
def test_local(serial, fresh, tmp_path):
    "Two workers, an empty cache"
    d = Driver(tmp_path/'s', fresh, *LOCAL).wait()
    assert said(tmp_path/'s') == serial
    assert '0 waiting, 0 running, 9 done, 0 failed' in d.text()
    assert not list((tmp_path/'cache').glob('.*.token')) and not list((tmp_path/'s'/'.jobs').glob('*.done'))
    before = (tmp_path/'s'/RUNS[0]/'config.json').stat().st_mtime_ns
    Driver(tmp_path/'s', fresh, *LOCAL).wait()   # all is there
    assert (tmp_path/'s'/RUNS[0]/'config.json').stat().st_mtime_ns == before
    Driver(tmp_path/'s', fresh, *LOCAL, '--overwrite', '--archs', ARCHS[0], '--depths', '0').wait()
    assert (tmp_path/'s'/RUNS[0]/'config.json').stat().st_mtime_ns > before

@pytest.mark.slow
@pytest.mark.parametrize('seed', [0])
def test_local_worker_killed(serial, fresh, tmp_path, seed):
    "SIGKILL for a worker, at random moments, four times"
    draw = random.Random(seed)
    d = Driver(tmp_path/'s', fresh, *LOCAL, 'retries=9')
    killed = []
    while len(killed) < 4 and d.process.poll() is None:
        time.sleep(draw.uniform(1, 25))
        for worker in list(jobs(tmp_path/'s').values())[:1]:
            try: os.kill(pid_of(worker), signal.SIGKILL)
            except ProcessLookupError: continue
            killed.append(worker)
    d.wait()
    assert said(tmp_path/'s') == serial and killed
    assert 'ended without a result (SIGKILL), submitted again' in d.text()

@pytest.mark.slow
def test_local_two_drivers(serial, fresh, tmp_path):
    one, two = (Driver(tmp_path/'s', fresh, *LOCAL) for _ in range(2))
    one.wait()
    two.wait()
    assert said(tmp_path/'s') == serial
    assert sum('waits for the study in' in d.text() for d in (one, two)) == 1

@pytest.mark.slow
def test_local_driver_killed(serial, fresh, tmp_path):
    "Its workers go on; the next driver knows them, and starts none of them twice"
    d = Driver(tmp_path/'s', fresh, *LOCAL)
    before = until(lambda: len(running_run(tmp_path/'s')) == 2 and jobs(tmp_path/'s'))
    d.process.kill()
    d.process.wait()
    again = Driver(tmp_path/'s', fresh, *LOCAL)
    for name in before:
        started = (tmp_path/'s'/'.jobs'/f'{name}.json').stat().st_mtime_ns
        until(lambda name=name: name not in jobs(tmp_path/'s') or again.process.poll() is not None)
        assert (tmp_path/'s'/'.jobs'/f'{name}.json').stat().st_mtime_ns == started
    again.wait()
    assert said(tmp_path/'s') == serial and 'submitted again' not in again.text()

@pytest.mark.slow
def test_local_stopped(serial, fresh, tmp_path):
    "SIGINT without a terminal cancels nothing and says how to go on; what is at work ends by itself"
    d = Driver(tmp_path/'s', fresh, *LOCAL)
    until(lambda: len(running_run(tmp_path/'s')) == 2)
    d.process.send_signal(signal.SIGINT)
    d.wait(130)
    assert 'nothing was cancelled; the same command takes them up again' in d.text() and 'to cancel: kill ' in d.text()
    assert Local({}).states(running_run(tmp_path/'s'))   # known by number and beginning
    Driver(tmp_path/'s', fresh, *LOCAL).wait()
    assert said(tmp_path/'s') == serial

@pytest.mark.slow
def test_local_controls(fresh, tmp_path):
    "The controls are jobs, too; the table has them"
    small = ['--archs', ARCHS[0], '--depths', '0', '--controls']
    serial, spread = tmp_path/'a', tmp_path/'b'
    Driver(serial, fresh, *small).wait()
    Driver(spread, fresh, *small, *LOCAL).wait()
    assert (serial/'table.csv').read_bytes() == (spread/'table.csv').read_bytes()
    name = f'{ARCHS[0]}_0/controls.json'
    assert (serial/name).read_bytes() == (spread/name).read_bytes()

# ---- in this process

class Here:
    "Does each job as it is submitted, in this process; the first `fails` of them leave nothing"
    name, ahead, outlives, grace, retries, poll = 'here', False, False, 0., 2, 0.
    def __init__(self, fails=0): self.fails, self.ids = fails, 0
    def room(self): return 1
    def submit(self, specs, after):
        self.ids += 1
        kind = json.loads(specs[0].read_text())['kind']
        if kind == 'run' and self.fails: self.fails -= 1
        else: job.job(specs[0])
        return [str(self.ids)]
    def states(self, ids): return {i: State('ended') for i in ids}
    def log(self, spec, id): return spec.with_suffix('.log')
    def advice(self, word, lines): return ''
    def close(self): pass

def test_pieces_give_the_bytes_of_the_whole(tmp_path, monkeypatch, plain_figures):
    "Two jobs that leave nothing are done again"
    draw(tmp_path/'films', n=60, size=64)
    small = dict(pretrained=False, size=64, epochs=1, bs=16, quiet=True)
    study(tmp_path/'films', ARCHS[0], (0, 1), **small, out=tmp_path/'serial')
    monkeypatch.setattr('xray_xfer.study.choose_engine', lambda *a: Here(fails=2))
    study(tmp_path/'films', ARCHS[0], (0, 1), **small, out=tmp_path/'s')
    for name in ('table.csv', 'table.md', *(f'{ARCHS[0]}_{d}/{file}.json' for d in (0, 1)
                                            for file in ('config', 'metrics', 'thresholds'))):
        assert (tmp_path/'serial'/name).read_bytes() == (tmp_path/'s'/name).read_bytes(), name
    assert not [p for p in cache_dir().iterdir() if p.suffix == '.token']
    with pytest.raises(FileExistsError, match='holds a run with other settings .epochs 1, now 2'):
        study(tmp_path/'films', ARCHS[0], (0, 1), **small | dict(epochs=2), out=tmp_path/'s')

# ---- what is refused, at once

@pytest.mark.parametrize('words, error', [
    (['--engine-args', 'worker=2'], "engine='local' takes no worker: its engine_args (--engine-args) are workers"),
    (['--engine-args', 'workers=0'], "engine_args workers='0': give a whole number, at least 1"),
    (['--engine-args', 'workers'], '--engine-args workers: give KEY=VALUE'),
    (['--engine-args', 'workers=2', '--device', 'cuda:1'], "give device='cuda' (--device cuda)"),
])
def test_refused(words, error, tmp_path, capsys):
    assert main([*WORDS, '--out', str(tmp_path/'s'), *words]) == 1
    assert error in capsys.readouterr().err
    assert not (tmp_path/'s').exists()

def test_a_spec_is_checked(tmp_path, capsys):
    for text in ('', '[]', '{}', json.dumps(dict(kind='run', version='0.0.0'))):
        (tmp_path/'spec.json').write_text(text)
        assert main(['job', str(tmp_path/'spec.json')]) == 1
        assert 'spec.json' in capsys.readouterr().err or '0.0.0' in text
    assert main(['job', str(tmp_path/'none.json')]) == 1
    assert 'cannot see' in capsys.readouterr().err

@pytest.mark.slow
def test_features_in_shards_are_the_same_study(tmp_path, monkeypatch):
    "Each drawing many times, for a shard is of a thousand images at least"
    draw(tmp_path/'few', n=60, size=64)
    for p in (tmp_path/'few').rglob('*.png'):
        for k in range(40):
            q = tmp_path/'films'/p.relative_to(tmp_path/'few').parent/f'{k}_{p.name}'
            q.parent.mkdir(parents=True, exist_ok=True)
            os.link(p, q)
    kw = dict(pretrained=False, size=64, epochs=1, groups=False, quiet=True)
    found = []
    for name, more in (('serial', {}), ('shards', dict(engine_args=dict(workers=2, shards=3)))):
        monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/name/'cache'))
        study(str(tmp_path/'films'), 'resnet10t', (0, 1), out=tmp_path/name/'out', **kw, **more)
        files = 'table.csv', 'resnet10t_0/metrics.json', 'resnet10t_1/metrics.json', 'resnet10t_1/model.safetensors'
        found.append([(tmp_path/name/'out'/f).read_bytes() for f in files])
        left = [f.name for f in (tmp_path/name/'cache'/'features').iterdir()]
        assert len(left) == 2, left   # of each depth, and no shard
    assert found[0] == found[1]
    done = [p.name for p in (tmp_path/'shards'/'out'/'.jobs').iterdir()]
    assert {f'features-resnet10t_all-{k}of3.json' for k in (1, 2, 3)} <= set(done)

def test_shards_for_one_worker_are_refused(tmp_path):
    "In silence they would be one piece"
    with pytest.raises(ValueError, match='shards=4, and one worker makes the features in one piece'):
        study('demo', 'resnet10t', 0, pretrained=False, out=tmp_path/'s', engine_args=dict(shards=4))
    assert not (tmp_path/'s').exists()
