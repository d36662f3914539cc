"""What makes a better model of the same images: candidates, judged by the folds' validation parts alone.

    python benchmarks/recipe.py FOLDER "" epochs=5,head=5 --weights WEIGHTS --arch shufflenetv2_100 --folds 1 2
    python benchmarks/recipe.py --show > benchmarks/recipe.md

FOLDER holds a folder per class, WEIGHTS has a file ARCH.safetensors for each arch. The folds are those of
`study(folds=5)`, the features those that `run` trains on. A candidate is what differs from ten epochs of one-cycle
training of head and tail together, batch 64, rate 2e-3 (the deepest group a third of it), dropout 0.2; several
differences are joined by commas:

    epochs=5     fewer of them            head=5      before them, the head alone (Kumar et al. 2022)
    lr=4e-3      another rate             low=1       of the deepest group, as a share of the head's
    batch=32     another batch            wd=.1       more weight decay
    cutmix=1     Yun et al. 2019          mixup=.4    Zhang et al. 2018; both on features
    smooth=.1    label smoothing          dropout=.5  in the head
    hbatch=256   batch of the head alone      hlr=8e-3    its rate
    off=1        so many epochs at the end are not mixed
    bn=1         BatchNorms of the tail measured anew, once, on the training images as they are, when all is over
    flip=1       each image or its mirror image in training, both in validation (`+ mirrored`)
    norms=3      BatchNorms of so many layer groups learn, though their convolutions are frozen
    images=240   only so many of the training part, each class its share
    bf16=1       bfloat16

Each training is looked at with its last weights and with running means of them (decay 0.9 to 0.98, over all steps).
Writes benchmarks/recipe.json after each training and goes on where it stopped. The test parts are not looked at: what
is fixed in the end is trained and tested by `study(folds=5)`."""
import argparse, json, time
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np, torch
from fastai.callback.core import Callback, CancelValidException
from folds import LR, prepared   # beside this file

HERE = Path(__file__).parent
FILE = HERE/'recipe.json'
USUAL = dict(epochs=10, head=0, lr=LR, low=1/3, batch=64, wd=.01, cutmix=0., mixup=0., smooth=0., dropout=.2, flip=0,
             bf16=0, hbatch=64, hlr=LR, off=0, bn=0, norms=0, images=0)
DECAYS = .9, .95, .98

def asked(text):
    "What a candidate's words say"
    given = dict(word.split('=') for word in text.split(',') if word)
    if odd := set(given) - set(USUAL): raise SystemExit(f"{', '.join(odd)}: a candidate may change {', '.join(USUAL)}")
    return USUAL | {k: type(USUAL[k])(v) for k, v in given.items()}

class RunningMeans(Callback):
    "Running means of the weights over all steps"
    order, run_valid = 90, False   # after the step
    def before_fit(self): self.means, self.steps = {}, 0
    def after_batch(self):
        self.steps += 1
        now = self.model.state_dict()
        for decay in DECAYS:
            held = self.means.setdefault(decay, {k: v.detach().clone() for k, v in now.items()})
            for k, v in now.items():
                if v.is_floating_point(): held[k].lerp_(v.detach(), max(1 - decay, 1 / self.steps))
                else: held[k].copy_(v)

class NoValidation(Callback):
    "It chooses nothing here, and takes time"
    order = -100
    def before_validate(self): raise CancelValidException

def fewer(parts, labels, n):
    "The same parts with `n` training images, drawn class by class; the rest goes with the test part"
    if not n: return parts
    share, kept = n / (parts == 'train').sum(), parts.copy()
    for label in sorted(set(labels)):
        rows = np.flatnonzero((parts == 'train') & (labels == label))
        rest = np.random.default_rng(0).permutation(rows)[round(share * len(rows)):]
        kept[rest] = 'test'
    return kept

