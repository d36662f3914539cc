"""A training that is killed goes on, and ends with the bytes of one that nobody disturbed; what else may lie at the
place of a checkpoint."""
import json, os, random, signal, subprocess, sys, time, warnings
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pytest, torch
from fastai.callback.channelslast import ChannelsLast
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.tracker import ReduceLROnPlateau, SaveModelCallback
import fastai.callback.schedule   # noqa: F401, gives a Learner fit_one_cycle
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import SGD, OptimWrapper
from fastai.torch_core import set_seed
from torch import nn

from xray_xfer import train
from xray_xfer.cli import main
from xray_xfer.report.results import load_study
from xray_xfer.runs.folder import load_run, runs_in
from xray_xfer.study import study
from xray_xfer.train import run
from xray_xfer.training import checkpoint, state
from xray_xfer.training.callbacks import Diverged, Progress
from xray_xfer.training.checkpoint import Checkpoint
from xray_xfer.training.state import read_state

SMALL = dict(arch='resnet10t', pretrained=False, size=64, bs=16, epochs=4, quiet=True, checkpoint_every=0)
# each has something of its own to go on with: the order of the images, views, augmentation, layers of the network
CASES = {
    'depth 0': dict(depth=0), 'depth 2': dict(depth=2), 'views': dict(depth=1, views=3),
    'uncached': dict(depth=1, cache=False), 'augmented': dict(depth=1, augment=True), 'all': dict(depth='all'),
    'all, augmented': dict(depth='all', augment=True), 'norms': dict(depth=0, norms=2),
    'another network': dict(depth=2, arch='shufflenetv2_050'),
}
QUICK = 'views', 'all, augmented'
# what a run files that is not about its time and place, or drawn of what is filed
SAME = ('config.json', 'history.csv', 'predictions.csv', 'metrics.json', 'model.safetensors', 'calibration.json',
        'thresholds.json', 'split.csv', 'twins.json', 'unlike.safetensors', 'known.safetensors')

def same(a, b): assert [n for n in SAME if (a/n).read_bytes() != (b/n).read_bytes()] == []
def everything(path): return sorted(str(p.relative_to(path)) for p in Path(path).rglob('*'))

@pytest.fixture
def stops(monkeypatch):
    "Have runs stopped by ctrl-C in the middle of these epochs, one run after the other"
    def at(*epochs):
        left = list(epochs)
        class Stops(Progress):
            def before_batch(self):
                if left and (self.epoch, self.iter) == (left[0], 1) and self.training:
                    left.pop(0)
                    raise KeyboardInterrupt
        monkeypatch.setattr(train, 'Progress', Stops)
    return at

def interrupted(*args, **settings):
    "A run that is stopped; then other work draws random numbers, and another process has others"
    with pytest.raises(KeyboardInterrupt): run(*args, **settings)
    for seed in (random.seed, np.random.seed, torch.manual_seed): seed(12345)

def checkpoint_of(out): return next(Path(out).glob('.*.unfinished/checkpoint.safetensors'))

# ---- a run

@pytest.mark.parametrize('case', [pytest.param(c, marks=[pytest.mark.slow] * (c not in QUICK)) for c in CASES])
def test_goes_on_bit_for_bit(case, xrays, tmp_path, stops, plain_figures):
    settings = SMALL | CASES[case]
    whole = run(xrays, **settings | dict(checkpoint_every=float('inf')), out=tmp_path/'whole')
    in_epochs = (2,) if case in QUICK else (2, 3)
    stops(*in_epochs)
    for _ in in_epochs: interrupted(xrays, **settings, out=tmp_path/'again')
    assert [f.name for f in (tmp_path/'again').iterdir()] == [f'.{whole.path.name}.unfinished']
    gone_on = run(xrays, **settings, out=tmp_path/'again')
    same(whole.path, gone_on.path)
    assert [f.name for f in (tmp_path/'again').iterdir()] == [whole.path.name]
    assert 'checkpoint_every' not in gone_on.config

