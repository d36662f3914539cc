"settings.ini is the one home of metadata: whatever repeats it must agree. And importing the package costs nothing."
import ast, re, runpy, subprocess, sys, tomllib
from configparser import ConfigParser
from pathlib import Path

import pytest, setuptools

import changelog
import xray_xfer

root = Path(__file__).parents[1]
ini = ConfigParser(delimiters=['='])
ini.read(root/'settings.ini', encoding='utf-8')
cfg = ini['DEFAULT']
proj = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))['project']

def test_pyproject_only_repeats():
    assert proj.pop('dynamic')
    urls = dict(Repository=cfg['git_url'], Documentation=cfg['doc_url'],
                Changelog=f"{cfg['git_url']}/blob/main/CHANGELOG.md", Issues=f"{cfg['git_url']}/issues")
    assert proj == dict(name=cfg['lib_name'], description=cfg['description'], urls=urls)

def test_version(): assert xray_xfer.__version__ == cfg['version']

def test_the_citation_repeats():
    "CITATION.cff is flat but for its authors"
    cited = dict(re.findall(r"^([\w-]+): '?(.*?)'?$", (root/'CITATION.cff').read_text(encoding='utf-8'), re.M))
    said = dict(title=cfg['lib_name'], version=cfg['version'], license=cfg['license'], abstract=cfg['description'],
                url=cfg['doc_url'], keywords=f"[{', '.join(cfg['keywords'].split())}]")
    said['repository-code'] = cfg['git_url']
    assert {k: cited.get(k) for k in said} == said
    assert f"- name: {cfg['author']}" in (root/'CITATION.cff').read_text(encoding='utf-8')

def test_the_changelog_names_the_version():
    assert changelog.version() == cfg['version'] and changelog.part(cfg['version']).strip()
    assert changelog.part('Unreleased').strip()
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    headings = re.findall(r'^## \[(.*?)\](.*)$', text, re.M)
    assert headings[0] == ('Unreleased', '')
    assert all(re.fullmatch(r' - \d{4}-\d\d-\d\d', date) for _, date in headings[1:])
    assert headings[1][0] == cfg['version'], 'the newest version comes first, below Unreleased'
    assert all(f'\n[{v}]: ' in text for v, _ in headings)
    date = re.search(r"^date-released: '(.*)'$", (root/'CITATION.cff').read_text(encoding='utf-8'), re.M)[1]
    assert headings[1][1] == f' - {date}'

def test_a_tag_of_another_version_is_refused(capsys):
    changelog.main(['--tag', f"v{cfg['version']}"])
    assert capsys.readouterr().out == changelog.part(cfg['version'])
    with pytest.raises(SystemExit, match='the tag is v9.9, and settings.ini says'): changelog.main(['--tag', 'v9.9'])
    with pytest.raises(SystemExit, match='says nothing of version 9.9'): changelog.main(['9.9'])

@pytest.fixture
def given(monkeypatch):
    "What setup.py hands to setuptools"
    arguments = {}
    monkeypatch.chdir(root)
    monkeypatch.setattr(setuptools, 'setup', lambda **kw: arguments.update(kw))
    runpy.run_path(str(root/'setup.py'))
    return arguments

def test_setup_hands_over_what_pyproject_calls_dynamic(given):
    "setuptools drops what is set and not dynamic, with nothing but a warning"
    fields = dict(version='version', long_description='readme', python_requires='requires-python', license='license',
                  author='authors', keywords='keywords', classifiers='classifiers', install_requires='dependencies',
                  extras_require='optional-dependencies', entry_points='entry-points')
    beside = {'long_description_content_type', 'author_email', 'packages', 'package_data'}
    assert set(given) == set(fields) | beside
    dynamic = tomllib.loads((root/'pyproject.toml').read_text(encoding='utf-8'))['project']['dynamic']
    assert set(dynamic) == {*fields.values(), 'scripts'}

def test_the_package_page_links_to_the_repository(given):
    targets = re.findall(r'\]\(([^)\s]+)', given['long_description'])
    assert all(t.startswith(('https://', '#')) for t in targets)
    files = [re.fullmatch(rf"{re.escape(cfg['git_url'])}/(raw|blob)/main/(\S+?)", t) for t in targets]
    assert {f[1] for f in files if f} == {'raw', 'blob'}
    assert all((root/f[2].partition('#')[0]).exists() for f in files if f)

