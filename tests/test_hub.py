"Networks by address and by old or misspelled names: folders, the Hub's cache, and runs that outlive both."
import json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest, timm, torch
from safetensors.torch import load_file
from timm.models import get_deprecated_models, save_for_hf

from xray_xfer.data import demo
from xray_xfer.models import blueprint as names
from xray_xfer.cli import main, weights_for
from xray_xfer.evaluate.tables import display_name
from xray_xfer.runs.filing import load_model
from xray_xfer.training.loaders import dataloaders
from xray_xfer.models.classifier import build
from xray_xfer.models.blueprint import stats
from xray_xfer.study import load_study, study
from xray_xfer.train import run, run_name

MEAN, STD = [.5, .4, .3], [.2, .3, .4]
FAST = dict(size=64, epochs=1, bs=16, quiet=True, device='cpu')

def put(folder, safe=True, num_classes=5, in_chans=3, cfg=None, **kwargs):
    "A folder as timm's `save_for_hf` writes it, and the network in it"
    torch.manual_seed(1)
    net = timm.create_model('test_resnet', num_classes=num_classes, in_chans=in_chans, **kwargs)
    save_for_hf(
        net,
        folder,
        safe_serialization=safe,
        model_config=dict(
            pretrained_cfg=dict(mean=MEAN, std=STD, input_size=[in_chans, 96, 96]) if cfg is None else cfg
        ),
    )
    return net

def changed(folder, **values):
    "Change its config.json; None takes a value out"
    config = json.loads((folder/'config.json').read_text())
    config['pretrained_cfg'] = {
        k: v for k, v in (config['pretrained_cfg'] | values.pop('cfg', {})).items() if v is not None
    }
    (folder/'config.json').write_text(json.dumps({k: v for k, v in (config | values).items() if v is not None}))

@pytest.fixture(scope='module')
def xrays(tmp_path_factory):
    root = tmp_path_factory.mktemp('hub')/'xrays'
    demo.draw(root, n=60, size=64)
    return root

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "The cache of huggingface_hub, without a network: `hub(name)` puts a repository into it and gives the folder"
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_CACHE', str(tmp_path/'cache'))
    monkeypatch.setattr('huggingface_hub.constants.HF_HUB_OFFLINE', True)
    def put(name, revision='main', commit='0' * 40):
        repo = tmp_path/'cache'/f"models--{name.replace('/', '--')}"
        (repo/'refs').mkdir(parents=True, exist_ok=True)
        (repo/'refs'/revision).write_text(commit)
        return repo/'snapshots'/commit
    return put

def same(model, net): return all(torch.equal(v, net.state_dict()[k]) for k, v in model.backbone.state_dict().items())

# ---- folders

@pytest.mark.parametrize('safe,file', [(True, 'model.safetensors'), (False, 'pytorch_model.bin')])
def test_a_folder_of_timm(tmp_path, safe, file):
    net = put(tmp_path/'chest', safe)
    model = build(f'local-dir:{tmp_path}/chest')
    assert same(model, net)
    assert model.file.name == file
    assert model.weights == 'local-dir:chest'
    assert set(model.left_out) == {'fc.weight', 'fc.bias'}
    assert stats(f'local-dir:{tmp_path}/chest') == dict(mean=MEAN, std=STD, size=96)
    assert not same(build(f'local-dir:{tmp_path}/chest', pretrained=False), net)
    assert same(build(f'local-dir:{tmp_path}/chest', pretrained=tmp_path/'chest'/file), net)

def test_relative_and_home(tmp_path, monkeypatch):
    put(tmp_path/'chest')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert build('local-dir:chest').arch == build('LOCAL_DIR:~/chest/').arch == f'local-dir:{tmp_path}/chest'

def test_the_oldest_form_of_configuration(tmp_path):
    net = put(tmp_path)
    (tmp_path / 'config.json').write_text(
        json.dumps(
            dict(
                architecture='test_resnet',
                num_classes=5,
                num_features=64,
                mean=MEAN,
                std=STD,
                input_size=[3, 96, 96],
                labels=['a'],
                unheard_of=1,
            )
        )
    )
    assert same(build(f'local-dir:{tmp_path}'), net) and stats(f'local-dir:{tmp_path}')['mean'] == MEAN