class Mixed(Callback):
    "Features and losses of pairs: all of each in one share (`mixup`), or a rectangle of the other (`cutmix`)"
    run_valid = False
    def __init__(self, alpha, cut, off): self.alpha, self.cut, self.off = alpha, cut, off
    def before_batch(self):
        self.pairs = None
        if self.epoch >= self.n_epoch - self.off: return
        xs, share = self.xb, float(np.random.beta(self.alpha, self.alpha))
        self.pairs = torch.randperm(len(self.y))
        if self.cut:
            h, w = min(x.shape[-2:] for x in xs)
            rows, columns = (int(round(n * (1 - share) ** .5)) for n in (h, w))
            top, left = np.random.randint(h - rows + 1), np.random.randint(w - columns + 1)
            xs = tuple(x.clone() for x in xs)
            for x in xs:   # with learning norms several maps come, of two sizes
                k, m = x.shape[-2] // h, x.shape[-1] // w
                part = x[:, :, top * k:(top + rows) * k, left * m:(left + columns) * m]
                part.copy_(part[self.pairs])
            self.share = 1 - rows * columns / (h * w)
        else:
            self.share = max(share, 1 - share)
            xs = tuple(self.share * x + (1 - self.share) * x[self.pairs] for x in xs)
        self.learn.xb = xs
    def after_pred(self): self.other = None if self.pairs is None else self.y[self.pairs]
    def after_loss(self):
        if self.other is None: return
        self.learn.loss_grad = (self.share * self.learn.loss_grad
                                + (1 - self.share) * self.loss_func(self.pred, self.other))

