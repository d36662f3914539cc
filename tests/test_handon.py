"""Runs that are handed on: what the pages of `handed`, `backbone` and `publish` cannot say. Networks of many kinds and
sizes through the lines of their card, a real run and what begins from it, folders that must not be touched, a write
that fails halfway, and an upload of a run with a person's name wherever one can stand, read byte by byte."""
import base64, contextlib, io, json, re, shutil, sys, threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np, pandas as pd, pytest, timm, torch
from matplotlib.figure import Figure
from PIL import Image
from reference import tables
from safetensors.torch import load_file, save_file
from timm.data import resolve_data_config
from timm.models import save_for_hf

from xray_xfer import train
from xray_xfer.core.files import read_json, write_json
from xray_xfer.data.table import images_of
from xray_xfer.evaluate.predictions import metrics_of, predictions_table
from xray_xfer.inference import backbone as rooms
from xray_xfer.inference.backbone import HANDED, card_code, save_backbone
from xray_xfer.inference.publish import publish
from xray_xfer.models.classifier import build
from xray_xfer.runs.filing import load_model, save_run
from xray_xfer.runs.folder import Run
from xray_xfer.train import run
from xray_xfer.trunk.engine import FromPixels

CLASSES = ['COVID', 'Lung_Opacity', 'Normal', 'Viral Pneumonia']
WHO = 'Musterfrau'   # a person, whose name is wherever one can stand

def filed(folder, arch, size=64, **config):
    "A run folder whose network was not trained"
    torch.manual_seed(0)
    model = build(arch, 1, pretrained=False, size=size)
    for m in model.modules():   # else those of a new network are 0 and 1, and nobody would miss them
        if isinstance(m, torch.nn.BatchNorm2d): m.running_mean.uniform_(-.1, .1)
    c = dict(schema=1, xray_xfer='0.1.0', data='films', images=40, rejects=0, classes=CLASSES, depth=1,
             arch=model.blueprint.name, pretrained=False, weights='random', dropout=.2, size=size, seed=0,
             resize='squish', colour=False, mean=[.485, .456, .406], std=[.229, .224, .225], lr=[.002, .002])
    y = np.arange(40) % 4
    logits = np.random.default_rng(0).normal(size=(40, 4))
    labels = [CLASSES[i] for i in y]
    table = predictions_table([f'{i}.png' for i in y], ['test'] * 40, [''] * 40, labels, logits, CLASSES)
    r = Run(folder, c | model.blueprint.filed | config, metrics_of(table), predictions=table, timings=dict(train=1.))
    r.history = pd.DataFrame(dict(epoch=[1]))
    save_run(r, model, '', {})
    return r

def by_card(made):
    "What the lines of a card define, run as they stand, without this package but for what they import themselves"
    there = {}
    with contextlib.chdir(made): exec(card_code((made/'README.md').read_text(encoding='utf-8')), there)
    return there

def pixels_of(size, n=3):
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))

# ---- networks

class Bare(torch.nn.Module):
    "Logits as the one map that `FromPixels` gives on"
    def __init__(self, net):
        super().__init__()
        self.net = net
    def forward(self, x): return (self.net(x),)

KINDS = [('test_resnet.r160_in1k', 64), ('test_vit', 64), ('test_vit', 160), ('test_convnext', 96),
         ('test_efficientnet', 50), ('mobilenetv3_small_050', 64), ('shufflenetv2_050', 64)]

@pytest.mark.parametrize('arch,size', KINDS)
def test_the_lines_of_the_card_give_the_logits_of_the_run(tmp_path, monkeypatch, arch, size):
    r = filed(tmp_path/'run', arch, size, resize='pad', colour=True, mean=[.1, .2, .3], std=[.3, .2, .1])
    made = save_backbone(r, tmp_path/'made')
    assert sorted(p.name for p in made.iterdir()) == list(HANDED)
    code = card_code((made/'README.md').read_text(encoding='utf-8'))
    assert len(code.splitlines()) == 10
    if 'shufflenet' not in arch:
        for name in [n for n in sys.modules if n.partition('.')[0] == 'xray_xfer']:
            monkeypatch.setitem(sys.modules, name, None)   # importing it is an error now
    there, pixels = by_card(made), pixels_of(size)
    monkeypatch.undo()
    with torch.no_grad(): said = there['logits'](pixels)
    whole = FromPixels(Bare(load_model(r.path)), r.config['mean'], r.config['std']).eval()
    with torch.no_grad(): torch.testing.assert_close(said, whole(pixels)[0], rtol=0, atol=1e-6)
    assert said.std() > 0
    data = resolve_data_config(model=there['backbone'])
    assert tuple(data['input_size']) == (3, size, size) and data['crop_mode'] == 'border' and data['crop_pct'] == 1
    assert (list(data['mean']), list(data['std']), data['interpolation']) == ([.1, .2, .3], [.3, .2, .1], 'bilinear')

