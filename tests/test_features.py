"Features: the same training as on images, and a cache in which nothing half-made is ever taken for whole."
import json, multiprocessing, os, random, shutil, signal, time, warnings
from dataclasses import replace

import numpy as np, pytest, torch
from fastai.callback.core import Callback
from fastai.callback.schedule import fit_one_cycle   # noqa: F401 - gives Learner the method
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.torch_core import no_random
from safetensors.torch import save_file

from xray_xfer.training import feed as feeding
from xray_xfer import train as training
from xray_xfer.trunk import engine as trunk
from xray_xfer.trunk.equal import CutError
from xray_xfer.trunk.cutting import cut
from xray_xfer.data.table import images_of
from xray_xfer.data.demo import draw
from xray_xfer.trunk.once import features
from xray_xfer.trunk.store import _verified
from xray_xfer.training.feed import feed, logits_of
from xray_xfer.training.ready import image_batches, prepare
from xray_xfer.training.headstart import start_head
from xray_xfer.training.layout import KeepChannelsLast
from xray_xfer.training.mixing import mixer
from xray_xfer.training.optimiser import adam_for
from xray_xfer.core.cache import clear_cache
from xray_xfer.models.classifier import Classifier, build, calibrate, splitter
from xray_xfer.models.blueprint import stats
from xray_xfer.data.packing import pack
from xray_xfer.settings import Settings
from xray_xfer.study import study
from xray_xfer.train import run
from xray_xfer.trunk.engine import channels_first

MEAN, STD = [.485, .456, .406], [.229, .224, .225]

@pytest.fixture(scope='module')
def phantoms(tmp_path_factory):
    root = tmp_path_factory.mktemp('features')
    draw(root/'images', n=160, seed=0, size=64)
    return root

@pytest.fixture(scope='module')
def packed(phantoms): return pack(images_of(phantoms/'images'), size=64, cache=phantoms, quiet=True)

def even(p):
    "112, 16 and 32 images: batches of 16 divide every part, for how PyTorch rounds may hang on the size of a batch"
    return np.repeat(['train', 'valid', 'test'], [112, 16, 32])[np.random.default_rng(0).permutation(len(p))].tolist()

USUAL = Settings(bs=16, groups=False, device='cpu', quiet=True)

def fed_with(model, p, parts=None, **settings):
    "What `feed` gives for a pack, in these parts"
    prepared = prepare(p, USUAL)
    if parts is not None: prepared = replace(prepared, parts=np.array(parts))
    return feed(model, prepared, replace(USUAL, **settings), stats(model.arch))

class StepLoss(Callback):
    def before_fit(self): self.all = []
    def after_batch(self): self.all.append(float(self.loss.detach()))

def train(p, arch, depth, epochs=2, norms=0, **kw):
    "The loss of every step, the network, and its state before; mixed at depth 1 and 2, as by default"
    with no_random(3, reproducible=False):
        model = build(arch, depth, pretrained=False, size=p.size, norms=norms)
        calibrate(model, image_batches(p, range(64), stats(arch)))
        before = {k: v.clone() for k, v in model.state_dict().items()}
        prepared = replace(prepare(p, USUAL), parts=np.array(even(p)))
        s = replace(USUAL, seed=3, **kw)
        fed, loss, log = feed(model, prepared, s, stats(arch)), CrossEntropyLossFlat(), StepLoss()
        learn = Learner(
            fed.dls,
            fed.net,
            loss,
            splitter=lambda _: splitter(model),
            train_bn=False,
            opt_func=adam_for(model),
            cbs=[log, KeepChannelsLast(), *mixer(s.cutmix, model, p.size, fed.trains_on == 'features')],
        )
        torch.manual_seed(3)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 2e-3)
    return log.all, model, before, fed

