"""Cells of pages whose numbers come from the files under benchmarks/: `python tools/blocks.py` writes them.

Such a cell begins with `<!-- NAME: made by tools/blocks.py from benchmarks/FILE -->`, and all of it is written here: no
number in it is older than its file. tests/test_readme.py asks that writing it again changes nothing.
tools/figures.py draws the figures of the same files; `make numbers` does both, and README.md."""
import json, re
from pathlib import Path
from typing import NamedTuple

from xray_xfer.core.usual import usual_epochs
from xray_xfer.report.methods_text import listed
from xray_xfer.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
FILED = ROOT/'benchmarks'
ONLINE = 'https://github.com/xray-xfer/xray_xfer/blob/main/benchmarks'
NAMES = dict(shufflenetv2_100='ShuffleNetV2', efficientnet_b0='EfficientNet-B0',
             tf_efficientnet_lite0='EfficientNet-Lite0')
WAYS = dict(stock='stock fastai', tuned='tuned fastai', cold='here, cold cache', warm='here, warm cache')
KAGGLE = 21_165   # films of the COVID-19 Radiography Database
BASELINES, OURS = ('stock', 'tuned'), ('cold', 'warm')
WITH = ' with `--norms '
TIMES = {1: 'once', 2: 'twice', 4: 'four times', 8: 'eight times'}   # as many epochs as of 3,600 images

# What is filed

def filed(name): return json.loads((FILED/name).read_text(encoding='utf-8'))
def text_of(name): return (FILED/name).read_text(encoding='utf-8').strip()

def tables(name):
    "The tables of a Markdown file, each a list of {column: cell}"
    found, head = [], None
    for line in text_of(name).splitlines():
        cells = [cell.strip() for cell in line.strip('| ').split('|')] if line.startswith('|') else None
        if cells is None: head = None
        elif head is None:
            head = cells
            found.append([])
        elif set(''.join(cells)) - set(':-'): found[-1].append(dict(zip(head, cells, strict=False)))
    return found

def model_name(arch, rest):
    "As people read it, such as 'EfficientNet-Lite0 depth 2'"
    return f'{NAMES.get(arch, arch)} {rest}'

def in_order(model): return not model.startswith('ShuffleNetV2'), model

class Score(NamedTuple):
    "What a way of training is worth over the folds, every image tested once"
    epochs: int
    precision: str
    accuracy: tuple   # Value, and the ends of its 95 % interval
    f1: tuple

def folds():
    "{(model, way): `Score`} of folds.md; ours in the precision of the bench, if it is there; with norms another model"
    wanted = filed('bench.json').get('precision', 'fp32')
    theirs, found = int(re.search(r'baselines: (\d+) epochs', text_of('folds.md'))[1]), {}
    for row in tables('folds.md')[0]:
        way, *ours = row['way'].split(', ')
        precision, epochs = (ours[0], int(ours[1].split()[0])) if ours else ('fp32', theirs)
        key = with_norms(row, row['way']), way
        if key in found and precision != wanted: continue
        values = [tuple(map(float, re.findall(r'\d\.\d+', row[k]))) for k in ('accuracy', 'macro F1')]
        found[key] = Score(epochs, precision, *values)
    for model in [m for m, _ in found if WITH in m]:   # its baselines are those of the same depth
        found |= {(model, w): found[model.split(WITH)[0], w] for w in BASELINES}
    return {key: found[key] for key in sorted(found, key=lambda key: in_order(key[0]))}

def with_norms(row, way):
    "The model of a row of folds.md; what learns more is another"
    norms = re.search(r'norms (\w+)$', way)
    return model_name(*row['model'].split(' ', 1)) + (f'{WITH}{norms[1]}`' if norms else '')

def gaps(scores):
    "{(model, baseline): row of paired differences in folds.md}, of ours in `scores`"
    found = {}
    for row in tables('folds.md')[1]:
        model = with_norms(row, row['A'])
        if row['A'].startswith(f"ours, {scores[model, 'ours'].precision},"): found[model, row['B']] = row
    return {key: row for key, row in found.items() if key[1] in BASELINES}

class Point(NamedTuple):
    "A training of which both were measured"
    model: str       # Such as 'ShuffleNetV2 depth 2'
    way: str         # stock, tuned, cold or warm
    seconds: float   # From the end of the imports to the metrics of the test part
    scaled: bool     # Timed on fewer epochs
    accuracy: float  # Over the folds
    low: float       # Of its 95 % interval
    high: float