def test_what_is_said_and_how_long_it_took(xrays, tmp_path, stops, plain_figures, capsys, monkeypatch):
    loud = SMALL | dict(quiet=False)
    stops(2)
    interrupted(xrays, **loud, out=tmp_path)
    assert 'stopped; the same run, started again, goes on after epoch 2 of 4' in capsys.readouterr().err
    assert runs_in(tmp_path) == []
    with pytest.raises(FileNotFoundError, match='holds no finished run'): load_study(tmp_path)
    found = read_state(checkpoint_of(tmp_path), 'checkpoint 1')
    assert found['done'] == 2 and 0 < found['seconds'] < 60
    monkeypatch.setattr(checkpoint, 'read_state', lambda *a: read_state(*a) | dict(seconds=1000.))
    r = run(xrays, **loud, out=tmp_path)
    assert f"goes on after epoch 2 of 4 (saved {found['when']})" in capsys.readouterr().err
    assert 1000 < r.timings['train'] < 1060
    assert r.timings['train_images_per_second'] == pytest.approx(4 * 32 / r.timings['train'], abs=.1)

def test_stopped_before_the_first_checkpoint(xrays, tmp_path, stops, plain_figures, capsys):
    stops(2)
    interrupted(xrays, **SMALL | dict(quiet=False, checkpoint_every=10), out=tmp_path)
    assert 'stopped; the same run, started again, begins anew' in capsys.readouterr().err
    assert everything(tmp_path) == []

def test_another_config(xrays, tmp_path, stops, plain_figures):
    small = SMALL | dict(epochs=3)
    stops(2, 0)
    interrupted(xrays, **small, out=tmp_path)
    file, was = checkpoint_of(tmp_path), checkpoint_of(tmp_path).read_bytes()
    with pytest.warns(UserWarning, match='is not of this training') as said:
        interrupted(xrays, **small | dict(epochs=5, lr=1e-3), out=tmp_path)
    text = str(said[0].message)
    assert 'after epoch 2 of 3' in text and 'epochs 3, now 5' in text and 'training starts over' in text
    assert file.read_bytes() == was   # left alone
    with pytest.warns(UserWarning, match='epochs 3, now 2'): over = run(xrays, **small | dict(epochs=2), out=tmp_path)
    assert len(over.history) == 2 and not file.parent.exists()

@pytest.mark.slow
def test_overwrite_drops_what_is_of_another_config_and_keeps_its_own(xrays, tmp_path, stops, plain_figures):
    small = SMALL | dict(epochs=3, out=tmp_path)
    first = run(xrays, **small | dict(epochs=1))
    stops(2, 1)
    interrupted(xrays, **small, overwrite=True)
    assert load_run(first.path).config['epochs'] == 1   # until the new one is whole
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        interrupted(xrays, **small | dict(seed=1, name=first.path.name), overwrite=True)
    assert read_state(checkpoint_of(tmp_path), 'checkpoint 1')['belongs']['seed'] == 1
    r = run(xrays, **small | dict(seed=1, name=first.path.name), overwrite=True)
    assert r.config['seed'] == 1 and len(r.history) == 3
    assert [f.name for f in tmp_path.iterdir()] == [first.path.name]