@pytest.mark.parametrize('threads', [pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize('arch', ['shufflenetv2_100', 'efficientnet_b0'])
@pytest.mark.parametrize('depth, norms', [(0, 0), (1, 0), (2, 0), (0, 2)])
def test_cached_training_is_uncached_training(packed, arch, depth, norms, threads, monkeypatch, phantoms):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(phantoms))
    was = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        want, whole, before, fed = train(packed, arch, depth, norms=norms, cache=False)
        assert fed.trains_on == 'images'
        got, cached, _, fed = train(packed, arch, depth, norms=norms, backend='torch', features='float32')
        assert fed.trains_on == 'features' and len(got) == len(want) > 6
    finally: torch.set_num_threads(was)
    if threads == 1: assert got == want
    else: np.testing.assert_allclose(got, want, atol=1e-4)
    learning = {n for n, p in whole.named_parameters() if p.requires_grad}
    frozen = [
        k for k in before if k not in learning and not any(k.startswith(n.rpartition('.')[0] + '.') for n in learning)
    ]
    assert len(frozen) > 50
    for model in (whole, cached):   # weights, running means and variances, counters: to the bit
        for k in frozen: assert torch.equal(model.state_dict()[k], before[k]), k
    assert any(not torch.equal(cached.state_dict()[k], before[k]) for k in learning)
    # the whole network, on every image, gives what its tail gives on features
    for i in (1, 2):
        images = fed_with(cached, packed, even(packed), cache=False).dls[i]
        a, b = (torch.from_numpy(x).softmax(1) for x in (logits_of(fed.net, fed.dls[i]), logits_of(cached, images)))
        assert (a - b).abs().max() < 5e-3

def test_the_head_starts_alike_on_images_and_on_features(packed, monkeypatch, phantoms):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(phantoms))
    found = []
    for how in dict(cache=False), dict(backend='torch', features='float32'):
        with no_random(3, reproducible=False):
            model = build('shufflenetv2_100', 1, pretrained=False, size=packed.size)
            calibrate(model, image_batches(packed, range(64), stats(model.arch)))
            prepared = replace(prepare(packed, USUAL), parts=np.array(even(packed)))
            s = replace(USUAL, **how)
            fed = feed(model, prepared, s, stats(model.arch))
            first = logits_of(fed.net, fed.dls[1])
            assert start_head(model, fed, prepared, s, CrossEntropyLossFlat())
            found.append(torch.from_numpy(logits_of(fed.net, fed.dls[1])).softmax(1))
            assert abs(torch.from_numpy(first).softmax(1) - found[-1]).max() > .1
    assert abs(found[0] - found[1]).max() < 5e-3

@pytest.mark.parametrize('arch', ['shufflenetv2_100', 'efficientnet_b0'])
@pytest.mark.parametrize('depth', [0, 1, 2])
def test_by_default_the_whole_network_gives_what_its_tail_gave(packed, arch, depth, monkeypatch, phantoms):
    "float16 features by ONNX Runtime against the images, all of them"
    monkeypatch.setenv('XRAY_XFER_CACHE', str(phantoms))
    losses, model, _, fed = train(packed, arch, depth, epochs=1)
    assert fed.trains_on == 'features'
    assert fed.features[0].dtype == 'float16'
    assert fed.features[0].engine.startswith('onnxruntime')
    for part in ('train', 'valid', 'test'):
        rows = np.flatnonzero(np.array(even(packed)) == part)
        tail = torch.from_numpy(
            np.concatenate(
                [
                    logits_of(
                        fed.net,
                        [(channels_first(torch.from_numpy(fed.features[0].arrays[0][r : r + 1]).float()), None)],
                    )
                    for r in rows
                ]
            )
        )
        whole = torch.from_numpy(logits_of(model, ((x, None) for x in image_batches(packed, rows, stats(arch)))))
        assert (tail.softmax(1) - whole.softmax(1)).abs().max() < 5e-3

