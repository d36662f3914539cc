"""What the page reference/02_run_folder says of each file, and what of a real file it does not say: for the tests.

A key stands as `classes.CLASS.test`: words in capitals stand for others (the first table of the page says for which),
`[]` says that a list's entries follow."""
import csv, json, re
from functools import cache
from pathlib import Path

from readme import output

PAGE = Path(__file__).resolve().parents[1]/'nbs'/'reference'/'02_run_folder.ipynb'
ANY = '.+'

@cache
def tables():
    "{id of the heading: {key: meaning}}"
    found, here = {}, None
    for cell in json.loads(PAGE.read_text(encoding='utf-8'))['cells']:
        outputs = map(output, cell.get('outputs', []))
        text = ''.join(cell['source']) if cell['cell_type'] == 'markdown' else '\n'.join(outputs)
        for line in text.splitlines():
            if m := re.match(r'#+ +(.*?)(?: *\{#([\w-]+)\})?$', line):
                here = found.setdefault(m[2] or m[1].lower().replace(' ', '-'), {})
            elif line.startswith('| `'):
                first, *_, meaning = re.split(r' *\| *', line.strip('| \n'))
                here.update(dict.fromkeys(re.findall(r'`([^`]+)`', first), meaning))
    return found

def pattern(key):
    "The keys that one in the tables stands for"
    words = next(iter(tables().values()))
    def one(m):
        some = re.findall(r'`([^`]+)`', words[m[0]])
        return f"(?:{'|'.join(map(re.escape, some))})" if some else ANY
    return re.compile(re.sub(r'[A-Z]{3,}', one, re.escape(key)))

def keys(value, at=''):
    "All keys of a JSON value that hold no further ones; those of an empty dict or list end there"
    if isinstance(value, dict) and value:
        return [k for name, v in value.items() for k in keys(v, f'{at}.{name}' if at else name)]
    if isinstance(value, list) and any(isinstance(v, dict) for v in value):
        return [k for v in value for k in keys(v, f'{at}[]')]
    return [at]

def content(file):
    "The keys of a JSON file, or the columns of a CSV"
    if file.suffix == '.csv' or '.csv.rejects' in file.name:
        with open(file, newline='', encoding='utf-8', errors='surrogateescape') as f: return next(csv.reader(f))
    return list(dict.fromkeys(keys(json.loads(file.read_text(encoding='utf-8')))))

def unnamed(found, table):
    "Which of these keys a table does not name"
    known = list(map(pattern, tables()[table]))
    def named(key): return any(p.fullmatch(key) or p.match(f'{key}.') for p in known)
    def begins(key): return any(k == key or k.startswith((f'{key}.', f'{key}[')) for k in tables()[table])
    return [k for k in found if not named(k) and not begins(k)]

def unwritten(found, table):
    "Which keys of a table, but those that say `only`, are not among these"
    def there(key): return any(pattern(key).fullmatch(f) or key.startswith((f'{f}.', f'{f}[')) for f in found)
    return [k for k, meaning in tables()[table].items() if not meaning.startswith('only') and not there(k)]

IN_A_RUN = ('config metrics calibration thresholds twins timings environment predictions split history rejects '
            'controls').split()

def wrong(folder, places):
    "What a page says of files in a folder and they do not hold, or the other way round; `places`: {file: table}"
    said = []
    for name, table in places.items():
        found = content(Path(folder)/name)
        said += [f'{name}: {k} is not on the page' for k in unnamed(found, table)]
        said += [f'{name}: {k} is on the page alone' for k in unwritten(found, table)]
    return said

OF_A_STUDY = {'study.json': 'study', 'runs.csv': 'runs', 'table.csv': 'table', 'compare.csv': 'compare'}
OF_A_SET = {'external.json': 'external', 'external.csv': 'external-table', 'predictions.csv': 'external-predictions',
            'subgroups.csv': 'subgroups', 'rejects.csv': 'external-rejects'}
OF_PICTURES = {'explained.csv': 'explained', 'explained.json': 'explained-state', 'rejects.csv': 'predict-rejects'}

def of_predict(name):
    "Tables of the files that `predict` writes beside each other"
    return {name: 'predict', f'{name}.rejects.csv': 'predict-rejects', f'{name}.json': 'predict-state'}

def wrong_of_run(folder):
    "The same of a run folder: its files too"
    folder = Path(folder)
    there = {p.name for p in folder.iterdir() if not p.name.startswith('.')}
    files = {f'{n}.{e}': n for n in IN_A_RUN for e in ('json', 'csv') if f'{n}.{e}' in there}
    return [f'{n} is not on the page' for n in sorted(there - set(tables()['a-run']))] + wrong(folder, files)