@pytest.mark.slow
def test_a_damaged_one_is_said(xrays, tmp_path, stops, plain_figures):
    whole = run(xrays, **SMALL, out=tmp_path/'whole')
    stops(2)
    interrupted(xrays, **SMALL, out=tmp_path)
    content = bytearray(checkpoint_of(tmp_path).read_bytes())
    content[len(content) // 2] ^= 1
    checkpoint_of(tmp_path).write_bytes(content)
    with pytest.warns(UserWarning, match='cannot be read .its content is not what was written.: training starts over'):
        again = run(xrays, **SMALL, out=tmp_path)
    same(whole.path, again.path)

def test_what_breaks_down_leaves_nothing(xrays, tmp_path, monkeypatch, plain_figures):
    class Break(Progress):
        def before_batch(self):
            if self.epoch == 2:
                for p in self.model.parameters(): p.data.fill_(float('nan'))
    monkeypatch.setattr(train, 'Progress', Break)
    with pytest.raises(Diverged, match='epoch 3'): run(xrays, **SMALL, out=tmp_path)
    assert everything(tmp_path) == []

def test_a_run_that_is_there_is_tidied(xrays, tmp_path, plain_figures, monkeypatch):
    "Killed when it was filed, and its checkpoint not yet gone; or while a checkpoint was written"
    monkeypatch.setattr(train, '_tidy', lambda path: None)
    small = SMALL | dict(epochs=2, out=tmp_path)
    r = run(xrays, **small)
    part = checkpoint_of(tmp_path).with_name('.checkpoint.safetensors.99999999-00000000000000000.part')
    monkeypatch.undo()
    assert run(xrays, **small).learn is None and not part.parent.exists()
    assert [f.name for f in tmp_path.iterdir()] == [r.path.name]

def test_nothing_is_written_where_nothing_is_to_be(xrays, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run(xrays, **SMALL | dict(epochs=2), out=None)
    assert everything(tmp_path) == []

@pytest.mark.slow
def test_a_study_goes_on(xrays, tmp_path, stops, plain_figures):
    asked = dict(archs='resnet10t', depths=(0, 1), **{k: v for k, v in SMALL.items() if k != 'arch'})
    whole = study(xrays, **asked, out=tmp_path/'whole')
    stops(2)
    with pytest.raises(KeyboardInterrupt): study(xrays, **asked, out=tmp_path/'again')
    again = study(xrays, **asked, out=tmp_path/'again')
    for a, b in zip(whole.runs, again.runs, strict=True): same(a.path, b.path)
    assert (whole.path/'table.csv').read_bytes() == (again.path/'table.csv').read_bytes()

@pytest.mark.parametrize('value', ['-1', 'nan', 'never'])
def test_how_often(value, xrays, tmp_path, capsys):
    code = main(['run', str(xrays), '--checkpoint-every', value, '--out', str(tmp_path)])
    err = capsys.readouterr().err
    assert code and ('give seconds, 0 for after each epoch' in err or "invalid float value: 'never'" in err)

# ---- any Learner

rule = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
items = list(zip(rule, (rule[:, 0] > rule[:, 1]).long()))

def learner(seed=0, loaders='fastai', **kwargs):
    set_seed(seed)
    if loaders == 'fastai': dls = DataLoaders(DataLoader(items[:64], bs=8, shuffle=True), DataLoader(items[64:], bs=32))
    else:
        own = torch.Generator().manual_seed(seed)
        dls = DataLoaders(torch.utils.data.DataLoader(items[:64], 8, shuffle=True, generator=own),
                          torch.utils.data.DataLoader(items[64:], 32))
    net = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(.2), nn.Linear(16, 2))
    return Learner(dls, net, **dict(loss_func=CrossEntropyLossFlat()) | kwargs)

class StopAt(Callback):
    def __init__(self, epoch): self.at = epoch
    def before_batch(self):
        if self.training and (self.epoch, self.iter) == (self.at, 3): raise KeyboardInterrupt

def fit(learn, *cbs, how='fit_one_cycle'):
    with learn.no_bar(), learn.no_logging():
        try: getattr(learn, how)(6, .01, cbs=list(cbs))
        except KeyboardInterrupt: pass
    return learn

def values(learn):
    return [t.tolist() for t in learn.model.state_dict().values()] + list(map(float, learn.recorder.losses))

class Counts(Callback):
    "Keeps its state in an object of its own, and says so"
    def __init__(self): self.held = SimpleNamespace(n=0)
    def before_fit(self): self.held.n = 0
    def after_epoch(self): self.held.n += 1
    def state_dict(self): return dict(n=self.held.n)
    def load_state_dict(self, state): self.held.n = state['n']

class WithMargin(nn.Module):
    "A loss with a state"
    def __init__(self):
        super().__init__()
        self.register_buffer('seen', torch.zeros(()))
    def forward(self, pred, y):
        self.seen += 1
        return nn.functional.cross_entropy(pred / (1 + self.seen / 100), y)

def test_a_state_that_cannot_be_written_is_told_at_once(tmp_path):
    class Odd(Counts):
        def state_dict(self): return dict(f=print)
    with pytest.raises(TypeError, match='builtin_function_or_method is no number, text or tensor'):
        fit(learner(), Odd(), Checkpoint(tmp_path/'c.safetensors', 0))

@pytest.mark.parametrize('differs,said', [
    (dict(opt_func=SGD), "optimiser 'Optimizer weight_decay"), (dict(wd=.5), 'wd [0.01], now [0.5]'),
    (dict(loss_func=WithMargin()), "loss 'CrossEntropyLossFlat', now 'WithMargin'"),
    (dict(cbs=[MixedPrecision('bf16')]), "precision 'fp32', now 'bf16'")])
@pytest.mark.filterwarnings('ignore:CUDA is not available')
def test_another_training(differs, said, tmp_path):
    file = tmp_path/'c.safetensors'
    fit(learner(wd=.01), StopAt(3), Checkpoint(file, 0))
    with pytest.warns(UserWarning, match='is not of this training') as heard:
        fit(learner(**dict(wd=.01) | differs), StopAt(0), Checkpoint(file, 0))
    assert any(said in str(w.message) for w in heard)

@pytest.mark.parametrize('how', ['fit', 'fit_one_cycle', 'fit_flat_cos'])
@pytest.mark.parametrize('kind', ['plain', 'torch loaders', 'AdamW of PyTorch', 'loss with a state'])
def test_any_learner_goes_on(kind, how, tmp_path):
    given = {'plain': dict(), 'torch loaders': dict(loaders='torch'), 'loss with a state': dict(loss_func=WithMargin()),
             'AdamW of PyTorch': dict(opt_func=lambda p, **kw: OptimWrapper(p, torch.optim.AdamW, **kw))}[kind]
    def new(seed=0):
        if kind == 'loss with a state': given['loss_func'] = WithMargin()
        return learner(seed, **given)
    def mine(): return Checkpoint(tmp_path/'c.safetensors', 0, quiet=True)
    whole, counts = fit(new(), how=how), Counts()
    fit(new(), StopAt(3), mine(), Counts(), how=how)
    again = fit(new(seed=5), cb := mine(), counts, how=how)
    assert cb.resumed == 3 and counts.held.n == 6 and not cb.file.exists()
    assert values(again) == values(whole)
    if how != 'fit': assert {k: list(map(float, v)) for k, v in again.recorder.hps.items()} == \
        {k: list(map(float, v)) for k, v in whole.recorder.hps.items()}

class Scaled(MixedPrecision):
    "Half precision with a scale of the loss, on a CPU"
    def before_fit(self):
        self.autocast, self.scales = torch.autocast('cpu', torch.bfloat16), []
        self.learn.scaler = torch.amp.GradScaler('cpu', growth_interval=5)
    def after_fit(self): self.seen = self.scales

def test_the_scale_of_the_loss_goes_on(tmp_path):
    whole, again = Scaled(), Scaled()
    losses = values(fit(learner(), whole))
    fit(learner(), StopAt(3), Scaled(), Checkpoint(tmp_path/'c.safetensors', 0))
    assert values(fit(learner(5), again, Checkpoint(tmp_path/'c.safetensors', 0, quiet=True))) == losses
    assert again.seen == whole.seen and len(whole.seen) == 48 and len(set(whole.seen)) > 5

def test_averages_come_back_as_they_lay(tmp_path, monkeypatch):
    "Channels last, under an optimiser that walks through memory and does not ask"
    pictures = list(zip(torch.randn(64, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(64) % 2))
    def new(seed=0):
        set_seed(seed)
        net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2))
        def fused(p, **kw): return OptimWrapper(p, partial(torch.optim.AdamW, fused=True), **kw)
        return Learner(DataLoaders(DataLoader(pictures, bs=8, shuffle=True), DataLoader(pictures, bs=32)), net,
                       CrossEntropyLossFlat(), opt_func=fused, cbs=ChannelsLast())
    def gone_on():
        fit(new(), StopAt(3), Checkpoint(tmp_path/'c.safetensors', 0))
        return values(fit(new(5), Checkpoint(tmp_path/'c.safetensors', 0, quiet=True)))
    whole = values(fit(new()))
    assert gone_on() == whole
    monkeypatch.setattr(state, '_strides', lambda t: None)
    assert gone_on() != whole