@pytest.mark.shared
@pytest.mark.slow
def test_defaults_reach_the_accuracy_of_uncached_training_on_real_images(shared):
    "Three seeds, float16 features by ONNX Runtime against images: within half a point on average, same 720 test images"
    # every other image, few pixels and the head alone, so that it takes half a minute;
    # benchmarks/agreement.md has all three depths
    p = pack(images_of(shared/'radiographs').iloc[::2].reset_index(drop=True), size=64, quiet=True)
    kw = dict(
        pretrained=shared / 'weights/shufflenetv2_100.safetensors',
        epochs=6,
        test=0.4,
        groups=False,
        quiet=True,
        out=None,
    )
    runs = {c: [run(p, 'shufflenetv2_100', 0, seed=s, cache=c, **kw) for s in range(3)] for c in (True, False)}
    cached, uncached = (np.array([r.metrics['accuracy'] for r in runs[c]]) for c in (True, False))
    assert abs(cached.mean() - uncached.mean()) <= .005, (cached, uncached)

@pytest.mark.parametrize('arch', ['convnext_atto', 'efficientnet_b0'])
def test_the_same_parameters_decay_on_features_and_on_images(packed, arch, monkeypatch, phantoms):
    "timm's LayerNorm is traced into its parts, and fastai knows a norm by its class"
    monkeypatch.setenv('XRAY_XFER_CACHE', str(phantoms))
    decays = []
    for cache in True, False:
        model = build(arch, 1, pretrained=False, size=64)
        fed = fed_with(model, packed, even(packed), cache=cache)
        assert fed.trains_on == ('features' if cache else 'images')
        learn = Learner(
            fed.dls,
            fed.net,
            CrossEntropyLossFlat(),
            splitter=lambda _: splitter(model),
            train_bn=False,
            opt_func=adam_for(model),
        )
        learn.create_opt()
        decays.append(
            {n: learn.opt.state[p].get('do_wd', True) for n, p in model.named_parameters() if p.requires_grad}
        )
    assert decays[0] == decays[1]
    assert not any(v for n, v in decays[0].items() if 'norm' in n)
    assert any(decays[0].values())

def test_threads_come_back_also_where_a_notebook_keeps_the_error(packed, tmp_path, monkeypatch):
    "IPython keeps the traceback of the last error, and with it the frames and all that they hold"
    was = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(shutil, 'disk_usage', lambda p: shutil._ntuple_diskusage(0, 0, 0))
        c = cut(build('resnet10t', 1, pretrained=False, size=64), 64)
        try: features(c, packed, MEAN, STD, cache=tmp_path, quiet=True)
        except OSError as e: kept = e
        assert 'has 0 bytes free' in str(kept) and kept.__traceback__ is not None
        assert torch.get_num_threads() == 2
    finally: torch.set_num_threads(was)

def test_a_split_without_a_test_part_is_the_same_on_features_and_on_images(packed, monkeypatch, phantoms):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(phantoms))
    parts = ['train' if p == 'test' else p for p in even(packed)]
    model = build('resnet10t', 1, pretrained=False, size=64)
    for cache in (True, False):
        assert [len(dl.dataset) for dl in fed_with(model, packed, parts, cache=cache).dls] == [144, 16]

class Compiled:
    "What `torch.compile` gives, but for the compiler"

    def __init__(self, module, factor=1.0, error=None):
        self.module, self.factor, self.error, self.sizes = module, factor, error, []
    def __call__(self, *xs):
        self.sizes.append(len(xs[0]))
        if self.error: raise self.error
        return tuple(self.factor * t for t in self.module(*xs))

@pytest.mark.parametrize(
    'kw,sizes',
    [
        ({}, [8, 8, 8]),
        (dict(factor=1.001), [8, 8, 8]),
        (dict(factor=1.1), [8]),
        (dict(factor=float('nan')), [8]),
        (dict(error=RuntimeError('no C++ compiler')), [8]),
    ],
)
def test_a_compiled_trunk_is_compared_once_and_dropped_when_it_is_wrong(packed, kw, sizes):
    "Whole batches only; the first is computed twice, and the rest by whichever can be trusted"
    module = trunk.FromPixels(cut(build('resnet10t', 1, pretrained=False, size=64), 64).trunk, MEAN, STD).eval()
    engine, pixels = trunk.Engine(module, (packed.pixels[:3],), 'torch', batch=8), packed.pixels[:29]
    want = torch.cat([t for t, in engine(pixels)])
    engine.run.compiled = stub = Compiled(module, **kw)
    got = torch.cat([t for t, in engine(pixels)])
    assert stub.sizes == sizes
    trusted = kw.get('factor', 1.) if len(sizes) > 1 else 1.
    # the comparison's own batch, and what is no whole one
    assert torch.equal(got[:8], want[:8]) and torch.equal(got[24:], want[24:])
    np.testing.assert_allclose(got[8:24], trusted * want[8:24], rtol=1e-6)

