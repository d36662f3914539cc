"""Which learning rate on fewer images? EfficientNet-Lite0 at depth 2, judged by validation parts: few.md and .json.

    python benchmarks/few.py FOLDER --pretrained WEIGHTS

From each class of FOLDER as many films are drawn, with a split of their own for each seed."""
import argparse

import pandas as pd
from measure import table, write   # beside this file

def main():
    from xray_xfer.data.table import images_of
    from xray_xfer.train import run
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('folder')
    parser.add_argument('--pretrained', required=True)
    parser.add_argument('--images', nargs='+', type=int, default=[240, 600, 1200])
    parser.add_argument('--rates', nargs='+', type=float, default=[.002, .006])
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    a = parser.parse_args()
    films, rows, res = images_of(a.folder), [], {}
    for n in a.images:
        some = pd.concat([of.sample(n // films.label.nunique(), random_state=0) for _, of in films.groupby('label')])
        for rate in a.rates:
            found = []
            for seed in a.seeds:
                r = run(some.reset_index(drop=True), 'tf_efficientnet_lite0', 2, pretrained=a.pretrained, lr=rate,
                        epochs=6, seed=seed, split_seed=seed, valid=.15, test=.4, out=None, quiet=True)
                found.append(r.history.loc[r.history.valid_loss_scaled.idxmin()])
            scores = [[float(row[k]) for row in found] for k in ('valid_accuracy', 'valid_loss_scaled')]
            res[f'{n} {rate:g}'] = dict(accuracy=scores[0], loss=scores[1])
            rows.append([f'{len(some):,}', f'{rate:g}', *('; '.join(f'{x:.3f}' for x in values) for values in scores)])
    head = ['images', 'rate', 'validation accuracy', 'validation loss, scaled']
    note = (f'EfficientNet-Lite0, depth 2, six epochs, 15 % of the films for validation and 40 % left out; seeds '
            f'{a.seeds}. On all 3,600: recipe.md.')
    write('few', res, f'{table(rows, head)}\n\n{note}', 'python benchmarks/few.py FOLDER --pretrained WEIGHTS')

if __name__ == '__main__': main()