def test_fastais_own_callbacks_remember(tmp_path):
    def with_them(learn, *cbs):
        learn.path = tmp_path
        return fit(learn, SaveModelCallback(fname='best'), ReduceLROnPlateau(patience=1, min_delta=.2), *cbs, how='fit')
    whole = with_them(learner())
    with_them(learner(), StopAt(4), Checkpoint(tmp_path/'c.safetensors', 0))
    again = with_them(learner(5), Checkpoint(tmp_path/'c.safetensors', 0, quiet=True))
    assert values(again) == values(whole)
    assert again.opt.hypers[0]['lr'] == whole.opt.hypers[0]['lr'] < .01   # it was lowered

def test_the_same_learner_goes_on_in_the_same_program(tmp_path):
    "Ctrl-C in a notebook, and its cell again"
    whole = fit(learner())
    learn, cb = learner(), Checkpoint(tmp_path/'c.safetensors', 0, quiet=True)
    fit(learn, StopAt(2), cb)
    assert values(fit(learn, cb)) == values(whole)

def test_another_machine_or_version(tmp_path, monkeypatch):
    there, file = checkpoint.environment('cpu'), tmp_path/'c.safetensors'
    fit(learner(), StopAt(3), Checkpoint(file, 0))
    was = file.read_bytes()
    versions = there['versions'] | dict(torch='1.0')
    for changed in (dict(device_name='PDP-11'), dict(threads=64), dict(versions=versions)):
        monkeypatch.setattr(checkpoint, 'environment', lambda device: there | changed)
        name, value = ('torch', '1.0') if 'versions' in changed else next(iter(changed.items()))
        with pytest.warns(UserWarning, match='is not of this training') as said:
            fit(learner(), StopAt(0), cb := Checkpoint(file, 0))
        assert f'({name} ' in str(said[0].message) and f', now {value!r}): training starts over' in str(said[0].message)
        assert cb.resumed == 0 and file.read_bytes() == was   # left alone