def test_a_folder_for_one_channel(tmp_path):
    "Checked against timm's own adaptation: same grey images, same output; mean and deviation stand for all channels"
    net = put(tmp_path, in_chans=1, cfg=dict(mean=[.5], std=[.25])).eval()
    model = build(f'local-dir:{tmp_path}', pretrained=True).eval()
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(
            model.backbone(x.expand(-1, 3, -1, -1)),
            net.forward_head(net.forward_features(x), pre_logits=True),
            rtol=1e-4,
            atol=1e-5,
        )
    assert stats(f'local-dir:{tmp_path}')['mean'] == [.5] * 3

def test_arguments_of_the_construction(tmp_path):
    "An unusual network is built as the folder says: a vision transformer for 64 pixels"
    torch.manual_seed(0)
    net = timm.create_model('test_vit', num_classes=3, img_size=64)
    save_for_hf(net, tmp_path, safe_serialization=True)
    model = build(f'local-dir:{tmp_path}')
    assert same(model, net) and stats(f'local-dir:{tmp_path}')['size'] == 64
    assert build(f'local-dir:{tmp_path}', size=96)(torch.zeros(2, 3, 96, 96)).shape == (2, 4)

def test_what_a_configuration_does_not_decide(tmp_path):
    "Neither a file elsewhere, nor the number of classes, nor a list of features"
    net = put(tmp_path/'chest')
    changed(
        tmp_path / 'chest',
        model_args=dict(
            checkpoint_path=str(tmp_path / 'none.pth'),
            pretrained=True,
            num_classes=9,
            features_only=True,
            cache_dir='/nowhere',
        ),
        cfg=dict(file=str(tmp_path / 'none.pth'), url='http://127.0.0.1:9/x', custom_load=True, state_dict={}),
    )
    assert same(build(f'local-dir:{tmp_path}/chest'), net)

@pytest.mark.parametrize(
    'change,said',
    [
        (dict(architecture='no_such_net'), "config.json of local-dir:.*unknown arch 'no_such_net'"),
        (dict(architecture='test_resnett'), 'did you mean'),
        (dict(architecture=None), 'has no "architecture"'),
        (dict(architecture=['ResNet']), 'has no "architecture"'),
        (dict(architecture=None, model_type='vit', architectures=['ViTModel']), 'transformers'),
        (
            dict(architecture=None, arch='resnet18', xray_xfer='0.1.0'),
            "a run of xray_xfer: give arch='resnet18' and pretrained='.*model.safetensors'",
        ),
        (dict(model_args=dict(layers_of_cake=3)), 'timm cannot build test_resnet with .*layers_of_cake'),
        (dict(model_args=[1]), 'must be mappings'),
        (dict(cfg=dict(mean=[0.5, 0.5])), r'mean is \[0.5, 0.5\]; it must be 1 or 3 numbers'),
        (dict(cfg=dict(mean='grey')), "mean is 'grey'"),
        (dict(cfg=dict(std=[0, 1, 1])), 'std is .*above 0'),
        (dict(cfg=dict(input_size=[3, 224])), 'input_size is'),
        (dict(cfg=dict(input_size=[3, 96.5, 96.5])), 'whole numbers'),
    ],
)
def test_configurations_that_will_not_do(tmp_path, change, said):
    put(tmp_path)
    changed(tmp_path, **change)
    with pytest.raises(ValueError, match=said): build(f'local-dir:{tmp_path}')

@pytest.mark.parametrize('text', ['', '{', '[]', 'null', '"resnet18"', '\xff', '[' * 100_000, '<html>'], ids=range(8))
def test_broken_configurations(tmp_path, text):
    put(tmp_path)
    (tmp_path/'config.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match="config.json of local-dir:.*(is no JSON|none of timm's: it is no mapping)"):
        build(f'local-dir:{tmp_path}')

