"""Do intervals hold the truth as often as they say, and do tests keep their level?

    python benchmarks/simulate.py WHAT...

  intervals    95 % intervals of one network: how often each holds the true value
  differences  two equally good networks: how often each test calls them different at 5 %,
               and how often it finds 5 points
  seeds        two equally good models with 1, 2, 3 and 5 seeds: the same; and the interval of a mean over seeds

Test parts of 100, 300 and 720 images in four classes (24, 43, 23 and 10 %), accuracies of 0.90, 0.96 and 0.99, images
independent or in groups of one to six that resemble each other (correlation 0.7 of what makes an image difficult).
Logits are a network's skill at the true class plus noise, half of it shared by the networks, and 1.5 times too sure.
The truth comes from 400,000 images. Writes benchmarks/statistics_WHAT.json and .md. Draws run in --jobs processes."""
import argparse, inspect, sys, time
from functools import lru_cache, partial
from multiprocessing import Pool

import numpy as np
from scipy.special import log_softmax

from measure import table, write
from xray_xfer.evaluate.calibration import brier
from xray_xfer.evaluate.scores import metrics, per_class, softmax
from xray_xfer.evaluate.paired import compare
from xray_xfer.evaluate.intervals import class_intervals, intervals, mean_interval

NAMES, SHARES = ['COVID', 'Normal', 'Opacity', 'Viral'], (.24, .43, .23, .10)
METRICS, SURE, ALIKE = ('accuracy', 'f1', 'precision', 'recall', 'auc'), 1.5, .7
ACCURACIES, SIZES = (.90, .96, .99), (100, 300, 720)

@lru_cache
def margins():
    "How much the noise at the best wrong class exceeds that at the true one, sorted"
    noise = np.random.default_rng(99).standard_normal((400_000, 4))
    return np.sort(noise[:, 1:].max(1) - noise[:, 0])

def skill_of(accuracy): return np.quantile(margins(), accuracy)

def test_part(n, grouped, rng):
    "Classes (n,) and groups (n,); groups are of one class"
    ids = np.repeat(np.arange(n), rng.integers(1, 7, n))[:n] if grouped else np.arange(n)
    return rng.choice(4, ids.max() + 1, p=SHARES)[ids], ids

def noise(ids, grouped, rng, *shape):
    "Standard normal (*shape, n, 4); within a group correlated"
    own = rng.standard_normal((*shape, len(ids), 4))
    if not grouped: return own
    return ALIKE ** .5 * rng.standard_normal((*shape, ids.max() + 1, 4))[..., ids, :] + (1 - ALIKE) ** .5 * own

def logits_of(y, skills, errors):
    "Logits (..., n, 4) of networks with these skills (...)"
    skills = np.asarray(skills)[..., None, None]
    return (errors + skills * np.eye(4)[y]) * SURE * skills

@lru_cache
def truth(accuracy):
    "Metrics, measures of each class, Brier score and negative log-likelihood of a network of that accuracy"
    rng = np.random.default_rng(5)
    y, ids = test_part(400_000, False, rng)
    z = logits_of(y, skill_of(accuracy), noise(ids, False, rng))
    probs = softmax(z)
    by = per_class(y, probs, NAMES)
    return metrics(y, probs, NAMES), by, brier(y, probs).mean(), -log_softmax(z, 1)[np.arange(len(y)), y].mean()

