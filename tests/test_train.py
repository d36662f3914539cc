"Runs and studies: what is filed, what stays when something fails halfway, and the same result twice."
import errno, json, os, signal, subprocess, sys, time, warnings
from functools import wraps
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from fastai.learner import Learner
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import load_file, save_file

from xray_xfer.data import demo
from xray_xfer.runs import filing, folder
from xray_xfer import train
from xray_xfer.cli import main
from xray_xfer.data.table import images_of
from xray_xfer.data.columns import relative_paths
from xray_xfer.evaluate.tables import table_markdown
from xray_xfer.runs.filing import load_model
from xray_xfer.runs.folder import load_run
from xray_xfer.evaluate.predictions import Predictions, metrics_of
from xray_xfer.core.files import read_csv
from xray_xfer.training.loaders import dataloaders
from xray_xfer.training.callbacks import Diverged
from xray_xfer.models.classifier import build
from xray_xfer.data.packing import pack
from xray_xfer.data.split import load_split
from xray_xfer.study import load_study, study
from xray_xfer.train import run

FAST = dict(pretrained=False, size=64, epochs=1, bs=16, quiet=True)
ARCH = 'shufflenetv2_050'
FILES = folder.FILES - folder.ASKED
pytestmark = pytest.mark.usefixtures('plain_figures')

@pytest.fixture(scope='session')
def packed(xrays): return pack(images_of(xrays), size=64, quiet=True)

def everything(path): return sorted(str(p.relative_to(path)) for p in Path(path).rglob('*'))

# ---- what a run is

@pytest.mark.drawn
def test_run_folder(xrays, tmp_path):
    r = run(xrays, ARCH, 1, **FAST | dict(epochs=2), out=tmp_path)
    assert r.path == tmp_path/f'{ARCH}_1' and {f.name for f in r.path.iterdir()} == FILES
    c = json.loads((r.path/'config.json').read_text())
    assert c['classes'] == sorted(demo.CLASSES)
    assert (c['size'], c['mean'], c['std']) == (64, [.485, .456, .406], [.229, .224, .225])
    assert c['weights'] == 'random' and c['precision'] in ('fp32', 'bf16', 'fp16')
    assert c['device'] in ('cpu', 'cuda', 'mps')
    h = pd.read_csv(r.path/'history.csv')
    assert list(h) == ['epoch', 'train_loss', 'train_accuracy', 'valid_loss', 'valid_accuracy', 'valid_loss_scaled']
    assert h.epoch.tolist() == [1, 2]
    assert r.metrics['best_epoch'] == h.epoch[h.valid_loss_scaled.idxmin()]
    p = Predictions(read_csv(r.path/'predictions.csv'))
    assert list(p)[:4] == ['path', 'part', 'group', 'label'] and list(p)[4:] == [f'logit_{k}' for k in c['classes']]
    text = (r.path/'metrics.json').read_text()
    assert str(tmp_path) not in text and 'second' not in text
    filed = json.loads(text)
    measured = metrics_of(p)
    assert measured.items() <= filed.items()
    beside = {'valid', 'best_epoch', 'intervals', 'interval_note', 'class_intervals'}
    assert set(filed) - set(measured) == beside
    assert metrics_of(p, 'valid') == json.loads(text)['valid']
    # the split is a partition of the images, and the predictions are those of its parts
    table = images_of(xrays)
    parts = load_split(r.path/'split.csv', table)
    named = pd.Series(relative_paths(table))
    for part in ('valid', 'test'): assert set(p.path[p.part == part]) == set(named[parts.values == part])
    assert (r.path/'summary.txt').read_text().startswith('Total params: 1,918,244')
    with Image.open(r.path/'curves.png') as im: assert im.size[0] > 600
    # the filed epoch's validation metrics are the history's
    assert r.metrics['valid']['accuracy'] == pytest.approx(h.valid_accuracy[r.metrics['best_epoch'] - 1])
    assert r.metrics['valid']['loss'] == pytest.approx(h.valid_loss[r.metrics['best_epoch'] - 1], rel=1e-3)

def test_frozen_stays_frozen_through_a_run(xrays, tmp_path):
    "From a file: all below the tail is bit-identical to the file afterwards, BatchNorm statistics too"
    sd = build(ARCH, pretrained=False).backbone.state_dict()
    save_file(sd, tmp_path/'w.safetensors')
    r = run(xrays, ARCH, 1, **FAST | dict(pretrained=tmp_path/'w.safetensors', lr=1e-2), out=tmp_path)
    after = load_file(r.path/'model.safetensors')
    moved = {k for k, v in sd.items() if not torch.equal(after[f'backbone.{k}'], v)}
    assert moved and all(k.startswith('conv5.') for k in moved)
    assert {'conv5.0.weight', 'conv5.1.running_mean', 'conv5.1.weight'} <= moved
    assert r.config['weights'] == 'w.safetensors' and 'sha256' in r.config['pretrained']