def single(bench): return [r for r in bench['rows'] if isinstance(r['depth'], int)]   # no study
def epochs_of(row, bench): return row.get('epochs', bench['epochs'])
def of_today(bench): return bench.get('ours', 'as many as the baselines') is None   # trained as `run` does by default

def points(bench, scores):
    "Where seconds and accuracy are of one recipe: as many epochs, and ours as `run` trains by default"
    found = []
    for r in single(bench):
        model = model_name(r['arch'], f"depth {r['depth']}")
        score = scores.get((model, 'ours' if r['way'] in OURS else r['way']))
        if score is None or score.epochs != epochs_of(r, bench): continue
        if r['way'] in OURS and not of_today(bench): continue
        found.append(Point(model, r['way'], r['whole'], r['epochs_timed'] < score.epochs, *score.accuracy))
    return sorted(found, key=lambda p: (in_order(p.model), list(WAYS).index(p.way)))

def by_model(found):
    "{model: {way: `Point`}}"
    models = {}
    for p in found: models.setdefault(p.model, {})[p.way] = p
    return models

# How it is said

def seconds(x): return f'{x:,.0f} s' if x >= 10 else f'{x:.1f} s'
def times(x): return f'{x:.0f}' if x >= 10 else f'{x:.1f}'
def score_words(score): return '{:.3f} ({:.3f}–{:.3f})'.format(*score) if score else 'not measured'
def signed(text): return re.sub(r'-(?=\d)', '−', text)

def markdown(head, rows):
    lines = [f'| {" | ".join(map(str, cells))} |' for cells in (head, *rows)]
    return '\n'.join([lines[0], '| --- |' + ' ---: |' * (len(head) - 1), *lines[1:]])

def where(bench):
    "Device, versions and date"
    e = bench['environment']
    versions = [f"{name} {e['versions'][key]}" for name, key in
                (('PyTorch', 'torch'), ('fastai', 'fastai'), ('timm', 'timm'), ('ONNX Runtime', 'onnxruntime'))]
    return f"{e['device_name']}, {e['cores']} cores, {', '.join(versions)}, {bench['date']}"

def formats(bench):
    "Sentences on the number formats of the trainings, where they differ"
    if bench.get('precision', 'fp32') == 'fp32': return
    yield 'Here training is in bfloat16, which this processor has; fastai trains in float32.'

# The cells

def headline():
    "The figure of accuracy against seconds, and what it says of one model"
    bench, scores = filed('bench.json'), folds()
    models = by_model(found := points(bench, scores))
    alt = [f'{m}: ' + ', '.join(f'{WAYS[p.way]} {p.accuracy:.3f} in {seconds(p.seconds)}' for p in of.values())
           for m, of in models.items()]
    caption = [f"{bench['images']:,} chest films of four classes. Up: accuracy over five folds with 95 % intervals, "
               'each film tested once by a network that never saw it. Right: seconds of one training, from files to '
               'metrics.']
    if any(p.scaled for p in found): caption.append('Hollow: timed in part, and scaled.')
    caption += formats(bench)
    if untimed := [m for m, way in scores if way == 'ours' and WITH not in m and 'cold' not in models.get(m, ())]:
        caption.append(f"Ours is not timed yet with the present recipe: {', '.join(untimed)}.")
    said = [f"![Accuracy over five folds against seconds on a logarithmic scale. {'; '.join(alt)}.]"
            '(images/accuracy_seconds.png)', f"*{' '.join([*caption, where(bench)])}.*"]
    whole = [of for of in models.values() if set(of) == set(WAYS)]
    if whole: said.append(one_model(whole[-1], gaps(scores), scores))
    said += behind(gaps(scores), scores, models)
    return '\n\n'.join(said)

def behind(paired, scores, models):
    "Where stock fastai is better beyond doubt, and by what it is"
    key = 'accuracy, A less B, points'
    worse = [m for (m, way), row in paired.items() if way == 'stock' and float(row[key].split(' to ')[1][:-1]) < 0]
    if not worse: return
    def value(m, way): return f'{scores[m, way].accuracy[0]:.3f}'
    of = listed(f"{m} ({value(m, 'stock')}, here {value(m, 'ours')})" for m in worse)
    yield (f'**Stock fastai is more accurate with {of}**: it lets the BatchNorms of all frozen layers learn, which no '
           f"cache can keep. With them frozen, as in tuned fastai, it has {listed(value(m, 'tuned') for m in worse)}."
           + learning(scores, worse) + beyond(worse, models))

