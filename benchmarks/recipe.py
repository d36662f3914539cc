"""What makes a better model of the same images: candidates, judged by the folds' validation parts alone.

    python benchmarks/recipe.py FOLDER --weights WEIGHTS [--archs shufflenetv2_100] [--depths 2] [--ways base probed]

FOLDER holds a folder per class, WEIGHTS has a file ARCH.safetensors for each arch. The folds are those of
`study(folds=5)`, the features those that `run` trains on. Each training is looked at in several ways: its last epoch,
the epoch that `run` keeps, the mean of the weights of the last three epochs, and a running mean of all steps.
Writes benchmarks/recipe.json after each training, goes on where it stopped, and prints the table of what is there.
The test parts are not looked at: what is fixed in the end is trained and tested by `study(folds=5)`."""
import argparse, json, time
from copy import deepcopy
from datetime import date
from pathlib import Path

import numpy as np, torch
from fastai.callback.core import Callback
from folds import EPOCHS, FOLDS, LR, VALID, prepared   # noqa: F401, beside this file

HERE = Path(__file__).parent
FILE = HERE/'recipe.json'
WAYS = {   # what is different from `run` as it is
    'base': {},
    'probed': dict(probe=5),                  # the head alone first, on the features of the tail as it came
    'smooth': dict(smoothing=.1),             # label smoothing
    'mixup': dict(mixup=.2),                  # on features
    'bs32': dict(bs=32),
    'gentle': dict(lr=(LR / 10, LR)),         # the tail learns slower than the head
    'lr1e-3': dict(lr=LR / 2),
    'probed gentle': dict(probe=5, lr=(LR / 10, LR)),
    'flips': dict(views=2),
    'probed smooth': dict(probe=5, smoothing=.1),
    'epochs5': dict(epochs=5),
    'probed epochs5': dict(probe=5, epochs=5),
    'probed epochs3': dict(probe=5, epochs=3),
}

class Averages(Callback):
    "A running mean of the weights over all steps, and the weights of each epoch"
    order = 90   # after the step
    def __init__(self, decay=.98): self.decay = decay
    def before_fit(self): self.mean, self.steps, self.epochs = None, 0, []
    def after_batch(self):
        if not self.training: return
        self.steps += 1
        now, share = self.model.state_dict(), min(1 - self.decay, 1.)
        if self.mean is None: self.mean = {k: v.detach().clone() for k, v in now.items()}
        share = max(1 - self.decay, 1 / self.steps)
        for k, v in now.items():
            if v.is_floating_point(): self.mean[k].lerp_(v.detach(), share)
            else: self.mean[k].copy_(v)
    def after_epoch(self):
        self.epochs = [*self.epochs, {k: v.detach().clone() for k, v in self.model.state_dict().items()}][-3:]
    def of_epochs(self):
        "The mean of the last three epochs' weights"
        def mean(k, v): return torch.stack([e[k] for e in self.epochs]).mean(0) if v.is_floating_point() else v
        return {k: mean(k, v) for k, v in self.epochs[-1].items()}

class Mixup(Callback):
    "Mixes features and losses of pairs (Zhang et al. 2018)"
    run_valid = False
    def __init__(self, alpha): self.alpha = alpha
    def before_batch(self):
        share = float(np.random.beta(self.alpha, self.alpha))
        self.share, self.order_of = max(share, 1 - share), torch.randperm(len(self.y))
        self.learn.xb = tuple(self.share * x + (1 - self.share) * x[self.order_of] for x in self.xb)
        self.learn.yb = (self.y,)
    def after_pred(self): self.pair = self.y[self.order_of]
    def after_loss(self):
        other = self.loss_func(self.pred, self.pair)
        self.learn.loss_grad = self.share * self.learn.loss_grad + (1 - self.share) * other