def test_a_backbone_of_a_folder_outlives_it(tmp_path):
    "Built by arguments of its own, for one channel, and the folder is gone when its run is handed on"
    torch.manual_seed(1)
    net = timm.create_model('test_vit', num_classes=5, in_chans=1, img_size=64)
    save_for_hf(net, tmp_path/WHO, safe_serialization=True,
                model_config=dict(pretrained_cfg=dict(mean=[.5], std=[.25], description=WHO)))
    r = filed(tmp_path/'run', f'local-dir:{tmp_path}/{WHO}', 64, pretrained=True, weights=f'local-dir:{WHO}')
    (tmp_path/WHO).rename(tmp_path/'gone')
    made = save_backbone(r, tmp_path/'made')
    with torch.no_grad(): assert by_card(made)['logits'](pixels_of(64)).isfinite().all()
    assert all(WHO.encode() not in (made/n).read_bytes() for n in HANDED)
    assert read_json(made/'training.json')['weights'] == 'unnamed'

def test_it_is_the_same_twice(tmp_path):
    r = filed(tmp_path/'run', 'test_resnet')
    a, b = (save_backbone(r, tmp_path/n) for n in 'ab')
    assert [(a/n).read_bytes() for n in HANDED] == [(b/n).read_bytes() for n in HANDED]

# ---- a run from end to end

@pytest.fixture(scope='module')
def trained(xrays, tmp_path_factory):
    "A run that began from a backbone that was handed on"
    home = tmp_path_factory.mktemp(WHO)
    given = save_backbone(filed(home/'first', 'test_resnet'), home/f'from_{WHO}')
    table = images_of(xrays).assign(group=[f'{WHO} {i // 2}' for i in range(60)])
    with pytest.MonkeyPatch.context() as m:
        m.setattr(train, 'run_figures', lambda *a: {'errors.png': Figure(figsize=(1, 1))})
        return run(table, f'local-dir:{given}', 0, size=64, epochs=1, bs=16, quiet=True, device='cpu', precision='fp32',
                   out=home, name=f'run_of_{WHO}')

def test_a_run_begins_from_a_handed_on_backbone(trained):
    first, here = (load_model(p).backbone.state_dict() for p in (trained.path.parent/'first', trained.path))
    assert first.keys() == here.keys() and all(torch.equal(v, here[k]) for k, v in first.items())   # at depth 0
    assert trained.config['weights'] == f'local-dir:from_{WHO}'
    assert trained.config['network']['architecture'] == 'test_resnet'

def test_the_card_s_words_lead_from_a_file_to_the_filed_logits(trained, xrays, tmp_path):
    made = save_backbone(trained.path, tmp_path/'made')
    assert {p.name for p in made.iterdir()} == set(tables()['a-backbone'])
    test = trained.predictions.of('test')
    root = Path(images_of(xrays).path[0]).parents[2]
    files = [next(p for p in root.rglob(Path(path).name) if p.as_posix().endswith(path)) for path in test.path]
    read = [np.asarray(Image.open(f).convert('L').resize((64, 64), Image.Resampling.BILINEAR)) for f in files]
    pixels = torch.from_numpy(np.stack(read))[:, None].expand(-1, 3, -1, -1)
    with torch.no_grad(): said = by_card(made)['logits'](pixels).numpy()
    np.testing.assert_allclose(said, test.logits, atol=5e-3)   # filed ones are of float16 features
    temperature = trained.calibration['temperature']
    assert f'(logits(pixels) / {temperature!r}).softmax(1)' in (made/'README.md').read_text(encoding='utf-8')