def learning(scores, worse):
    "What the same models here have where norms learn too"
    of = {m: name for m in worse for name, way in scores if way == 'ours' and name.startswith(m + WITH)}
    if len(of) < len(worse): return ''
    option = next(iter(of.values())).partition(' with ')[2]
    has = [scores[name, 'ours'].accuracy[0] for name in of.values()]
    groups = option.strip('`').split()[-1]
    return f" With {option} those of the last {groups} layer groups learn here too: {listed(f'{x:.3f}' for x in has)}."

def beyond(worse, models):
    "What a deeper training of the same backbone here has and takes, against those"
    arch = worse[0].partition(' depth ')[0]
    deeper = [of for m, of in models.items() if m.startswith(f'{arch} depth') and m not in worse and 'cold' in of]
    there = [models[m]['stock'] for m in worse if 'stock' in models.get(m, ())]
    if not deeper or not there: return ''
    ours = deeper[-1]['cold']
    if ours.accuracy <= max(p.accuracy for p in there): return ''
    return (f' {ours.model} here has {ours.accuracy:.3f}, in {seconds(ours.seconds)} where those take '
            f'{listed(seconds(p.seconds) for p in there)}.')

def paired_words(bench, scores, found):
    "What differs between the training that was timed and the one that was tested"
    timed = bench.get('precision', 'fp32')
    other = [p.model for p in found if p.way == 'cold' and scores[p.model, 'ours'].precision != timed]
    if other: yield f"The folds of ours are in another format than the times ({timed}) for {' and '.join(other)}."
    cases, batches = filed('folds.json')['cases'], []
    for r in single(bench):
        tested = cases.get(f"{r['arch']}:{r['depth']}:{r['way']}")
        if tested and r['bs'] != (bs := next(iter(tested.values()))['bs']):
            batches.append(f"{r['bs']} and {bs} for {model_name(r['arch'], 'depth')} {r['depth']}")
    if batches: yield f"Tuned fastai was timed with its quickest batch and tested with another: {'; '.join(batches)}."

def one_model(of, paired, scores):
    "The four ways of one model"
    cold, warm = of['cold'], of['warm']
    theirs = [f'{WAYS[w]} {score_words(of[w][4:])} in {seconds(of[w].seconds)}, '
              f'{times(of[w].seconds / cold.seconds)} times as long' for w in BASELINES]
    lines = [f'**{cold.model}: {score_words(cold[4:])} in {seconds(cold.seconds)}, and in {seconds(warm.seconds)} once '
             f"the features of its frozen part are kept**; {'; '.join(theirs)}."]
    differ = [f"{signed(paired[cold.model, w]['accuracy, A less B, points'])} points against {WAYS[w]}"
              for w in BASELINES if (cold.model, w) in paired]
    if differ: lines.append(f"Paired, film by film, each interval for itself: {', '.join(differ)}.")
    each = {w: scores[cold.model, 'ours' if w == 'cold' else w].epochs for w in ('cold', *BASELINES)}
    lines.append(f"{each['cold']} epochs here, after {Settings.head_epochs} of the head alone; {each['stock']} of "
                 f"stock and {each['tuned']} of tuned fastai, which is tuned for speed; epochs and rate here were "
                 'chosen by validation parts.')
    return ' '.join([*lines, '[All times, and what each point is of](explanations/07_costs.ipynb).'])

def folds_table():
    "Accuracy and macro F1 of each way over the folds"
    scores = folds()
    models, rows = dict.fromkeys(m for m, _ in scores), []
    for m in models:
        ours, tuned, stock = (scores.get((m, way)) for way in ('ours', 'tuned', 'stock'))
        rows.append([m, score_words(ours and ours.accuracy), score_words(ours and ours.f1),
                     score_words(tuned and tuned.accuracy), score_words(stock and stock.accuracy)])
    head = ['model', 'here: accuracy', 'here: macro F1', 'tuned fastai: accuracy', 'stock fastai: accuracy']
    differ = [f"* {m} against {WAYS[w]}: accuracy {signed(row['accuracy, A less B, points'])} points, "
              f"macro F1 {signed(row['macro F1'])}" for (m, w), row in gaps(scores).items()]
    called = dict(fp32='float32', bf16='bfloat16')
    trained = [f"{m} {s.epochs} in {called[s.precision]}" for (m, w), s in scores.items() if w == 'ours']
    *_, about, _, machine = text_of('folds.md').splitlines()
    return '\n\n'.join([markdown(head, rows), 'Paired, image by image, ours less theirs (95 % intervals):',
                        '\n'.join(differ), f"Epochs here: {'; '.join(trained)}. {about} {machine}."])