class BlowsUp(torch.nn.Module):
    "The logistic map doubles each difference, so that no two ways of adding agree"
    def __init__(self): super().__init__(); self.wide = torch.nn.Linear(3 * 64 * 64, 8)
    def forward(self, x):
        x = torch.sigmoid(self.wide(x.flatten(1)))
        for _ in range(14): x = 4 * x * (1 - x)
        return (x,)

def test_an_engine_is_turned_down_for_its_faults_and_not_for_rounding(packed):
    torch.manual_seed(0)
    module = trunk.FromPixels(BlowsUp(), MEAN, STD).eval()
    engine = trunk.Engine(module, (packed.pixels[:3],), 'onnxruntime')
    assert engine.error > trunk.TOLERANCE and not engine.note
    run = engine.run
    for wrong in (
        lambda arrays: tuple(t.flip(0) for t in run(arrays)),
        lambda arrays: tuple(t * float('nan') for t in run(arrays)),
        lambda arrays: tuple(t + 0.1 for t in run(arrays)),
    ):
        engine.run = wrong
        with pytest.raises(ArithmeticError, match='differ from those of PyTorch'):
            engine._check(module, (torch.from_numpy(np.array(packed.pixels[:3])),))

def work(images, cache, out=None):
    "Pack and features from nothing"
    torch.set_num_threads(1)
    p = pack(images_of(images), size=64, cache=cache, quiet=True)
    torch.manual_seed(0)
    # no engine to build: most of its moments are writing
    f = features(
        cut(build('resnet10t', 2, pretrained=False, size=64), 64),
        p, MEAN, STD, backend='torch', cache=cache, quiet=True,
    )
    return p, f

@pytest.mark.slow
@pytest.mark.skipif(os.name != 'posix', reason='needs SIGKILL')
def test_killed_at_twenty_moments_nothing_half_made_is_read(phantoms, tmp_path, monkeypatch):
    # the server's own search path: without this its preloading fails in silence, and the kills meet nothing but imports
    monkeypatch.setenv(
        'PYTHONPATH', os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get('PYTHONPATH')]))
    )
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_features'])
    p, f = work(phantoms/'images', tmp_path/'whole')
    pixels, arrays = np.array(p.pixels), [np.array(a) for a in f.arrays]
    def child(cache):
        c = context.Process(target=work, args=(phantoms/'images', cache))
        c.start()
        return c
    child(tmp_path/'first').join()   # the server is warm after this one
    start = time.perf_counter()
    child(tmp_path/'second').join()
    took, draws, seen = time.perf_counter() - start, random.Random(0), set()
    for i in range(20):
        cache = tmp_path/str(i)
        c = child(cache)
        time.sleep(took * draws.random())
        try: os.kill(c.pid, signal.SIGKILL)
        except ProcessLookupError: pass   # it had finished
        c.join()
        there = [k for k in ('packs', 'features') if any(not x.name.startswith('.') for x in (cache/k).glob('*'))]
        half = any(any((cache/k).glob('.*.part')) for k in ('packs', 'features'))
        seen.add((*there, half))
        _verified.clear()
        with warnings.catch_warnings():
            # what is there under its name is whole: nobody has to say that it is damaged
            warnings.simplefilter('error')
            p, f = work(phantoms/'images', cache)
        assert p.reused == ('packs' in there) and f.reused == ('features' in there)
        assert (p.pixels == pixels).all() and all((a == b).all() for a, b in zip(f.arrays, arrays, strict=True))
        assert not any(x.name.endswith('.part') for k in ('packs', 'features') for x in (cache/k).iterdir())
    assert len(seen) > 1, seen

