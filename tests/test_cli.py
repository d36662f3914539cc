"The command as a user meets it: exit codes, one line an error, results on stdout alone."
import json, subprocess, sys

import numpy as np, pandas as pd, pytest
from PIL import Image

from xray_xfer.data import demo
from xray_xfer.cli import VERBS, main

ARCH = 'shufflenetv2_050'

@pytest.fixture(scope='session')
def xrays(tmp_path_factory):
    root = tmp_path_factory.mktemp('cli')/'xrays'
    demo.draw(root, n=60, size=64)
    return root

def xray(capsys, *words):
    "Exit code, stdout and stderr"
    code = main([str(w) for w in words])
    return (code, *capsys.readouterr())

def test_the_overview_keeps_verbs_apart_from_what_they_do(capsys):
    assert main([]) == 2
    said = capsys.readouterr().err
    for verb, function in VERBS.items(): assert f'  {verb} ' in said and f' {function.__doc__}' in said, verb

@pytest.mark.parametrize('verb', VERBS)
def test_help(capsys, verb):
    code, out, err = xray(capsys, verb, '--help')
    assert (code, err) == (0, '')
    assert f'usage: xray_xfer {verb}' in out
    assert VERBS[verb].__doc__.split(':')[0][:40] in ' '.join(out.split())
    assert '<' not in out, 'a type is shown as its repr'

def test_overview_and_version(capsys):
    assert xray(capsys, '--help')[0] == 0 and xray(capsys)[0] == 2
    code, out, _ = xray(capsys, '--version')
    assert code == 0 and out.startswith('xray_xfer ')
    code, out, err = xray(capsys, 'studdy')
    assert code == 2 and 'study' in err and not out

@pytest.mark.usefixtures('plain_figures')
def test_study_then_table(capsys, xrays, tmp_path):
    words = [
        'study', xrays, '--archs', ARCH, 'resnet10t', '--depths', 0, 1, '--pretrained',
        f'{ARCH}=false',
        'resnet10t=false', '--size', 64, '--epochs', 1, '--quiet', '--out', tmp_path / 's',
    ]
    code, out, err = xray(capsys, *words)
    assert (code, err) == (0, ''), err
    head = next(l for l in out.splitlines() if l.startswith('| metric'))
    assert head.count('ShuffleNetV2x0.5_') == 2 and head.count('resnet10t_') == 2 and 'from random weights' in out
    assert (tmp_path/'s'/'table.md').read_text().strip() in out
    code, again, _ = xray(capsys, 'table', tmp_path/'s')
    assert code == 0 and again.strip() == (tmp_path/'s'/'table.md').read_text().strip()
    for form, first in (('csv', 'metric,'), ('tex', '\\begin{table}')):
        assert first in xray(capsys, 'table', tmp_path / 's', '--format', form)[1]
    code, out, err = xray(capsys, *words[:-3], '--out', tmp_path/'s')    # again, aloud: everything is there
    assert code == 0 and err.count('already in') == 4

@pytest.mark.usefixtures('plain_figures')
def test_what_is_nearly_alike_is_kept_together_where_it_is_asked_for(capsys, xrays, tmp_path, monkeypatch):
    from xray_xfer.twins import find as twins
    search = twins.search
    monkeypatch.setattr(twins, 'search', lambda *a, **k: (search(*a, **k)[0], {(0, 7): .7}))
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    words = [
        'run', xrays, '--arch', ARCH, '--pretrained', 'false', '--size', 64, '--epochs', 1, '--quiet',
        '--out', tmp_path,
    ]
    code, out, err = xray(capsys, *words, '--groups', 'almost')
    assert (code, err) == (0, ''), err
    folder = tmp_path/f'{ARCH}_0'
    kept = json.loads((folder/'twins.json').read_text())
    assert kept['almost'] == 1 and '1 pair that are nearly alike' not in kept['note'] and 'nearly alike' in kept['note']
    split = pd.read_csv(folder/'split.csv', keep_default_na=False)
    assert (split.group != '').sum() == 2 and split[split.group != ''].split.nunique() == 1
    assert '--groups almost' in (folder / 'report.html').read_text()
    assert '--groups almost' in (folder / 'MODEL_CARD.md').read_text()
    assert 'nearly alike, and no twins: 1 pair of 2 images' in xray(capsys, 'check', xrays, '--quiet')[1]
    code, _, err = xray(capsys, *words, '--groups', 'almost', '--no-groups')
    assert code == 1 and 'give one of the two' in err
    assert xray(capsys, *words, '--groups', 'patients')[0] == 2