def bench_table():
    "Whole seconds of each case, and how often ours goes into them"
    bench, rows = filed('bench.json'), []
    for r in whole_cases(bench):
        rows.append([case_name(r), *(f'{r[w]:,.0f}' if r[w] else '' for w in WAYS),
                     *(f'{r[k]:.1f}×' if r[k] else '' for k in ('stock/cold', 'tuned/cold'))])
    head = ['case', 'stock fastai, s', 'tuned, s', 'here, cold cache, s', 'warm, s', 'stock / cold', 'tuned / cold']
    scores = folds()
    words = *bench_words(bench), *paired_words(bench, scores, points(bench, scores))
    return '\n\n'.join([markdown(head, rows), ' '.join(words)])

def whole_cases(bench): return [r for r in bench['ratios'] if r['cold']]   # a study of ours need not be timed

def case_name(ratio):
    arch, _, rest = ratio['case'].partition(' ')
    return model_name(arch, rest)

def bench_words(bench):
    "Of how many epochs, how timed, on what"
    ours = sorted({(r['depth'], epochs_of(r, bench)) for r in single(bench) if r['way'] in OURS})
    yield (f"{bench['images']:,} images, {bench['parts']['test']} of them in the test part. The baselines train "
           f"{bench['epochs']} epochs, ours {', '.join(f'{e} at depth {d}' for d, e in ours)}.")
    if not of_today(bench): yield 'Ours here are of the recipe before the present one, which is not timed yet.'
    scaled = {}
    for r in single(bench):
        if r['epochs_timed'] < (full := epochs_of(r, bench)):
            of = f"{NAMES.get(r['arch'], r['arch'])} on {r['epochs_timed']:g} of {full} epochs"
            scaled.setdefault(of, set()).add(f"{r['depth']}")
    if scaled:
        parts = [f"{of} (depth {', '.join(sorted(depths))})" for of, depths in scaled.items()]
        yield f"Baselines that were timed in part, and scaled: {'; '.join(parts)}."
    if study := next((r for r in whole_cases(bench) if r['case'].endswith(' study')), None):
        minutes = study['cold'] * KAGGLE / bench['images'] / 60
        yield (f'In proportion, and not measured, the {case_name(study)} from a cold cache would take {minutes:.0f} '
               f'minutes for the {KAGGLE:,} films of the Kaggle set.')
    yield from formats(bench)
    yield f'{where(bench)}. Each measurement: [bench.md]({ONLINE}/bench.md).'

def bench_picture(folder='../images'):
    "Whole times as bars, described"
    cases = whole_cases(filed('bench.json'))
    last = next((r for r in cases[::-1] if r['warm']), cases[-1])   # over folds there is no warm study
    said = ', '.join(f'{last[w]:,.0f} seconds {WAYS[w]}' for w in WAYS if last[w])
    return (f'![Whole time of each case by each way on a logarithmic scale, and against the number of epochs. '
            f'{case_name(last)}: {said}.]({folder}/bench.png)')

def step(verb):
    "A command of the first steps, and what it printed"
    return next(s for s in filed('first_steps.json')['steps'] if s['command'].split()[1] == verb)

def first_steps():
    "Four commands, and what they said"
    commands = [step(verb)['command'] for verb in ('check', 'study', 'external', 'predict')]
    files, *looks_wrong = step('check')['printed']
    twins = next(said for said in looks_wrong if said.startswith('twins: '))
    said = {'`check` trains nothing': f'{files}; {twins}.',
            '`study`, at the head of study/report.html': step('study')['answer'][0],
            '`external`': ' '.join(step('external')['printed'][:3]),
            '`predict`, beside a row for each film': '. '.join(step('predict')['printed'][:-1]) + '.'}
    extra = [f'* {what}: *{signed(text)}*' for what, text in said.items()]
    return '\n'.join(['```sh', *commands, '```', '', *extra])

def about_steps():
    "Of what the first steps are"
    f = filed('first_steps.json')
    versions = ', '.join(f'{name} {f["versions"][key]}' for name, key in
                         (('PyTorch', 'torch'), ('fastai', 'fastai'), ('ONNX Runtime', 'onnxruntime')))
    return f"{f['device']}, {f['cores']} cores, {versions}, {f['date']}."

def table_of(verb): return '\n'.join(said for said in step(verb)['printed'] if said.startswith('|'))

def first_study():
    "Metrics of three depths over one split, and the answer"
    of = step('study')
    caption = next(said for said in of['printed'] if 'images of' in said and not said.startswith('|'))
    return '\n\n'.join([f"`{of['command']}` printed", table_of('study'), signed(caption),
                        "and its report opens so:", quoted(of['answer'][:3]), about_steps()])

