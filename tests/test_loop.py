"""KeepChannelsLast: the same gradients, in the order that is quick, and nothing left behind. FusedAdam.
What is said when training breaks down."""
from types import SimpleNamespace

import pytest, torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastai.losses import CrossEntropyLossFlat
from fastai.optimizer import Adam
from torch import nn
from torch.nn import functional as F
from torch.overrides import _get_current_function_mode_stack

from xray_xfer.trunk.cutting import cut
from xray_xfer.training.callbacks import (Diverged, EpochLog, KeepBest, Progress, check_losses,
                                          loss_warning)
from xray_xfer.training.optimiser import FusedAdam
from xray_xfer.training.layout import KeepChannelsLast, _ChannelsLastMode, _Pointwise
from xray_xfer.models.classifier import build

CL = torch.channels_last

def gradients(net, features, y, mode=None):
    "{parameter: gradient} of a training step, and the loss"
    net.zero_grad()
    torch.manual_seed(0)   # of Dropout
    if mode:
        with mode: z = net(*features)
    else: z = net(*features)
    loss = F.cross_entropy(z, y)
    loss.backward()
    return {n: p.grad.clone() for n, p in net.named_parameters() if p.grad is not None}, loss.item()

@pytest.mark.parametrize('arch', ['shufflenetv2_100', 'efficientnet_b0', 'mobilenetv3_large_100', 'resnet18',
                                  'convnext_atto', 'vit_tiny_patch16_224', 'densenet121', 'hrnet_w18_small'])
def test_the_gradients_are_the_same(arch):
    torch.manual_seed(0)
    size = 224 if arch.startswith('vit') else 128
    model = build(arch, 2, 4, False, size=size).to(memory_format=CL)
    c = cut(model, size)
    with torch.no_grad():
        features = [f.clone(memory_format=CL) if f.ndim == 4 else f for f in c.trunk(torch.rand(6, 3, size, size))]
    y = torch.tensor([0, 1, 2, 3, 0, 1])
    c.tail.train()
    bns = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    state = {k: v.clone() for k, v in model.state_dict().items()}
    want, loss = gradients(c.tail, features, y)
    after = {k: v.clone() for k, v in model.state_dict().items()}
    model.load_state_dict(state)
    got, same = gradients(c.tail, features, y, _ChannelsLastMode())
    assert same == pytest.approx(loss, rel=1e-5) and got.keys() == want.keys() and len(got) > 6
    # rounding, measured against the layer's own gradient; a bias before a BatchNorm has none but rounding
    for k in got:
        assert float((got[k] - want[k]).norm()) <= 1e-3 * float(want[k].norm()) + 1e-6, k
    # running means and variances
    for k, v in model.state_dict().items():
        torch.testing.assert_close(v, after[k], rtol=1e-4, atol=1e-5)
    if arch in ('shufflenetv2_100', 'efficientnet_b0'): assert bns

@pytest.mark.parametrize('arch', ['shufflenetv2_100', 'efficientnet_b0'])
def test_each_gradient_comes_in_the_order_of_its_activation(arch):
    torch.manual_seed(0)
    model = build(arch, 2, 4, False, size=96).to(memory_format=CL)
    c, seen = cut(model, 96), {True: [], False: []}
    with torch.no_grad(): features = [f.contiguous(memory_format=CL) for f in c.trunk(torch.rand(4, 3, 96, 96))]
    c.tail.train()
    for kept in seen:
        note = lambda gradients: seen[kept].extend(g.is_contiguous(memory_format=CL) for g in gradients if g.ndim == 4)
        def listen(module, inputs, out): out.grad_fn.register_prehook(note)
        watched = [m for m in c.tail.train_graph.modules()
                   if isinstance(m, (nn.BatchNorm2d, nn.ReLU, nn.SiLU)) and m.training]
        hooks = [m.register_forward_hook(listen) for m in watched]
        gradients(c.tail, features, torch.arange(4), _ChannelsLastMode() if kept else None)
        for h in hooks: h.remove()
    assert seen[True] and all(seen[True])
    assert not all(seen[False])   # else there would be nothing to keep