@pytest.mark.parametrize(
    'damage', ['shorter', 'flipped', 'json', 'list', 'no engine', 'empty', 'zero', 'header', 'gone', 'other dtype']
)
def test_a_damaged_cache_is_made_again(packed, tmp_path, damage):
    torch.manual_seed(0)
    c = cut(build('resnet10t', 1, pretrained=False, size=64), 64)
    want = np.array(features(c, packed, MEAN, STD, cache=tmp_path, quiet=True).arrays[0])
    folder = next((tmp_path/'features').iterdir())
    file = folder/'0.npy'
    if damage == 'shorter': os.truncate(file, file.stat().st_size - 10)
    elif damage == 'flipped':
        with open(file, 'r+b') as f: f.seek(5000); b = f.read(1); f.seek(5000); f.write(bytes([b[0] ^ 1]))
    elif damage == 'json': (folder/'features.json').write_text('{"schema": 1')
    elif damage == 'empty': (folder/'features.json').write_text('')
    elif damage == 'list': (folder/'features.json').write_text('[]')
    elif damage == 'no engine':
        (folder / 'features.json').write_text((folder / 'features.json').read_text().replace('"engine"', '"engime"'))
    elif damage == 'zero': os.truncate(file, 0)
    elif damage == 'header': file.write_bytes(file.read_bytes().replace(b"'shape': (", b"'shape': [", 1))
    elif damage == 'gone': file.unlink()
    else: np.save(file, np.load(file).astype(np.float32))
    _verified.clear()
    with pytest.warns(UserWarning, match='damaged'): f = features(c, packed, MEAN, STD, cache=tmp_path, quiet=True)
    assert not f.reused and (f.arrays[0] == want).all()
    assert features(c, packed, MEAN, STD, cache=tmp_path, quiet=True).reused

def test_what_float16_cannot_hold_is_kept_in_float32(packed, tmp_path):
    torch.manual_seed(0)
    model = build('resnet10t', 1, pretrained=False, size=64)
    # of the trunk
    norm = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d) and not m.weight.requires_grad][
        -1
    ]
    torch.nn.init.constant_(norm.bias, 1e6)
    f = features(cut(model, 64), packed, MEAN, STD, cache=tmp_path, quiet=True)
    assert f.dtype == 'float32' and 'beyond float16' in f.note and max(a.max() for a in f.arrays) > 65504
    again = features(cut(model, 64), packed, MEAN, STD, cache=tmp_path, quiet=True)
    assert again.reused and again.note == f.note
    torch.nn.init.constant_(norm.bias, float('nan'))
    with pytest.raises(FloatingPointError, match='undefined'):
        features(cut(model, 64), packed, MEAN, STD, cache=tmp_path, quiet=True)
    assert len(list((tmp_path/'features').iterdir())) == 1

def test_a_depth_that_cannot_be_cut_costs_the_others_nothing(packed, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path))
    model = build('resnet10t', 1, pretrained=False, size=64)
    made = lambda: sorted(json.loads(f.read_text())['what'][-1] for f in (tmp_path/'features').rglob('features.json'))
    # at which nothing is frozen
    fed = fed_with(model, packed, deepest=len(model.groups))
    assert fed.trains_on == 'features' and made() == ['1']
    shutil.rmtree(tmp_path/'features')
    assert fed_with(model, packed, deepest=[0, 1, len(model.groups), 2]).trains_on == 'features'
    assert made() == ['0', '1', '2']

@pytest.mark.usefixtures('plain_figures')
def test_another_seed_makes_no_features(packed, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path))
    torch.manual_seed(0)
    save_file(
        {k: v.clone() for k, v in build('resnet10t', pretrained=False, size=64).backbone.state_dict().items()},
        tmp_path / 'w.safetensors',
    )
    kw = dict(pretrained=tmp_path/'w.safetensors', epochs=1, groups=False, quiet=True, out=tmp_path/'runs')
    made = lambda: {f.name for f in (tmp_path/'features').iterdir()}
    run(packed, 'resnet10t', 1, **kw)
    first = made()
    run(packed, 'resnet10t', 1, seed=1, lr=1e-3, **kw)
    assert len(first) == 1 and made() == first