def start_head(learn, epochs, seed, bs, lr):
    "Train the head alone on what the tail gives before it has learnt"
    from xray_xfer.models.blueprint import stats
    from xray_xfer.training.feed import pooled_of
    p = learn.prepared
    rows = p.rows('train')
    x = torch.from_numpy(pooled_of(learn.feed, learn.classifier, p, stats(learn.classifier.blueprint), rows))
    number = {c: i for i, c in enumerate(p.classes)}
    y = torch.tensor([number[label] for label in p.pack.table.label.iloc[rows]])
    head, steps = learn.classifier.head, epochs * (len(x) // bs)
    torch.manual_seed(seed)
    opt = torch.optim.AdamW(head.parameters(), lr=lr, weight_decay=.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, lr, total_steps=steps)
    head.train()
    for _ in range(epochs):
        for at in torch.randperm(len(x))[:len(x) // bs * bs].split(bs):
            opt.zero_grad()
            torch.nn.functional.cross_entropy(head(x[at]), y[at]).backward()
            opt.step()
            plan.step()

def mirrored(learn, ready):
    "Features of all images, left and right exchanged; the training draws from these and from those as they are"
    from xray_xfer.models.blueprint import stats
    from xray_xfer.trunk.cutting import cut
    from xray_xfer.trunk.once import features
    norm, p = stats(learn.classifier.blueprint), ready.pack
    other = replace(p, pixels=np.ascontiguousarray(p.pixels[:, :, ::-1]), key=f'{p.key} mirrored', crc=p.crc ^ 0x5555)
    made = features(cut(learn.classifier, p.size), other, norm['mean'], norm['std'], quiet=True, device='cpu')
    learn.dls.train.views = [learn.dls.train.views[0], (list(made.arrays), learn.prepared.rows('train'))]
    return list(made.arrays)

def measured_anew(learn):
    "Mean and variance of each BatchNorm that learnt, over the training images, batch by batch"
    bns = [m for m in learn.model.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.training]
    momenta = [m.momentum for m in bns]
    for m in bns:
        m.reset_running_stats()
        m.momentum = None   # of all batches alike
    with torch.no_grad():
        for *xs, _ in learn.dls.train: learn.model(*xs)
    for m, momentum in zip(bns, momenta, strict=True): m.momentum = momentum

def train(ready, fold, arch, depth, weights, seed, text):
    "{which weights: classes called and scaled loss of the validation part}"
    import fastai.callback.schedule   # noqa: F401, gives a Learner fit_one_cycle
    from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
    from xray_xfer.evaluate.calibration import scaled_loss
    from xray_xfer.learner import learner
    from xray_xfer.training.feed import logits_of
    from xray_xfer.trunk.batches import FeaturesDL
    a = asked(text)
    parts = fewer(fold.parts, ready.pack.table.label.to_numpy(), a['images'])
    learn = learner(replace(ready, parts=parts, once={}), arch, depth, pretrained=weights, seed=seed, quiet=True,
                    device='cpu', bs=a['batch'], wd=a['wd'], dropout=a['dropout'], head_epochs=0, cutmix=0,
                    precision='bf16' if a['bf16'] else 'fp32', norms=a['norms'])
    smooth = a['smooth']
    learn.loss_func = LabelSmoothingCrossEntropyFlat(eps=smooth) if smooth else CrossEntropyLossFlat()
    other = mirrored(learn, ready) if a['flip'] else None
    torch.manual_seed(seed)
    np.random.seed(seed)
    started = time.perf_counter()
    if a['head']: start_head(learn, a['head'], seed, a['hbatch'], a['hlr'])
    means = RunningMeans()
    cbs = [means, NoValidation(), *(Mixed(a[k], k == 'cutmix', a['off']) for k in ('cutmix', 'mixup') if a[k])]
    with learn.no_bar(), learn.no_logging():
        learn.remove_cb(learn.recorder)   # it wants a validation
        learn.fit_one_cycle(a['epochs'], slice(a['lr'] * a['low'], a['lr']), cbs=cbs)
    if a['bn']: measured_anew(learn)
    seconds = time.perf_counter() - started
    states = dict(last={k: v.clone() for k, v in learn.model.state_dict().items()})
    states |= {f'mean {d}': m for d, m in means.means.items()}
    valid, found = learn.dls[1], {}
    y = np.array(valid.labels)
    for name, state in states.items():
        learn.model.load_state_dict(state)
        z = {name: logits_of(learn.model, valid)}
        if other:
            mirror = FeaturesDL([(other, learn.prepared.rows('valid'))], y, 64)
            z[f'{name}, mirrored'] = (z[name] + logits_of(learn.model, mirror)) / 2
        for k, v in z.items():
            found[k] = dict(called=''.join(map(str, v.argmax(1))), loss=round(float(scaled_loss(v, y)), 5))
    return dict(of=found, seconds_not_a_measurement=round(seconds, 1), date=str(date.today()))

def filed(): return json.loads(FILE.read_text()) if FILE.is_file() else dict(trainings={})

def gained(there, fold, of, first):
    "Of each image: 1 where it is right and was not, -1 where it was"
    return [(a == t) - (b == t) for a, b, t in zip(of['called'], first['called'], there['labels'][fold], strict=True)]

def shown(there):
    "A row per candidate and choice of weights, over the folds that it and its reference share"
    from sklearn.metrics import f1_score
    rows = []
    for key, each in there['trainings'].items():
        arch, depth, text = key.split(':')
        same = ','.join(word for word in text.split(',') if word.startswith(('images=', 'bf16=')))
        first = there['trainings'].get(f'{arch}:{depth}:{same}', {})
        for choice in next(iter(each.values()))['of']:
            names = sorted(each)
            true = np.concatenate([[int(c) for c in there['labels'][n]] for n in names])
            called = np.concatenate([[int(c) for c in each[n]['of'][choice]['called']] for n in names])
            loss = np.mean([each[n]['of'][choice]['loss'] for n in names])
            both, gap = [n for n in names if n in first], ''
            if both:
                gaps = [gained(there, n, each[n]['of'][choice], first[n]['of']['last']) for n in both]
                gaps = np.concatenate(gaps)
                gap = f'{100 * gaps.mean():+.2f} ± {100 * gaps.std() / len(gaps) ** .5:.2f}'
            rows.append([f'{arch} {depth}', text or 'as it was', choice, ' '.join(names),
                         f'{(called == true).mean():.4f}', gap,
                         f"{f1_score(true, called, average='macro'):.4f}", f'{loss:.4f}'])
    return rows

READ = '''Validation parts of the folds, 360 images each, one seed; a difference is against ten epochs of head and
tail together, over the folds that both have, ± one standard error. What a candidate's words mean stands in recipe.py.

First round, before any test part was looked at, no candidate with more than three folds: one fold tells half a point
from another half by nothing but luck, and the scaled loss tells more than the accuracy. Chosen: `epochs=6` (10 at
depth 1, 20 at depth 0), `head=5`, `cutmix=1`, `low=1`. Not taken: mirror images (a chest has two sides), label
smoothing, dropout 0.5, another batch, running means of the weights; mixup is as good as CutMix where it was tried.

Second round, after that recipe had been tested (folds.md, as of commit 045483c), five folds each, in bfloat16, against
that recipe (the rows with `epochs=6`). Chosen: `lr=6e-3` for EfficientNet-Lite0 at depths 1 and 2. At depth 2 accuracy
is 0.56 ± 0.34 points higher and the loss 0.102 instead of 0.116, with 3e-3, 4e-3 and 1e-2 beside it; at depth 1 the
loss is 0.142 instead of 0.145; at depth 0 it is no better.
ShuffleNetV2 is the worse the higher the rate (-0.4 to -0.8 ± 0.3). The head alone stays at 2e-3, for a start at 6e-3
(`hlr=6e-3`) gives most of it away. Not taken: larger batches for the head (better for one network, worse for the
other), the last epoch without CutMix, BatchNorms measured anew (one fold each: nothing), and running means of the
weights, which help EfficientNet-Lite0 at 6e-3 (+0.7 points beyond it) and harm ShuffleNetV2 at any rate.

Third round, for what the first two left: few images, three folds (rows with `images=`), and stock fastai at depths 0
and 1, two or three folds (rows with `norms=`). Chosen: up to eight times as many epochs where there are fewer than
3,600 images; and, as an option, `norms=4` for whoever wants stock's accuracy at depths 0 and 1, for it is the best of
2, 3 and 4 at depth 1. On the same validation parts stock fastai has 0.930 at depth 0 (three folds) and 0.960 at depth
1 (two); `norms=3` has 0.946 and `norms=4` 0.960. At depth 0 CutMix and six epochs instead of ten were one fold's luck
either way. Not taken: a longer head start, sixteen times as many epochs.
With so many steps the higher rate of EfficientNet-Lite0 pays on fewer images too: on 1,000 of them 0.958 for 0.949 (two
folds), on 400 as good; so it begins at 1,000 images in all.

AMD EPYC, PyTorch 2.14.1, fastai 2.8.12, timm 1.0.31, 29 and 30 November 2026.'''

HEAD = ['model', 'candidate', 'weights', 'folds', 'accuracy', 'less the first, points', 'macro F1', 'loss, scaled']

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path, nargs='?')
    parser.add_argument('candidates', nargs='*', default=[''])
    parser.add_argument('--weights', type=Path)
    parser.add_argument('--arch', default='shufflenetv2_100')
    parser.add_argument('--depth', type=int, default=2)
    parser.add_argument('--folds', nargs='+', default=['1', '2', '3', '4', '5'])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--show', action='store_true', help='print the table of what is there, and train nothing')
    a = parser.parse_args()
    from xray_xfer.bench.ratios import markdown_table
    if a.show: return print('\n'.join([READ, '', *markdown_table(HEAD, shown(filed()), words=4)]))
    from xray_xfer.core.files import replacing
    from xray_xfer.core.lock import one_maker
    from xray_xfer.core.machine import keep_buffers
    keep_buffers()
    ready, folds = prepared(a.folder, a.arch)
    number = {c: str(i) for i, c in enumerate(ready.classes)}
    for name in a.folds:   # fold by fold, so that all candidates can be compared early
        fold = next(f for f in folds.each if f.name == name)
        for text in a.candidates:
            key = f'{a.arch}:{a.depth}:{text}'
            if name in filed()['trainings'].get(key, {}): continue
            result = train(ready, fold, a.arch, a.depth, a.weights/f'{a.arch}.safetensors', a.seed, text)
            with one_maker(FILE, 'benchmarks/recipe.json', quiet=True):
                there = filed()
                labels = ready.pack.table.label[fold.parts == 'valid']
                there.setdefault('labels', {})[name] = ''.join(number[label] for label in labels)
                there['trainings'].setdefault(key, {})[name] = result
                with replacing(FILE) as tmp: tmp.write_text(json.dumps(there) + '\n')
            print(key, name, f"{result['seconds_not_a_measurement']} s", flush=True)

if __name__ == '__main__': main()