def one_interval(cell, seed):
    "Which 95 % intervals of one made-up network hold the truth; None where there is no interval"
    accuracy, n, grouped = cell
    rng = np.random.default_rng([seed, n, grouped, round(1000 * accuracy)])
    y, ids = test_part(n, grouped, rng)
    z = logits_of(y, skill_of(accuracy), noise(ids, grouped, rng))
    probs, (m, by, mean_brier, mean_nll) = softmax(z), truth(accuracy)
    held = lambda ends, value: None if ends is None else bool(ends[0] <= value <= ends[1])
    found = {k: held(v, m[k]) for k, v in intervals(y, probs, NAMES, ids).items()}
    of_class = class_intervals(y, probs, NAMES, ids)['Viral']
    found |= {f'{k} of Viral': held(v, by.loc['Viral', k]) for k, v in of_class.items()}
    # of the bootstrap that was here before
    strata = dict(y=y) if 'y' in inspect.signature(mean_interval).parameters else {}
    found['Brier'] = held(mean_interval(brier(y, probs), groups=ids, **strata), mean_brier)
    found['NLL'] = held(mean_interval(-log_softmax(z, 1)[np.arange(n), y], groups=ids, **strata), mean_nll)
    return found

def one_difference(better, cell, seed):
    "Which metrics of two made-up networks differ at 5 %"
    accuracy, n, grouped = cell
    rng = np.random.default_rng([seed, n, grouped, round(1000 * accuracy), 7])
    y, ids = test_part(n, grouped, rng)
    errors = .5 ** .5 * noise(ids, grouped, rng, 1) + .5 ** .5 * noise(ids, grouped, rng, 2)
    logits = logits_of(y, [skill_of(accuracy), skill_of(accuracy + better)], errors)
    a, b = softmax(logits.reshape(-1, 4)).reshape(2, n, 4)
    t = compare(y, a, b, NAMES, ids).set_index('metric')
    return {m: bool(t.p[m] <= .05) if t.p.notna()[m] else None for m in METRICS}

def one_study(seeds, luck, cell, seed):
    "Two models of equal skill: which metrics differ at 5 %, and which intervals of the first hold its truth"
    from xray_xfer.evaluate.cases import pulls_of
    from xray_xfer.evaluate.readers import model_intervals, seeds_difference
    accuracy, n, grouped = cell
    rng = np.random.default_rng([seed, n, grouped, round(1000 * accuracy), seeds, round(1e4 * luck)])
    y, ids = test_part(n, grouped, rng)
    accuracies = accuracy + luck * rng.standard_normal((2, seeds))
    skills = np.array([[skill_of(min(max(a, .5), .9995)) for a in row] for row in accuracies])
    shares_of_noise = (.5, (1, 1)), (.2, (2, 1)), (.3, (2, seeds))
    errors = sum(share ** .5 * noise(ids, grouped, rng, *shape) for share, shape in shares_of_noise)
    tables = softmax(logits_of(y, skills, errors).reshape(-1, 4)).reshape(2, seeds, n, 4)
    if seeds == 1:
        t = compare(y, tables[0, 0], tables[1, 0], NAMES, ids).set_index('metric')
        return {m: bool(t.p[m] <= .05) if t.p.notna()[m] else None for m in METRICS}
    runs = [[pulls_of(y, p, ids) for p in of_model] for of_model in tables]
    p = {m: seeds_difference(*runs, m).p for m in METRICS}
    found = {m: None if v is None else v <= .05 for m, v in p.items()}
    ends, (m, *_) = model_intervals(y, tables[0], NAMES, ids), truth(accuracy)
    return found | {f'{k} held': None if v is None else bool(v[0] <= m[k] <= v[1]) for k, v in ends.items()}

