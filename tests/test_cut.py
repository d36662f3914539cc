"The cut on many families: the tail called alone, at another batch size than the traced one, training and evaluating."
import pytest, torch
from torch import fx, nn
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode

from xray_xfer.trunk.cutting import Cut, cut, together
from xray_xfer.trunk.equal import CutError
from xray_xfer.data.demo import draw
from xray_xfer.data.table import images_of
from xray_xfer.training.ready import image_batches
from xray_xfer.models.classifier import Classifier, build, calibrate
from xray_xfer.models.blueprint import stats
from xray_xfer.data.packing import pack

# a plain CNN and then what is awkward about each of the others;
# pixels of a side: a convolution needs no more than these, the rest take their own
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

# where more than one tensor crosses a cut, at one of these depths
SEVERAL = {
    'densenet121', 'ghostnetv2_100', 'levit_128s', 'crossvit_9_240', 'coat_tiny', 'hrnet_w18_small',
    'inception_v3',
}

def run(model, f, args, state, training):
    "Logits, the state left behind, and in training the gradient of each parameter that learns"
    model.load_state_dict(state)
    model.zero_grad(set_to_none=True)
    f.train(training)
    torch.manual_seed(1)
    with torch.set_grad_enabled(training): logits = f(*args)
    if training: logits.square().sum().backward()
    return (
        logits.detach(),
        {k: v.clone() for k, v in model.state_dict().items()},
        {k: p.grad for k, p in model.named_parameters() if p.requires_grad},
    )

def close(a, b, what):
    assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * float(b.abs().max()) + 1e-12), (what, float((a - b).abs().max()))

# they take longest; what is peculiar to them (constants made while tracing, several branches) others have too
SLOW = ('swin_tiny_patch4_window7_224', 'coat_tiny', 'crossvit_9_240', 'xcit_nano_12_p16_224',
        'deit_tiny_distilled_patch16_224', 'pit_ti_224', 'inception_v3', 'hrnet_w18_small')

@pytest.mark.parametrize('arch', [pytest.param(a, marks=[pytest.mark.slow] * (a in SLOW)) for a in FAMILIES])
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
        assert isinstance(c, Cut)
        assert model.depth == depth
        assert not any(k.startswith('_tensor_constant') for k in vars(model))
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

@pytest.mark.parametrize(
    'arch', ['resnet10t', 'densenet121', 'shufflenetv2_050', 'mobilenetv3_small_050', 'levit_128s']
)
def test_one_pass_gives_what_each_trunk_gives(arch):
    torch.manual_seed(0)
    size = FAMILIES[arch] or stats(arch)['size']
    model, x = build(arch, pretrained=False, size=size), torch.rand(3, 3, size, size)
    cuts = [cut(model, size, d) for d in range(4)]
    for some in ((0, 1, 2, 3), (3, 0), (2, 1)):
        with torch.no_grad():
            got = iter(together([cuts[d] for d in some])(x))
            for d in some:
                for want in cuts[d].trunk(x): assert torch.equal(next(got), want), (arch, some, d)
        assert next(got, None) is None and model.depth == 0

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

class Squeezed(Net):
    def forward(self, x): return self.fc(self.conv(x).mean((2, 3)).squeeze())

@pytest.mark.parametrize(
    'net,words',
    [
        (Branches, 'cannot follow'),
        (BatchInside, 'not a row'),
        (Flattened, 'not a row'),
        (Squeezed, 'one image at a time'),
    ],
)
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
    assert [p.requires_grad for p in model.parameters()] == [
        p.requires_grad for p in build('resnet10t', depth=2, pretrained=False).parameters()
    ]

# ---- rounding is no reason to refuse, and no cover for a wrong cut

@fx.wrap
def only_float32(x):
    if x.dtype != torch.float32: raise TypeError(f'{x.dtype} is not for me')
    return x

@fx.wrap
def stopped(x):
    "Ctrl-C in the middle of float64"
    if x.dtype == torch.float64: raise KeyboardInterrupt
    return x

class Chaotic(nn.Module):
    "Sums of 1,568 numbers, which one image and three round otherwise; a logistic map doubles differences 17 times"
    num_features = 8

    def __init__(self):
        super().__init__()
        self.conv, self.wide, self.fc = nn.Conv2d(3, 8, 3), nn.Linear(8 * 14 * 14, 8), nn.Linear(8, 8)
    times = 17
    def through(self, x): return x
    def mix(self, x): return x
    def forward(self, x):
        x = torch.sigmoid(self.wide(self.through(self.conv(x).flatten(1))))
        for _ in range(self.times): x = 4 * x * (1 - x)
        return self.fc(self.mix(x))