@pytest.mark.parametrize('x_learns, w_learns', [(True, True), (False, True), (True, False)])
def test_pointwise(x_learns, w_learns):
    g = torch.Generator().manual_seed(0)
    x = torch.randn(3, 5, 4, 4, dtype=torch.double, generator=g).to(memory_format=CL).requires_grad_(x_learns)
    w = torch.randn(7, 5, 1, 1, dtype=torch.double, generator=g).requires_grad_(w_learns)
    assert torch.autograd.gradcheck(_Pointwise.apply, (x, w))
    out = torch.randn(3, 7, 4, 4, dtype=torch.double, generator=g)
    wanted = [t for t in (x, w) if t.requires_grad]
    got = torch.autograd.grad(_Pointwise.apply(x, w), wanted, out)
    want = torch.autograd.grad(F.conv2d(x, w), wanted, out)
    for a, b in zip(got, want): torch.testing.assert_close(a, b)

@pytest.mark.parametrize('call', [
    lambda x: x.mean((2, 3)),
    lambda x: x.mean([-1, -2], keepdim=True),
    lambda x: x.mean(dim=(2, 3)),
    lambda x: x.mean(),
    lambda x: x.mean(1),
    lambda x: x.mean((1, 2)),
    lambda x: x.mean((2, 3), dtype=torch.double),
    lambda x: x.mean((3, 2), True),
    lambda x: F.conv2d(x, torch.ones(2, 6, 1, 1), stride=2),
    lambda x: F.conv2d(x, torch.ones(2, 6, 1, 1), torch.ones(2)),
    lambda x: F.conv2d(x, torch.ones(2, 6, 1, 1), None, 1, 1),
    lambda x: F.conv2d(input=x, weight=torch.ones(2, 6, 1, 1)),
    lambda x: F.conv2d(x, weight=torch.ones(2, 6, 1, 1)),
    lambda x: F.conv2d(x, torch.ones(2, 3, 1, 1), groups=2),
    lambda x: F.conv2d(x, torch.ones(6, 1, 3, 3), padding='same', groups=6),
    lambda x: F.batch_norm(x, None, None, training=True),
    lambda x: F.relu(x * 1, inplace=True),
    lambda x: F.relu(input=x),
])
def test_any_way_to_call_it_gives_the_same(call):
    x = torch.randn(4, 6, 5, 5, generator=torch.Generator().manual_seed(0)).to(memory_format=CL).requires_grad_()
    want = call(x)
    with _ChannelsLastMode(): got = call(x)
    assert got.shape == want.shape and got.dtype == want.dtype
    torch.testing.assert_close(got, want)
    up = torch.randn(want.shape, dtype=want.dtype, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(torch.autograd.grad(got, x, up), torch.autograd.grad(want, x, up))

@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt])
def test_nothing_stays_behind(error):
    class Fails(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.left = nn.Conv2d(3, 2, 1), 3
        def forward(self, x):
            modes.append(len(_get_current_function_mode_stack()))
            self.left -= 1
            if not self.left: raise error('in the middle')
            return self.conv(x).mean((2, 3))
    modes, items = [], [(torch.rand(3, 4, 4), torch.tensor(i % 2)) for i in range(8)]
    dls = DataLoaders(DataLoader(items, bs=2), DataLoader(items, bs=2))
    learn = Learner(dls, Fails(), CrossEntropyLossFlat(), cbs=KeepChannelsLast())
    with learn.no_bar(), learn.no_logging(), pytest.raises(error, match='in the middle'): learn.fit(1)
    assert modes == [1, 1, 1] and not _get_current_function_mode_stack()
    learn.model.left = 99
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert set(modes) == {1} and 'forward' not in vars(learn.model)
    learn.model(torch.rand(2, 3, 4, 4))
    assert modes[-1] == 0
    own = learn.model.forward = lambda x: Fails.forward(learn.model, x)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert set(modes[-8:]) == {1} and learn.model.forward is own

# ---- the optimiser

def problem():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                        nn.Flatten(), nn.Linear(8, 2))
    x = torch.randn(32, 3, 9, 9)
    items = list(zip(x, (x.mean((1, 2, 3)) > 0).long()))
    return DataLoaders(DataLoader(items, bs=8), DataLoader(items, bs=8)), net