def test_networks_that_differ_in_nothing_but_a_stride_do_not_share_features(packed, tmp_path):
    torch.manual_seed(0)
    a, b = (build('resnet10t', 1, pretrained=False, size=64) for _ in range(2))
    b.load_state_dict(a.state_dict())
    next(m for m in b.backbone.modules() if isinstance(m, torch.nn.MaxPool2d)).stride = 1
    assert len({features(cut(m, 64), packed, MEAN, STD, cache=tmp_path, quiet=True).path for m in (a, b)}) == 2

@pytest.mark.usefixtures('plain_figures')
def test_views_are_trained_on(packed, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path))
    kw = dict(pretrained=False, epochs=2, bs=32, groups=False, quiet=True, out=tmp_path/'runs')
    r = run(packed, 'resnet10t', 1, views=3, name='three', **kw)
    assert len(list((tmp_path/'features').iterdir())) == 3 and r.config['views'] == 3
    assert r.history.train_loss.tolist() != run(packed, 'resnet10t', 1, name='one', **kw).history.train_loss.tolist()
    again = run(packed, 'resnet10t', 1, views=3, name='again', **kw)
    assert again.predictions.equals(r.predictions)
    with pytest.raises(ValueError, match='views'): run(packed, 'resnet10t', 1, views=2, augment=True, name='both', **kw)
    with pytest.raises(ValueError, match='float16'): run(packed, 'resnet10t', 1, features='int8', name='int8', **kw)

@pytest.mark.usefixtures('plain_figures')
def test_what_cannot_be_cut_trains_on_images_and_says_so(packed, tmp_path, capsys):
    r = run(packed, 'resnet10t', 'all', pretrained=False, epochs=1, bs=32, groups=False, out=tmp_path)
    assert 'nothing is frozen' in capsys.readouterr().err
    env = json.loads((r.path/'environment.json').read_text())
    assert env['trained_on'] == 'images' and env['trunk'] is None

@pytest.mark.usefixtures('plain_figures')
def test_where_the_cut_fails_images_are_trained_on_and_the_reason_is_told(packed, tmp_path, capsys, monkeypatch):
    def fail(*args): raise CutError('it has two heads')
    monkeypatch.setattr(feeding, 'cut', fail)
    # a warning, and once: whoever passes a study's lines by must not miss why it takes so long
    with pytest.warns(
        UserWarning,
        match=r'resnet10t at depth 1 cannot be cut \(it has two heads\): each image passes .* many times as long',
    ) as warned:
        r = run(packed, 'resnet10t', 1, pretrained=False, epochs=1, bs=32, groups=False, out=tmp_path)
    assert len([w for w in warned if 'cannot be cut' in str(w.message)]) == 1
    assert 'cannot be cut' not in capsys.readouterr().err
    env = json.loads((r.path/'environment.json').read_text())
    assert env['trained_on'] == 'images' and env['note'].startswith('resnet10t at depth 1 cannot be cut')
    with pytest.raises(ValueError, match='views=2 needs features'):
        run(packed, 'resnet10t', 1, pretrained=False, views=2, epochs=1, groups=False, out=tmp_path, name='views')

def test_views_of_what_is_not_frozen_are_refused(packed, tmp_path):
    with pytest.raises(ValueError, match='give augment=True'):
        run(packed, 'resnet10t', 'all', pretrained=False, views=2, epochs=1, groups=False, quiet=True, out=tmp_path)
    with pytest.raises(ValueError, match='leave that depth out'):
        study(
            packed, 'resnet10t', (0, 'all'), pretrained=False, views=2, epochs=1, groups=False, quiet=True, out=tmp_path
        )
    assert not list(tmp_path.iterdir())