# ---- folders that are not ours to change

def test_a_model_over_folds_is_several_networks(tmp_path):
    r = filed(tmp_path/'model', 'test_resnet')
    write_json(r.config | dict(folds=2, repeat=0, fold_names=['1', '2']), r.path/'config.json')
    with pytest.raises(ValueError, match=r'several folds.*give that of a fold, such as .*model/fold1'):
        save_backbone(r.path, tmp_path/'made')
    assert not (tmp_path/'made').exists()

@pytest.mark.parametrize('name', ['training.json', 'config.json', 'model.safetensors', '.hidden'])
def test_a_folder_of_somebody_else_is_left_alone(tmp_path, name):
    r = filed(tmp_path/'run', 'test_resnet')
    (tmp_path/'made').mkdir()
    (tmp_path/'made'/name).write_text('{"format": "mine"}')
    with pytest.raises(FileExistsError, match='not from here: give a new folder'): save_backbone(r, tmp_path/'made')
    assert [p.read_text() for p in (tmp_path/'made').iterdir()] == ['{"format": "mine"}']

def test_an_empty_folder_is_filled_and_a_file_is_refused(tmp_path):
    r = filed(tmp_path/'run', 'test_resnet')
    (tmp_path/'made').mkdir()
    assert save_backbone(r, tmp_path/'made')/'README.md' in (tmp_path/'made').iterdir()
    (tmp_path/'file').write_text('mine')
    with pytest.raises(NotADirectoryError, match='is a file'): save_backbone(r, tmp_path/'file')
    with pytest.raises(ValueError, match='the folder of the run'): save_backbone(r, r.path)
    (r.path/'model.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='no model.safetensors'): save_backbone(r, tmp_path/'other')

def test_a_write_that_fails_halfway_leaves_the_old_folder(tmp_path, monkeypatch):
    old, new = filed(tmp_path/'old', 'test_resnet'), filed(tmp_path/'new', 'test_vit')
    made = save_backbone(old, tmp_path/'made')
    before = {n: (made/n).read_bytes() for n in HANDED}
    def full(tensors, file, *more):
        if Path(file).name == 'head.safetensors': raise OSError(28, 'No space left on device')
        save_file(tensors, file, *more)
    monkeypatch.setattr(rooms, 'save_file', full)
    with pytest.raises(OSError, match='cannot be written'): save_backbone(new, made)
    assert {n: (made/n).read_bytes() for n in HANDED} == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ['made', 'new', 'old']

# ---- the Hub

class Hub(BaseHTTPRequestHandler):
    "As much of the Hub as an upload meets; `refuse` says where it does not do as it is asked"
    def log_message(self, *args): pass
    def answer(self, content, status=200, **headers):
        body = json.dumps(content).encode()
        self.send_response(status)
        for k, v in {'Content-Length': len(body), **headers}.items(): self.send_header(k.replace('_', '-'), str(v))
        self.end_headers()
        self.wfile.write(body)
    def kept(self):
        body = self.rfile.read(int(self.headers.get('Content-Length') or 0))
        self.server.sent.append((f'{self.command} {self.path}', str(self.headers).encode() + body, body))
        for part, status in self.server.refuse.items():
            if part in self.path:
                self.answer(dict(error='as the test wants it'), status)
                return None
        return body
    def do_GET(self):
        if self.kept() is None: return
        if 'whoami' in self.path: return self.answer(dict(name='anna', type='user', orgs=[]))
        name = self.path.removeprefix('/api/models/')
        if name == 'anna/taken': return self.answer(dict(id=name, modelId=name, siblings=[], tags=[]))
        self.answer({}, 404, X_Error_Code='RepoNotFound')
    def do_POST(self):
        if (body := self.kept()) is None: return
        url = f'http://127.0.0.1:{self.server.server_port}/anna/lungs'
        if 'preupload' in self.path:
            files = [dict(path=f['path'], uploadMode='regular', shouldIgnore=False) for f in json.loads(body)['files']]
            return self.answer(dict(files=files))
        commit = f'{url}/commit/{"0" * 40}'
        self.answer(dict(url=url, errors=[], warnings=[], success=True, commitUrl=commit, commitOid='0' * 40))

@pytest.fixture
def hub(monkeypatch):
    server = ThreadingHTTPServer(('127.0.0.1', 0), Hub)
    server.sent, server.refuse = [], {}
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr('huggingface_hub.constants.ENDPOINT', f'http://127.0.0.1:{server.server_port}')
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', False)
    monkeypatch.setenv('HF_TOKEN', 'hf_of_nobody')
    yield server
    server.shutdown()
    server.server_close()

def committed(hub):
    "The files of the one commit"
    [body] = [b for what, _, b in hub.sent if '/commit/' in what]
    lines = [json.loads(line) for line in body.splitlines()]
    assert {line['key'] for line in lines} == {'header', 'file'}
    return {x['value']['path']: base64.b64decode(x['value']['content']) for x in lines if x['key'] == 'file'}

def planted(x):
    "The same value with a person's name in every text, and under keys of its own"
    if isinstance(x, dict): return {k: planted(v) for k, v in x.items()} | {WHO: WHO, f'{WHO} at': .123456789}
    if isinstance(x, list): return [planted(v) for v in x]
    return x if x in CLASSES or not isinstance(x, str) else f'{x} {WHO}'

NEEDED = dict(arch=f'local-dir:/films/of/{WHO}/net', network=dict(architecture='test_resnet', args={}, weights=WHO,
              first_conv=WHO, classifier=WHO, fixed_input_size=False, input_size=[3, 64, 64]), pretrained=True,
              split=f'{WHO}.csv', exclude=[f'*{WHO}*'], data=f'films of {WHO}', resize='squish', mean=[.5] * 3,
              weights=f'local-dir:{WHO}', classes_given=[WHO], left_out=[WHO])

def test_no_byte_that_leaves_names_a_person(trained, tmp_path, hub, monkeypatch):
    home = tmp_path/f'run_of_{WHO}'
    shutil.copytree(trained.path, home)
    for f in home.glob('*.json'): write_json(planted(read_json(f)), f)
    write_json(read_json(home/'config.json') | NEEDED, home/'config.json')
    write_json(planted(dict(sentence='It reads', verdict='x', mask_note='x', rows=[
        dict(control='intact', accuracy=.9, note='x'), dict(control='x', accuracy=.1)])), home/'controls.json')
    for name in ('split', 'predictions', 'rejects'):
        table = pd.read_csv(home/f'{name}.csv')
        table['sex'], table['path'] = WHO, [f'{WHO}/{i}.png' for i in range(len(table))]
        table.to_csv(home/f'{name}.csv', index=False)
    for name in ('notes.txt', 'errors.png', 'summary.txt', 'known.safetensors'): (home/name).write_text(WHO)
    monkeypatch.chdir(home)
    assert publish('.', 'lungs', yes=True).endswith('/anna/lungs')
    files = committed(hub)
    assert sorted(files) == list(HANDED)
    everything = [raw for _, raw, _ in hub.sent] + [what.encode() for what, *_ in hub.sent] + list(files.values())
    everything += [base64.b64decode(f['sample']) for what, _, body in hub.sent if 'preupload' in what
                   for f in json.loads(body)['files']]
    for raw in everything: assert WHO.lower().encode() not in raw.lower() and b'.123456789' not in raw
    assert not [raw for raw in everything if re.search(rb'\.png|\.csv|local-dir:/', raw)]
    digest = read_json(home/'config.json')['data_digest'].split()[0].encode()
    assert not [raw for raw in everything if digest in raw or str(tmp_path).encode() in raw]
    assert b'COVID' in files['README.md'] and json.loads(files['training.json'])['classes'] == CLASSES

def test_what_is_sent_is_what_was_shown(trained, hub, tmp_path, monkeypatch, capsys):
    class Terminal(io.StringIO):
        def isatty(self): return True
    for answer, goes in (('n\n', False), ('', False), ('YES\n', True)):
        monkeypatch.setattr('sys.stdin', Terminal(answer))
        if goes: publish(trained, 'anna/lungs')
        else:
            with pytest.raises(RuntimeError, match='nothing was sent to anna/lungs'): publish(trained, 'anna/lungs')
            assert {what.split()[0] for what, *_ in hub.sent} == {'GET'}
    shown, files = capsys.readouterr().out, committed(hub)
    assert created(hub) == [('lungs', 'private')]
    assert 'repository anna/lungs (private' in shown and 'Send these? [y/N]' in shown
    listed = re.findall(r'^  (\S+)  +\d', shown, re.M)
    assert listed == list(HANDED) * 3
    made = save_backbone(trained, tmp_path/'made')
    assert files == {n: (made/n).read_bytes() for n in HANDED}
    (tmp_path/'head').write_bytes(files['head.safetensors'])
    assert load_file(tmp_path/'head')['4.weight'].shape == (4, 512)

def created(hub):
    "(name, visibility) of what was made; the client's versions spell it in two ways"
    asked = [json.loads(b) for what, _, b in hub.sent if what == 'POST /api/repos/create']
    return [(x['name'], x.get('visibility') or ('private' if x['private'] else 'public')) for x in asked]

def test_public_is_asked_for(trained, hub, capsys):
    publish(trained, 'lungs', public=True, yes=True)
    assert created(hub) == [('lungs', 'public')]
    assert 'PUBLIC: anybody can read' in capsys.readouterr().out

def test_nobody_is_there_to_say_yes(trained, hub, monkeypatch):
    monkeypatch.setattr('sys.stdin', io.StringIO('y\n'))
    with pytest.raises(ValueError, match='give --yes'): publish(trained, 'lungs')
    assert hub.sent == []

@pytest.mark.parametrize('where,status,error,says', [
    ('whoami', 401, PermissionError, 'hf auth login'), ('create', 403, PermissionError, 'may not write to anna/lungs'),
    ('create', 409, FileExistsError, 'is on the Hub already'), ('whoami', 500, ConnectionError, 'the Hub refused')])
def test_a_hub_that_says_no_before_anything_is_sent(trained, hub, where, status, error, says):
    hub.refuse = {where: status}
    with pytest.raises(error, match=says) as e: publish(trained, 'lungs', yes=True)
    assert '\n' not in str(e.value) and not [what for what, *_ in hub.sent if 'commit' in what]

def test_a_name_that_is_taken(trained, hub):
    with pytest.raises(FileExistsError, match='hf repos delete anna/taken'): publish(trained, 'taken', yes=True)
    assert {what.split()[0] for what, *_ in hub.sent} == {'GET'}

def test_a_commit_that_fails_says_what_is_left(trained, hub, monkeypatch):
    hub.refuse = {'commit': 403}
    with pytest.raises(RuntimeError, match=r'anna/lungs was made on the Hub.*hf repos delete anna/lungs') as e:
        publish(trained, 'lungs', yes=True)
    assert 'may not write' in str(e.value) and '\n' not in str(e.value)
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr('huggingface_hub.HfApi.create_commit', stop)
    with pytest.raises(KeyboardInterrupt, match='was made on the Hub'): publish(trained, 'lungs', yes=True)

def test_no_network_and_no_token(trained, hub, tmp_path, monkeypatch):
    with monkeypatch.context() as m:
        m.setattr('huggingface_hub.constants.HF_TOKEN_PATH', str(tmp_path/'none'))
        m.delenv('HF_TOKEN')
        m.delenv('HUGGING_FACE_HUB_TOKEN', raising=False)
        with pytest.raises(PermissionError, match='no token of the Hub.*hf auth login'):
            publish(trained, 'lungs', yes=True)
    with monkeypatch.context() as m:
        m.setattr('huggingface_hub.constants.ENDPOINT', 'http://127.0.0.1:9')   # a port at which nobody listens
        with pytest.raises(ConnectionError, match='cannot be reached.*nothing was sent') as e:
            publish(trained, 'lungs', yes=True)
        assert '\n' not in str(e.value)
    assert hub.sent == []

def test_a_run_that_cannot_be_handed_on_is_not_sent(tmp_path, hub):
    with pytest.raises(FileNotFoundError, match='no run folder'): publish(tmp_path, 'lungs', yes=True)
    for bad in ('a/b/c', 'my lungs', ''):
        with pytest.raises(ValueError, match='give OWNER/NAME'): publish(tmp_path, bad, yes=True)
    assert hub.sent == []