def learner(opt, **kw):
    dls, net = problem()
    return Learner(dls, net, CrossEntropyLossFlat(), opt_func=opt,
                   splitter=lambda m: [list(m[:3].parameters()), list(m[3:].parameters())], **kw)

def fitted(learn, *how):
    for f in how or ('fit',):
        with learn.no_bar(), learn.no_logging():
            if f == 'freeze': learn.freeze()
            elif f == 'unfreeze': learn.unfreeze()
            elif f == 'channels_last': learn.model.to(memory_format=CL)
            else: learn.fit(2, slice(1e-3, 1e-2), wd=.1, reset_opt=False)
    return [p.detach() for p in learn.model.parameters()]

@pytest.mark.parametrize('how', [('fit',), ('fit', 'fit'), ('freeze', 'fit', 'unfreeze', 'fit'),
                                 ('fit', 'channels_last', 'fit'), ('channels_last', 'fit')], ids=' '.join)
def test_the_fused_optimiser_is_fastais(how):
    "Two fits, frozen groups, and weights that change their layout under it: equal but for rounding"
    for a, b in zip(fitted(learner(Adam), *how), fitted(learner(FusedAdam), *how), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

@pytest.mark.parametrize('saved, loaded', [(FusedAdam, FusedAdam), (Adam, FusedAdam)])
def test_a_saved_state_goes_on(saved, loaded, tmp_path):
    a, b = learner(saved, path=tmp_path), learner(loaded, path=tmp_path)
    fitted(a)
    a.save('half', with_opt=True)
    b.load('half', with_opt=True)
    for p, q in zip(fitted(a), fitted(b), strict=True): torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5)

# ---- when training breaks down

class Spoil(Callback):
    "From a point of the training on, each logit (or only that of the last class) is `value`"
    order = EpochLog.order - 1
    def __init__(self, value, epoch, batch=0, valid=False, last=False):
        self.value, self.at, self.valid, self.last = value, (epoch, batch), valid, last
    def after_pred(self):
        if self.valid == self.training or (self.epoch, self.iter) < self.at: return
        self.learn.pred = self.pred.clone()
        self.learn.pred[:, -1 if self.last else slice(None)] += self.value

class Silent:
    "Progress's bar, in silence"
    n, total = 0, 1
    def update(self): pass
    def set_description(self, text): pass

NAN, INF = float('nan'), float('inf')

@pytest.mark.parametrize('spoil, precision, says', [
    (Spoil(NAN, 0), 'fp32', ['epoch 1, batch 1: the training loss is nan (learning rate 0.01, precision fp32)',
                             'not at fault: give other weights (pretrained=, --pretrained)']),
    (Spoil(NAN, 0), 'fp16', ["not at fault: give precision='fp32' (--precision fp32) or other weights"]),
    (Spoil(NAN, 1, 2), 'fp32', ['epoch 2, batch 3: the training loss is nan',
                                'Give a lower lr, such as 0.001 (lr=0.001, --lr 0.001)']),
    (Spoil(INF, 0, 1), 'bf16', ["batch 2", "(lr=0.001, --lr 0.001) or precision='fp32' (--precision fp32)"]),
    (Spoil(NAN, 1, valid=True), 'fp32', ['in epoch 2: the training loss is 0.', 'the validation loss nan', 'lower lr']),
    (Spoil(-INF, 0, valid=True, last=True), 'fp32', ['in epoch 1: the training loss is 0.',
                                                     'validation images are no finite numbers', 'lower lr']),
], ids=['first batch', 'first batch in fp16', 'later', 'infinite in bf16', 'validation alone',
        'a logit of minus infinity'])