def test_same_seed_same_bytes_other_seed_not(xrays, tmp_path):
    a, b, c = (run(xrays, ARCH, 2, **FAST, out=tmp_path/o, seed=s) for o, s in (('a', 0), ('b', 0), ('c', 1)))
    for f in ('metrics.json', 'predictions.csv', 'history.csv', 'split.csv'):
        assert (a.path/f).read_bytes() == (b.path/f).read_bytes(), f
    assert (a.path/'split.csv').read_bytes() == (c.path/'split.csv').read_bytes() and c.path.name == f'{ARCH}_2_seed1'
    assert (a.path/'predictions.csv').read_bytes() != (c.path/'predictions.csv').read_bytes()

def test_split_seed_moves_the_split_alone(xrays, tmp_path):
    a, b = (run(xrays, ARCH, **FAST, out=tmp_path/str(s), split_seed=s) for s in (0, 1))
    assert (a.path/'split.csv').read_bytes() != (b.path/'split.csv').read_bytes()

def test_the_callers_random_state_is_left_alone(packed, tmp_path):
    torch.manual_seed(5), np.random.seed(5)
    want = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5), np.random.seed(5)
    run(packed, ARCH, **FAST, out=tmp_path)
    assert torch.equal(torch.rand(3), want[0]) and (np.random.rand(3) == want[1]).all()

def test_the_test_part_is_looked_at_once(packed, tmp_path, monkeypatch):
    "Test images pass through the network after training, and only once"
    seen, logits_of = [], train.logits_of
    def counted_logits(net, dl):
        seen.append(len(dl.dataset) if hasattr(dl, 'dataset') else 'check')
        return logits_of(net, dl)
    monkeypatch.setattr(train, 'logits_of', counted_logits)
    trained, one_batch = [], Learner.one_batch
    def counted_batch(self, i, b):
        trained.append((len(seen), len(b[0])))
        return one_batch(self, i, b)
    monkeypatch.setattr(Learner, 'one_batch', counted_batch)
    r = run(packed, ARCH, **FAST | dict(epochs=2), out=tmp_path)
    parts = load_split(r.path/'split.csv', packed.table).value_counts()
    assert seen == [parts['valid'], parts['test'], 'check']
    # before the first prediction: training and validation only
    assert sum(n for when, n in trained if when == 0) <= 2 * (parts['train'] + parts['valid'])

def test_depth_all_augmentation_pad_and_saved_split(xrays, tmp_path):
    first = run(xrays, ARCH, 'all', **FAST, out=tmp_path)
    assert "Non-trainable params: 0" in (first.path/'summary.txt').read_text()
    again = run(xrays, ARCH, 'all', **FAST, out=tmp_path, name='again', augment=True, resize='pad',
                split=first.path/'split.csv', split_seed=9)
    assert (again.path/'split.csv').read_bytes() == (first.path/'split.csv').read_bytes()
    assert again.config['resize'] == 'pad'
    assert again.history.train_loss.tolist() != first.history.train_loss.tolist()

def test_loaded_network_gives_the_filed_logits(packed, tmp_path):
    r = run(packed, ARCH, 1, **FAST, features='float32', out=tmp_path)   # float16 rounds logits by more
    dls = dataloaders(packed, ARCH, split=load_split(r.path/'split.csv', packed.table), device=torch.device('cpu'))
    with torch.no_grad(): logits = torch.cat([load_model(r.path)(torch.Tensor(x)) for x, _ in dls[2]]).numpy()
    filed = r.predictions[r.predictions.part == 'test'].filter(like='logit_').to_numpy()
    assert np.abs(logits - filed).max() < 1e-4

# ---- sources of every kind