def test_not_oftener_than_asked_and_a_twentieth_of_the_time(tmp_path, monkeypatch):
    clock, written = SimpleNamespace(now=0.), []
    def write(*a):
        written.append(clock.now)
        clock.now += 2   # seconds
    class Takes(Callback):
        def before_epoch(self): clock.now += 7
    ticks = SimpleNamespace(perf_counter=lambda: clock.now, strftime=time.strftime)
    monkeypatch.setattr(checkpoint, 'time', ticks)
    monkeypatch.setattr(checkpoint, 'write_state', write)
    def times(every, epochs=20):
        clock.now, written[:] = 0, []
        learn = learner()
        cbs = [Checkpoint(tmp_path/'c.safetensors', every), Takes()]
        with learn.no_bar(), learn.no_logging(): learn.fit(epochs, cbs=cbs)
        return list(written)
    assert times(10) == [14, 58, 102]              # 2 s of writing, then 40 of training at least
    assert len(times(0)) == 19                     # all but the last
    assert times(100) == [105] and times(float('inf')) == []

def test_one_process_only(tmp_path, monkeypatch):
    monkeypatch.setenv('WORLD_SIZE', '2')
    cb = Checkpoint(tmp_path/'c.safetensors')
    with pytest.raises(NotImplementedError, match='in one process'): fit(learner(), cb)

@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU of CUDA')
@pytest.mark.parametrize('precision', ['fp16', 'bf16', 'fp32'])
def test_on_a_gpu(precision, tmp_path):
    def new(seed=0):
        learn = learner(seed, cbs=[] if precision == 'fp32' else MixedPrecision(precision))
        learn.dls.to('cuda')
        return learn
    whole = fit(new())
    fit(new(), StopAt(3), Checkpoint(tmp_path/'c.safetensors', 0))
    found = read_state(tmp_path/'c.safetensors', 'checkpoint 1', 'cuda')
    assert ('scaler' in found) == (precision != 'fp32') and found['model']['0.weight'].device.type == 'cuda'
    assert values(fit(new(5), Checkpoint(tmp_path/'c.safetensors', 0, quiet=True))) == values(whole)

# ---- killed

@pytest.mark.slow
@pytest.mark.parametrize('case', CASES)
def test_killed_at_any_moment(case, xrays, tmp_path):
    "SIGKILL, again and again, until the run is there; the undisturbed one is of a process of its own too"
    settings = SMALL | CASES[case] | dict(epochs=12)
    def start(out):
        code = f'from xray_xfer.train import run; run({str(xrays)!r}, **{settings!r}, out={str(out)!r})'
        return subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stderr=subprocess.DEVNULL,
                                env=os.environ | dict(OMP_NUM_THREADS='1'))
    assert start(tmp_path/'whole').wait() == 0
    whole, draw = next((tmp_path/'whole').iterdir()), random.Random(case)
    place, seen = tmp_path/'again'/whole.name, []
    for _ in range(6):
        p, files = start(tmp_path/'again'), tmp_path/'again'/f'.{whole.name}.unfinished'
        before = seen[-1:]
        end = time.monotonic() + 120
        while p.poll() is None and time.monotonic() < end:   # until an epoch more is there, and a moment longer
            at = (files/'checkpoint.safetensors').stat().st_ino if (files/'checkpoint.safetensors').exists() else None
            if at is not None and [at] != before: break
            time.sleep(.002)
        time.sleep(draw.random() * .3)
        p.send_signal(signal.SIGKILL)
        p.wait()
        if place.exists(): break
        found = read_state(files/'checkpoint.safetensors', 'checkpoint 1')   # never half of one
        seen.append((files/'checkpoint.safetensors').stat().st_ino)
        assert found['done'] >= 1
    assert len(seen) >= 2   # it was killed between
    assert start(tmp_path/'again').wait() == 0
    same(whole, place)
    assert [f.name for f in (tmp_path/'again').iterdir()] == [whole.name]
    assert json.loads((place/'timings.json').read_text())['train'] > 0
