"""Stock and tuned fastai against this package, every image tested once: folds.json and finished studies as a table.

    python benchmarks/beat.py STUDY [STUDY ...] [--fixed COMMIT] > benchmarks/folds.md

Each STUDY is the folder of an `xray_xfer study ... --folds 5` over the same images and folds as benchmarks/folds.json,
trained at COMMIT, which fixed the recipe. Accuracy and macro F1 are of all images, the AUC is the mean of the folds';
differences are paired, image by image, and clustered by groups (nbs/evaluate/06_paired.ipynb)."""
import argparse, json
from pathlib import Path

import numpy as np
from folds import digest   # beside this file

HERE = Path(__file__).parent
METRICS = 'accuracy', 'f1', 'auc'

def baselines():
    "{(arch, depth, way): (n, k) logits of all images, as filed}, of cases with all folds; fold of each; the file"
    there = json.loads((HERE/'folds.json').read_text())
    n, k = len(there['images']['labels']), len(there['images']['classes'])
    found, fold = {}, np.full(n, '', dtype=object)
    for case, each in there['cases'].items():
        if len(each) < 5: continue
        arch, depth, way = case.split(':')
        z = np.full((n, k), np.nan)
        for name, r in each.items():
            z[r['test']['rows']], fold[r['test']['rows']] = r['test']['logits'], name
        assert not np.isnan(z).any(), f'{case}: some images are not tested'
        found[arch, int(depth), way] = z
    return found, fold, there

def ours(folder, order):
    "{(arch, depth, way): (n, k) logits}: the out-of-fold predictions of a study, whose images lie in this order"
    from xray_xfer.runs.folder import load_run
    found = {}
    for config in sorted(Path(folder).glob('*/config.json')):
        r = load_run(config.parent, whole=False)
        test = r.predictions.of('test')
        if digest(list(test.path)) != order: raise SystemExit(f'{r.path} is of other images than folds.json')
        way = f"ours, {r.config['precision']}, {r.config['epochs']} epochs"
        found[r.arch, r.depth, way] = test[[f'logit_{c}' for c in r.config['classes']]].to_numpy()
        where = r.environment
    return found, where

def said(d, level=.95):
    low, high = d.interval(level)
    return f'{100 * d.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})'

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('studies', nargs='+', type=Path)
    parser.add_argument('--fixed', default='', help='the commit that fixed the recipe')
    a = parser.parse_args()
    from xray_xfer.bench.ratios import markdown_table
    from xray_xfer.evaluate.intervals import intervals
    from xray_xfer.evaluate.paired import differences
    from xray_xfer.evaluate.scores import metrics, softmax
    from xray_xfer.evaluate.tables import display_name
    table, fold, there = baselines()
    about = there['images']
    for folder in a.studies:
        found, where = ours(folder, about['order'])
        table |= found
    classes, groups = about['classes'], about['groups']
    y = np.array(about['labels'])
    probs = {k: softmax(z) for k, z in table.items()}
    rows, gaps = [], []
    in_order = sorted(probs, key=lambda k: (k[0], k[1], 'ours' in k[2], k[2]))
    for arch, depth, way in in_order:
        p = probs[arch, depth, way]
        m, ends = metrics(y, p, classes, folds=fold), intervals(y, p, classes, groups, folds=fold)
        name = f'{display_name(arch)} depth {depth}'
        rows.append([name, way, *(f'{m[k]:.4f} ({ends[k][0]:.4f}–{ends[k][1]:.4f})' for k in METRICS)])
        if 'ours' not in way: continue
        for other in sorted(w for x, d, w in probs if (x, d) == (arch, depth) and w != way):
            if 'ours' in other and other < way: continue
            d = differences(y, p, probs[arch, depth, other], classes, groups, (fold, fold))
            narrow = said(d['accuracy'], .9) if 'ours' in other else ''
            gaps.append([name, way, other, *(said(d[k]) for k in METRICS), narrow])
    head = ['model', 'way', 'accuracy', 'macro F1', 'AUC']
    print('\n'.join(markdown_table(head, rows, words=2)))
    print()
    head = ['model', 'A', 'B', 'accuracy, A less B, points', 'macro F1', 'AUC', 'accuracy, 90 %']
    print('\n'.join(markdown_table(head, gaps, words=3)))
    versions = ', '.join(f'{k} {where["versions"][k]}' for k in ('torch', 'fastai', 'timm'))
    fixed = f' The recipe was fixed in commit {a.fixed}, before these test parts were looked at.' if a.fixed else ''
    print(f"\n{len(y):,} images, five folds, one seed; baselines: 10 epochs, rate {there_lr(there)}.{fixed}\n\n"
          f"{where['device_name']}; {versions}; {max(latest(there))}")

def there_lr(there): return next(iter(next(iter(there['cases'].values())).values()))['lr']
def latest(there): return [r['date'] for each in there['cases'].values() for r in each.values()]

if __name__ == '__main__': main()
