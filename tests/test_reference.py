"The reference: what its pages say of verbs, files and variables is what the code does; tests that train look at files."
import ast, importlib.util, json, re
from pathlib import Path

import pytest
from reference import pattern, tables, unnamed, unwritten

root = Path(__file__).resolve().parents[1]
SOURCES = [f for f in sorted((root/'xray_xfer').rglob('*.py')) if f.name != '_modidx.py']
TEXT = '\n'.join(f.read_text(encoding='utf-8') for f in SOURCES)

def cells(name): return json.loads((root/'nbs'/'reference'/f'{name}.ipynb').read_text(encoding='utf-8'))['cells']
def markdown(name): return '\n\n'.join(''.join(c['source']) for c in cells(name) if c['cell_type'] == 'markdown')

# Every command; tests/test_outputs.py holds the help that is saved there to today's

def test_every_verb_has_its_section():
    from xray_xfer.cli import VERBS
    parts = re.split(r'^## ', markdown('01_commands'), flags=re.M)[1:]
    assert [p.split('\n')[0] for p in parts] == list(VERBS)
    for verb, part in zip(VERBS, parts):
        assert f'```sh\nxray_xfer {verb}' in part and re.search(r'^See \[', part, re.M), verb
    shown = [re.search(r"help_of\('(\w+)'\)", ''.join(c['source'])) for c in cells('01_commands')]
    assert [m[1] for m in shown if m] == list(VERBS)

def test_help_does_not_hang_on_the_terminal_or_on_python(monkeypatch):
    "fastcore asks for the width of the terminal; pytest sets 80, which wraps otherwise; releases of Python break usage"
    from readme import output
    saved = [output(o) for c in cells('01_commands') for o in c.get('outputs', ()) if 'help_of' in ''.join(c['source'])]
    assert all(s.startswith('```\nusage: xray_xfer ') and s.split('\n')[2] == '' for s in saved)
    assert max(len(line) for s in saved for line in s.splitlines()) <= 90
    namespace = {}
    for c in cells('01_commands'):
        if (source := ''.join(c['source'])).startswith('#| hide'): exec(compile(source, 'page', 'exec'), namespace)
    for width in ('40', '200'):
        monkeypatch.setenv('COLUMNS', width)
        assert f"```\n{namespace['help_of']('study').strip()}\n```" == saved[1]

# Every file: those that the tests write are looked at where they are written (`wrong`, `wrong_of_run`)

def test_the_page_names_every_file_of_a_run():
    from xray_xfer.runs.folder import FILES
    assert set(tables()['a-run']) == FILES

def test_no_key_is_named_that_no_code_writes():
    "Each word of a key stands in the package, as a name or in a string; some (train_loss) are put together there"
    words = set(re.findall(r'[A-Za-z0-9]+', TEXT))
    for table, named in tables().items():
        for key in named:
            parts = re.findall(r'[a-z0-9]+', re.sub(r'[A-Z]{3,}', ' ', key))
            assert [p for p in parts if p not in words] == [], (table, key)

def test_a_key_too_many_and_one_too_few_are_found():
    assert unnamed(['accuracy', 'accurracy', 'valid.f1', 'intervals.recall'], 'metrics') == ['accurracy']
    assert unwritten(['schema', 'runs'], 'study') == [] and unwritten(['schema'], 'study') == ['runs']
    assert pattern('bins.WHEN[].n').fullmatch('bins.after[].n') and not pattern('METRIC_low').fullmatch('auc_high')
    assert pattern('prob_CLASS').fullmatch('prob_Viral Pneumonia')
    assert unnamed(['read_as'], 'environment') == [] and unwritten([], 'history')

def test_the_arguments_in_config_json_have_the_sentences_of_the_settings():
    from xray_xfer.settings import SETTINGS, Settings, filed
    said = filed(Settings())
    assert set(said) <= set(tables()['config']) and len(said) > 30
    assert [n for n in SETTINGS if not SETTINGS[n].option.filed and n in tables()['config']] == []

