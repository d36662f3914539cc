"The cut on many families: the tail called alone, at another batch size than the traced one, in training and in evaluation."
import pytest, torch
from torch import nn

from xray_xfer.cut import Cut, CutError, bridge, cut
from xray_xfer.models import Classifier, build, stats

# a plain CNN and then what is awkward about each of the others; pixels of a side: a convolution needs no more than these, the rest take their own
FAMILIES = {'resnet10t': 96, 'efficientnet_b0': 96, 'shufflenetv2_050': 96,
    'densenet121': 96,                       # several tensors cross
    'ghostnetv2_100': 96,                    # F.dropout is fixed when traced
    'levit_128s': None,                      # the batch size crosses as a number
    'vit_tiny_patch16_224': None,            # None crosses; optional arguments
    'swin_tiny_patch4_window7_224': None,    # constants made while tracing, DropPath
    'pit_ti_224': None,                      # sizes cross as numbers
    'deit_tiny_distilled_patch16_224': None, # two classifiers
    'crossvit_9_240': None, 'coat_tiny': None,       # several branches
    'hrnet_w18_small': 96, 'inception_v3': 128,      # parallel resolutions, branches
    'mobilenetv3_small_050': 96, 'convnext_atto': 96, 'xcit_nano_12_p16_224': None}

SEVERAL = {'densenet121', 'ghostnetv2_100', 'levit_128s', 'crossvit_9_240', 'coat_tiny', 'hrnet_w18_small', 'inception_v3'}   # where more than one tensor crosses a cut, at one of these depths

def run(model, f, args, state, training):
    "Logits, the state left behind, and in training the gradient of each parameter that learns"
    model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    f.train(training)
    torch.manual_seed(1)
    with torch.set_grad_enabled(training): logits = f(*args)
    if training: logits.square().sum().backward()
    return logits.detach(), {k: v.clone() for k, v in model.state_dict().items()}, {k: p.grad for k, p in model.named_parameters() if p.requires_grad}

def close(a, b, what):
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-12), (what, float((a - b).abs().max()))

@pytest.mark.parametrize('arch', FAMILIES)
def test_the_parts_are_the_whole(arch):
    torch.manual_seed(0)
    size = FAMILIES[arch] or stats(arch)['size']
    model, x = build(arch, pretrained=False, size=size), torch.rand(4, 3, size, size)
    for m in model.modules():   # a fresh norm multiplies by 1 and adds 0, which would hide a lost one
        if isinstance(m, (nn.BatchNorm2d, nn.LayerNorm)) and m.weight is not None:
            nn.init.uniform_(m.weight, .5, 1.5)
            nn.init.uniform_(m.bias, -.2, .2)
    state = {k: v.clone() for k, v in model.state_dict().items()}
    crossing = set()
    for depth in (0, 1, 2, 3):
        model.freeze(depth)
        c = cut(model, size)
        crossing.add(len(c.names))
        assert isinstance(c, Cut) and model.depth == depth and not any(k.startswith('_tensor_constant') for k in vars(model))
        model.eval()
        with torch.no_grad(): features = c.trunk(x)
        assert all(len(f) == 4 for f in features)
        for training in (True, False):
            got, state_got, grads_got = run(model, c.tail, features, state, training)
            want, state_want, grads_want = run(model, model, (x,), state, training)
            close(got, want, (arch, depth, training))
            assert grads_got.keys() == grads_want.keys()
            assert not training or any(g is not None for g in grads_want.values())
            for k, g in grads_want.items():
                assert (g is None) == (grads_got[k] is None), k
                if g is not None: close(grads_got[k], g, k)
            for k, v in state_want.items(): close(state_got[k].float(), v.float(), k)
        model.load_state_dict(state)
    assert (max(crossing) > 1) == (arch in SEVERAL), crossing

@pytest.mark.parametrize('arch', ['resnet10t', 'densenet121', 'shufflenetv2_050', 'mobilenetv3_small_050', 'levit_128s'])
def test_bridges_lead_from_each_depth_to_each_smaller_one(arch):
    torch.manual_seed(0)
    size = FAMILIES[arch] or stats(arch)['size']
    model, x = build(arch, pretrained=False, size=size), torch.rand(3, 3, size, size)
    cuts = [cut(model, size, d) for d in range(4)]
    with torch.no_grad():
        for deep in range(1, 4):
            for shallow in range(deep):
                b = bridge(cuts[deep], cuts[shallow])
                for got, want in zip(b(*cuts[deep].trunk(x)), cuts[shallow].trunk(x), strict=True): close(got, want, (arch, deep, shallow))
                assert bridge(cuts[shallow], cuts[deep]) is None

class Net(nn.Module):
    num_features = 8
    def __init__(self): super().__init__(); self.conv, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8, 8)

class Branches(Net):
    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        return self.fc(x if x.sum() > 0 else -x)

class BatchInside(Net):
    def forward(self, x): return self.fc(self.conv(x).mean((2, 3)).repeat(2, 1))[:x.shape[0]]

class Flattened(Net):
    def forward(self, x):
        x = self.conv(x).mean((2, 3)).unflatten(0, (1, -1))
        return self.fc(x)[0]

@pytest.mark.parametrize('net,words', [(Branches, 'cannot follow'), (BatchInside, 'not a row'), (Flattened, 'not a row')])
def test_what_cannot_be_cut_soundly_is_an_error_with_its_reason(net, words):
    model = Classifier(net(), nn.Linear(8, 4)).freeze(1)
    with pytest.raises(CutError, match=words): cut(model, 16)
    assert model.depth == 1 and model.training

def test_a_cut_leaves_no_mark():
    model = build('resnet10t', depth=2, pretrained=False).eval()
    before, keys = {k: v.clone() for k, v in model.state_dict().items()}, set(vars(model))
    cut(model, 64, depth=0)
    assert model.depth == 2 and not model.training and set(vars(model)) == keys
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [p.requires_grad for p in model.parameters()] == [p.requires_grad for p in build('resnet10t', depth=2, pretrained=False).parameters()]