@pytest.mark.usefixtures('plain_figures')
def test_a_network_that_disagrees_with_its_features_is_an_error(packed, tmp_path, monkeypatch):
    "The 64 images of every run: another network, and it is noticed"
    agree = training._agree
    def spoilt(model, *args, **kw):
        with torch.no_grad():
            next(
                p for n, p in model.named_parameters() if n.endswith('conv1.0.weight') or n.endswith('conv1.weight')
            ).mul_(1.5)
        return agree(model, *args, **kw)
    monkeypatch.setattr(training, '_agree', spoilt)
    with pytest.raises(RuntimeError, match='other probabilities on images than on their features'):
        run(packed, 'resnet10t', 1, pretrained=False, epochs=2, bs=32, lr=2e-2, groups=False, quiet=True, out=tmp_path)
    assert not (tmp_path/'resnet10t_1').exists()

def test_the_limit_drops_the_oldest(packed, tmp_path):
    torch.manual_seed(0)
    a, b = (
        features(
            cut(build('resnet10t', d, pretrained=False, size=64), 64),
            packed, MEAN, STD, cache=tmp_path, limit_gb=g, quiet=True,
        )
        for d, g in ((0, 1), (1, 0))
    )
    # what is open can still be read
    assert [f.name for f in (tmp_path/'features').iterdir()] == [b.path.name] and len(a) == len(b) == 160

@pytest.mark.usefixtures('plain_figures')
def test_a_pack_in_hand_outlives_its_folder(phantoms, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path))
    p = pack(images_of(phantoms/'images'), size=64, quiet=True)
    clear_cache('packs')
    r = run(p, 'resnet10t', 0, pretrained=False, epochs=1, bs=32, quiet=True, out=tmp_path/'out')
    assert r.config['data_digest'] and not p.path.exists()

def test_what_went_wrong_with_a_pass_is_said_of_all_that_it_made(packed, tmp_path, monkeypatch):
    init = trunk._OnnxRuntime.__init__
    def fail(self, module, example):
        if isinstance(module, trunk.FromPixels): raise RuntimeError('no such operator')
        init(self, module, example)
    monkeypatch.setattr(trunk._OnnxRuntime, '__init__', fail)
    torch.manual_seed(0)
    model = build('resnet10t', 1, pretrained=False, size=64)
    deep, shallow = cut(model, 64, 1), cut(model, 64, 0)
    first = features(shallow, packed, MEAN, STD, also=lambda: [deep], cache=tmp_path, quiet=True)
    for f in (first, features(deep, packed, MEAN, STD, cache=tmp_path, quiet=True)):
        assert 'no such operator' in f.note and f.engine.startswith('torch')
    assert not first.reused and f.reused

def named(cuts, cache, packed, **how):
    "Bits of the features of each depth, the first of which makes the rest"
    how |= dict(cache=cache, quiet=True)
    for c in cuts: features(c, packed, MEAN, STD, also=lambda c=c: [x for x in cuts if x is not c], **how)
    found = [features(c, packed, MEAN, STD, **how) for c in cuts]
    assert all(f.reused for f in found)
    return {c.depth: (f.dtype, f.note, [a.tobytes() for a in f.arrays]) for c, f in zip(cuts, found)}

@pytest.mark.parametrize('arch', [
    'resnet10t',
    *(pytest.param(a, marks=pytest.mark.slow) for a in ('vit_tiny_patch16_224', 'densenet121', 'efficientnet_b0')),
])
def test_features_do_not_depend_on_which_other_depths_are_asked_for(packed, tmp_path, arch):
    "Of a vision transformer ONNX Runtime gives other bits where more is handed out, and depth 0 gets its own pass"
    size = 224 if arch.startswith('vit') else 64
    packed = packed if size == 64 else pack(packed.table[:8], size=size, cache=tmp_path, quiet=True)
    torch.manual_seed(0)
    model = build(arch, pretrained=False, size=size)
    cuts = [cut(model, size, d) for d in (0, 1, 2)]
    want = named(cuts, tmp_path/'all', packed)
    for i, some in enumerate(([0], [1], [2], [1, 0], [2, 0])):
        got = named([cuts[d] for d in some], tmp_path/str(i), packed)
        assert all(got[d] == want[d] for d in some)