@pytest.mark.drawn
def test_two_classes_groups_and_rejects(xrays, tmp_path):
    "A CSV with two classes, patients as groups and a damaged file: groups stay together, the reject is filed"
    table = images_of(xrays)
    table = table[table.label.isin(['COVID', 'Normal'])].reset_index(drop=True)
    table['group'] = [f'p{i // 2}' for i in range(len(table))]
    (tmp_path/'bad.png').write_bytes(Path(table.path[0]).read_bytes()[:200])
    table = pd.concat([table, pd.DataFrame([dict(path=str(tmp_path/'bad.png'), label='COVID', group='p0')])],
                      ignore_index=True)
    table[['path', 'label', 'group']].to_csv(tmp_path/'t.csv', index=False)
    r = run(tmp_path/'t.csv', ARCH, **FAST, out=tmp_path/'out')
    assert r.config['classes'] == ['COVID', 'Normal'] and 0 <= r.metrics['auc'] <= 1
    rejects = read_csv(r.path/'rejects.csv')
    assert len(rejects) == 1 and 'damaged' in rejects.reason[0]
    split = read_csv(r.path/'split.csv')
    assert (split.groupby('group').split.nunique() == 1).all()
    assert set(r.predictions.group) <= set(table.group) and '' not in set(r.predictions.group)

@pytest.mark.drawn
def test_a_given_split_is_honoured_and_a_missing_class_is_stated(xrays, tmp_path):
    table = images_of(xrays)
    n = table.groupby('label').cumcount()
    table['split'] = np.select([n < 2, n < 4], ['valid', 'test'], 'train')
    table.loc[(table.label == 'COVID') & (table.split == 'test'), 'split'] = 'train'
    with pytest.warns(UserWarning, match='COVID'): r = run(table, ARCH, **FAST, out=tmp_path)
    assert r.metrics['missing'] == ['COVID'] and np.isfinite(r.metrics['f1']) and np.isfinite(r.metrics['auc'])
    tested = r.predictions.path[r.predictions.part == 'test']
    assert set(tested) == set(np.array(relative_paths(table))[table.split == 'test'])

@pytest.mark.drawn
def test_what_a_given_split_tears_is_said_everywhere(xrays, tmp_path):
    table = images_of(xrays)
    n = table.groupby('label').cumcount()
    table['split'] = np.select([n < 2, n < 4], ['valid', 'test'], 'train')
    # patients in all three parts
    table['group'] = [f'{label} {i}' if i < 4 else '' for label, i in zip(table.label, n % 2)]
    with pytest.warns(UserWarning, match='more than one part'): r = run(table, ARCH, **FAST, out=tmp_path)
    told = json.loads((r.path/'twins.json').read_text())
    assert told['torn'] == table.group[n < 2].nunique() and 'in more than one part' in told['note']
    card, page = (r.path/'MODEL_CARD.md').read_text(), (r.path/'report.html').read_text()
    assert 'in more than one part' in card and 'in a split that was given' in card
    assert 'whole in one part' not in card and 'with seed' not in card
    assert 'in more than one part' in page and 'whole in one part' not in page

@pytest.mark.drawn
def test_class_and_file_names_in_any_alphabet(tmp_path):
    names, rng = ['Zürich é', '胸部', 'a,b;c', "quote'\"", 'NA', '01'], np.random.default_rng(0)
    for c in names:
        (tmp_path/'src'/c).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(tmp_path/'src'/c/f'{c} {i}.png')
    r = run(tmp_path/'src', ARCH, **FAST | dict(size=32), out=tmp_path/'out')
    back = load_run(r.path)
    assert back.config['classes'] == sorted(names) and set(back.predictions.label) == set(names)
    assert metrics_of(back.predictions)['accuracy'] == r.metrics['accuracy']

def small_tree(root, **counts):
    for c, n in counts.items():
        (root/c).mkdir(parents=True)
        for i in range(n): Image.new('L', (32, 32), 20 * i).save(root/c/f'{i}.png')
    return root