def test_incomplete_folders(tmp_path):
    put(tmp_path/'chest')
    arch, weights = f'local-dir:{tmp_path}/chest', tmp_path/'chest'/'model.safetensors'
    with pytest.raises(NotADirectoryError, match=f'is a file.*pretrained={re.escape(str(weights))}'):
        build(f'local-dir:{weights}')
    weights.rename(tmp_path/'chest'/'a.safetensors')
    assert build(arch).file.name == 'a.safetensors'
    shutil.copy(tmp_path/'chest'/'a.safetensors', tmp_path/'chest'/'b.safetensors')
    with pytest.raises(ValueError, match='a.safetensors, b.safetensors.*--pretrained'): build(arch)
    assert build(arch, pretrained=False).weights == 'random'
    for name in 'ab': (tmp_path/'chest'/f'{name}.safetensors').unlink()
    with pytest.raises(FileNotFoundError, match='holds no weights'): build(arch)
    (tmp_path/'chest'/'config.json').unlink()
    with pytest.raises(FileNotFoundError, match='no config.json.*give a timm arch'): build(arch)
    with pytest.raises(FileNotFoundError, match='no such folder'): build(f'local-dir:{tmp_path}/none')
    with pytest.raises(ValueError, match='names no place'): build('local-dir:')

def test_weights_that_lack_something_are_refused(tmp_path):
    "timm itself leaves it at random and says nothing"
    put(tmp_path)
    sd = load_file(tmp_path/'model.safetensors')
    (tmp_path/'model.safetensors').unlink()
    torch.save({k: v for k, v in sd.items() if not k.startswith('layer4.0.conv1')}, tmp_path/'pytorch_model.bin')
    with pytest.raises(ValueError, match='1 missing: layer4.0.conv1.weight'): build(f'local-dir:{tmp_path}')

class Evil:
    def __init__(self, touch): self.touch = touch
    def __reduce__(self): return os.system, (f'touch {self.touch}',)

@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
@pytest.mark.parametrize('place', ['local-dir', 'hf-hub'])
def test_nothing_is_run(tmp_path, hub, place, old):
    folder = hub('someone/chest') if place == 'hf-hub' else tmp_path/'chest'
    net = put(folder, safe=False)
    torch.save(
        net.state_dict() | {'fc.weight': Evil(tmp_path / 'was_run')},
        folder / 'pytorch_model.bin',
        _use_new_zipfile_serialization=not old,
    )
    with pytest.raises(ValueError, match='Python objects') as e:
        build('hf-hub:someone/chest' if place == 'hf-hub' else f'local-dir:{folder}')
    assert not (tmp_path/'was_run').exists() and 'weights_only' not in str(e.value)

# ---- the Hub, by its cache

@pytest.mark.parametrize('safe', [True, False])
@pytest.mark.parametrize('prefix', ['hf-hub:', 'hf_hub:'])
def test_a_repository_in_the_cache(hub, prefix, safe):
    net = put(hub('someone/chest.v1'), safe)
    model = build(f'{prefix}someone/chest.v1')
    assert same(model, net) and (model.arch, model.weights) == ('hf-hub:someone/chest.v1', 'someone/chest.v1')
    assert stats(f'{prefix}someone/chest.v1') == dict(mean=MEAN, std=STD, size=96)

def test_a_revision(hub):
    net = put(hub('someone/chest', 'v2', '1' * 40), num_classes=2)
    assert same(build('hf-hub:someone/chest@v2'), net)
    with pytest.raises(ConnectionError): build('hf-hub:someone/chest')

def test_what_is_not_in_the_cache(hub):
    with pytest.raises(ConnectionError, match='hf download someone/else --local-dir FOLDER'):
        build('hf-hub:someone/else')
    put(hub('someone/chest'))
    next(p for p in hub('someone/chest').iterdir() if p.name == 'model.safetensors').unlink()
    assert build('hf-hub:someone/chest', pretrained=False).weights == 'random'
    with pytest.raises(ConnectionError, match='model.safetensors of hf-hub:someone/chest'):
        build('hf-hub:someone/chest')
    for bad in ('hf-hub:a/b/c', 'hf-hub:a b/c', 'hf-hub:-'):
        with pytest.raises(ValueError, match='hf-hub:OWNER/NAME'): build(bad)

