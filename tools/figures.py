"""The figures of the bench, from the files under benchmarks/: `python tools/figures.py` draws them into nbs/images.

accuracy_seconds.png opens the README: accuracy over the folds against whole seconds, a point for each training of
which both were measured. bench.png has the seconds of every case. A picture says in its own metadata what it was drawn
of, and tests/test_readme.py asks that this is what is filed now."""
import json

from blocks import ROOT, WAYS, by_model, filed, folds, points   # beside this file

IMAGES = ROOT/'nbs'/'images'
INK, GRID = '#7f858c', '#7f858c55'   # legible on white and on black: the background is left open
COLOURS = dict(warm='#1fa971', cold='#2f81f7', tuned='#d9822b', stock='#8b949e')

def drawn_of(name):
    "What a figure shows, as text"
    shown = points(filed('bench.json'), folds()) if name == 'accuracy_seconds.png' else filed('bench.json')['rows']
    return json.dumps(shown)

def apart(heights, least):
    "The same, in order, moved up where two would stand closer than `least`"
    found = []
    for y in sorted(heights): found.append(max(y, found[-1] + least) if found else y)
    return found

def accuracy_seconds():
    "Accuracy over five folds against seconds, for each model by each way"
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullLocator
    models = by_model(points(filed('bench.json'), folds()))
    fig = Figure(figsize=(8.6, 3.5), layout='constrained')
    ax = fig.add_subplot()
    for of in models.values():
        shown = list(of.values())
        ax.plot([p.seconds for p in shown], [p.accuracy for p in shown], color=GRID, lw=1.2, zorder=1)
        for p in shown:
            ax.plot([p.seconds] * 2, [p.low, p.high], color=COLOURS[p.way], lw=1.6, alpha=.55, zorder=2)
            ax.plot(p.seconds, p.accuracy, 'o', ms=8, color=COLOURS[p.way], zorder=3, mew=1.8,
                    mfc='none' if p.scaled else COLOURS[p.way])
    first = sorted((min(of.values(), key=lambda p: p.seconds) for of in models.values()), key=lambda p: p.accuracy)
    for p, y in zip(first, apart([p.accuracy for p in first], .0065), strict=True):
        x = min(q.seconds for q in first if abs(q.accuracy - p.accuracy) < .02)   # left of its neighbours' points, too
        ax.annotate(p.model, (x, y), (-11, 0), textcoords='offset points', ha='right', va='center', fontsize=9.5,
                    color=INK)
    for i, (way, colour) in enumerate(COLOURS.items()):
        ax.text(i / 4, 1.04, f'● {WAYS[way]}', transform=ax.transAxes, color=colour, fontsize=10, weight='bold')
    ax.set(xscale='log', ylabel='accuracy, five folds', xlabel='seconds of one training')
    ax.xaxis.set_major_formatter(lambda x, _: f'{x:,.0f}')
    ax.yaxis.set_major_formatter(lambda y, _: f'{y:.2f}')
    left, right = ax.get_xlim()
    ax.set_xlim(left / 3.5, right)   # room for the names
    ax.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.grid(color=GRID, lw=.6)
    ax.set_axisbelow(True)
    ax.spines[:].set_visible(False)
    ax.tick_params(colors=INK, which='both', length=0)
    ax.xaxis.label.set_color(INK)
    ax.yaxis.label.set_color(INK)
    return fig

def bench():
    from xray_xfer.bench.ratios import bench_figure
    return bench_figure(filed('bench.json'))

FIGURES = {'accuracy_seconds.png': (accuracy_seconds, dict(dpi=150, transparent=True)),
           'bench.png': (bench, dict(dpi=120))}

if __name__ == '__main__':
    for name, (draw, how) in FIGURES.items():
        draw().savefig(IMAGES/name, format='png', metadata=dict(Description=drawn_of(name)), **how)
