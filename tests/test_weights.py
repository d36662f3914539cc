"Weights files as people have them: other programs' names, other channels, several in one, and what is no weights."
import argparse, gzip, io, json, os, pickle, tarfile, traceback, warnings, zipfile
from collections import OrderedDict

import numpy as np, pytest, timm, torch
from fastcore.foundation import L
from safetensors.torch import save_file
from torch import nn

from xray_xfer.models.classifier import build, load_weights

ARCH = 'test_resnet'   # 0.4 million weights

def network(arch=ARCH, num_classes=7, **kwargs):
    "A network as someone else has trained it"
    torch.manual_seed(1)
    return timm.create_model(arch, num_classes=num_classes, **kwargs).eval()

def loaded(path, arch=ARCH, **kwargs):
    "The backbone with a file's weights, and what was said"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        net = build(arch, pretrained=path, **kwargs)
    return net, ' '.join(str(w.message) for w in said)

def same(net, other):
    "Whether a backbone has the weights of another network"
    have, want = net.backbone.state_dict(), other.state_dict()
    return all(torch.equal(v, want[k]) for k, v in have.items())

def prefixed(net, prefix): return {prefix + k: v for k, v in net.state_dict().items()}

# ---- names

@pytest.mark.parametrize('prefix', ['module.', 'model.', '_orig_mod.', 'encoder.', '0.', '0.model.', 'backbone.',
                                    'net.', 'student.', 'teacher.', 'momentum_encoder.', 'module._orig_mod.',
                                    'model.module.', 'model.backbone.net.', 'layer1.'])
def test_prefixes(tmp_path, prefix):
    theirs = network()
    torch.save(prefixed(theirs, prefix), tmp_path/'w.pth')
    net, said = loaded(tmp_path/'w.pth')
    assert same(net, theirs) and net.left_out == [f'{prefix}fc.weight', f'{prefix}fc.bias']
    assert f'{prefix}fc.weight' in said

def test_the_commonest_prefix_wins_not_the_first(tmp_path):
    "A projection head whose names begin like the backbone's stands first"
    theirs = network()
    stored = {'proj.bn1.weight': torch.zeros(3), 'proj.bn1.bias': torch.zeros(3)} | prefixed(theirs, 'body.')
    torch.save(stored, tmp_path/'w.pth')
    net, _ = loaded(tmp_path/'w.pth')
    assert same(net, theirs) and {'proj.bn1.weight', 'proj.bn1.bias'} < set(net.left_out)

@pytest.mark.parametrize('last', [-1, -2])
def test_numbered_children(tmp_path, last):
    "fastai's body of a torchvision network, and nn.Sequential(*children)"
    theirs = network()
    body = nn.Sequential(*list(theirs.children())[:last])
    for name, sd in dict(plain=body.state_dict(),
                         fastai=nn.Sequential(body, nn.Sequential(nn.Linear(2, 2))).state_dict()).items():
        torch.save(sd, tmp_path/f'{name}.pth')
        net, _ = loaded(tmp_path/f'{name}.pth')
        assert same(net, theirs) and net.left_out == ([] if name == 'plain' else ['1.0.weight', '1.0.bias'])

@pytest.mark.parametrize('head', ['classifier.weight', 'head.fc.weight', 'last_linear.weight', 'linear.bias',
                                  'class_layers.out.weight', 'op_threshs'])
def test_other_classifiers_are_left_out_with_a_word(tmp_path, head):
    sd = {k: v for k, v in network().state_dict().items() if not k.startswith('fc.')}
    torch.save(sd | {head: torch.zeros(18)}, tmp_path/'w.pth')
    net, said = loaded(tmp_path/'w.pth')
    assert net.left_out == [head] and f'left out: {head}' in said

# ---- where in the file

@pytest.mark.parametrize('entry', ['net', 'network', 'model_state_dict', 'model_state', 'state_dict_ema', 'model_ema',
                                   'ema', 'params_ema', 'teacher', 'weights', 'generator'])
def test_entries(tmp_path, entry):
    theirs = network()
    optimizer = dict(state={0: dict(exp_avg=torch.zeros(3))}, param_groups=[dict(lr=.1)])
    torch.save({'epoch': 3, entry: theirs.state_dict(), 'optimizer': optimizer}, tmp_path/'w.pth')
    assert same(loaded(tmp_path/'w.pth')[0], theirs)