@pytest.mark.parametrize('make, message', [
    (lambda d: d/'nowhere', 'does not exist'),
    (lambda d: (d/'empty').mkdir() or d/'empty', 'no images'),
    (lambda d: small_tree(d/'one', A=9), 'one class'),
    (lambda d: small_tree(d/'two', A=9, B=2), 'B'),
    (lambda d: small_tree(d/'m', **{'A/masks': 3, 'B/masks': 3}), 'masks'),
], ids=['no path', 'empty', 'one class', 'two images', 'masks only'])
def test_sources_that_cannot_be_studied(tmp_path, make, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        run(make(tmp_path), ARCH, **FAST, out=tmp_path/'out')
    assert not (tmp_path/'out').exists()

@pytest.mark.parametrize('bad, message', [
    (dict(epochs=0), 'epochs=0'),
    (dict(bs=1), 'bs=1'),
    (dict(lr=0), 'lr=0'),
    (dict(lr=float('nan')), 'lr=nan'),
    (dict(valid=0), 'valid=0'),
    (dict(test=.95), 'test'),
    (dict(depth=6), '5 layer groups'),
    (dict(norms=6), 'norms=6: .* has 5 layer groups; give 0 .none. to 5'),
    (dict(norms='some'), "norms='some'"),
    (dict(norms=True), 'norms=True'),
    (dict(arch='shuflenetv2_050'), 'shufflenetv2_050'),
    (dict(device='tpu'), 'device'),
    (dict(precision='fp8'), 'precision'),
    (dict(size=4), 'size=4'),
    (dict(resize='crop'), 'resize'),
    (dict(dropout=1.5), 'dropout'),
    (dict(wd=-1), 'wd=-1'),
])
def test_arguments_that_make_no_sense(xrays, tmp_path, bad, message):
    with pytest.raises(ValueError, match=message): run(xrays, **dict(arch=ARCH, **FAST) | bad, out=tmp_path/'out')
    assert not (tmp_path/'out').exists()

# ---- failure halfway

WRITES = {'csv': (filing, 'write_csv'), 'split': (filing, 'write_split'), 'json': (filing, 'write_json'),
          'weights': (filing, 'save_file'), 'figure': (Figure, 'savefig'),
          'text': (Path, 'write_text')}

def test_full_disk_at_each_kind_of_write(packed, tmp_path, monkeypatch):
    "ENOSPC in the second run of a study: the first stays whole, the second leaves nothing, the study can go on later"
    args = dict(archs=ARCH, pretrained=False, epochs=1, bs=16, quiet=True, out=tmp_path/'s')
    first = study(packed, depths=0, **args)
    before = everything(first.path)
    def full(*a, **k): raise OSError(errno.ENOSPC, 'No space left on device')
    for what, (owner, name) in WRITES.items():
        with monkeypatch.context() as m:
            m.setattr(owner, name, full)
            with pytest.raises(OSError, match='No space left'): study(packed, depths=(0, 1), **args)
        assert everything(first.path) == before, what
        assert load_run(first.runs[0].path).metrics == first.runs[0].metrics, what
    assert len(study(packed, depths=(0, 1), **args).runs) == 2

@pytest.mark.slow
def test_a_real_limit_on_file_size(xrays, tmp_path):
    "The kernel refuses to let model.safetensors grow: one clear line, exit code 1, nothing left"
    words = ['run', str(xrays), '--arch', ARCH, '--pretrained', 'false', '--size', '64', '--epochs', '1',
             '--out', str(tmp_path/'out'), '--quiet']
    code = ("import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
            "from xray_xfer.cli import main\n"
            "import xray_xfer.train; resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000,) * 2)\n"
            f"sys.exit(main({words!r}))")
    p = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True)
    assert p.returncode == 1 and p.stderr.count('xray_xfer: error:') == 1 and 'Traceback' not in p.stderr, p.stderr
    assert everything(tmp_path) in ([], ['out'])

@pytest.mark.drawn
def test_ctrl_c_between_two_runs_keeps_the_first(packed, tmp_path, monkeypatch):
    calls, fit = [], Learner._do_epoch
    def stop(self):
        calls.append(1)
        if len(calls) == 2: raise KeyboardInterrupt
        fit(self)
    monkeypatch.setattr(Learner, '_do_epoch', stop)
    with pytest.raises(KeyboardInterrupt):
        study(packed, ARCH, (0, 1), pretrained=False, epochs=1, quiet=True, out=tmp_path/'s')
    assert [p.name for p in (tmp_path/'s').iterdir()] == [f'{ARCH}_0']
    assert {f.name for f in (tmp_path/'s'/f'{ARCH}_0').iterdir()} == FILES

def test_ctrl_c_on_the_command(xrays, tmp_path):
    "A real SIGINT to a real process, once the first run is there: exit code 130, one line, the first run whole"
    cmd = [sys.executable, '-W', 'ignore', '-c', 'import sys; from xray_xfer.cli import main; sys.exit(main())',
           'study', str(xrays), '--archs', ARCH, '--pretrained', 'false', '--size', '64', '--epochs', '1',
           '--depths', '0', '1', '2', '--seeds', '0', '1', '2', '3', '--out', str(tmp_path/'s')]
    # a shell's background jobs ignore it
    p = subprocess.Popen(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                         preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))
    try:
        end = time.time() + 120
        while not (tmp_path/'s'/f'{ARCH}_0').is_dir() and time.time() < end and p.poll() is None: time.sleep(.05)
        time.sleep(.3)
        p.send_signal(signal.SIGINT)
        out, err = p.communicate(timeout=60)
    finally: p.kill()
    assert p.returncode == 130 and 'stopped' in err and 'Traceback' not in err, err
    for r in (tmp_path/'s').iterdir():
        assert r.is_dir() and {f.name for f in r.iterdir()} | {'report.html', 'MODEL_CARD.md'} == FILES, r