def test_everything_is_packed(given):
    found = {f.parent.relative_to(root).as_posix().replace('/', '.') for f in (root/cfg['lib_path']).rglob('*.py')}
    assert set(given['packages']) == found
    assert given['package_data'] == {cfg['lib_path']: ['py.typed']} and (root/cfg['lib_path']/'py.typed').is_file()

def test_dev_has_every_extra_but_ray_and_the_readme_names_each(given):
    extras = given['extras_require']
    readme = (root/'README.md').read_text(encoding='utf-8')
    named = next(line for line in readme.splitlines() if line.startswith('Extras'))
    assert set(extras) >= {'dev', 'kaggle', 'excel', 'dicom', 'parquet', 'ray'}
    for name, needs in extras.items():
        assert name == 'ray' or set(needs) <= set(extras['dev'])
        assert not set(needs) & set(given['install_requires'])
        if name != 'dev': assert f'`{name}`' in named, name

def test_extras_are_imported_where_they_are_used_and_named_where_they_lack(given):
    "No room imports a package of an extra as it is loaded, and the rooms tell their users each extra's name"
    rooms = {f: f.read_text(encoding='utf-8') for f in sorted((root/cfg['lib_path']).rglob('*.py'))}
    optional = {re.match(r'[\w-]+', need)[0].replace('-', '_')
                for name, needs in given['extras_require'].items() if name != 'dev' for need in needs}
    for f, text in rooms.items():
        at_the_top = ast.parse(text).body
        imported = {a.name.split('.')[0] for n in at_the_top if isinstance(n, ast.Import) for a in n.names}
        from_there = [n for n in at_the_top if isinstance(n, ast.ImportFrom) and not n.level]
        imported |= {(n.module or '').split('.')[0] for n in from_there}
        assert not imported & optional, f
    for name in given['extras_require']:
        if name != 'dev': assert any(f"pip install 'xray_xfer[{name}]'" in text for text in rooms.values()), name

def test_extras_that_the_text_names_exist(given):
    pages = [root/n for n in ('README.md', 'CONTRIBUTING.md', 'SECURITY.md')]
    texts = [f.read_text(encoding='utf-8') for f in pages + sorted((root/cfg['lib_path']).rglob('*.py'))]
    lists = [found for text in texts for found in re.findall(r"xray_xfer\[([\w,]+)\]'", text)]
    named = {extra for found in lists for extra in found.split(',')} - {'NAME'}
    assert named and named <= set(given['extras_require'])

def test_make_targets_and_files_that_contributing_names_exist():
    text, makefile = (root/'CONTRIBUTING.md').read_text(encoding='utf-8'), (root/'Makefile').read_text(encoding='utf-8')
    for target in re.findall(r'^make (\w+)', text, re.M): assert re.search(rf'^{target}:', makefile, re.M), target
    for file in re.findall(r'`((?:tools|tests|\.github|\.ci)/[\w./-]+)`', text): assert (root/file).exists(), file

def test_contributing_has_the_floors_in_their_order():
    from test_house import FLOORS
    line = next(li for li in (root/'CONTRIBUTING.md').read_text(encoding='utf-8').splitlines()
                if li.startswith('`cli` · '))
    at = [FLOORS.index(name) for name in re.findall(r'`(\w+)`', line)]
    assert at == sorted(at, reverse=True)

def test_workflows_pin_their_actions():
    for f in sorted((root/'.github'/'workflows').glob('*.yml')):
        for action in re.findall(r'uses: (\S+)', f.read_text(encoding='utf-8')):
            assert action.startswith('./') or re.search(r'@(v\d|release/v\d|[0-9a-f]{40}$)', action), (f, action)

def test_one_quarto_yml(): assert (root/'nbs/_quarto.yml').read_text() == (root/'_quarto.yml').read_text()

def test_every_notebook_is_in_the_sidebar():
    sidebar = (root/'_quarto.yml').read_text()
    pages = [nb.relative_to(root/'nbs').as_posix() for nb in sorted((root/'nbs').rglob('*.ipynb'))
             if '.ipynb_checkpoints' not in nb.parts]
    assert [p for p in pages if not re.search(rf'(?<![\w/]){re.escape(p)}', sidebar)] == []

def test_import_is_light():
    "`import xray_xfer` and the command's overview load neither torch nor fastai nor pandas"
    code = ("import sys, xray_xfer, xray_xfer.cli; xray_xfer.cli.main(['--help']); "
            "print([m for m in ('torch', 'fastai', 'timm', 'pandas', 'matplotlib') if m in sys.modules])")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip().endswith('[]'), out