@pytest.mark.parametrize('taken,other', [('state_dict_ema', 'state_dict'), ('model_ema', 'model'),
                                         ('teacher', 'student'), ('state_dict', 'a_copy')])
@pytest.mark.parametrize('flipped', [False, True])
def test_one_of_several_and_which_is_said(tmp_path, taken, other, flipped):
    theirs, rest = network(), network(num_classes=0)
    nn.init.zeros_(rest.conv1[0].weight)
    entries = {taken: prefixed(theirs, 'module.'), other: prefixed(rest, 'module.')}
    torch.save(dict(reversed(entries.items())) if flipped else entries, tmp_path/'w.pth')
    net, said = loaded(tmp_path/'w.pth')
    assert same(net, theirs) and f'under {taken} ' in said and f'under {other} ' in said.partition('those ')[2]

@pytest.mark.parametrize('flipped', [False, True])
def test_student_and_teacher_in_one_mapping(tmp_path, flipped):
    theirs = network()
    both = [prefixed(network(num_classes=0), 'student.backbone.'), prefixed(theirs, 'teacher.backbone.')]
    nn.init.zeros_(both[0]['student.backbone.conv1.0.weight'])
    a, b = reversed(both) if flipped else both
    torch.save(a | b, tmp_path/'w.pth')
    net, said = loaded(tmp_path/'w.pth')
    # the student is named once, not weight by weight
    assert same(net, theirs) and 'teacher.backbone.' in said and len(net.left_out) < 5

def test_an_entry_that_does_not_fit_gives_way(tmp_path):
    "state_dict is of another network (a discriminator), the backbone lies under model"
    theirs = network()
    torch.save(dict(state_dict=timm.create_model('test_efficientnet').state_dict(), model=theirs.state_dict()),
               tmp_path/'w.pth')
    assert same(loaded(tmp_path/'w.pth')[0], theirs)

def test_what_training_programs_put_beside(tmp_path):
    "timm's arguments, a best score of NumPy, fastai's optimiser"
    theirs = network()
    beside = dict(args=argparse.Namespace(lr=.1), best=np.float64(.9), n=np.int64(3),
                  opt=dict(hypers=L(dict(lr=np.float64(.1)))))
    torch.save(dict(model=theirs.state_dict()) | beside, tmp_path/'w.pth')
    assert same(loaded(tmp_path/'w.pth')[0], theirs)

@pytest.mark.parametrize('name', ['w.safetensors', 'w.pth', 'w.bin', 'w.ckpt', 'w.pth.tar', 'w'])
def test_the_content_counts_not_the_ending(tmp_path, name):
    theirs = network(num_classes=0)
    for save in (lambda p: save_file(theirs.state_dict(), p), lambda p: torch.save(theirs.state_dict(), p),
                 lambda p: torch.save(theirs.state_dict(), p, _use_new_zipfile_serialization=False)):
        save(tmp_path/name)
        net, said = loaded(tmp_path/name)
        assert same(net, theirs) and not said and net.left_out == []

# ---- channels

@pytest.mark.parametrize('arch', [ARCH, 'test_efficientnet', 'test_vit', 'test_convnext', 'shufflenetv2_050',
                                  'resnet10t'])
def test_weights_for_one_channel(tmp_path, arch):
    "A grey image in three equal channels gives what it gave in one"
    theirs = network(arch, num_classes=0, in_chans=1)
    save_file(theirs.state_dict(), tmp_path/'w.safetensors')
    net, said = loaded(tmp_path/'w.safetensors', arch)
    x = torch.rand(2, 1, *[timm.get_pretrained_cfg(arch).input_size[-1]] * 2)
    with torch.no_grad(): ours, want = net.eval().backbone(x.expand(-1, 3, -1, -1)), theirs(x)
    assert (ours - want).abs().max() <= 1e-5 * want.abs().max() and 'channels' in said and 'mean and deviation' in said