@pytest.mark.parametrize('lr, cache', [(1e30, True), (1e30, False), (1e8, True)])   # in the second batch; in validation
def test_divergence_is_named_and_leaves_nothing(packed, tmp_path, lr, cache):
    with pytest.raises(FloatingPointError, match='lower lr') as e:
        run(packed, ARCH, **FAST | dict(lr=lr, epochs=2), cache=cache, precision='fp32', out=tmp_path/'o')
    assert isinstance(e.value, Diverged)
    assert str(e.value).startswith('training broke down in epoch 1')
    assert 'Exception occured' not in str(e.value)
    assert f'learning rate {lr:g}, precision fp32' in str(e.value) and 'nan' in str(e.value)
    assert not (tmp_path/'o').exists()

def test_divergence_is_one_plain_line_of_the_command(xrays, tmp_path, capfd):
    code = main(['run', str(xrays), '--arch', ARCH, '--pretrained', 'false', '--size', '64', '--epochs', '1', '--lr',
                 '1e30', '--out', str(tmp_path/'o'), '--quiet'])
    err = capfd.readouterr().err
    assert code == 1 and err.startswith('xray_xfer: error: training broke down in epoch 1'), err
    assert err.count('\n') == 1 and '--lr 0.002' in err, err

@pytest.mark.parametrize('kw', [dict(depth=0, cache=False), dict(depth='all'), dict(depth=1)],
                         ids=['images', 'all', 'features'])
def test_damaged_weights_are_not_blamed_on_the_learning_rate(packed, tmp_path, kw):
    weights = build(ARCH, pretrained=False).backbone.state_dict()
    damaged = {k: torch.full_like(v, float('nan')) if v.is_floating_point() else v for k, v in weights.items()}
    save_file(damaged, tmp_path/'w.safetensors')
    said = 'weights are damaged|no finite numbers before the first step.*give other weights'
    with pytest.raises(FloatingPointError, match=said) as e:
        run(packed, ARCH, **FAST | dict(pretrained=tmp_path/'w.safetensors') | kw, out=tmp_path/'o')
    assert 'lower lr' not in str(e.value) and not (tmp_path/'o').exists()

def test_an_absurd_validation_loss_is_warned_of(packed, tmp_path):
    said = (r'depth 0: the validation loss is .*e\+.* in epoch 1, whose weights are kept; '
            r'answering .* would give 1\.\d+; .*--lr 0\.002')
    with pytest.warns(UserWarning, match=said): r = run(packed, ARCH, **FAST | dict(lr=1e3), out=tmp_path/'o')
    assert r.history.valid_loss[0] > 1e6
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        run(packed, ARCH, **FAST, out=tmp_path/'p')

def test_infinite_logits_of_the_test_part_are_an_error(packed, tmp_path, monkeypatch):
    logits_of = train.logits_of
    def infinite(net, dl):
        z = logits_of(net, dl)
        z[2, 1] = float('inf')
        return z
    monkeypatch.setattr(train, 'logits_of', infinite)
    said = '1 of .* images of the valid part get logits that are no finite numbers, first number 3'
    with pytest.raises(Diverged, match=said): run(packed, ARCH, **FAST, out=tmp_path/'o')
    assert not (tmp_path/'o').exists()

def test_an_existing_folder_is_not_overwritten_in_silence(packed, tmp_path):
    (tmp_path/f'{ARCH}_0').mkdir()
    (tmp_path/f'{ARCH}_0'/'thesis.tex').write_text('years of work')
    with pytest.raises(FileExistsError, match='no run folder'): run(packed, ARCH, **FAST, out=tmp_path)
    with pytest.raises(FileExistsError, match='no run folder'): run(packed, ARCH, **FAST, out=tmp_path, overwrite=True)
    assert (tmp_path/f'{ARCH}_0'/'thesis.tex').read_text() == 'years of work'

# ---- studies

def test_study_table_and_seeds(packed, tmp_path):
    s = study(packed, ARCH, (0, 1), seeds=(0, 1), pretrained=False, epochs=1, quiet=True, out=tmp_path)
    assert list(s.table) == ['ShuffleNetV2x0.5_0', 'ShuffleNetV2x0.5_1']
    assert s.table.index.tolist() == ['Accuracy', 'F1-Score', 'Precision', 'Recall', 'AUC']
    accs = [r.metrics['accuracy'] for r in s.runs if r.depth == 0]
    assert s.table.iloc[0, 0] == pytest.approx(np.mean(accs))
    assert s.table.attrs['sd'].iloc[0, 0] == pytest.approx(np.std(accs, ddof=1))
    for f in ('table.csv', 'table.md', 'table.tex'): assert (s.path/f).is_file()
    assert len({(r.path/'split.csv').read_bytes() for r in s.runs}) == 1
    assert 'from random weights' in s.caption and '±' in (s.path/'table.md').read_text()
    back = load_study(s.path)
    assert back.table.equals(s.table) and back.caption == s.caption
    assert (s.path/'compare.csv').is_file()
    study(packed, ARCH, 0, pretrained=False, epochs=1, quiet=True, out=tmp_path, overwrite=True)
    assert not (s.path/'compare.csv').exists()   # the differences of runs that are no part of this study