def first_external():
    "What the study is worth on films of another hospital"
    of = step('external')
    words = [said for said in of['printed'] if not said.startswith(('|', 'Tables'))]
    return '\n\n'.join([f"`{of['command']}`, after a study at home whose best depth names the right class of "
                        f"{re.search(r'for ([0-9.]+ %)', step('study')['answer'][0])[1]} of its test part:",
                        quoted(words), about_steps()])

def first_thresholds():
    "An operating point whose lower limit is wanted"
    of = step('thresholds')
    return '\n\n'.join([f"`{of['command']}`:", quoted(of['printed'][:-1]), about_steps()])

def few_images():
    "Accuracy on validation parts after so many epochs, where there are few training images; the best bold"
    there, found = filed('recipe.json'), {}
    for key, folds in there['trainings'].items():
        arch, depth, text = key.split(':')
        asked = dict(word.split('=') for word in text.split(',') if word)
        usual = dict(head='5', cutmix='1') if depth != '0' else {}   # what the recipe has beside them
        if 'epochs' not in asked or 'images' not in asked or 'lr' in asked: continue
        if {k: asked.get(k) for k in ('head', 'cutmix')} != {k: usual.get(k) for k in ('head', 'cutmix')}: continue
        right = [sum(a == b for a, b in zip(of['of']['last']['called'], there['labels'][name], strict=True))
                 / len(there['labels'][name]) for name, of in folds.items()]
        times = int(asked['epochs']) / usual_epochs(int(depth))
        if times not in TIMES: continue
        found.setdefault((arch, depth, int(asked['images'])), {})[times] = sum(right) / len(right), len(right)
    rows = []
    for (arch, depth, n), of in sorted(found.items(), key=lambda item: (in_order(NAMES[item[0][0]]), *item[0][1:])):
        best = max(of.values())[0]
        cells = [f'{of[k][0]:.3f}' if k in of else '' for k in TIMES]
        cells = [f'**{c}**' if c == f'{best:.3f}' else c for c in cells]
        rows.append([model_name(arch, f'depth {depth}'), f'{n:,}', f'{usual_epochs(int(depth))}', *cells])
    folds = {n for of in found.values() for _, n in of.values()}
    return markdown(['model', 'training images', 'epochs', *TIMES.values()], rows) + (
        f"\n\nValidation accuracy, mean of {listed(sorted(folds))} folds of 360 films each (standard error "
        f"about a point); AMD EPYC, PyTorch 2.14.1, bfloat16, November 2026. [recipe.md]({ONLINE}/recipe.md)")

def quoted(lines): return '\n>\n'.join(f'> {signed(line)}' for line in lines)

FIRST = 'first_steps.json'
CELLS = {   # name: the files that it is of, and who writes it
    'headline': ('bench.json and folds.md', headline),
    'folds_table': ('folds.md', folds_table),
    'bench_table': ('bench.json, folds.md and folds.json', bench_table),
    'bench_picture': ('bench.json', bench_picture),
    'first_steps': (FIRST, first_steps), 'first_study': (FIRST, first_study),
    'first_external': (FIRST, first_external), 'first_thresholds': (FIRST, first_thresholds),
    'few_images': ('recipe.json', few_images),
    **{name: (f'{name}.md', lambda name=name: text_of(f'{name}.md'))
       for name in ('profile', 'parts', 'memory', 'balance')},
}

# Pages

def cell(name):
    "The whole text of a cell"
    files, write = CELLS[name]
    return f'<!-- {name}: made by tools/blocks.py from benchmarks/{files} -->\n{write()}'

def pages(): return [p for p in sorted((ROOT/'nbs').rglob('*.ipynb')) if '.ipynb_checkpoints' not in p.parts]

def made(notebook):
    "{name: text as it is saved} of the cells that are made"
    found = {}
    for c in json.loads(notebook.read_text(encoding='utf-8'))['cells']:
        source = ''.join(c['source'])
        if m := re.match(r'<!-- (\w+): made by tools/blocks\.py', source): found[m[1]] = source
    return found

def write(notebook):
    "Write these cells anew; whether any changed"
    whole = json.loads(notebook.read_text(encoding='utf-8'))
    was = made(notebook)
    changed = {text: cell(name) for name, text in was.items() if cell(name) != text}
    if not changed: return False
    for c in whole['cells']:
        source = ''.join(c['source'])
        if source in changed: c['source'] = changed[source].splitlines(keepends=True)
    text = json.dumps(whole, indent=1, ensure_ascii=False, sort_keys=True)
    notebook.write_text(text + '\n', encoding='utf-8')
    return True

if __name__ == '__main__':
    for page in pages():
        if write(page): print(page.relative_to(ROOT))