# Variables

def variables(part):
    "The names in the first column of the tables of a part of the page"
    rows = [line.split('|')[1] for line in part.splitlines() if line.startswith('| `')]
    return {name for row in rows for name in re.findall(r'`(\w+)`', row)}

READS = 'os.environ.get', 'os.environ.setdefault', 'os.environ.pop', 'os.getenv', 'getenv', 'environ.get'

def read_or_set():
    "What the package reads of the environment, or sets in it"
    found = set()
    texts = [f.read_text(encoding='utf-8') for f in SOURCES]
    for text in (t for t in texts if re.search('environ|getenv', t)):
        for n in ast.walk(ast.parse(text)):
            if isinstance(n, ast.Call) and ast.unparse(n.func) in READS:
                found.add(ast.literal_eval(n.args[0]))
            if isinstance(n, ast.Subscript) and ast.unparse(n.value) in ('os.environ', 'environ', 'env'):
                found |= {c.value for c in ast.walk(n.slice) if isinstance(getattr(c, 'value', None), str)}
            if isinstance(n, ast.BinOp | ast.AugAssign) and ast.unparse(n).startswith('os.environ |'):
                found |= {k.arg for c in ast.walk(n) if isinstance(c, ast.Call) for k in c.keywords}
                found |= {k.value for c in ast.walk(n) if isinstance(c, ast.Dict) for k in c.keys}
            if isinstance(n, ast.FunctionDef) and n.name == 'job_environment':
                found |= {c.value for c in ast.walk(n) if isinstance(c, ast.Constant) and str(c.value).isupper()}
    return found

def test_every_variable_is_on_the_page_and_no_other():
    ours, others, rest = re.split(r'^## |^And these', markdown('03_configuration'), flags=re.M)[1:4]
    named = variables(ours) | variables(others)
    assert len(read_or_set()) > 10 and read_or_set() - named == set()
    assert {n for n in re.findall(r'XRAY_XFER_[A-Z_]+|XDG_[A-Z_]+', TEXT)} <= named
    assert [n for n in named if n not in TEXT and n.lower() not in TEXT] == []
    assert all(n.startswith('XRAY_XFER_') for n in variables(ours))
    assert not named & variables(rest) and len(variables(rest)) > 3

@pytest.mark.parametrize('name, package, file', [
    ('HF_TOKEN', 'huggingface_hub', 'utils/_auth.py'), ('HF_ENDPOINT', 'huggingface_hub', 'constants.py'),
    ('HF_HOME', 'huggingface_hub', 'constants.py'), ('HF_HUB_OFFLINE', 'huggingface_hub', 'constants.py'),
    ('TORCH_HOME', 'torch', 'hub.py'), ('TIMM_USE_OLD_CACHE', 'timm', 'models/_builder.py'),
    ('KAGGLEHUB_CACHE', 'kagglehub', 'config.py'), ('KAGGLE_API_TOKEN', 'kagglehub', 'config.py'),
])
def test_libraries_still_read_theirs(name, package, file):
    assert f'`{name}`' in markdown('03_configuration')
    if (spec := importlib.util.find_spec(package)) is None: pytest.skip(f'{package} is not installed')
    assert name in (Path(spec.origin).parent/file).read_text(encoding='utf-8')

def test_exit_codes_and_caches():
    from xray_xfer.core.cache import _PLACES
    page = markdown('03_configuration')
    codes = {int(c) for c in re.findall(r'^\| (\d+) \|', page, re.M)}
    code = (root/'xray_xfer/cli.py').read_text(encoding='utf-8')
    said = code.partition('def main(')[2].partition('"')[0]
    assert codes == {int(n) for n in re.findall(r'\b(\d+) (?:on|when)', said)} == {0, 1, 2, 130}
    kept = page.partition('## What is kept on disk')[2].partition('\n## ')[0]
    assert set(re.findall(r'^\| `[^`]*` \| `(\w+)` \|', kept, re.M)) == set(_PLACES)