def test_seeds_are_pooled_and_models_compared(packed, tmp_path):
    s = study(packed, ARCH, (0, 1), seeds=(0, 1), pretrained=False, epochs=1, quiet=True, out=tmp_path, margin=.02)
    t = s.compare()
    assert t[['a', 'b']].drop_duplicates().values.tolist() == [['ShuffleNetV2x0.5_0', 'ShuffleNetV2x0.5_1']]
    assert set(t.seeds_a) == {2}
    assert set(s.over_seeds) == set(s.table) and s.table.attrs['seeds_alone'] == []
    assert s.table.attrs['intervals']['ShuffleNetV2x0.5_0'][0] == s.over_seeds['ShuffleNetV2x0.5_0']['accuracy']
    back = load_study(s.path)
    assert back.margin == s.margin
    assert json.loads((s.path/'study.json').read_text())['margin'] == dict(value=.02, beforehand=True)
    report = (s.path/'report.html').read_text()
    assert 'for other images and other seeds' in report and 'another seed may differ' not in report
    assert 'was chosen on the validation part' in report
    r = s.runs[-1]
    f = r.path/'predictions.csv'
    # other images: nothing to compare, and Student's interval is named as such
    f.write_text('.jpg'.join(f.read_text().rsplit('.png', 1)))
    lame = load_study(s.path)
    assert lame.compare() is None and lame.table.attrs['seeds_alone'] == [r.name]
    assert 'over seeds alone' in table_markdown(lame.table)

def test_a_margin_that_comes_after_a_result_is_filed_as_such(packed, tmp_path):
    kw = dict(pretrained=False, epochs=1, quiet=True, out=tmp_path)
    run(packed, ARCH, 0, **kw)
    assert study(packed, ARCH, (0, 1), **kw, margin=.01).margin == (.01, False)
    # the results that are replaced were known
    assert study(packed, ARCH, (0, 1), **kw, margin=.01, overwrite=True).margin == (.01, False)
    assert study(packed, ARCH, (0, 1), **kw, overwrite=True).margin is None

def test_a_margin_is_filed_before_the_training(packed, tmp_path, monkeypatch):
    @wraps(run)
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('xray_xfer.study.run', stop)
    kw = dict(pretrained=False, epochs=1, quiet=True, out=tmp_path/'new', margin=.01)
    with pytest.raises(KeyboardInterrupt): study(packed, ARCH, (0, 1), **kw)
    monkeypatch.undo()
    assert study(packed, ARCH, (0, 1), **kw).margin == (.01, True)