def test_a_depth_beyond_float16_leaves_the_others_in_float16(packed, tmp_path):
    torch.manual_seed(0)
    model = build('resnet10t', 1, pretrained=False, size=64)
    norms = [m for m in model.backbone.modules() if isinstance(m, torch.nn.BatchNorm2d) and not m.weight.requires_grad]
    torch.nn.init.constant_(norms[-1].bias, 1e6)   # of the trunk at depth 1, not of that at depth 2
    cuts = [cut(model, 64, d) for d in (1, 2)]
    found = named(cuts, tmp_path/'both', packed)
    assert found[1][0] == 'float32' and 'beyond float16' in found[1][1] and found[2][:2] == ('float16', '')
    assert found[2] == named(cuts[1:], tmp_path/'one', packed)[2]

class Pooled(torch.nn.Module):
    "A backbone whose constants stand in no state dict, and whose pooling does not print all that it does"
    num_features = 8
    def __init__(self, value, ceil):
        super().__init__()
        self.conv, self.pool, self.fc = (
            torch.nn.Conv2d(3, 8, 3, 2),
            torch.nn.AvgPool2d(2, ceil_mode=ceil),
            torch.nn.Linear(8, 8),
        )
        self.register_buffer('shift', torch.tensor(value), persistent=False)
    def forward(self, x): return self.fc(self.pool(self.conv(x) + self.shift).mean((2, 3)))

def test_networks_that_differ_in_what_no_state_holds_do_not_share_features(packed, tmp_path):
    seen = set()
    for value, ceil in ((0., False), (1., False), (0., True), (0., False)):
        torch.manual_seed(0)
        model = Classifier(Pooled(value, ceil), torch.nn.Linear(8, 4)).freeze(0)
        seen.add(features(cut(model, 64), packed, MEAN, STD, backend='torch', cache=tmp_path, quiet=True).path)
    assert len(seen) == 3

def test_a_network_in_training_mode_finds_its_features_again(packed, tmp_path):
    torch.manual_seed(0)
    model = build('resnet10t', 2, pretrained=False, size=64).train()
    first, again = (
        features(cut(model, 64, 0), packed, MEAN, STD, backend='torch', cache=tmp_path, quiet=True) for _ in range(2)
    )
    assert again.reused and again.path == first.path

@pytest.mark.usefixtures('plain_figures')
def test_logits_in_the_hundreds_are_no_disagreement(packed, tmp_path, monkeypatch):
    "A thousandth of such a logit is rounding and moves a probability by over 5e-3; another image's are an error still"
    def shaken(by, rows=slice(None)):
        def logits_of(net, dl):
            z = feeding.logits_of(net, dl)
            z = 300 * (z - z.mean()) / z.std()
            if hasattr(dl, 'dataset'): return z   # of the features, which are filed
            z[rows] += by * z.std() * np.array([1, -1, 1, -1])
            return z
        monkeypatch.setattr(training, 'logits_of', logits_of)
        return run(packed, 'resnet10t', 1, pretrained=False, epochs=1, bs=32, groups=False, quiet=True, out=None)
    assert shaken(1e-3)
    for by, rows in ((.1, slice(None)), (1, slice(1))):
        with pytest.raises(RuntimeError, match='other probabilities on images than on their features'): shaken(by, rows)

@pytest.mark.usefixtures('plain_figures')
def test_a_run_is_the_same_whatever_other_depths_its_study_has(packed, tmp_path, monkeypatch):
    kw = dict(pretrained=False, epochs=2, bs=32, groups=False, quiet=True)
    told = 'timings.json', 'environment.json', 'report.html'   # when, and how long
    def files(folder): return {f.name: f.read_bytes() for f in folder.iterdir() if f.name not in told}
    found = []
    for depths in ((0,), (0, 1, 2), (2, 0)):
        place = tmp_path/'-'.join(map(str, depths))
        monkeypatch.setenv('XRAY_XFER_CACHE', str(place/'cache'))
        study(packed, 'resnet10t', depths, out=place/'study', **kw)
        found.append(files(place/'study'/'resnet10t_0'))
    assert {'config.json', 'metrics.json', 'predictions.csv', 'history.csv', 'model.safetensors'} < set(found[0])
    for other in found[1:]:
        assert other.keys() == found[0].keys()
        assert [name for name in other if other[name] != found[0][name]] == []