def test_one_channel_to_the_last_bit(tmp_path):
    "With numbers that a third does not round, the first layer is equal to the last bit"
    theirs = network(num_classes=0, in_chans=1)
    conv = theirs.conv1[0]
    with torch.no_grad(): conv.weight.copy_((conv.weight * 64).round() * 3 / 64)
    save_file(theirs.state_dict(), tmp_path/'w.safetensors')
    net, _ = loaded(tmp_path/'w.safetensors')
    x = torch.randint(0, 256, (2, 1, 32, 32)) / 256
    assert torch.equal(net.backbone.conv1[0](x.expand(-1, 3, -1, -1)), conv(x))

def test_three_channels_into_one(tmp_path):
    "The reverse, for a backbone of the caller's own"
    theirs, ours = network(num_classes=0), network(num_classes=0, in_chans=1)
    save_file(theirs.state_dict(), tmp_path/'w.safetensors')
    with pytest.warns(UserWarning, match='channels'): assert load_weights(ours, tmp_path/'w.safetensors') == []
    x = torch.rand(2, 1, 64, 64)
    with torch.no_grad(): torch.testing.assert_close(ours(x), theirs(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-6)

@pytest.mark.parametrize('channels', [2, 4, 6])
def test_other_channels_are_refused(tmp_path, channels):
    save_file(network(num_classes=0, in_chans=channels).state_dict(), tmp_path/'w.safetensors')
    said = rf'1 of another shape: conv1.0.weight \(16, {channels}, 3, 3\) for \(16, 3, 3, 3\)'
    with pytest.raises(ValueError, match=said): build(ARCH, pretrained=tmp_path/'w.safetensors')

# ---- other spellings

@pytest.fixture(scope='module')
def xrv():
    "A DenseNet for one channel and 18 findings, as torchxrayvision has it"
    return network('densenet121', num_classes=18, in_chans=1)

@pytest.mark.parametrize('whose', ['torchxrayvision', 'torchvision before 2018', 'MONAI'])
def test_densenets(tmp_path, xrv, whose):
    import re
    def name(n):
        if whose == 'torchvision before 2018': return re.sub(r'(denselayer\d+\.(?:norm|conv))(\d)\.', r'\1.\2.', n)
        if whose == 'MONAI':
            return re.sub(r'(denselayer\d+)\.', r'\1.layers.', n).replace('classifier.', 'class_layers.out.')
        return n
    sd = {name(k): v for k, v in xrv.state_dict().items()}
    if whose == 'torchvision before 2018': stored = dict(state_dict=prefixed_dict(sd, 'module.'))
    else: stored = sd | {'op_threshs': torch.zeros(18)}
    torch.save(stored, tmp_path/'w.pth')
    net, said = loaded(tmp_path/'w.pth', 'densenet121', size=64)
    assert torch.equal(net.backbone.features.denseblock4.denselayer16.conv2.weight,
                       xrv.features.denseblock4.denselayer16.conv2.weight)
    x = torch.rand(1, 1, 64, 64)
    with torch.no_grad():
        got = net.eval().backbone(x.expand(-1, 3, -1, -1))
        want = xrv.forward_head(xrv.forward_features(x), pre_logits=True)
        torch.testing.assert_close(got, want, rtol=1e-3, atol=1e-5)

def prefixed_dict(sd, prefix): return {prefix + k: v for k, v in sd.items()}

def test_original_names_by_timms_own_reader(tmp_path):
    "ConvNeXt as its authors name it: downsample_layers, dwconv, pwconv1"
    import re
    theirs = network('test_convnext', num_classes=5)
    def original(k):
        k = re.sub(r'^stem\.(\d)', r'downsample_layers.0.\1', k)
        k = re.sub(r'^stages\.(\d)\.downsample\.', r'downsample_layers.\1.', k)
        k = re.sub(r'^stages\.(\d)\.blocks\.', r'stages.\1.', k)
        k = k.replace('conv_dw', 'dwconv').replace('mlp.fc1', 'pwconv1').replace('mlp.fc2', 'pwconv2')
        return k.replace('head.norm.', 'norm.').replace('head.fc.', 'head.')
    sd = {original(k): v for k, v in theirs.state_dict().items()}
    assert 'downsample_layers.0.0.weight' in sd and 'stages.0.0.dwconv.weight' in sd
    for name, stored in dict(plain=dict(model=sd), parallel=dict(state_dict=prefixed_dict(sd, 'module.'))).items():
        torch.save(stored, tmp_path/f'{name}.pth')
        assert same(loaded(tmp_path/f'{name}.pth', 'test_convnext')[0], theirs)

def test_a_file_of_another_image_size(tmp_path):
    "Position embeddings are fitted to the size, as with timm's own releases"
    theirs = network('test_vit', num_classes=0)
    save_file(theirs.state_dict(), tmp_path/'w.safetensors')
    net = build('test_vit', pretrained=tmp_path/'w.safetensors', size=96)
    assert net.backbone.pos_embed.shape != theirs.pos_embed.shape
    assert torch.equal(net.backbone.blocks[0].attn.qkv.weight, theirs.blocks[0].attn.qkv.weight)

# ---- what does not fit

def test_hardly_a_name_in_common_shows_both_sides(tmp_path):
    torch.save(dict(state_dict=prefixed(network('test_efficientnet'), 'module.')), tmp_path/'w.pth')
    with pytest.raises(ValueError, match='only .* of the .* weights') as e: build(ARCH, pretrained=tmp_path/'w.pth')
    assert 'module.conv_stem.weight' in str(e.value) and 'conv1.0.weight' in str(e.value)

def test_misfits_leave_the_network_as_it_was(tmp_path):
    net = network(num_classes=0)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    sd = prefixed(network(num_classes=0), 'module.')
    nn.init.ones_(sd['module.conv1.0.weight'])
    misfits = {'missing': {k: v for k, v in sd.items() if 'layer4.0.conv1' not in k},
               'unknown': sd | {'module.extra.weight': torch.zeros(1)},
               'of another shape': sd | {'module.layer4.0.conv1.weight': torch.zeros(1)}}
    for name, changed in misfits.items():
        torch.save(changed, tmp_path/f'{name}.pth')
        said = f'1 {name}: .*(layer4.0.conv1|module.extra).weight.*sought with names that begin with module'
        with pytest.raises(ValueError, match=said): load_weights(net, tmp_path/f'{name}.pth')
        assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

@pytest.mark.parametrize('stored', [dict(epoch=3), dict(state_dict=dict(a=1)), [torch.zeros(2)], torch.zeros(2),
                                    {0: torch.zeros(2)}, {'state_dict': {}}, {}], ids=str)
def test_no_state_dict_in_it(tmp_path, stored):
    torch.save(stored, tmp_path/'w.pth')
    with pytest.raises(ValueError, match='holds no state dict'): build(ARCH, pretrained=tmp_path/'w.pth')

def test_a_mapping_that_holds_itself(tmp_path):
    stored = dict(model=network().state_dict())
    stored['again'] = stored
    torch.save(stored, tmp_path/'w.pth')
    assert same(loaded(tmp_path/'w.pth')[0], network())

# ---- what is no weights

def zipped(**files):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w') as z:
        for name, content in files.items(): z.writestr(name, content)
    return out.getvalue()

def saved(write):
    out = io.BytesIO()
    write(out)
    return out.getvalue()

def tarred():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode='w') as t: t.addfile(tarfile.TarInfo('weights.pth'), io.BytesIO())
    return out.getvalue()

