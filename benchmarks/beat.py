"""Stock and tuned fastai against this package, every image tested once: folds.json as a table.

    python benchmarks/beat.py STUDY [STUDY ...] --at COMMIT     # file the out-of-fold predictions of finished studies
    python benchmarks/beat.py --fixed COMMIT > benchmarks/folds.md

Each STUDY is the folder of an `xray_xfer study ... --folds 5` over the same images and folds as benchmarks/folds.json,
trained by the code of `--at`; `--fixed` is the commit that fixed the recipe. Accuracy and macro F1 are of all images,
the AUC is the mean of the folds'; differences are paired, image by image, and clustered by groups
(nbs/evaluate/06_paired.ipynb). What other training sets might give is the corrected resampled t interval over the
folds (nbs/evaluate/15_retrained.ipynb)."""
import argparse, json
from datetime import date
from pathlib import Path

import numpy as np
from folds import FILE, digest   # beside this file

METRICS = 'accuracy', 'f1', 'auc'
LATER = ('The rate of EfficientNet-Lite0, 0.006 for 0.002, was chosen in 2a67ec0, by validation parts too, but when '
         'the test parts had been looked at: with 0.002 its accuracy was 0.9678 (bfloat16) and 0.9669 (float32), '
         'and its macro F1 0.35 points above tuned fastai (-0.22 to +0.92). `norms 4` was chosen in 4d60b59, likewise.')

def baselines(there):
    "{(arch, depth, way): (n, k) logits of all images}, of cases with all folds; fold of each; tested / trained on"
    n, k = len(there['images']['labels']), len(there['images']['classes'])
    found, fold, ratio = {}, np.full(n, '', dtype=object), 0.
    for case, each in there['cases'].items():
        if len(each) < 5: continue
        arch, depth, way = case.split(':')
        z = np.full((n, k), np.nan)
        for name, r in each.items():
            z[r['test']['rows']], fold[r['test']['rows']] = r['test']['logits'], name
            tested = len(r['test']['rows'])
            ratio = tested / (n - tested - len(r['valid']['rows']))
        assert not np.isnan(z).any(), f'{case}: some images are not tested'
        found[arch, int(depth), way] = z
    return found, fold, ratio

def ours(there):
    "The same of this package, as `file_study` has left them"
    return {(r['arch'], r['depth'], r['way']): np.array(r['logits']) for r in there.get('ours', {}).values()}

def file_study(folder, at):
    "The out-of-fold predictions of a study into folds.json"
    from xray_xfer.core.files import replacing
    from xray_xfer.runs.folder import load_run
    there = json.loads(FILE.read_text())
    for config in sorted(Path(folder).glob('*/config.json')):
        r = load_run(config.parent, whole=False)
        test = r.predictions.of('test')
        if digest(list(test.path)) != there['images']['order']:
            raise SystemExit(f'{r.path} is of other images than folds.json')
        way = f"ours, {r.config['precision']}, {r.config['epochs']} epochs"
        if norms := r.config.get('norms'): way += f', norms {norms}'
        logits = test[[f'logit_{c}' for c in r.config['classes']]].to_numpy().round(2).tolist()
        e = r.environment
        there.setdefault('ours', {})[f'{r.arch}:{r.depth}:{way}'] = dict(
            arch=r.arch, depth=r.depth, way=way, commit=at, seed=r.seed, device=e['device_name'], logits=logits,
            versions={k: e['versions'][k] for k in ('torch', 'fastai', 'timm')}, date=str(date.today()))
    with replacing(FILE) as tmp: tmp.write_text(json.dumps(there, separators=(',', ':')) + '\n')

def said(d, level=.95):
    low, high = d.interval(level)
    return f'{100 * d.difference:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})'

def elsewhere(y, a, b, fold, ratio):
    "The difference in accuracy for other training sets"
    from xray_xfer.evaluate.retrained import retrained_difference
    right = [[(p.argmax(1) == y)[fold == f].mean() for f in sorted(set(fold))] for p in (a, b)]
    d = retrained_difference(*right, ratio)
    return f'{100 * d.low:+.2f} to {100 * d.high:+.2f}'

def tables(there, fixed):
    "Each way, then the differences"
    from xray_xfer.bench.ratios import markdown_table
    from xray_xfer.evaluate.intervals import intervals
    from xray_xfer.evaluate.paired import differences
    from xray_xfer.evaluate.scores import metrics, softmax
    from xray_xfer.evaluate.tables import display_name
    theirs, fold, ratio = baselines(there)
    about = there['images']
    classes, groups, y = about['classes'], about['groups'], np.array(about['labels'])
    probs = {k: softmax(z) for k, z in (theirs | ours(there)).items()}
    rows, gaps = [], []
    for arch, depth, way in sorted(probs, key=lambda k: (k[0], k[1], 'ours' in k[2], k[2])):
        p = probs[arch, depth, way]
        m, ends = metrics(y, p, classes, folds=fold), intervals(y, p, classes, groups, folds=fold)
        name = f'{display_name(arch)} depth {depth}'
        rows.append([name, way, *(f'{m[k]:.4f} ({ends[k][0]:.4f}–{ends[k][1]:.4f})' for k in METRICS)])
        if 'ours' not in way: continue
        for other in sorted(w for x, d, w in probs if (x, d) == (arch, depth) and w != way):
            if 'ours' in other and other < way: continue
            q = probs[arch, depth, other]
            d = differences(y, p, q, classes, groups, (fold, fold))
            narrow = said(d['accuracy'], .9) if 'ours' in other else ''
            gaps.append([name, way, other, *(said(d[k]) for k in METRICS), elsewhere(y, p, q, fold, ratio), narrow])
    yield from markdown_table(['model', 'way', 'accuracy', 'macro F1', 'AUC'], rows, words=2)
    yield ''
    yield from markdown_table(['model', 'A', 'B', 'accuracy, A less B, points', 'macro F1', 'AUC',
                               'accuracy, other training sets', 'accuracy, 90 %'], gaps, words=3)
    last = list(there['ours'].values())[-1]
    rate = next(iter(next(iter(there['cases'].values())).values()))['lr']
    commits = ', '.join(dict.fromkeys(r['commit'] for r in there['ours'].values()))
    yield (f'\n{len(y):,} images, five folds, one seed; baselines: 10 epochs, rate {rate}. The recipe was fixed in '
           f'commit {fixed}, before these test parts were looked at; ours here were trained by {commits}, on another '
           f'processor than most of the baselines. {LATER} Intervals are for other images and these networks; those '
           'for other training sets rest on five differences (Nadeau & Bengio 2003).\n')
    yield (f"{last['device']}; {', '.join(f'{k} {v}' for k, v in last['versions'].items())}; "
           f"{max(r['date'] for each in there['cases'].values() for r in each.values())}")

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('studies', nargs='*', type=Path)
    parser.add_argument('--at', help='the commit by which the studies were trained')
    parser.add_argument('--fixed', default='f564c12', help='the commit that fixed the recipe')
    a = parser.parse_args()
    if a.studies and not a.at: parser.error('the studies were trained by which commit? --at COMMIT')
    for folder in a.studies: file_study(folder, a.at)
    if not a.studies: print('\n'.join(tables(json.loads(FILE.read_text()), a.fixed)))

if __name__ == '__main__': main()
