"""Stock and tuned fastai, tested on every image: fold by fold, going on where it stopped.

    python benchmarks/folds.py FOLDER --weights WEIGHTS [--cases shufflenetv2_100:2:stock ...] [--list]

FOLDER holds a folder per class, WEIGHTS has a file ARCH.safetensors for each arch. The folds are those of
`study(folds=5)`. Accuracy only: nothing here is a time. So what may be saved without another result is saved:
images are decoded once; the tuned baseline, whose BatchNorms are in evaluation, trains its tail on float32 features
of PyTorch, which gives every loss to the last bit (nbs/training/04_feed.ipynb); stock fastai, whose frozen BatchNorms
go on learning, passes every image through the whole network in each step, as it must.
Writes benchmarks/folds.json after each fold: logits of its validation and its test part."""
import argparse, hashlib, json, time
from datetime import date
from pathlib import Path

import numpy as np, pandas as pd

from xray_xfer.data.columns import relative_paths

HERE = Path(__file__).parent
FILE = HERE/'folds.json'
FOLDS, VALID, EPOCHS, LR = 5, .1, 10, 2e-3
# as `xray_xfer bench` chose them for the tuned baseline on two cores; stock fastai has 64
TUNED_BS = {'shufflenetv2_100': 32, 'tf_efficientnet_lite0': 32}
CASES = [f'{arch}:{depth}:{way}' for arch, depths in (('shufflenetv2_100', (2, 1, 0)), ('tf_efficientnet_lite0', (2,)))
         for depth in depths for way in ('tuned', 'stock')]

def prepared(folder, arch):
    "The images with their groups, and the folds"
    from xray_xfer.data.folds import folds_of
    from xray_xfer.settings import Settings
    from xray_xfer.training.ready import prepare
    ready = prepare(folder, Settings(arch=arch, quiet=True))
    return ready, folds_of(ready.pack.table, FOLDS, VALID)

def about(ready):
    "What the filed logits are of"
    table = ready.pack.table.iloc[in_order(ready)]
    number = {c: i for i, c in enumerate(ready.classes)}
    groups = [str(g) for g in pd.factorize(table.group)[0]]   # -1: alone
    return dict(crc=ready.pack.crc, order=digest(relative_paths(table)), labels=[number[c] for c in table.label],
                groups=['' if g == '-1' else g for g in groups], classes=ready.classes)

def in_order(ready):
    "The rows of the images in the order of their names, as predictions are filed"
    return np.argsort(relative_paths(ready.pack.table), kind='stable')

def digest(paths):
    "Of the order of the images, whose names are nobody's business"
    return hashlib.sha256('\n'.join(paths).encode()).hexdigest()[:16]

def filed():
    "What is there"
    return json.loads(FILE.read_text()) if FILE.is_file() else dict(cases={})

def file_fold(case, name, result, images):
    "Add one fold; another process may add others meanwhile"
    from xray_xfer.core.files import replacing
    from xray_xfer.core.lock import one_maker
    with one_maker(FILE, 'benchmarks/folds.json', quiet=True):
        there = filed()
        if there.setdefault('images', images) != images:
            raise SystemExit(f'{FILE} is of other images: move it away first')
        there['cases'].setdefault(case, {})[name] = result
        with replacing(FILE) as tmp: tmp.write_text(json.dumps(there, separators=(',', ':')) + '\n')

def logits(learn, ready, parts):
    "{part: (rows, logits)}, in the order of the table"
    from xray_xfer.training.feed import logits_of
    place = np.argsort(in_order(ready))
    for i, part in ((1, 'valid'), (2, 'test')):
        z = logits_of(learn.model, learn.dls[i])
        yield part, dict(rows=place[parts == part].tolist(), logits=z.round(3).tolist())

def stock(ready, parts, arch, depth, weights, seed):
    "fastai as it comes: batch 64, BatchNorms of the frozen layers learn on"
    from fastai.torch_core import set_seed
    from xray_xfer.bench.baselines import fastai_learner
    from xray_xfer.training.layout import KeepChannelsLast
    from xray_xfer.training.loaders import dataloaders
    set_seed(seed)
    dls = dataloaders(ready.pack, arch, bs=64, split=list(parts), device='cpu')
    case = dict(arch=arch, depth=depth, pretrained=str(weights), size=ready.pack.size, device='cpu')
    learn = fastai_learner(case, dls, False)
    learn.add_cb(KeepChannelsLast())
    return learn, 64

def tuned(ready, parts, arch, depth, weights, seed):
    "As an expert would: frozen BatchNorms in evaluation, the quickest batch"
    from dataclasses import replace
    from functools import partial
    from fastai.optimizer import Adam
    from fastai.torch_core import set_seed
    from xray_xfer.learner import learner
    set_seed(seed)
    bs = TUNED_BS[arch]
    images = replace(ready, parts=parts, once={})
    learn = learner(images, arch, depth, pretrained=weights, bs=bs, seed=seed, features='float32', backend='torch',
                    head_epochs=0, cutmix=0, precision='fp32', quiet=True, device='cpu')
    learn.opt_func = partial(Adam, eps=1e-5)   # fastai's own
    return learn, bs

def train(way, ready, fold, arch, depth, weights, seed):
    "One training; no epoch is chosen, as in fastai"
    import fastai.callback.schedule   # noqa: F401, gives a Learner fit_one_cycle
    from xray_xfer.core.machine import environment
    started = time.perf_counter()
    learn, bs = dict(stock=stock, tuned=tuned)[way](ready, fold.parts, arch, depth, weights, seed)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(EPOCHS, slice(LR / 3, LR))
    said = dict(logits(learn, ready, fold.parts))
    e = environment('cpu')
    return said | dict(bs=bs, epochs=EPOCHS, lr=LR, seed=seed, date=str(date.today()), threads=e['threads'],
                       versions={k: e['versions'][k] for k in ('torch', 'fastai', 'timm')},
                       device=e['device_name'], seconds_not_a_measurement=round(time.perf_counter() - started))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder', type=Path)
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--cases', nargs='+', default=CASES)
    parser.add_argument('--seed', type=int, default=0)
    parser.add_argument('--list', action='store_true', help='say what is there, and train nothing')
    a = parser.parse_args()
    if a.list:
        for case in a.cases: print(case, sorted(filed()['cases'].get(case, {})))
        return
    from xray_xfer.core.machine import keep_buffers
    keep_buffers()
    ready = {}
    for case in a.cases:
        arch, depth, way = case.split(':')
        if arch not in ready: ready[arch] = prepared(a.folder, arch)
        images, folds = ready[arch]
        for fold in folds.each:
            if fold.name in filed()['cases'].get(case, {}): continue
            weights = a.weights/f'{arch}.safetensors'
            result = train(way, images, fold, arch, int(depth), weights, a.seed)
            file_fold(case, fold.name, result, about(images))
            print(case, fold.name, f"{result['seconds_not_a_measurement']} s", flush=True)

if __name__ == '__main__': main()