def test_a_breakdown_is_told_in_plain_words(spoil, precision, says):
    log, best, kept = EpochLog(), KeepBest(), KeepChannelsLast()
    learn = learner(FusedAdam)
    with learn.no_bar(), learn.no_logging(): learn.fit(3, .01, cbs=[log, best, kept, Progress(Silent(), ''), spoil])
    with pytest.raises(Diverged) as e: check_losses(log, (.003, .01), precision)
    for words in says: assert words in str(e.value), (words, str(e.value))
    assert 'Exception' not in str(e.value) and len(log.rows) == spoil.at[0] and 'forward' not in vars(learn.model)
    if log.rows: assert best.epoch_kept and all(torch.isfinite(p).all() for p in learn.model.parameters())
    # the same log, after a fit that broke off
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, .01, cbs=[log, best])
    assert check_losses(log, (.003, .01)) is None and len(log.rows) == 1

@pytest.mark.parametrize('where', ['weight', 'running_var'])
def test_weights_that_were_damaged_before_are_named(where):
    learn, log = learner(FusedAdam), EpochLog()
    with torch.no_grad(): getattr(learn.model[1], where).fill_(NAN)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, .01, cbs=log)
    said = f'1 of the weights held .* before the first step, first 1.{where}: give other weights'
    with pytest.raises(Diverged, match=said): check_losses(log, (.01, .01))

@pytest.mark.parametrize('losses, kept, says', [
    ((1.3, 1.2), 2, ''), ((2.9, 3.4), 1, ''), ((1e9, 1.2, 1.1), 3, ''), ((1.2, 1e9, 1.1), 3, ''),   # of no consequence
    ((3.9,), 1, 'is 3.9 in epoch 1, whose weights are kept'),
    ((1e25, 2e25), 1, '1e+25 in epoch 1, whose weights are kept'),
    ((1.2, 1e25), 1, 'is 1e+25 in epoch 2; the weights of epoch 1 are kept, whose loss is 1.2')])
def test_an_absurd_loss_is_warned_of(losses, kept, says):
    said = loss_warning([dict(epoch=i + 1, valid_loss=v) for i, v in enumerate(losses)], kept, list('abcd'), (.01, .02))
    assert (says in said and 'would give 1.39' in said and '--lr 0.002)' in said) if says else said == ''

def test_rare_classes_make_the_bar_lower():
    "One class in a hundred: whoever always answers the other has a loss of 0.056"
    rows = [dict(epoch=1, valid_loss=1.5)]
    assert '0.056' in loss_warning(rows, 1, ['a'] * 99 + ['b'], (.01, .01))
    assert loss_warning(rows, 1, ['a', 'b'], (.01, .01)) == ''


def test_an_epoch_that_errs_nowhere_is_kept():
    "Right on all of the validation part and unsure of it, it lost against an epoch with an error (0.201 against 0.056)"
    y = torch.arange(20) % 2
    modest = 1.5 * torch.eye(2)[y]                         # loss 0.201 as it is
    sure = 8. * torch.eye(2)[y]
    sure[0] = torch.tensor([0., .5])                       # one error, just
    best, model = KeepBest(), torch.nn.Linear(1, 1)
    learn = SimpleNamespace(model=model, epoch_log=SimpleNamespace(rows=[]), training=False)
    best.learn = learn
    best.before_fit()
    for epoch, logits in enumerate((modest, sure)):
        torch.nn.init.constant_(model.weight, epoch)
        learn.epoch, learn.pred, learn.y = epoch, logits, y
        learn.epoch_log.rows.append({})
        best.before_validate(); best.after_batch(); best.after_epoch()
    best.after_fit()
    assert best.epoch_kept == 1 and model.weight.item() == 0
