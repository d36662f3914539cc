"The arguments of a run stand in one place: what `run` and `study` take has not changed, and a new option is one line."
import inspect, json, os, re, shutil, subprocess, sys
from pathlib import Path

import pytest
from fastcore.docments import docments

from xray_xfer.cli import main
from xray_xfer.data.demo import draw
from xray_xfer.options import option_parameters
from xray_xfer.settings import SETTINGS, Options, Settings
from xray_xfer.study import study
from xray_xfer.train import run

root = Path(__file__).resolve().parents[1]
# name, kind, default, type and sentence of each parameter, as they were before `Settings`, and None in each type
# that allows it; since then `epochs` and `lr` have become None: the usual ones of a depth and of an arch
BEFORE = json.loads((Path(__file__).parent/'fixtures'/'signatures.json').read_text(encoding='utf-8'))

def rows(function):
    doc = docments(function, full=True)
    text = lambda p: None if p.annotation is p.empty else inspect.formatannotation(p.annotation)
    # a sentence may stand on two lines
    said = lambda p: ' '.join(doc[p.name].docment.split()) if doc[p.name].docment else None
    return [[p.name, p.kind.name, None if p.default is p.empty else repr(p.default), text(p), said(p)]
            for p in inspect.signature(function).parameters.values()]

def test_run_takes_what_it_took():
    "In the same order; what is new since then stands between"
    then = {name for name, *_ in BEFORE['run']}
    assert [r for r in rows(run) if r[0] in then] == BEFORE['run']

def test_study_takes_what_it_took():
    "Some of its arguments had no type; those that had one keep it, and all keep their sentences"
    then = {name for name, *_ in BEFORE['study']}   # what is new since then stands between
    now = [r for r in rows(study) if r[0] in then]
    typed = [r if was[3] else [*r[:3], None, r[4]] for r, was in zip(now, BEFORE['study'], strict=True)]
    assert typed == BEFORE['study']

def test_type_checkers_are_told_the_same():
    told = {n: t for n, t in inspect.get_annotations(Options).items()}
    assert list(told) == [n for n in SETTINGS if n not in ('arch', 'depth')]
    for name, field in SETTINGS.items():
        if name in told: assert field.type == told[name], name

def test_every_option_of_the_command_is_a_field_or_a_switch():
    names = {p.name for p in option_parameters(docments(Settings))}
    assert names - set(SETTINGS) == {'no_cache', 'no_groups'} and set(SETTINGS) - names == {'cache', 'deepest'}

def test_a_new_option_is_one_line(tmp_path):
    "A field is added to `Settings` in a copy of the package, and nothing else is touched"
    shutil.copytree(root/'xray_xfer', tmp_path/'xray_xfer')
    room = tmp_path/'xray_xfer'/'settings.py'
    code = room.read_text(encoding='utf-8')
    line = '    # Before each layer of the head\n'
    assert code.count(line) == 1
    room.write_text(code.replace(line, '    # A field of a test\n    dummy:int=7\n' + line), encoding='utf-8')
    env = os.environ | dict(PYTHONPATH=str(tmp_path), XRAY_XFER_CACHE=str(tmp_path/'cache'))
    draw(tmp_path/'films', n=48, size=64)
    given = ['films', '--arch', 'shufflenetv2_050', '--pretrained', 'false', '--size', '32', '--epochs', '1',
             '--dummy', '8']
    # the last: a run is done again from its file, where something else may be said of it
    lines = [['run', *given, '--quiet'], ['run', '--config', 'runs/shufflenetv2_050_0/config.json', '--out', 'again',
                                          '--dummy', '9', '--quiet'], ['run', '--help']]
    code = f'from xray_xfer.cli import main\nfor words in {lines!r}: assert not main(words), words'
    said = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], env=env, cwd=tmp_path, capture_output=True,
                          text=True)
    assert said.returncode == 0, said.stderr
    assert re.search(r'--dummy \(int\) +A field of a test \(default: 7\)', said.stdout)
    folder = tmp_path/'runs'/'shufflenetv2_050_0'
    assert json.loads((folder/'config.json').read_text())['dummy'] == 8
    assert '--dummy 8' in (folder/'report.html').read_text(encoding='utf-8')
    assert json.loads((tmp_path/'again'/'shufflenetv2_050_0'/'config.json').read_text())['dummy'] == 9

def test_reading_finished_runs_loads_no_network_library():
    code = ("import sys, xray_xfer.report.results, "
            "xray_xfer.runs.folder, xray_xfer.runs.finished, xray_xfer.runs.command; "
            "print([m for m in ('torch', 'timm', 'fastai', 'onnxruntime') if m in sys.modules])")
    out = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True).stdout
    assert out.strip() == '[]'

@pytest.mark.parametrize('words,said', [
    (['run', 'demo', '--bs', '1'], 'bs=1: give at least 2'),
    (['run', '--config', 'nowhere'], 'nowhere'),
    (['run', 'demo', '--groups', 'almost', '--no-groups'], 'give one of the two')])
def test_what_cannot_be_is_said_in_a_line(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(words) == 1
    err = capsys.readouterr().err
    assert said in err and err.count('\n') == 1 and not list(tmp_path.iterdir())
