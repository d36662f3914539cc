"""What a weighed loss does to the rarest class, and what drawing its images more often does: balance.md and .json.

    python benchmarks/balance.py FOLDER --weights WEIGHTS [--arch shufflenetv2_100] [--depths 0 1 2] [--out STUDIES]

Three studies over the same five folds of FOLDER (a folder per class): as `study` trains by default, with
`class_weights='balanced'`, and with `sampler='balanced'`. Every image is tested once. Recall of the rarest class,
accuracy and macro F1 are of all images, differences paired and clustered by groups; calibration is that of the
probabilities as they come, before the temperature, and after it. Studies that are there are taken as they are."""
import argparse, tempfile
from pathlib import Path

from measure import table, write   # beside this file

WAYS = {'as it comes': {}, 'weighed loss': dict(class_weights='balanced'), 'drawn equally': dict(sampler='balanced')}

def points(d):
    "A difference with its interval"
    low, high = d.interval(.95)
    return f'{100 * d.difference:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})'

def judged(run, rare):
    "What is said of one run over folds: numbers, and what differences are made of"
    from xray_xfer.evaluate.scores import per_class
    test = run.predictions.of('test')
    y, probs, number = test.y, test.probs, test.classes.index(rare)
    c, m, said = per_class(y, probs, test.classes, test.folds).iloc[number], run.metrics, run.calibration
    numbers = dict(recall=float(c.recall), precision=float(c.precision), accuracy=m['accuracy'], f1=m['f1'],
                   called=float((probs.argmax(1) == number).mean()), held=float((y == number).mean()),
                   **{f'{k}_{when}': said[when][k] for when in ('before', 'after') for k in ('ece', 'nll')})
    return numbers, (y, probs, test.folds, test.group.to_numpy(dtype=object), list(zip(test.path, test.folds)))

def against(mine, first, classes, rare):
    "Differences to the study as it comes: recall of the rarest class, accuracy, macro F1"
    from xray_xfer.evaluate.paired import accuracy_difference, differences
    (y, p, fold, groups, images), (_, q, _, _, same) = mine, first
    if images != same: raise SystemExit('the studies are of other images or folds: give another --out')
    d, of = differences(y, p, q, classes, groups, (fold, fold)), y == classes.index(rare)
    recall = accuracy_difference(p[of].argmax(1) == y[of], q[of].argmax(1) == y[of], groups[of])
    return [points(x) for x in (recall, d['accuracy'], d['f1'])]

def main():
    from xray_xfer.evaluate.tables import display_name
    from xray_xfer.runs.folder import load_run
    from xray_xfer.study import study
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--weights', type=Path, required=True)
    parser.add_argument('--arch', default='shufflenetv2_100')
    parser.add_argument('--depths', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--out', type=Path, default=None, help='where the studies are kept; default nowhere')
    a = parser.parse_args()
    rows, res = [], {}
    with tempfile.TemporaryDirectory() as nowhere:
        out = {way: (a.out or Path(nowhere))/way.replace(' ', '_') for way in WAYS}
        for way, more in WAYS.items():
            study(a.folder, a.arch, a.depths, pretrained=a.weights/f'{a.arch}.safetensors', folds=5, out=out[way],
                  quiet=True, **more)
        for depth in a.depths:
            runs = {way: load_run(folder/f'{a.arch}_{depth}', whole=False) for way, folder in out.items()}
            first = runs['as it comes']
            classes, rare = first.config['classes'], first.predictions.of('test').label.value_counts().index[-1]
            found = {way: judged(run, rare) for way, run in runs.items()}
            for way, (n, parts) in found.items():
                gaps = [''] * 3 if runs[way] is first else against(parts, found['as it comes'][1], classes, rare)
                res[f'{depth} {way}'] = n | dict(gaps=gaps)
                rows.append([depth, way, f"{n['recall']:.3f}", gaps[0], f"{n['precision']:.3f}", f"{n['accuracy']:.4f}",
                             gaps[1], f"{n['f1']:.4f}", gaps[2],
                             *(f'{n[f"{k}_before"]:.3f}, {n[f"{k}_after"]:.3f}' for k in ('ece', 'nll'))])
    head = ['depth', 'training', f'recall, {rare}', 'points', 'precision', 'accuracy', 'points', 'macro F1', 'points',
            'ECE before and after its temperature', 'loss, the same']
    c = first.config
    note = (f"{display_name(a.arch)}; {c['images']:,} images, of which {100 * n['held']:.0f} % {rare}; five folds, one "
            f"seed, {c['precision']}, every image tested once. Points: against training as it comes, paired, 95 %.")
    write('balance', dict(rows=res, rarest=rare), f'{table(rows, head)}\n\n{note}',
          'python benchmarks/balance.py FOLDER --weights WEIGHTS')

if __name__ == '__main__': main()
