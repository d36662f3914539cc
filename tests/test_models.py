"Freezing over many timm families, and weights files that are not what they say."
import os, subprocess, sys, warnings

import pytest, timm, torch
from fastai.torch_core import norm_types
from safetensors.torch import load_file, save_file
from torch import nn

from xray_xfer.models.classifier import build, splitter
from xray_xfer.models.summary import param_table, summary

FAMILIES = ['efficientnet_b0', 'shufflenetv2_050', 'resnet18', 'mobilenetv3_small_050', 'ghostnet_050', 'levit_128s',
            'vit_tiny_patch16_224', 'convnext_atto', 'swin_tiny_patch4_window7_224', 'densenet121', 'regnety_002',
            'poolformer_s12', 'mixer_s32_224', 'edgenext_xx_small', 'mobilenetv2_035', 'inception_v4', 'fastvit_t8']

def drop_everything(model):
    "Make every Dropout and DropPath of the backbone drop half of what passes"
    for m in model.backbone.modules():
        if hasattr(m, 'drop_prob'): m.drop_prob = .5
        if isinstance(m, nn.Dropout): m.p = .5

@pytest.mark.parametrize('arch', FAMILIES)
def test_frozen_is_frozen(arch):
    "At depths 0 to 2, training steps with weight decay change the head and the tail, and nothing below"
    size = 224 if arch.startswith(('levit', 'vit', 'swin', 'mixer')) else 128
    net = build(arch, 2, 3, pretrained=False, size=size)
    params = dict(net.backbone.named_parameters())
    assert sorted(n for g in net.groups for n in g) == sorted(params)
    drop_everything(net)
    x = torch.randn(2, 3, size, size)
    opt = torch.optim.AdamW([p for g in splitter(net) for p in g], lr=1e-2, weight_decay=.5)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    net.train()
    nn.functional.cross_entropy(net(x), torch.tensor([0, 1])).backward()
    opt.step()
    hot = {f'backbone.{n}' for g in net.groups[-2:] for n in g}
    hot_modules = tuple({n.rsplit('.', 1)[0] + '.' for n in hot})
    for k, v in net.state_dict().items():
        if k.startswith('head.') or k in hot: continue
        # statistics of the tail's own norms
        if k not in {f'backbone.{n}' for n in params} and k.startswith(hot_modules):
            continue
        assert torch.equal(v, before[k]), k
    assert any(not torch.equal(net.state_dict()[k], before[k]) for k in hot)
    net.freeze(0)
    net.train()
    with torch.no_grad():
        assert torch.equal(net.backbone(x), net.backbone(x)), 'a wholly frozen backbone drops something'

@pytest.mark.parametrize('arch', FAMILIES)
def test_norms_alone_learn(arch):
    "Of the backbone their weights and statistics change, and nothing else"
    size = 224 if arch.startswith(('levit', 'vit', 'swin', 'mixer')) else 128
    net = build(arch, 0, 3, pretrained=False, size=size, norms='all').train()
    kinds = *norm_types, nn.GroupNorm
    norms = tuple(f'backbone.{n}.' for n, m in net.backbone.named_modules() if isinstance(m, kinds))
    learn = {n for n, p in net.named_parameters() if p.requires_grad and not n.startswith('head.')}
    assert learn and all(n.startswith(norms) for n in learn)
    before = {k: v.clone() for k, v in net.state_dict().items()}
    opt = torch.optim.AdamW([p for g in splitter(net) for p in g], lr=1e-2, weight_decay=.5)
    nn.functional.cross_entropy(net(torch.randn(2, 3, size, size)), torch.tensor([0, 1])).backward()
    opt.step()
    moved = {k for k, v in net.state_dict().items() if not torch.equal(v, before[k])}
    assert all(k.startswith(('head.', *norms)) for k in moved) and len(moved) > len(learn) / 2

def test_all_is_everything():
    net = build('resnet18', 'all', pretrained=False)
    assert all(p.requires_grad for p in net.parameters()) and all(m.training for m in net.modules())
    assert len(splitter(net)) == len(net.groups) + 1
    assert sum(p.numel() for g in splitter(net) for p in g) == sum(p.numel() for p in net.parameters())

@pytest.mark.parametrize('depth', [-1, 1.0, '1', True, None, 'ALL'])
def test_depths_that_are_none(depth):
    with pytest.raises(ValueError, match='5 layer groups'): build('shufflenetv2_050', depth, pretrained=False)

def test_unfreezing_by_hand_brings_the_norms_back():
    "requires_grad is the only switch: a user who unfreezes a parameter group gets live BatchNorm with it"
    net = build('shufflenetv2_050', 0, pretrained=False)
    net.backbone.requires_grad_(True)
    assert all(m.training for m in net.train().modules())

def test_random_numbers_decide_nothing_frozen():
    a, b = (build('shufflenetv2_050', 1, pretrained=False) for _ in range(2))
    assert a.groups == b.groups and summary(a) == summary(b)