def shares(pool, one, cell, draws):
    "In per cent, over the draws in which there is an answer; and the share of those in which there is none"
    found = pool.map(partial(one, cell), range(draws), chunksize=max(draws // 50, 1))
    known = {k: [f[k] for f in found if f[k] is not None] for k in found[0]}
    in_per_cent = {k: 100 * np.mean(v) if v else None for k, v in known.items()}
    return in_per_cent, {k: 1 - len(v) / draws for k, v in known.items()}

def shown(v): return '' if v is None else f'{v:.1f}'

def cells(sizes, grouped=(False, True)): return [(a, n, g) for g in grouped for n in sizes for a in ACCURACIES]

def rows_of(pool, one, where, draws, extra=()):
    rows, res = [], []
    for cell in where:
        start = time.time()
        found, none = shares(pool, one, cell, draws)
        res.append(dict(accuracy=cell[0], images=cell[1], grouped=cell[2], **dict(extra), shares=found, without=none))
        rows.append([*[v for _, v in extra], cell[1], 'in groups' if cell[2] else 'independent', f'{cell[0]:.2f}',
                     *map(shown, found.values()), f'{100 * max(none.values()):.1f}'])
        print(rows[-1], f'{time.time() - start:.0f} s', file=sys.stderr, flush=True)
    return rows, res, [*found, 'not defined']

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('what', nargs='+', choices=('intervals', 'differences', 'seeds'))
    p.add_argument('--draws', type=int, default=2000)
    p.add_argument('--jobs', type=int, default=2)
    p.add_argument('--sizes', type=int, nargs='+', default=SIZES)
    p.add_argument('--grouped', type=int, nargs='+', default=(0, 1), help='0: independent images, 1: in groups')
    p.add_argument('--file', default='statistics_{}', help='name of the files, {} for WHAT')
    a = p.parse_args()
    a.grouped = [bool(g) for g in a.grouped]
    head = ['images', 'they are', 'accuracy']
    standard_error = 100 * (.05 * .95 / a.draws) ** .5
    said = (f'{a.draws:,} draws per line; the standard error of a share near 5 % is {standard_error:.1f} points. '
            'Shares are of the draws in which there is an answer; not defined: the largest share in which there is '
            'none, in per cent (a class has come in one group, or in none).')
    with Pool(a.jobs) as pool:
        for what in a.what:
            if what == 'intervals':
                rows, res, names = rows_of(pool, one_interval, cells(a.sizes, a.grouped), a.draws)
                text = ('How often a 95 % interval holds the truth, in per cent. '
                        f'{said}\n\n{table(rows, [*head, *names])}')
            elif what == 'differences':
                rows, res, names = rows_of(pool, partial(one_difference, 0.), cells(a.sizes, a.grouped), a.draws)
                where = [(.90, 720, g) for g in a.grouped]
                found, more, _ = rows_of(pool, partial(one_difference, .05), where, a.draws)
                res += [dict(r, better=.05) for r in more]
                text = ('How often two equally good networks are called different at 5 %, in per cent. '
                        f'{said}\n\n{table(rows, [*head, *names])}\n\n'
                        'How often a difference of 5 points, 0.90 against 0.95, is found:\n\n'
                        f'{table(found, [*head, *names])}')
            else:
                rows, res = [], []
                for seeds in (1, 2, 3, 5):
                    for luck in (0., .02):
                        where = [(.96, n, g) for g in a.grouped for n in a.sizes]
                        got, more, _ = rows_of(pool, partial(one_study, seeds, luck), where, a.draws,
                                               [('seeds', seeds), ('luck', luck)])
                        # with one seed there is no mean over seeds
                        rows += [r if len(r) > 12 else [*r[:-1], *5 * [''], r[-1]] for r in got]
                        res += more
                names = [*METRICS, *(f'{m}, interval' for m in METRICS), 'not defined']
                without_accuracy = [[*r[:2], *r[2:4], *r[5:]] for r in rows]
                text = ('How often two models of equal skill, an accuracy of 0.96, are called different at 5 %, '
                        'and how often the 95 % interval of a mean over seeds holds the truth, in per cent. '
                        'Luck: standard deviation of the accuracy over seeds. With one seed the test is of two '
                        f'networks, and what it says is not of models. {said}\n\n'
                        + table(without_accuracy, ['seeds', 'luck', 'images', 'they are', *names]))
            sizes = '' if tuple(a.sizes) == tuple(SIZES) else ' --sizes ' + ' '.join(map(str, a.sizes))
            write(a.file.format(what), dict(draws=a.draws, cells=res), text,
                  f'python benchmarks/simulate.py {what} --draws {a.draws}{sizes}')

if __name__ == '__main__': main()
