"""How often the controls for shortcuts say something by chance, with known truth.

    python benchmarks/controls_sim.py [--draws 2000]

  nothing   a network that recognises the intact images, and controls that carry no information: what is said of them
            besides
  something the same with controls that carry information of a known size
  wrong     nothing but the lungs, in the wrong order (AUC about 0.30): is it told that it reads the lungs?
  leak      heads on shuffled labels: images with meaningless labels, with true ones, and with true labels that leak
            into half of the shuffled ones

"Before" is the rule of commit 17deaf4, "after" the one of nbs/report/07_verdict.ipynb.
Writes benchmarks/controls.json and .md."""
import argparse, json
from datetime import date
from pathlib import Path

import numpy as np

from xray_xfer.evaluate.chance import looks, paired
from xray_xfer.core.machine import environment
from xray_xfer.controls.shuffles import excess, shuffle_test
from xray_xfer.report.verdict import (INTACT, NO_LUNGS, ONLY_LUNGS, ORDER, OTHER_LUNGS, TAKEN, adjusted, findings,
                                      interval_of, verdict)

HERE, CLASSES = Path(__file__).parent, 4
CONTROLS = ORDER[:-1]
SHARES = [.43, .25, .19, .13]   # of the classes, about those of the X-rays
PERMUTATIONS = 1_999            # enough for the 72 looks of six runs, and a fifth of the time

# ---- the rule of commit 17deaf4

def kept_before(row, intact, chance):
    def above(r, key, at):
        value, pair = r[key], interval_of(r, key)
        return max(0., value - at)*(pair[0] > at)
    res = {}
    for key, at in dict(accuracy=chance, auc=.5).items():
        whole = above(intact, key, at)
        res[key] = above(row, key, at)/whole if whole else 0.
    return res

def verdict_before(c):
    rows, chance = {r['control']: r for r in c['rows']}, c['chance']['accuracy']
    left = {name: kept_before(rows[name], rows[INTACT], chance) for name in (*TAKEN, ONLY_LUNGS)}
    if not any(kept_before(rows[INTACT], rows[INTACT], chance).values()): return 'untaught'
    most = max(max(left[name].values()) for name in TAKEN)
    if most: return 'elsewhere' if most >= .5 else 'partly'
    return 'lungs' if max(left[ONLY_LUNGS].values()) else 'unclear'

def leak_before(own, own_expected, shuffled, expected): return 0 < own - expected <= 2*(shuffled - expected)

# ---- made-up answers

def answers(y, ids, strength, rng):
    "Probabilities in which the true class stands out by `strength`; images of one group get nearly the same"
    z = rng.normal(size=(ids.max() + 1, CLASSES))[ids] + .2*rng.normal(size=(len(y), CLASSES))
    z[np.arange(len(y)), y] += strength
    e = np.exp(z - z.max(1, keepdims=True))
    return e/e.sum(1, keepdims=True)

def asked(seed, n, grouped, strengths):
    "Results of controls of known strength, as controls.json holds them; intervals: percentiles of the paired bootstrap"
    rng = np.random.default_rng(seed)
    sizes = rng.integers(1, 6, size=n) if grouped else np.ones(n, int)   # one to five images of a patient
    ids = np.repeat(np.arange(n), sizes)[:n]
    y = rng.choice(CLASSES, size=n, p=SHARES)[ids]
    tables = {name: answers(y, ids, strengths.get(name, 0.), rng) for name in (INTACT, *CONTROLS)}
    chance, groups = float((y == 0).mean()), ids if grouped else None
    seen, left = looks(y, tables, groups, PERMUTATIONS, seed), paired(y, tables, groups, 500, seed)
    rows = []
    for k, name in enumerate(tables):
        r = dict(control=name, kept={})
        for m, (key, at) in enumerate(dict(accuracy=chance, auc=.5).items()):
            look = seen[name][key]
            r |= {key: look.value, f'{key}_p': look.p, f'{key}_expected': look.expected}
            ends = np.nanquantile(left.draws[k, :, m], [.025, .975]).tolist()
            r['interval' if key == 'accuracy' else 'auc_interval'] = ends
            share = left.share(name, INTACT, key, at)
            r['kept'][key] = share and list(share)
        rows.append(r)
    fall = left.difference(NO_LUNGS, OTHER_LUNGS)
    return dict(rows=rows, chance=dict(accuracy=chance, answer='a'), mask="the data set's masks",
                permutations=PERMUTATIONS, outline=dict(difference=fall[0], interval=fall[1], p=fall[2]),
                shuffled=None, source_alone=None)

def something(branch): return branch in ('elsewhere', 'partly', 'reversed', 'lungs')
def besides(branch): return branch in ('elsewhere', 'partly')
def percent(found): return f'{100*np.mean(found):.1f} %'