SHARDS = dict(metadata={}, weight_map={'a': 'model-00001-of-00002.safetensors'})
NOT_WEIGHTS = {
    'page': (b'\n<!doctype html>\n<html><body>Sign in</body></html>', 'web page.*fetch it again'),
    'page with a mark': ('\ufeff<html lang="de"><title>Größe</title>'.encode(), 'web page'),
    'answer of a store': (b'<?xml version="1.0"?><Error><Code>NoSuchKey</Code></Error>', 'XML text'),
    'answer of the Hub': (b'Entry not found', "text that begins with 'Entry not found'"),
    'JSON': (b'{"error": "Repository not found"}', 'JSON text'),
    'index of shards': (json.dumps(SHARDS).encode(), 'JSON text'),
    'LFS pointer': (b'version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 46830571\n', 'git lfs pull'),
    'Keras': (b'\x89HDF\r\n\x1a\n' + bytes(600), 'HDF5.*state_dict'),
    'Keras 3': (zipped(**{'config.json': '{}', 'model.weights.h5': 'x'}), 'Keras archive'),
    'ONNX': (b'\x08\x08\x12\x07pytorch\x1a\x052.0.0:' + bytes(40), 'ONNX'),
    'JAX': (saved(lambda f: np.savez(f, kernel=np.zeros(3))), 'NumPy archive'),
    'array': (saved(lambda f: np.save(f, np.zeros(3))), 'NumPy array'),
    'zip': (zipped(**{'weights/model.pth': 'x'}), 'zip archive of weights/model.pth.*unpack'),
    'gzip': (gzip.compress(b'x' * 99), 'gzip archive.*unpack'),
    'tar': (tarred(), 'tar archive.*unpack'),
    'empty': (b'', 'empty file'),
    'half': (saved(lambda f: torch.save(dict(a=torch.zeros(9999)), f))[:20000], 'broken zip'),
    'pickle': (pickle.dumps(OrderedDict(a=1)), 'pickle that torch.save did not write.*torch.save'),
    'script': (saved(lambda f: torch.jit.save(torch.jit.script(nn.Linear(2, 2)), f)), 'TorchScript'),
    'whole model': (saved(lambda f: torch.save(nn.Sequential(nn.Linear(2, 2)), f)),
                    r'Python objects \(.*torch.nn.modules.linear.Linear.*state_dict'),
    'whole model, old': (saved(lambda f: torch.save(nn.Sequential(nn.Linear(2, 2)), f,
                                                    _use_new_zipfile_serialization=False)),
                         r'Python objects \(.*torch.nn.modules.linear.Linear'),
    'whole model in it': (saved(lambda f: torch.save(dict(state_dict=nn.Linear(2, 2)), f)),
                          r'Python objects \(torch.nn.modules.linear.Linear\)'),
    'picture': (b'\x89PNG\r\n\x1a\n' + bytes(40), 'PNG image'),
}