def test_cold_and_warm_are_the_same_study(xrays, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    made = lambda: {f.parent.name: f.stat().st_ino for f in (tmp_path/'cache'/'features').glob('*/0.npy')}
    kw = dict(archs=ARCH, depths=(0, 1, 2), pretrained=False, size=64, epochs=1, quiet=True)
    cold, filled = study(xrays, out=tmp_path/'cold', **kw), made()
    warm = study(xrays, out=tmp_path/'warm', **kw)
    assert len(filled) == 3 and made() == filled   # nothing was made again
    assert not any('made from those of depth' in (r.path/'report.html').read_text() for r in cold.runs)
    pairs = cold.compare()
    tested = pairs[pairs.p.notna()]
    assert len(pairs) == 15 and len(tested) and (tested.p_holm >= tested.p).all()
    assert {'accuracy_low', 'accuracy_high'} <= set(cold.results)
    assert cold.table.equals(warm.table)
    assert (cold.path/'compare.csv').read_bytes() == (warm.path/'compare.csv').read_bytes()
    for a, b in zip(cold.runs, warm.runs, strict=True):
        assert (a.path/'predictions.csv').read_bytes() == (b.path/'predictions.csv').read_bytes()

def test_a_folder_that_is_not_there_is_said_before_weights_are_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr('xray_xfer.study.build', lambda *a, **k: pytest.fail('fetches weights'))
    for source in ('nowhere', tmp_path/'nowhere'):
        with pytest.raises(FileNotFoundError, match='nowhere.*does not exist'):
            study(source, ARCH, 0, quiet=True, out=tmp_path/'s')

def test_everything_wrong_is_found_before_training(packed, tmp_path):
    mistakes = [(dict(archs=[ARCH, 'nonet']), 'unknown arch'),
                (dict(depths=(0, 7)), '5 layer groups'),
                (dict(pretrained={ARCH: tmp_path/'no.pth'}), 'no weights file'),
                (dict(pretrained={'resnet18': False}), 'does not train'),
                (dict(archs=[]), 'no archs'),
                (dict(seeds=[]), 'no seeds')]
    for bad, message in mistakes:
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            study(packed, **dict(archs=ARCH, depths=0, pretrained=False) | bad, quiet=True, out=tmp_path/'s')
    with pytest.raises(TypeError, match='epoch'):
        study(packed, ARCH, 0, pretrained=False, epoch=3, quiet=True, out=tmp_path/'s')
    assert not (tmp_path/'s').exists()

@pytest.mark.shared
def test_real_xrays_teach_more_at_greater_depth(shared, tmp_path):
    "700 real X-rays at 112 px, four epochs: well above the 43 % of always answering Normal, and depth 2 above depth 0"
    table = images_of(shared/'radiographs')
    some = table.groupby('label').sample(175, random_state=1).reset_index(drop=True)
    s = study(some, 'shufflenetv2_100', (0, 2), pretrained=shared/'weights'/'shufflenetv2_100.safetensors', size=112,
              epochs=4, quiet=True, out=tmp_path)
    a, b = s.table.loc['Accuracy']
    assert a > .6 and b > .8 and b > a

# ---- found by review

@pytest.mark.parametrize('lacks', ['valid', 'test'])
def test_a_saved_split_without_a_part_never_leaks(xrays, packed, tmp_path, lacks):
    "The missing part is carved out of train; the other given part stays what it is"
    r = run(packed, ARCH, **FAST, out=tmp_path/'a')
    split = read_csv(r.path/'split.csv')
    split['split'] = split.split.replace(lacks, 'train')
    split.to_csv(tmp_path/'s.csv', index=False)
    with pytest.warns(UserWarning, match=f"no '{lacks}' rows"):
        again = run(packed, ARCH, **FAST, split=tmp_path/'s.csv', out=tmp_path/'b')
    new = read_csv(again.path/'split.csv')
    kept = 'test' if lacks == 'valid' else 'valid'
    assert set(new.path[new.split == kept]) == set(split.path[split.split == kept])
    assert set(new.split) == {'train', 'valid', 'test'}
    dls = dataloaders(packed, ARCH, split=tmp_path/'s.csv')
    assert [len(dls[i].dataset) for i in range(3)] == [(new.split == p).sum() for p in ('train', 'valid', 'test')]

def test_a_split_of_the_wrong_length_or_words(packed):
    with pytest.raises(ValueError, match='60 images'): dataloaders(packed, ARCH, split=['train'] * 10 + ['valid'] * 5)
    with pytest.raises(ValueError, match='val'): dataloaders(packed, ARCH, split=['train'] * 40 + ['val'] * 20)

def test_a_split_drawn_before_a_file_broke(xrays, tmp_path):
    import shutil
    shutil.copytree(xrays, tmp_path/'x')
    first = run(tmp_path/'x', ARCH, **FAST, out=tmp_path/'a')
    next((tmp_path/'x'/'COVID'/'images').iterdir()).write_bytes(b'')
    with pytest.warns(UserWarning, match='1 of 60 files could not be decoded'):
        r = run(tmp_path/'x', ARCH, **FAST, split=first.path/'split.csv', out=tmp_path/'b')
    assert r.config['images'] == 59 and r.config['rejects'] == 1
    # where a label disagrees, that is told, whether or not the split was drawn before the file broke
    table = images_of(tmp_path/'x')
    table.loc[table.index[-1], 'label'] = 'Normal'
    for split in (r.path, first.path):
        with pytest.raises(ValueError, match='1 labels disagree'), pytest.warns(UserWarning):
            run(table, ARCH, **FAST, split=split/'split.csv', out=tmp_path/'c')

def test_overwrite_spares_what_is_no_run(packed, tmp_path):
    "A Hugging Face folder has a config.json too, and a run folder may hold somebody's notes"
    hf = tmp_path/f'{ARCH}_0'
    hf.mkdir()
    for f in ('config.json', 'metrics.json', 'weights.bin'): (hf/f).write_text('{}')
    with pytest.raises(FileExistsError, match='no run folder'): run(packed, ARCH, **FAST, out=tmp_path, overwrite=True)
    assert len(list(hf.iterdir())) == 3

@pytest.mark.drawn
def test_folder_and_weights_names_that_are_no_mathematics(xrays, tmp_path):
    import shutil
    name = 'odd $x^$ name\nof two lines, %s {x} \\frac'
    shutil.copytree(xrays, tmp_path/name)
    save_file(build(ARCH, pretrained=False).backbone.state_dict(), tmp_path/f'{name}.safetensors')
    s = study(tmp_path/name, ARCH, 0, **FAST | dict(pretrained=tmp_path/f'{name}.safetensors'), out=tmp_path/'out')
    assert (s.path/'depths.png').is_file()

@pytest.mark.skipif(sys.platform != 'linux', reason='only Linux file systems take names that are no text')
def test_a_folder_name_that_is_no_text(xrays, tmp_path):
    import shutil
    src = os.fsdecode(os.fsencode(tmp_path) + b'/non\xffutf')
    shutil.copytree(xrays, src)
    assert study(src, ARCH, 0, **FAST, out=tmp_path/'out').runs[0].metrics['n'] > 0

def test_data_moved_or_cache_emptied_is_the_same_run(xrays, tmp_path, monkeypatch):
    import shutil
    r = run(xrays, ARCH, **FAST, out=tmp_path/'out')
    shutil.copytree(xrays, tmp_path/'elsewhere'/'xrays')
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    again = run(tmp_path/'elsewhere'/'xrays', ARCH, **FAST, out=tmp_path/'out')
    assert again.learn is None and again.config == r.config

@pytest.mark.parametrize('bad, error', [
    (dict(name='..'), ValueError),
    (dict(name='a/b'), ValueError),
    (dict(name=''), ValueError),
    (dict(name='x' * 300), ValueError),
    (dict(out='FILE'), NotADirectoryError),
])
def test_places_that_cannot_be_are_refused_before_training(packed, tmp_path, monkeypatch, bad, error):
    (tmp_path/'FILE').write_text('a file')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Learner, 'fit', lambda *a, **k: pytest.fail('it trained'))
    with pytest.raises(error): run(packed, ARCH, **FAST, **dict(out='o') | bad)