# ---- the cells

def nothing_cells(draws, n, grouped):
    "Controls without information: alone, and six runs judged together"
    pool = [asked([1, n, grouped, i], n, grouped, {INTACT: 3.}) for i in range(draws)]
    rng, res = np.random.default_rng(0), {}
    studies = [rng.choice(draws, 6, replace=False) for _ in range(draws)]
    for runs, sets in ((1, [[i] for i in range(draws)]), (6, studies)):
        old, new, small = [], [], []
        for s in sets:
            old.append([verdict_before(pool[i]) for i in s])
            beside = [[pool[j] for j in s if j != i] for i in s]
            new.append([verdict(pool[i], b)[0] for i, b in zip(s, beside)])
            small.append(any(p < .05 for i, b in zip(s, beside)
                             for (name, _), p in adjusted(pool[i], b).items() if name != INTACT))
        share = lambda said, of: float(np.mean([any(map(of, b)) for b in said]))
        res[runs] = {'before: something else besides': share(old, besides), 'before: anything': share(old, something),
                     'after: something else besides': share(new, besides), 'after: anything': share(new, something),
                     'after: any adjusted p below 0.05': float(np.mean(small))}
    return res

def nothing(draws, known):
    rows = []
    for n, grouped in ((100, False), (300, False), (720, False), (300, True)):
        what = f'{n}{", groups of 1 to 5" if grouped else ""}'
        cells = known(f'nothing, {what}', lambda: nothing_cells(draws, n, grouped))
        rows += [[what, runs, *map(percent, cell.values())] for runs, cell in cells.items()]
    return table(rows, ['test images', 'runs judged together', *next(iter(cells.values()))])

def something_cell(draws, n, strength):
    "Controls with information of a known size"
    pool = [asked([2, n, i], n, False, {INTACT: 3.} | dict.fromkeys(CONTROLS, strength)) for i in range(draws)]
    own = [r for c in pool for r in c['rows'] if r['control'] == NO_LUNGS]
    six = [verdict(c, pool[i - 5:i] if i >= 5 else pool[-5:])[0] for i, c in enumerate(pool)]
    old, new = [verdict_before(c) for c in pool], [verdict(c)[0] for c in pool]
    return {'mean AUC': float(np.mean([r['auc'] for r in own])),
            'left of the AUC': float(np.mean([max(0, r['kept']['auc'][0]) for r in own])),
            'before': float(np.mean([besides(b) for b in old])),
            'after, one run': float(np.mean([besides(b) for b in new])),
            'after, six runs': float(np.mean([besides(b) for b in six])),
            'half of it or more, before': old.count('elsewhere')/draws,
            'half of it or more, after': new.count('elsewhere')/draws}