def test_no_network_is_known_at_once(tmp_path):
    "Nothing is asked for a second time; traffic can go nowhere but a closed local port"
    env = {k: v for k, v in os.environ.items() if k != 'HF_HUB_OFFLINE'} | dict(
        HF_HOME=str(tmp_path),
        TORCH_HOME=str(tmp_path),
        http_proxy='http://127.0.0.1:9',
        https_proxy='http://127.0.0.1:9',
        no_proxy='',
    )
    code = (
        "from xray_xfer.models.classifier import build\n"
        "for arch in ('hf-hub:timm/resnet10t.c3_in1k', 'resnet10t'):\n"
        " try: build(arch)\n"
        " except ConnectionError as e: print(e)"
    )
    p = subprocess.run(
        [sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True, timeout=300
    )
    said = p.stdout.splitlines()
    assert len(said) == 2 and 'local-dir:FOLDER' in said[0] and 'pretrained=PATH' in said[1], p.stderr
    assert 'Retry' not in p.stderr

# ---- names

def test_every_old_name_of_timm():
    old = get_deprecated_models()
    assert len(old) > 100
    for name in old:
        with pytest.warns(UserWarning, match=f'{re.escape(name)} is called .* in timm now'): s = stats(name)
        assert len(s['mean']) == 3 and s['size'] > 0

def test_an_old_name_is_built_and_filed_as_the_new_one():
    assert get_deprecated_models()['mnasnet_b1'] == 'mnasnet_100'
    with pytest.warns(UserWarning, match='mnasnet_b1 is called mnasnet_100 in timm now'):
        net = build('mnasnet_b1', pretrained=False, size=64)
    assert net.arch == 'mnasnet_100'
    with pytest.warns(UserWarning):
        assert build('mnasnet_b1.rmsp_in1k', pretrained=False, size=64).arch == 'mnasnet_100.rmsp_in1k'

def test_a_name_that_timm_has_dropped(monkeypatch):
    monkeypatch.setattr(names, 'get_deprecated_models', lambda: dict(resnet18=None))
    with pytest.raises(ValueError, match='dropped'): stats('resnet18')

@pytest.mark.parametrize(
    'given,meant',
    [
        ('resnet-50', 'resnet50'),
        ('ResNet18', 'resnet18'),
        ('RESNET18', 'resnet18'),
        (' resnet18', 'resnet18'),
        ('efficientnet-b0', 'efficientnet_b0'),
        ('EfficientNetB0', 'efficientnet_b0'),
        ('DenseNet-121', 'densenet121'),
        ('ViT-B/16', 'vit_base_patch16_224'),
        ('vit_b_16', 'vit_base_patch16_224'),
        ('swin_t', 'swin_tiny_patch4_window7_224'),
        ('mobilenet_v2', 'mobilenetv2_100'),
        ('mobilenet_v3_large', 'mobilenetv3_large_100'),
        ('regnet_y_400mf', 'regnety_004'),
        ('regnet_x_3_2gf', 'regnetx_032'),
        ('shufflenet_v2_x0_5', 'shufflenetv2_050'),
        ('efficientnet_v2_s', 'efficientnetv2_s'),
        ('ResNet18.A1_in1k', 'resnet18.a1_in1k'),
        ('timm/resnet18.a1_in1k', 'resnet18.a1_in1k, hf-hub:timm/resnet18.a1_in1k'),
        ('someone/chest', 'hf-hub:someone/chest'),
        ('https://huggingface.co/someone/chest', 'hf-hub:someone/chest'),
        ('hf:someone/chest', 'hf-hub:someone/chest'),
        ('eficientnet_b0', 'efficientnet_b0'),
    ],
)
def test_a_wrong_name_says_what_to_type(given, meant):
    with pytest.raises(ValueError, match=rf"unknown arch {given!r}; did you mean {re.escape(meant)}[,?]") as e:
        stats(given)
    assert '\n' not in str(e.value)
    for name in meant.split(', '): assert timm.is_model(name) or ':' in name

def test_every_name_of_torchvision_that_timm_has():
    for theirs, ours in names._TORCHVISION.items(): assert timm.is_model(ours), theirs

def test_a_folder_without_its_prefix(tmp_path):
    put(tmp_path/'chest')
    with pytest.raises(ValueError, match=f'did you mean local-dir:{re.escape(str(tmp_path))}/chest'):
        stats(f'{tmp_path}/chest')

@pytest.mark.parametrize('arch', ['resnet18.a9', 'resnet18.', 'vit_base_patch16_224.sam'])
def test_a_release_that_there_is_not(arch):
    with pytest.raises(ValueError, match=f"no release {arch.partition('.')[2]!r} of .*; give .*_in1k"): stats(arch)

@pytest.mark.parametrize(
    'arch', [None, 3, b'resnet18', '', 'a\0b', '🫁', '/', 'C:\\models\\chest', 'resnet18\n', '../x', 'x' * 5000]
)
def test_names_that_are_none(arch):
    with pytest.raises(ValueError, match='unknown arch'): stats(arch)

# ---- names of folders, figures and options

def test_run_folders_have_plain_and_different_names():
    archs = [
        'resnet18',
        'resnet18.a1_in1k',
        'hf-hub:timm/resnet18.a1_in1k',
        'hf-hub:timm/resnet18',
        'hf-hub:timm/resnet18@v1',
        'hf-hub:timm/resnet18@refs/pr/1',
        'hf-hub:a--b/c',
        'hf-hub:a/b--c',
        'local-dir:/a/chest',
        'local-dir:/b/chest',
        'local-dir:/a/chest_0',
        'local-dir:/a/Röntgen',
        'local-dir:/a/肺',
        'local-dir:/',
        'local-dir:/a/.hidden',
        'local-dir:/a/x y:z',
        'local-dir:/a/' + 'x' * 250,
        'local-dir:/a/' + '肺' * 80,
        'local-dir:/a/timm--resnet18',
    ]
    names = [run_name(a, 1, 2) for a in archs]
    assert len(set(names)) == len(archs) and names == [run_name(a, 1, 2) for a in archs]
    for n in names:
        assert Path(n).name == n and n[0] not in '.-' and not re.search(r'[\\/:\s]', n) and len(n.encode()) <= 200
    assert run_name('hf_hub:timm/resnet18', 0) == run_name('hf-hub:timm/resnet18', 0) == 'timm--resnet18_0'
    assert [display_name(a) for a in archs[2:4] + archs[8:9]] == ['timm/resnet18.a1_in1k', 'timm/resnet18', 'chest']

def test_weights_for_addresses():
    archs = ['hf-hub:a/b', 'local-dir:/x=y/z', 'local-dir:/x', 'resnet18']
    got = weights_for(['local-dir:/x=y/z=w=1.pth', 'hf-hub:a/b=true', 'local-dir:/x=false'], archs)
    assert got == {'local-dir:/x=y/z': 'w=1.pth', 'hf-hub:a/b': True, 'local-dir:/x': False}
    assert weights_for(['a=b.pth'], archs) == 'a=b.pth'
    with pytest.raises(ValueError, match='more than once'): weights_for(['hf-hub:a/b=true', 'hf-hub:a/b=false'], archs)

# ---- runs that outlive the folder

@pytest.mark.usefixtures('plain_figures')
def test_a_run_outlives_its_folder(xrays, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    put(tmp_path/'nets'/'chest', in_chans=1, cfg=dict(mean=[.5], std=[.25]))
    arch = 'local-dir:nets/chest'
    r = run(xrays, arch, 1, **FAST, out='runs')
    c = json.loads((r.path/'config.json').read_text())
    assert c['arch'] == f'local-dir:{tmp_path}/nets/chest'
    assert c['weights'] == 'local-dir:chest'
    assert (c['mean'], c['std']) == ([0.5] * 3, [0.25] * 3)
    assert c['network']['architecture'] == 'test_resnet'
    assert c['network']['weights'].startswith('model.safetensors sha256:')
    # the same network, so the same run
    again = run(xrays, f'local-dir:{tmp_path}/nets/../nets/chest', 1, **FAST, out='runs')
    assert again.learn is None and again.path == r.path
    assert (
        dataloaders(xrays, arch, size=64, quiet=True, device='cpu').stats['mean'],
        dataloaders(xrays, arch, quiet=True, device='cpu').pack.size,
    ) == ([0.5] * 3, 160)
    card, report = (r.path/'MODEL_CARD.md').read_text(), (r.path/'report.html').read_text()
    assert 'timm `test_resnet`' in card and '--arch local-dir:chest' in card and str(tmp_path) not in card + report
    logits = load_model(r.path)(torch.ones(1, 3, 64, 64))
    (tmp_path/'nets').rename(tmp_path/'gone')
    assert torch.equal(load_model(r.path)(torch.ones(1, 3, 64, 64)), logits)
    for words in (
        ['table', 'runs'],
        ['report', str(r.path)],
        ['controls', str(r.path), str(xrays), '--quiet', '--device', 'cpu'],
    ):
        assert main(words) == 0, capsys.readouterr().err
    with pytest.raises(FileNotFoundError, match='no such folder'): run(xrays, arch, 1, **FAST, out='runs')

@pytest.mark.usefixtures('plain_figures')
def test_other_weights_in_the_folder_are_another_run(xrays, tmp_path):
    net = put(tmp_path/'chest')
    run(xrays, f'local-dir:{tmp_path}/chest', 0, **FAST, out=tmp_path/'runs')
    with torch.no_grad(): net.conv1[0].weight.mul_(2)
    save_for_hf(
        net,
        tmp_path / 'chest',
        safe_serialization=True,
        model_config=dict(pretrained_cfg=dict(mean=MEAN, std=STD, input_size=[3, 96, 96])),
    )
    with pytest.raises(FileExistsError, match='network'):
        run(xrays, f'local-dir:{tmp_path}/chest', 0, **FAST, out=tmp_path / 'runs')

@pytest.mark.usefixtures('plain_figures')
def test_a_study_of_addresses_and_old_names(xrays, tmp_path, monkeypatch, hub):
    "Two folders of one name, a repository and an old name in one study, with weights for each"
    monkeypatch.chdir(tmp_path)
    for place in ('a/chest', 'b/chest'): put(tmp_path/place, num_classes=2 if place[0] == 'a' else 3)
    put(hub('someone/chest'))
    archs = ['local-dir:a/chest', 'local-dir:b/chest', 'hf_hub:someone/chest', 'mnasnet_b1']
    with pytest.warns(UserWarning, match='mnasnet_100'):
        s = study(
            xrays,
            archs,
            0,
            pretrained={
                archs[0]: True,
                archs[2]: tmp_path / 'a' / 'chest' / 'model.safetensors',
                archs[1]: False,
                archs[3]: False,
            },
            **FAST,
            out=tmp_path / 'study',
        )
    assert [r.config['weights'] for r in s.runs] == ['local-dir:chest', 'random', 'model.safetensors', 'random']
    assert [r.arch for r in s.runs] == [
        f'local-dir:{tmp_path}/a/chest',
        f'local-dir:{tmp_path}/b/chest',
        'hf-hub:someone/chest',
        'mnasnet_100',
    ]
    assert len(set(s.table.columns)) == 4 and load_study(tmp_path/'study').table.equals(s.table)
    assert 'report.html' in os.listdir(tmp_path/'study') and 'differ' not in s.caption
    with pytest.raises(ValueError, match='does not train'):
        study(xrays, archs[:1], 0, pretrained={'resnet18': False}, **FAST, out=tmp_path / 'other')