def test_what_a_kill_left_is_swept_and_never_read(packed, tmp_path):
    study(packed, ARCH, 0, **FAST, out=tmp_path)
    from xray_xfer.core.files import _HOST
    left = tmp_path/f'.{ARCH}_1.99999999-{_HOST}00000000.part'
    left.mkdir()
    (left/'config.json').write_text('{}')
    (tmp_path/'study.json').unlink()
    assert len(load_study(tmp_path).runs) == 1
    study(packed, ARCH, 0, **FAST, out=tmp_path)
    assert not left.exists()

def test_a_second_study_does_not_hide_the_first(packed, tmp_path):
    study(packed, ARCH, (0, 1), **FAST, out=tmp_path)
    with pytest.raises(FileExistsError, match='study of other runs'): study(packed, ARCH, 2, **FAST, out=tmp_path)
    assert len(load_study(tmp_path).runs) == 2

def test_numpy_integers_and_foreign_arguments(packed, tmp_path):
    s = study(packed, ARCH, np.arange(2), seeds=np.arange(1), **FAST, out=tmp_path/'a')
    assert [r.depth for r in s.runs] == [0, 1] and load_study(s.path).table.equals(s.table)
    with pytest.raises(TypeError, match='name'): study(packed, ARCH, 0, **FAST, name='x', out=tmp_path/'b')
    with pytest.raises(ValueError, match='augment'): run(packed, ARCH, **FAST, augment=[1], out=tmp_path/'b')
    with pytest.raises(ValueError, match='pack of size 64'): run(packed, ARCH, **FAST | dict(size=96), out=tmp_path/'b')

def test_runs_over_different_data_are_not_captioned_as_one_study(packed, xrays, tmp_path):
    run(packed, ARCH, 0, **FAST, out=tmp_path)
    run(packed, ARCH, 1, **FAST | dict(epochs=2), split_seed=4, out=tmp_path)
    assert 'differ in epochs, split_seed, split.csv' in load_study(tmp_path).caption

def test_two_runs_of_one_model_are_two_columns(packed, tmp_path):
    for name, lr in (('first try', 1e-3), ('second', 2e-3)):
        run(packed, ARCH, 0, **FAST, lr=lr, name=name, out=tmp_path)
    s = load_study(tmp_path)
    assert list(s.table) == ['first try', 'second'] and 'differ in lr' in s.caption