def test_param_table_of_any_arch():
    t = param_table(['resnet18', 'poolformer_s12'], [0, 1, 'all'], n_classes=2)
    assert (t.trainable + t.non_trainable == t.total).all() and t.trainable.is_monotonic_increasing is False
    assert (t[t.depth == 'all'].non_trainable == 0).all()
    assert t.modules.tolist() == ['torchvision'] * 3 + ['timm'] * 3

@pytest.mark.parametrize('arch,size',
                         [('test_vit', 100), ('levit_128s', 100), ('convnext_atto', 8), ('test_maxvit', 100)])
def test_sizes_that_a_network_does_not_take(arch, size):
    own = timm.get_pretrained_cfg(arch).input_size[-1]
    with pytest.raises(ValueError, match=f'{arch} takes no images of {size} pixels .*its own size, {own}'):
        build(arch, pretrained=False, size=size)

@pytest.mark.parametrize('size', [0, -3, 2.5, True, '64'])
def test_sizes_that_are_none(size):
    with pytest.raises(ValueError, match='whole number above 0'): build('shufflenetv2_050', pretrained=False, size=size)

# ---- weights

def test_no_network_names_the_two_ways_out(tmp_path):
    "Offline, in a process of its own (timm reads the environment at import); traffic goes only to a closed local port"
    env = os.environ | dict(HF_HUB_OFFLINE='1', HF_HOME=str(tmp_path), TORCH_HOME=str(tmp_path),
                            http_proxy='http://127.0.0.1:9', https_proxy='http://127.0.0.1:9', no_proxy='')
    code = ("from xray_xfer.models.classifier import build\n"
            "for arch in ('efficientnet_b0', 'shufflenetv2_100'):\n"
            "    try: build(arch)\n"
            "    except ConnectionError as e: print(ascii(str(e)))\n")
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, capture_output=True, text=True)
    said = [line for line in done.stdout.splitlines() if 'could not be downloaded' in line]   # a library may print too
    assert len(said) == 2, (done.stdout, done.stderr)
    for line in said: assert 'pretrained=PATH' in line and 'pretrained=False' in line, line

def test_arch_without_release():
    arch = next(a for a in timm.list_models() if not timm.get_pretrained_cfg(a).has_weights)
    with pytest.raises(ValueError, match='no pretrained weights'): build(arch)

@pytest.mark.parametrize('content', [b'', b'\x08\0\0\0\0\0\0\0{}      ', b'PK\x03\x04 not a zip', b'\xff' * 400],
                         ids=['empty', 'no tensors', 'zip', 'noise'])
@pytest.mark.parametrize('suffix', ['.safetensors', '.pth', ''])
def test_files_that_are_no_weights(tmp_path, content, suffix):
    (tmp_path/f'w{suffix}').write_bytes(content)
    with pytest.raises(ValueError, match='cannot be read|holds no state dict'):
        build('shufflenetv2_050', pretrained=tmp_path/f'w{suffix}')

class Evil:
    def __reduce__(self): return os.system, ('touch was_run',)

def test_a_pth_runs_no_code(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({'conv1.0.weight': Evil()}, 'w.pth')
    with pytest.raises(ValueError, match='cannot be read'): build('shufflenetv2_050', pretrained='w.pth')
    assert not (tmp_path/'was_run').exists()

def test_wrapped_state_dicts(tmp_path):
    sd = build('shufflenetv2_050', pretrained=False).backbone.state_dict()
    for key in ('state_dict', 'model'):
        torch.save({key: sd, 'epoch': 3}, tmp_path/'w.pth')
        assert build('shufflenetv2_050', pretrained=tmp_path/'w.pth').left_out == []

def test_a_weight_too_many_is_named(tmp_path):
    sd = build('shufflenetv2_050', pretrained=False).backbone.state_dict()
    save_file(sd | {'extra.weight': torch.zeros(1)}, tmp_path/'w.safetensors')
    with pytest.raises(ValueError, match='1 unknown: extra.weight'):
        build('shufflenetv2_050', pretrained=tmp_path/'w.safetensors')

@pytest.mark.shared
def test_shared_weights_load_clean(shared):
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        net = build('shufflenetv2_100', 2, pretrained=shared/'weights'/'shufflenetv2_100.safetensors')
    want = load_file(shared/'weights'/'shufflenetv2_100.safetensors')
    have = net.backbone.state_dict()
    assert net.left_out == [] and all(torch.equal(have[k], v) for k, v in want.items())

@pytest.mark.parametrize('arch', ['efficientnet_b0', 'shufflenetv2_050', 'resnet10t'])
def test_a_summary_wherever_the_network_is(arch):
    "The meta device stands for a GPU: a tensor on the CPU that meets it is an error there too"
    here, there = build(arch, 1, pretrained=False), build(arch, 1, pretrained=False).to('meta')
    assert summary(there) == summary(here) and here.training and all(m.training for m in here.head.modules())
    here.eval()
    summary(here)
    assert not any(m.training for m in here.modules())