@pytest.mark.usefixtures('plain_figures')
def test_a_margin_is_asked_answered_and_spelled_again(capsys, xrays, tmp_path):
    words = [
        'study', xrays, '--archs', ARCH, '--depths', 0, 1, '--pretrained', 'false', '--size', 64,
        '--epochs', 1, '--quiet', '--out', tmp_path / 's',
    ]
    code, out, err = xray(capsys, *words, '--margin', .02)
    assert (code, err) == (0, ''), err
    report = (tmp_path/'s'/'report.html').read_text()
    assert 'A margin of 2.00 points was set before the study: ' in report and '--margin 0.02' in report
    (tmp_path/'s'/'compare.csv').write_text('metric,a,b,p\naccuracy,x,y,.1\n')   # of an older version
    assert xray(capsys, 'report', tmp_path/'s')[0] == 0 and (tmp_path/'s'/'report.html').read_text() == report
    code, _, err = xray(capsys, *words[:-1], tmp_path/'t', '--margin', 2)
    assert code == 1 and '0.01 is one point of accuracy' in err and not (tmp_path/'t').exists()

@pytest.mark.usefixtures('plain_figures')
def test_controls_of_one_run_reach_the_study(capsys, xrays, tmp_path):
    "As the README has it: a study first, then the controls of its best run"
    assert (
        xray(
            capsys, 'study', xrays, '--archs', 'resnet10t', '--depths', 0, 1, '--pretrained', 'false',
            '--size', 64, '--epochs', 1, '--quiet', '--out', tmp_path / 's',
        )[0]
        == 0
    )
    assert 'is not known yet' in (tmp_path/'s'/'report.html').read_text()
    code, out, err = xray(capsys, 'controls', tmp_path/'s'/'resnet10t_1', xrays, '--quiet', '--no-shuffled')
    assert (code, err) == (0, '') and str(tmp_path/'s'/'report.html') in out
    row = next(
        l
        for l in (tmp_path / 's' / 'table.md').read_text().splitlines()
        if l.startswith('| Accuracy, lungs blacked out')
    )
    assert row.split('|')[2].strip() == 'not run' and float(row.split('|')[3].split()[0]) <= 1
    assert 'lungs blacked out' in (tmp_path/'s'/'report.html').read_text()

@pytest.mark.usefixtures('plain_figures')
def test_run_and_report_columns(capsys, xrays, tmp_path):
    code, out, err = xray(
        capsys, 'run', xrays, '--arch', 'shufflenetv2_100', '--depth', 2, '--pretrained', 'false', '--size',
        64, '--epochs', 1, '--quiet', '--out', tmp_path, '--name', 'mine',
    )
    assert code == 0 and str(tmp_path/'mine') in out
    assert 'ShuffleNetV2_2 (report)' in xray(capsys, 'table', tmp_path, '--report')[1]

@pytest.mark.usefixtures('plain_figures')
def test_demo_is_a_study_of_three_depths(capsys, tmp_path):
    code, out, err = xray(capsys, 'demo', '--epochs', 1, '--quiet', '--out', tmp_path/'d')
    assert code == 0 and 'from random weights' in out and 'say nothing about X-rays' in out
    assert sum(p.is_dir() for p in (tmp_path/'d').iterdir()) == 3