@pytest.mark.parametrize('suffix', ['.pth', '.safetensors'])
@pytest.mark.parametrize('what', NOT_WEIGHTS)
def test_what_it_is_is_said(tmp_path, what, suffix):
    content, said = NOT_WEIGHTS[what]
    (tmp_path/f'w{suffix}').write_bytes(content)
    with pytest.raises(ValueError, match=f'(?s)cannot be read as weights: .*{said}') as e:
        build(ARCH, pretrained=tmp_path/f'w{suffix}')
    told = ''.join(traceback.format_exception(e.value))
    assert 'weights_only' not in str(e.value), told
    assert 'arbitrary code' not in told and 'weights_only` to `False' not in told, told

def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(IsADirectoryError, match='local-dir:'): build(ARCH, pretrained=tmp_path)

class Evil:
    def __init__(self, touch): self.touch = touch
    def __reduce__(self): return os.system, (f'touch {self.touch}',)

@pytest.mark.parametrize('where', ['state_dict', 'optimizer', 'conv1.0.weight'])
@pytest.mark.parametrize('old', [False, True], ids=['zip', 'old'])
def test_nothing_is_run(tmp_path, where, old):
    "Also where the weights themselves are in order"
    torch.save(dict(model=network().state_dict()) | {where: Evil(tmp_path/'was_run')}, tmp_path/'w.pth',
               _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError, match=r'Python objects \(.*system'): build(ARCH, pretrained=tmp_path/'w.pth')
    assert not (tmp_path/'was_run').exists()

def test_damaged_at_any_byte(tmp_path):
    "A file with some bytes changed is read, or refused as a ValueError; never another error"
    good = [saved(lambda f: torch.save(network(num_classes=0).state_dict(), f, _use_new_zipfile_serialization=new))
            for new in (True, False)]
    rng = np.random.default_rng(0)
    net, refused = network(num_classes=0), 0
    for i in range(60):
        content, at = bytearray(good[i % 2]), int(rng.integers(3000))
        if i % 3: content[at:at + 99] = rng.bytes(99)
        else: del content[int(rng.integers(len(content))):]
        (tmp_path/'w.pth').write_bytes(content)
        try: load_weights(net, tmp_path/'w.pth')
        except ValueError: refused += 1
    assert refused > 40