def probe(learn, epochs, seed):
    "Train the head alone on what the tail gives before it has learnt (Kumar et al. 2022, linear probing first)"
    from xray_xfer.training.feed import pooled_of
    from xray_xfer.models.blueprint import stats
    p = learn.prepared
    rows = p.rows('train')
    x = torch.from_numpy(pooled_of(learn.feed, learn.classifier, p, stats(learn.classifier.blueprint), rows))
    number = {c: i for i, c in enumerate(p.classes)}
    y = torch.tensor([number[label] for label in p.pack.table.label.iloc[rows]])
    head, steps = learn.classifier.head, epochs * (len(x) // 64)
    torch.manual_seed(seed)
    opt = torch.optim.AdamW(head.parameters(), lr=LR, weight_decay=.01)
    plan = torch.optim.lr_scheduler.OneCycleLR(opt, LR, total_steps=steps)
    head.train()
    for _ in range(epochs):
        for at in torch.randperm(len(x))[:len(x) // 64 * 64].split(64):
            opt.zero_grad()
            torch.nn.functional.cross_entropy(head(x[at]), y[at]).backward()
            opt.step()
            plan.step()

def train(ready, fold, arch, depth, weights, seed, way):
    "{how the weights were chosen: classes called and loss of the validation part}"
    import fastai.callback.schedule   # noqa: F401, gives a Learner fit_one_cycle
    from dataclasses import replace
    from fastai.losses import CrossEntropyLossFlat, LabelSmoothingCrossEntropyFlat
    from xray_xfer.learner import learner
    from xray_xfer.training.callbacks import EpochLog, KeepBest
    from xray_xfer.training.feed import logits_of
    asked = dict(WAYS[way])
    n_probe, smoothing, mix = asked.pop('probe', 0), asked.pop('smoothing', 0), asked.pop('mixup', 0)
    epochs, lr = asked.pop('epochs', EPOCHS), asked.pop('lr', LR)
    rates = lr if isinstance(lr, tuple) else (lr / 3, lr)
    learn = learner(replace(ready, parts=fold.parts, once={}), arch, depth, pretrained=weights, seed=seed, quiet=True,
                    device='cpu', **asked)
    learn.loss_func = LabelSmoothingCrossEntropyFlat(eps=smoothing) if smoothing else CrossEntropyLossFlat()
    started = time.perf_counter()
    torch.manual_seed(seed)
    np.random.seed(seed)
    if n_probe: probe(learn, n_probe, seed)
    averages, best = Averages(), KeepBest()
    last = {}
    class Last(Callback):
        order = EpochLog.order   # before `KeepBest` puts its epoch back
        def after_fit(self): last.update({k: v.detach().clone() for k, v in self.model.state_dict().items()})
    cbs = [EpochLog(), averages, Last(), best, *([Mixup(mix)] if mix else [])]
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, slice(*rates), cbs=cbs)
    seconds = time.perf_counter() - started
    states = dict(kept=deepcopy(learn.model.state_dict()), last=last, mean3=averages.of_epochs(), running=averages.mean)
    found = {}
    for name, state in states.items():
        learn.model.load_state_dict(state)
        z, y = logits_of(learn.model, learn.dls[1]), np.array(learn.dls[1].labels)
        loss = float(torch.nn.functional.cross_entropy(torch.tensor(z), torch.tensor(y)))
        found[name] = dict(called=''.join(map(str, z.argmax(1))), loss=round(loss, 5))
    return dict(of=found, seconds_not_a_measurement=round(seconds, 1), date=str(date.today()))

def filed(): return json.loads(FILE.read_text()) if FILE.is_file() else {}

def shown(ready, folds, there):
    "A row per arch, depth, way and choice: over all folds that every way has, accuracy and macro F1 less those of base"
    from sklearn.metrics import f1_score
    number = {c: i for i, c in enumerate(ready.classes)}
    y = np.array([number[label] for label in ready.pack.table.label])
    rows = []
    by_model = {}
    for key in there:
        arch, depth, way = key.split(':')
        by_model.setdefault((arch, depth), []).append(way)
    for (arch, depth), ways in by_model.items():
        common = set.intersection(*(set(there[f'{arch}:{depth}:{w}']) for w in ways))
        of = {f.name: y[f.parts == 'valid'] for f in folds.each}
        names = [f.name for f in folds.each if f.name in common]
        base = None
        for way in ways:
            for choice in ('kept', 'last', 'mean3', 'running'):
                said = [there[f'{arch}:{depth}:{way}'][n]['of'][choice] for n in names]
                called = np.array([int(c) for s in said for c in s['called']])
                true = np.concatenate([of[n] for n in names])
                right, f1 = (called == true).astype(float), f1_score(true, called, average='macro')
                if base is None: base = right, f1
                gap = right - base[0]
                rows.append([f'{arch} {depth}', way, choice, f'{right.mean():.4f}',
                             f'{100 * gap.mean():+.2f} ± {100 * gap.std() / len(gap) ** .5:.2f}',
                             f'{100 * (f1 - base[1]):+.2f}', f"{np.mean([s['loss'] for s in said]):.4f}", len(true)])
    return rows

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--archs', nargs='+', default=['shufflenetv2_100'])
    parser.add_argument('--depths', nargs='+', type=int, default=[2])
    parser.add_argument('--ways', nargs='+', default=list(WAYS))
    parser.add_argument('--folds', nargs='+', default=[str(i + 1) for i in range(FOLDS)])
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--show', action='store_true', help='train nothing')
    a = parser.parse_args()
    from measure import table
    from xray_xfer.core.files import replacing
    from xray_xfer.core.lock import one_maker
    from xray_xfer.core.machine import keep_buffers
    keep_buffers()
    ready, folds = prepared(a.folder, a.archs[0])
    for name in [] if a.show else a.folds:   # fold by fold, so that all ways can be compared early
        fold = next(f for f in folds.each if f.name == name)
        for arch in a.archs:
            for depth in a.depths:
                for way in a.ways:
                    key = f'{arch}:{depth}:{way}'
                    if name in filed().get(key, {}): continue
                    result = train(ready, fold, arch, depth, a.weights/f'{arch}.safetensors', a.seed, way)
                    with one_maker(FILE, 'benchmarks/recipe.json', quiet=True):
                        there = filed()
                        there.setdefault(key, {})[name] = result
                        with replacing(FILE) as tmp: tmp.write_text(json.dumps(there) + '\n')
                    print(key, name, f"{result['seconds_not_a_measurement']} s", flush=True)
    rows = shown(ready, folds, filed())
    head = ['model', 'way', 'weights', 'accuracy', 'less base, points', 'macro F1 less base', 'loss', 'images']
    print(table(rows, head))

if __name__ == '__main__': main()