@pytest.mark.parametrize('words, message', [
    (['run', 'no_such_folder'], 'no_such_folder'),
    (['run', 'demo', '--arch', 'eficientnet_b0'], 'efficientnet_b0'),
    (['run', 'demo', '--arch', ARCH, '--depth', '9', '--pretrained', 'false'], '5 layer groups'),
    (['run', 'demo', '--arch', ARCH, '--pretrained', 'none.pth'], 'none.pth'),
    (['study', 'demo', '--archs', ARCH, '--pretrained', 'true', f'{ARCH}=false'], 'ARCH=VALUE'),
    (['study', 'demo', '--archs', ARCH, '--pretrained', 'resnet18=x.pth'], 'resnet18=x.pth'),
    (['table', 'no_such_folder'], 'no finished run'),
    (['check', 'no_such.zip'], 'no_such.zip'),
])
def test_an_error_is_one_line(capsys, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    code, out, err = xray(capsys, *words)
    lines = [l for l in err.splitlines() if not l.startswith('packing')]
    assert code == 1 and not out and len(lines) == 1 and lines[0].startswith('xray_xfer: error:') and message in err
    code, out, err = xray(capsys, *words, '--debug')
    assert code == 1 and 'Traceback' in err
    assert list(tmp_path.iterdir()) == []

@pytest.mark.parametrize(
    'words',
    [
        ['run'],
        ['run', 'demo', '--epochs', 'many'],
        ['run', 'demo', '--depth', 'two'],
        ['run', 'demo', '--resize', 'crop'],
        ['study', 'demo', '--nonsense'],
        ['table', 'x', '--format', 'html'],
    ],
)
def test_a_wrong_command_line_is_exit_code_2(capsys, words):
    code, out, err = xray(capsys, *words)
    assert code == 2 and 'usage: xray_xfer' in err and not out

def test_check_counts_and_files_rejects(capsys, tmp_path):
    noise = np.random.default_rng(0)
    for c, mode in (('A', 'L'), ('B', 'RGB')):
        (tmp_path/'src'/c).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(noise.integers(0, 255, (40, 50 + i % 2), dtype=np.uint8)).convert(mode).save(
                tmp_path / 'src' / c / f'{i}.png'
            )
    (tmp_path/'src'/'A'/'zero.png').touch()
    (tmp_path/'src'/'B'/'scan.dcm').write_bytes(b'\0' * 128 + b'DICM')
    code, out, err = xray(capsys, 'check', tmp_path/'src', '--rejects', tmp_path/'rejects.csv', '--quiet')
    assert code == 0 and '12 files in 2 classes: 10 images, 2 rejects' in out
    for words in ('L (5)', 'RGB (5)', '50x40 (6)', '51x40 (4)', 'PNG (10)', 'zero bytes', 'DICOM'):
        assert words in out, words
    assert (tmp_path/'rejects.csv').read_text().count('\n') == 3

def test_check_tells_of_twins(capsys, tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (6, 64, 64), dtype=np.uint8)
    for c, rows in dict(A=(0, 1, 2), B=(0, 3, 4, 5)).items():
        (tmp_path/'src'/c).mkdir(parents=True)
        for i in rows: Image.fromarray(noise[i]).save(tmp_path/'src'/c/f'{i}.png')
    code, out, err = xray(capsys, 'check', tmp_path/'src', '--quiet')
    assert code == 0
    assert '2 of 7 images have a twin: 1 exact' in out
    assert 'pairs under two labels (correct one of each, or leave both out): 1' in out
    assert 'A/0.png (A) and B/0.png (B)' in out
    assert 'twins' not in xray(capsys, 'check', tmp_path/'src', '--quiet', '--no-twins')[1]

def test_a_reader_that_leaves_early(xrays):
    "`xray_xfer check FOLDER | head -1` ends quietly"
    p = subprocess.run(
        f"{sys.executable} -W ignore -c 'import sys; from xray_xfer.cli import main; sys.exit(main())' "
        f"check {xrays} --quiet | head -1",
        shell=True,
        capture_output=True,
        text=True,
    )
    assert 'Traceback' not in p.stderr and 'BrokenPipe' not in p.stderr and p.stdout.count('\n') == 1

@pytest.mark.usefixtures('plain_figures')
def test_cache_lists_and_clears(capsys, xrays, tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))
    assert (
        xray(
            capsys, 'run', xrays, '--arch', ARCH, '--depth', 1, '--pretrained', 'false', '--size', 64,
            '--epochs', 1, '--quiet', '--out', tmp_path,
        )[0]
        == 0
    )
    code, out, err = xray(capsys, 'cache')
    assert (code, err) == (0, '')
    assert '4 entries' in out
    assert '60 images of 64 px, squish' in out
    assert '60 images of 224 px' in out
    assert f'{ARCH} depth 1, float16' in out
    # two packs, of training and for the twins, and these
    assert '1 features dropped' in xray(capsys, 'cache', '--limit', 0)[1] and '3 entries' in xray(capsys, 'cache')[1]
    assert 'MB freed' in xray(capsys, 'cache', '--clear', 'all')[1] and '0 entries' in xray(capsys, 'cache')[1]
    code, out, err = xray(capsys, 'cache', '--limit', 'nan')
    assert code == 1 and 'limit' in err