class InFloat32(Chaotic):
    "As some layers do, whatever they are given"
    def through(self, x): return x.float()

class OnlyFloat32(Chaotic):
    "Where nothing but float32 is to be had, less of a wrong cut can be told from rounding"
    times = 13
    def through(self, x): return only_float32(x)

class Stopped(Chaotic):
    def through(self, x): return stopped(x)

def wrong(f):
    "A network whose features may hang on more than their own image"
    torch.manual_seed(0)
    class Wrong(Net):
        def forward(self, x): return self.fc(f(self.conv(x).mean((2, 3))))
    return Wrong()

def small(net):
    return Classifier(net, nn.Linear(8, 4)).freeze(1)

@pytest.mark.parametrize('net', [Chaotic, InFloat32, OnlyFloat32])
def test_a_network_that_blows_up_rounding_is_cut(net):
    torch.manual_seed(0)
    model, x = small(net()).eval(), torch.rand(3, 3, 16, 16)
    with torch.no_grad(): alone, together = torch.cat([model(image[None]) for image in x]), model(x)
    # float32 alone could not tell it from a wrong cut
    assert (alone - together).abs().max() > 1e-4 * together.abs().max()
    assert isinstance(cut(model, 16), Cut)

@pytest.mark.parametrize('net', [Chaotic, InFloat32, OnlyFloat32])
def test_among_that_rounding_a_wrong_cut_is_still_seen(net):
    class Mixed(net):
        def mix(self, x): return x - x.mean(0)
    with pytest.raises(CutError, match='do not give what the whole gives'): cut(small(Mixed()), 16)

@pytest.mark.parametrize(
    'f',
    [
        lambda x: x - x.mean(0),
        lambda x: x + 0.1 * x.flip(0),
        lambda x: x * x.shape[0],
        lambda x: x + torch.cumsum(torch.ones_like(x), 0),
        lambda x: x / x.norm(),
        lambda x: x.roll(1, 0),
    ],
    ids=['mean', 'a trace of another', 'batch size', 'place', 'norm', 'shifted'],
)
# where all images get the same answer but for a millionth, a wrong cut hides in it
@pytest.mark.parametrize('scale', [1, 1e-6])
def test_features_that_hang_on_the_batch_are_refused(f, scale):
    net = wrong(f)
    with torch.no_grad(): net.fc.weight *= scale
    with pytest.raises(CutError, match='do not give what the whole gives'): cut(small(net), 16)

def test_calibrated_random_weights_are_cut(tmp_path):
    "Logits are hundreds of times as large on noise as on films; with two threads, rounding alone may move them by 0.17"
    draw(tmp_path/'x', n=32, seed=0, size=224)
    p, was = pack(images_of(tmp_path/'x'), size=224, cache=tmp_path, quiet=True), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        torch.manual_seed(0)
        model = calibrate(
            build('efficientnet_b0', 0, pretrained=False), image_batches(p, range(16), stats('efficientnet_b0'))
        )
        assert isinstance(cut(model, 224), Cut)
    finally: torch.set_num_threads(was)

@pytest.mark.parametrize('damage', [float('nan'), float('inf')])
def test_damaged_weights_are_for_who_meets_their_features(damage):
    model = build('resnet10t', 1, pretrained=False)
    with torch.no_grad(): model.backbone.layer1[0].conv1.weight[0] = damage
    assert isinstance(cut(model, 64), Cut)

def test_float64_leaves_nothing_behind():
    "Dtypes, mode, statistics, what a network keeps of its computations, PyTorch's modes: after success and ctrl-C"
    def state(m): return m.training, m.depth, [(k, v.dtype, v.clone()) for k, v in m.state_dict().items()]

    def unchanged(a, b):
        return a[:2] == b[:2] and all(
            k == l and s == t and torch.equal(v, w) for (k, s, v), (l, t, w) in zip(a[2], b[2], strict=True)
        )
    # random: float64 has to decide; it keeps its attention biases in evaluation mode
    levit = build('levit_128s', 1, pretrained=False).eval()
    before, x = state(levit), torch.rand(1, 3, 224, 224)
    cut(levit, 224)
    assert unchanged(state(levit), before)
    with torch.no_grad(): assert levit(x).dtype == torch.float32
    model = small(Stopped())
    before = state(model)
    with pytest.raises(KeyboardInterrupt): cut(model, 16)
    assert unchanged(state(model), before)
    assert not _get_current_function_mode_stack()
    assert _get_current_dispatch_mode() is None

@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_networks_of_other_digits(dtype):
    model = small(wrong(torch.sigmoid)).to(dtype)
    assert isinstance(cut(model, 16), Cut) and next(model.parameters()).dtype == dtype