def informed(draws, known):
    rows = []
    for n, strength in ((300, .25), (300, .5), (300, 1.), (720, .25), (720, .5)):
        cell = known(f'known, {n}, strength {strength}',
                     lambda: something_cell(draws//2 if n < 700 else draws//4, n, strength))
        rows.append([n, f"{cell['mean AUC']:.2f}", *map(percent, list(cell.values())[1:])])
    return table(rows, ['test images', *cell])

def wrong_cell(draws):
    "Nothing but the lungs, in the wrong order"
    pool = [asked([3, i], 300, False, {INTACT: 3., ONLY_LUNGS: -.75}) for i in range(draws)]
    said = [verdict(c) for c in pool]
    reads = [b == 'lungs' or 'it reads the lungs, and' in s for b, s in said]
    aucs = [r['auc'] for c in pool for r in c['rows'] if r['control'] == ONLY_LUNGS]
    return {'mean AUC, only the lungs': float(np.mean(aucs)),
            'told "reads the lungs" or "lies in the lungs"': float(np.mean(reads)),
            'told "in the wrong order"': float(np.mean(['wrong order' in s for _, s in said])),
            'told "cannot be told from chance either"': float(np.mean(['chance either' in s for _, s in said]))}

def wrong(draws, known):
    cell = known('wrong', lambda: wrong_cell(draws//2))
    first, *rest = cell.values()
    return table([[f'{first:.2f}', *map(percent, rest)]], list(cell))

def heads(x, y_tables, test):
    "Probabilities (tables, test, k) of ridge regressions on the classes: a head that costs nothing"
    x, test = np.c_[x, np.ones(len(x))], np.c_[test, np.ones(len(test))]
    targets = np.concatenate([np.eye(CLASSES)[y] for y in y_tables], axis=1)
    out = test @ np.linalg.solve(x.T @ x + 20*np.eye(x.shape[1]), x.T @ targets)
    out = np.clip(out.reshape(len(test), -1, CLASSES).transpose(1, 0, 2), 1e-3, None)
    return out/out.sum(2, keepdims=True)

def leak_cell(draws, meaning, leak):
    "Are the true labels said to leak into training on shuffled ones?"
    old, new, untaught = [], [], []
    for i in range(draws):
        rng = np.random.default_rng([4, meaning, int(100*leak), i])
        kind = rng.choice(6, size=450)   # clusters in feature space: images of one look
        x = rng.normal(size=(6, 32))[kind]*rng.uniform(.5, 2) + rng.normal(size=(450, 32))
        noise = rng.choice(CLASSES, size=450, p=SHARES)
        y = np.where(rng.random(450) < .9, kind % CLASSES, noise) if meaning else noise
        train, test = y[:300], y[300:]
        shuffled = [np.where(rng.random(300) < leak, train, rng.permutation(train)) for _ in range(19)]
        own, *others = heads(x[:300], [train, *shuffled], x[300:])
        counts = np.bincount(train, minlength=CLASSES)
        expected = float(counts/300 @ (np.bincount(test, minlength=CLASSES)/150))
        old.append(leak_before(excess(test, own)[0], expected, excess(test, others[0])[0], expected))
        seen = looks(test, {INTACT: own}, n=PERMUTATIONS, seed=i)[INTACT]
        ends = paired(test, {INTACT: own}, n=200, seed=i).draws[0]
        r = dict(control=INTACT, kept={})
        for m, key in enumerate(('accuracy', 'auc')):
            r |= {key: seen[key].value, f'{key}_p': seen[key].p, f'{key}_expected': seen[key].expected}
            r['interval' if key == 'accuracy' else 'auc_interval'] = np.nanquantile(ends[:, m], [.025, .975]).tolist()
        s = shuffle_test(test, [np.log(p) for p in others], np.log(own))
        c = dict(rows=[r], chance=dict(accuracy=float((test == counts.argmax()).mean()), answer='a'), mask='',
                 permutations=PERMUTATIONS, shuffled=s)
        untaught.append(not any(f.way == 'knows' for f in findings(c).values()))
        # Holm over the twelve looks of a run, at its strictest
        new.append(not untaught[-1] and min(1., 12*s['p']) < .05)
    return {'before: charged': float(np.mean(old)), 'after: charged': float(np.mean(new)),
            'after: "nothing to question yet"': float(np.mean(untaught))}

def leaks(draws, known):
    rows = []
    kinds = (('meaningless labels', False, 0.),
             ('true labels', True, 0.),
             ('true labels, a quarter of the shuffled ones true', True, .25),
             ('true labels, half of the shuffled ones true', True, .5))
    for what, meaning, leak in kinds:
        cell = known(f'leak, {what}', lambda: leak_cell(draws, meaning, leak))
        rows.append([what, *map(percent, cell.values())])
    return table(rows, ['images', *cell])

def table(rows, head):
    "Rows of texts as Markdown"
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|---' + '|---:'*(len(head) - 1) + '|',
                      *('| ' + ' | '.join(map(str, r)) + ' |' for r in rows)])

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--draws', type=int, default=2000)
    draws, e, file = parser.parse_args().draws, environment(), HERE/'controls.json'
    head = dict(draws=draws, permutations=PERMUTATIONS, environment=e, date=str(date.today()))
    done = json.loads(file.read_text()) if file.is_file() else {}
    # of a run that was broken off; remove the file to begin anew
    cells = done.get('cells', {}) if done.get('draws') == draws else {}
    def known(name, compute):
        if name not in cells:
            cells[name] = json.loads(json.dumps(compute()))
            file.write_text(json.dumps(head | dict(cells=cells), indent=1) + '\n')
            print(name, cells[name], flush=True)
        return cells[name]
    text = [f'What the controls say, {draws:,} draws per cell (half of that where they carry information, a quarter at '
            f'720 images), {CLASSES} classes, six controls, {PERMUTATIONS:,} permutations. '
            'Before: the rule of commit 17deaf4. The truth is known.',
            '## Controls that carry no information', nothing(draws, known),
            'Share of runs, or of studies of six, of which something is said that is not so. '
            'Six runs that are judged together are drawn from the runs alone.',
            '## Controls that carry information', informed(draws, known),
            'Share of runs of which "something else besides" is said, rightly here. '
            '"Half of it or more" is right where more than half is left.',
            '## Nothing but the lungs, in the wrong order', wrong(draws, known),
            '## Heads on shuffled labels', leaks(draws, known),
            'Ridge regressions on features in six clusters stand for the heads: '
            '300 training images, 150 test images, 19 shuffles.']
    where = f"{e['device_name']}, numpy {np.__version__}; {date.today()}; `python benchmarks/controls_sim.py`"
    (HERE/'controls.md').write_text('\n\n'.join([*text, where]) + '\n')
    print((HERE/'controls.md').read_text())
