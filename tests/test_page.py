"""report.html and MODEL_CARD.md of hostile, partial and damaged folders; in a real browser,
in the widths of a phone and of a desk."""
import json, re, shlex
from html.parser import HTMLParser
from pathlib import Path

import numpy as np, pandas as pd, pytest, yaml
from fastcore.script import anno_parser
from huggingface_hub import ModelCard
from hypothesis import given, settings, strategies as st
from PIL import Image

from browser import Browser, chromium
from xray_xfer.report.card import card_text, escaped, model_card
from xray_xfer.evaluate.predictions import metrics_of, predictions_table
from xray_xfer.core.files import write_csv, write_json
from xray_xfer.runs.folder import Run
from xray_xfer.report.figures import calibration_figure, confusion_figure, errors_figure, roc_figure
from xray_xfer.report.compared import report, study_report
from xray_xfer.report.page import run_report
from xray_xfer.report.curves import curves, depth_figure
from xray_xfer.report.html import grid
from xray_xfer.core.say import text_of
from xray_xfer.report.answer import Margin, check_margin, difference_words, is_best
from xray_xfer.runs.command import command
from fastcore.xml import to_xml

HOSTILE = ['<script>document.title = "owned"</script>', '"quoted\' & <b>', 'NA', 'x' * 120]
PLAIN = ['COVID', 'Normal', 'Viral Pneumonia']

def invent(folder, classes=PLAIN, depth=1, seed=0, skill=2., figures=True, arch='shufflenetv2_100', data='X-rays'):
    "A run folder of a network that exists nowhere, with every file that a run may have"
    folder.mkdir(parents=True)
    k, rng = len(classes), np.random.default_rng(depth if isinstance(depth, int) else 9)
    y = np.arange(200) % k
    logits = (rng.normal(size=(200, k)) + skill * np.eye(k)[y]).astype(np.float32)
    part = ['valid'] * 60 + ['test'] * 140
    p = predictions_table([f'{classes[c][:9]}/{i}.png' for i, c in enumerate(y)], part, [''] * 200,
                          [classes[c] for c in y], logits, classes)
    config = dict(schema=1, xray_xfer='0.1.0', data=data, images=700, rejects=1, classes=classes,
                  data_digest='0123456789abcdef', arch=arch, depth=depth, pretrained='w.safetensors sha256:0',
                  weights='w.safetensors', left_out=[], epochs=3, lr=[.002, .002], bs=64, wd=.01, dropout=.2,
                  augment=False, size=96, resize='squish', mean=[.5] * 3, std=[.5] * 3, valid=.1, test=.2, split=None,
                  seed=seed, split_seed=0, precision='fp32', device='cpu')
    write_json(config, folder/'config.json')
    m = metrics_of(p)
    numbers = {a: v for a, v in m.items() if isinstance(v, float)}
    beside = dict(valid=metrics_of(p, 'valid'), best_epoch=2,
                  intervals={a: [v - .04, min(1, v + .03)] for a, v in numbers.items()}, interval_note='Invented.')
    write_json(m | beside, folder/'metrics.json')
    bins = [dict(confidence=c, accuracy=c - .05, n=28) for c in (.5, .6, .7, .8, .9)]
    calibration = dict(temperature=1.3, fitted_on=60, before=dict(ece=.05, brier=.2, nll=.4),
                       after=dict(ece=.04, brier=.19, nll=None), bins=dict(before=bins, after=bins), note='A note.')
    write_json(calibration, folder/'calibration.json')
    crossing = [['a.png', classes[0], 'b.png', classes[1], .993]]
    twins = dict(grouped=True, exact_pairs=1, near_pairs=2, groups=2, images=5, crossing_labels=crossing,
                 note='What it is.')
    write_json(twins, folder/'twins.json')
    found = dict(sentence='With the lungs blacked out it still scores 0.81.', mask='automatic lung box',
                 rows=[dict(control='lungs blacked out', n=140, accuracy=.81, interval=None, f1=.8, auc=None)],
                 sources=[dict(source='<i>clinic</i>', n=3, accuracy=.5, interval=[.1, .9])],
                 source_alone=dict(accuracy=.7, chance=.4, n=140))
    write_json(found, folder/'controls.json')
    environment = dict(python='3.11', system='Linux', device='cpu', device_name='a processor', cores=2, threads=2,
                       cuda=None, versions=dict(torch='2'))
    write_json(environment, folder/'environment.json')
    write_json(dict(train=1.5), folder/'timings.json')
    write_csv(p, folder/'predictions.csv')
    split = pd.DataFrame(dict(path=[f'{i}.png' for i in range(700)], label=[classes[i % k] for i in range(700)],
                              group='', split=['train'] * 500 + part))
    write_csv(split, folder/'split.csv')
    rejects = pd.DataFrame([dict(path='deep/folder/<x>.png', label=classes[0], reason='damaged')])
    write_csv(rejects, folder/'rejects.csv')
    history = pd.DataFrame(dict(epoch=[1, 2, 3], train_loss=[1, .6, .4], train_accuracy=[.5, .7, .8],
                                valid_loss=[.9, .5, .6], valid_accuracy=[.6, .8, .8]))
    write_csv(history, folder/'history.csv')
    if figures:
        ims = rng.integers(0, 255, (140, 32, 32), dtype=np.uint8)
        made = dict(curves=curves(history, best=2), confusion=confusion_figure(p), roc=roc_figure(p),
                    errors=errors_figure(ims, p), gradcam=errors_figure(ims, p),
                    calibration=calibration_figure(calibration))
        for name, fig in made.items(): fig.savefig(folder/f'{name}.png', dpi=45)
    return folder

def invent_study(folder, seeds=(0,), depths=(0, 1, 2), **kwargs):
    folder.mkdir(parents=True)
    runs = {}   # of each depth
    for i, d in enumerate(depths):
        names = [f'shufflenetv2_100_{d}_seed{s}' if s else f'shufflenetv2_100_{d}' for s in seeds]
        runs[d] = [invent(folder/n, depth=d, seed=s, skill=1 + i, **kwargs) for n, s in zip(names, seeds)]
    write_json(dict(schema=1, runs=[r.name for d in depths for r in runs[d]]), folder/'study.json')
    def mean(runs, metric): return np.mean([json.loads((r/'metrics.json').read_text())[metric] for r in runs])
    metrics = 'accuracy', 'f1', 'auc'
    value = {f'ShuffleNetV2_{d}': {m: mean(runs[d], m) for m in metrics} for d in depths}
    pairs = [(a, b) for i, a in enumerate(value) for b in list(value)[:i]]
    shared = dict(seeds_a=len(seeds), seeds_b=len(seeds), difference=.1, low=.05, high=.15, p=.001, p_holm=.002,
                  low_holm=.045, high_holm=.155, low_all=.04, high_all=.16, df=None, test='')
    rows = [dict(metric=m, a=a, b=b, value_a=value[a][m], value_b=value[b][m]) | shared
            for m in metrics for a, b in pairs]
    pd.DataFrame(rows).to_csv(folder/'compare.csv', index=False)
    results = pd.DataFrame([dict(name='A', depth=d, seed=0, accuracy=.8) for d in depths])
    depth_figure(results).savefig(folder/'depths.png', dpi=120)
    return folder

class Checked(HTMLParser):
    "What a page is made of; open and close tags must match"
    VOID = {'meta', 'link', 'img', 'br', 'input', 'hr'}
    def __init__(self, text):
        super().__init__(); self.open, self.tags, self.attrs, self.text = [], [], [], ''
        self.feed(text); self.close()
        assert self.open == []
    def handle_starttag(self, tag, attrs):
        self.tags.append(tag); self.attrs += attrs
        if tag not in self.VOID: self.open.append(tag)
    def handle_endtag(self, tag): assert self.open.pop() == tag
    def handle_data(self, data):
        if not (self.open and self.open[-1] == "style"): self.text += " " + data

@pytest.fixture(scope='module')
def hostile(tmp_path_factory): return invent_study(tmp_path_factory.mktemp('h')/'a study', classes=HOSTILE)

@pytest.fixture(scope='module')
def bare(tmp_path_factory):
    "A run of which only the two required files are left"
    folder = invent(tmp_path_factory.mktemp('b')/'bare', figures=False)
    for f in folder.iterdir():
        if f.name not in ('config.json', 'metrics.json'): f.unlink()
    m = json.loads((folder/'metrics.json').read_text())
    write_json({k: m[k] for k in ('accuracy', 'f1', 'precision', 'recall', 'n')} | dict(auc=None),
               folder/'metrics.json')
    return folder

def test_self_contained_and_escaped(hostile):
    for folder in (hostile, hostile/'shufflenetv2_100_2'):
        page = Checked(text := report(folder).read_text())
        assert not {'script', 'iframe', 'object', 'form'} & set(page.tags)
        assert page.tags.count('h1') == 1 and page.tags.count('main') == 1
        for name, value in page.attrs:
            if name == 'src': assert value.startswith('data:image/')
            if name == 'href': assert value.startswith(('#', 'data:'))
            assert not name.startswith('on')
        assert re.search(r'url\(|@import', text) is None
        assert HOSTILE[0] in page.text and HOSTILE[1] in page.text
        ids = [v for n, v in page.attrs if n == 'id']
        assert len(set(ids)) == len(ids)
        assert {v[1:] for n, v in page.attrs if n == 'href' and v.startswith('#')} <= set(ids)
        assert all(v for n, v in page.attrs if n == 'alt') and 'nan' not in page.text.lower().split()

def test_same_bytes_again(hostile):
    first = report(hostile).read_bytes()
    assert report(hostile).read_bytes() == first
    assert not list(hostile.glob('.*'))

def test_missing_files_are_said(bare):
    text = Checked(run_report(bare).read_text()).text
    absent = [f'{file} is not in the folder' for file in ('split.csv', 'curves.png', 'predictions.csv',
                                                          'environment.json')]
    for said in ('not defined', 'no interval was computed', 'Near-duplicates were not looked for',
                 'Calibration was not computed', f'xray_xfer controls {bare.parent.name}/bare X-rays', *absent):
        assert said in text, said
    card = model_card(bare).read_text()
    for said in ('not defined', 'not looked for', 'Not computed', 'were not run'): assert said in card, said

@pytest.mark.parametrize('name', ['calibration.json', 'twins.json', 'controls.json', 'environment.json', 'timings.json',
                                  'predictions.csv', 'split.csv', 'rejects.csv', 'curves.png', 'gradcam.png'])
@pytest.mark.parametrize('content',
                         [b'', b'{"a"', b'[1, 2]', b'{"rows": 3, "bins": 4}', b'\xff\xfe\x00', b'path,label\n1,2\n'],
                         ids=['empty', 'cut', 'list', 'other', 'binary', 'table'])
def test_damage_costs_a_section_at_most(tmp_path, name, content):
    folder = invent(tmp_path/'r', figures=False)
    (folder/name).write_bytes(content)
    text = Checked(run_report(folder).read_text()).text
    assert 'The answer' in text and 'How to do it again' in text and 'Not for clinical use' in text
    assert 'Not for clinical use' in model_card(folder).read_text()

def test_no_groups_is_no_damage(tmp_path):
    folder = invent(tmp_path/'r', figures=False)
    note = 'Near-duplicates were not looked for, and groups were not kept together (groups=False).'
    write_json(dict(grouped=False, note=note), folder/'twins.json')
    page, card = run_report(folder).read_text(), model_card(folder).read_text()
    for text in (page, card):
        assert 'groups were not kept together' in text
        assert 'not as this version writes it' not in text and 'there is no twins.json' not in text

def test_a_missing_interval_is_said(tmp_path):
    folder = invent(tmp_path/'r', figures=False)
    m = json.loads((folder/'metrics.json').read_text())
    write_json(m | dict(intervals={k: None for k in m['intervals']}), folder/'metrics.json')
    page, card = run_report(folder).read_text(), model_card(folder).read_text()
    assert page.count('no interval') >= 5 and card.count('not defined') >= 5

def test_required_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='holds no finished run'): report(tmp_path)
    with pytest.raises(FileNotFoundError, match='no finished run'): report(tmp_path/'nowhere')
    folder = invent(tmp_path/'r', figures=False)
    (folder/'metrics.json').write_text('{')
    with pytest.raises(ValueError, match='damaged'): report(folder)
    (folder/'metrics.json').unlink()
    with pytest.raises(FileNotFoundError, match='metrics.json is missing'): report(folder)

def test_names_that_are_no_text(tmp_path):
    "Folders and classes on Linux may hold any bytes"
    folder = invent(tmp_path/'r', classes=['\udcff\udc80', 'a\x1bb', '日本', 'no'], data='\udcfe', figures=False)
    report(folder).read_text(encoding='utf-8')
    card = ModelCard(model_card(folder).read_text(encoding='utf-8'))
    assert card.data.model_name == 'ShuffleNetV2_1 on \\udcfe'

def test_study_without_comparison_and_with_seeds(tmp_path):
    folder = invent_study(tmp_path/'s', seeds=(0, 1), depths=(0, 1), figures=False)
    text = Checked(study_report(folder).read_text()).text
    assert 'Over 2 seeds its accuracy is' in text and 'training noise only' in text and 'ShuffleNetV2_1 seed 1' in text
    (folder/'compare.csv').write_text('metric,a\naccuracy,x\n')
    assert 'not as this version writes it' in study_report(folder).read_text()
    for content in ('', '\0\0'):
        (folder/'compare.csv').write_text(content)
        Checked(study_report(folder).read_text())
    (folder/'compare.csv').unlink(); (folder/'study.json').unlink()
    assert 'was not tested' in study_report(folder).read_text()   # a folder of single runs

def edit(file, **changes): write_json(json.loads(file.read_text()) | changes, file)

@pytest.mark.parametrize('what', ['epochs', 'split', 'data', 'weights'])
def test_runs_that_are_no_study_are_not_compared(tmp_path, what):
    "Settings, split or data differ: no best, no differences, no spread over seeds"
    folder = invent_study(tmp_path/'s', seeds=(0, 1), depths=(0, 1), figures=False)
    (folder/'study.json').unlink()
    other = folder/'shufflenetv2_100_1'
    if what == 'split': (other/'split.csv').write_text((other/'split.csv').read_text().replace(',valid', ',train', 1))
    else:
        changes = dict(epochs=dict(epochs=20), data=dict(data='other films', images=5),
                       weights=dict(weights='others', pretrained='others'))
        edit(other/'config.json', **changes[what])
    text = Checked(study_report(folder).read_text()).text
    named = dict(split='split.csv', epochs='epochs', data='data, images', weights='pretrained, weights')
    assert f'These runs differ in {named[what]}' in text
    for words in ('is the best', 'over one split', 'Over 2 seeds', 'Over seeds', 'Are the differences real'):
        assert words not in text
    assert 'that must not be compared' in text and 'shufflenetv2_100_0' in text

def test_a_comparison_of_runs_that_were_replaced_is_not_shown(tmp_path):
    folder = invent_study(tmp_path/'s', depths=(0, 1), figures=False)
    assert 'p = 0.002' in study_report(folder).read_text().replace('\u00a0', ' ')
    edit(folder/'shufflenetv2_100_1'/'metrics.json', accuracy=.5)
    text = study_report(folder).read_text().replace('\u00a0', ' ')
    assert 'compare.csv is of other runs' in text and 'p = 0.002' not in text and 'was not tested' in text

def test_beside_the_report_stand_means_over_seeds(tmp_path):
    folder = invent_study(tmp_path/'s', seeds=(0, 1), figures=False)
    # depth 2 is best with one seed, and not on average
    for depth, accuracies in enumerate(((.8, .8), (.9, .9), (.99, .7))):
        for seed, a in enumerate(accuracies):
            edit(folder/(f'shufflenetv2_100_{depth}' + '_seed1' * seed)/'metrics.json',
                 **{k: a for k in ('accuracy', 'f1', 'precision', 'recall', 'auc')})
    assert 'depth 2 is best on 0 of 5 by the means over 2 seeds.' in Checked(study_report(folder).read_text()).text

def test_a_report_from_within_its_folder(tmp_path, monkeypatch):
    folder = invent_study(tmp_path/'my study', depths=(0, 1), figures=False, data="Anna's films")
    for r in folder.glob('shuf*'): (r/'controls.json').unlink()
    for where, told in ((folder, "xray_xfer controls 'my study/shufflenetv2_100_1'"),
                        (folder/'shufflenetv2_100_0', "xray_xfer controls 'my study/shufflenetv2_100_0'")):
        monkeypatch.chdir(where)
        text = Checked(report('.').read_text()).text
        assert told in text and """ 'Anna'"'"'s films'""" in text and "--out ''" not in text and "--name ''" not in text

def test_best_is_chosen_by_validation(tmp_path):
    "The luckiest test score is not the best model"
    folder = invent_study(tmp_path/'s', depths=(0, 2), figures=False)
    for name, test, valid in (('0', .99, .80), ('2', .90, .95)):
        file = folder/f'shufflenetv2_100_{name}'/'metrics.json'
        m = json.loads(file.read_text())
        write_json(m | dict(accuracy=test, valid=m['valid'] | dict(accuracy=valid)), file)
    text = Checked(study_report(folder).read_text()).text
    assert 'with its last 2 layer groups fine-tuned was chosen on the validation part' in text
    assert 'ShuffleNetV2_0 scores higher on the test part (0.9900)' in text

def compared(a, b, difference, low, high, p, seeds=1):
    return dict(metric='accuracy', a=a, b=b, seeds_a=seeds, seeds_b=seeds, difference=difference, low_holm=low,
                high_holm=high, low_all=low, high_all=high, p_holm=p)

NAN = float('nan')

def test_differences_are_turned_the_right_way_round():
    rows = [compared('x', 'best', -.08, -.1, -.05, .01), compared('best', 'y', -.01, -.03, .02, .6),
            compared('best', 'z', *4 * [NAN]), compared('x', 'y', .5, .4, .6, 0)]
    higher, unsure, *scope = difference_words(pd.DataFrame(rows), 'best')
    assert higher == 'Its accuracy is higher than that of x (by 8.00 points; 5.00 to 10.00; p\u00a0=\u00a00.010).'
    assert unsure == 'No difference in accuracy from y (−1.00 points; −3.00 to +2.00; p\u00a0=\u00a00.600) was found.'
    assert scope == ['Whether it differs from z cannot be tested on these images.',
                     'Intervals and p-values are corrected for the 3 pairs of models (Holm).',
                     'These statements hold for other images and for these trained networks; another seed may differ.']
    lower = difference_words(pd.DataFrame([compared('best', 'x', -.08, -.1, -.05, .01, seeds=3)]), 'best')
    assert lower[0] == 'Its accuracy is lower than that of x (by 8.00 points; 5.00 to 10.00; p\u00a0=\u00a00.010).'
    assert lower[1:] == ['These statements hold for other images and other seeds.']
    rows = [compared('best', 'x', .08, .05, .1, .01, seeds=3),
            compared('best', 'y', .08, .05, .1, .01) | dict(seeds_a=3)]
    mixed = difference_words(pd.DataFrame(rows), 'best')
    assert mixed[-1] == ('These statements hold for other images and other seeds, except for y: where a model has a '
                         'single seed, what is said is about these trained networks, and another seed may differ.')
    untested = pd.DataFrame([compared('best', 'z', .1, NAN, NAN, NAN)])
    said = ['Whether it differs from the other models cannot be tested on these images.']
    assert difference_words(untested, 'best') == said
    just_below = pd.DataFrame([compared('best', 'x', .08, .001, .1, .0499)])
    assert 'p\u00a0=\u00a00.0499' in difference_words(just_below, 'best')[0]
    at_the_level = pd.DataFrame([compared('best', 'x', .08, 0., .1, .05)])
    assert 'p\u00a0=\u00a00.050' in difference_words(at_the_level, 'best')[0]

@pytest.mark.parametrize('low, high, p, said', [
    (-.009, .009, .9, 'x is as good to within the margin.'),
    (.001, .009, .01, 'x is as good to within the margin.'),
    (-.02, .009, .5, 'x is at most 0.90 points worse.'),
    (-.02, 0., .06, 'x is not worse.'),
    (-.02, -.001, .01, ''),
    (.011, .05, .01, 'x is worse by more than the margin.'),
    (-.01, .01, 1, 'it is open whether x is worse by more than the margin.'),
    (.001, .03, .01, 'it is open whether x is worse by more than the margin.'),
    (-.02, .02, .9, 'it is open whether x is worse by more than the margin.')])
def test_a_margin_is_answered_by_the_ends_of_the_interval(low, high, p, said):
    "The difference is the chosen model's score less that of x; an end on the margin shows nothing"
    rows = pd.DataFrame([compared('best', 'x', (low + high) / 2, low, high, p)])
    text = ' '.join(difference_words(rows, 'best', margin=Margin(.01, True)))
    assert ('A margin of 1.00 points was set before the study: ' + said in text) if said else 'margin' not in text
    swapped = pd.DataFrame([compared('x', 'best', -(low + high) / 2, -high, -low, p)])
    assert ' '.join(difference_words(swapped, 'best', margin=Margin(.01, True))) == text

def test_what_is_no_margin():
    for margin in (0, 1, -.01, 'a', True, NAN, 2):
        with pytest.raises(ValueError, match='0.01 is one point of accuracy'): check_margin(margin)
    assert check_margin(None) is None and check_margin(np.float32(.5)) == .5

def test_a_study_of_several_seeds_shows_its_models(tmp_path):
    "No section is lost: the seeds of each model, all comparisons, and the figures"
    folder = invent_study(tmp_path/'s', seeds=(0, 1, 2), depths=(0, 1), figures=False)
    text = Checked(study_report(folder).read_text()).text
    assert 'cannot be shown' not in text and 'Over seeds' in text
    assert 'for other images and other seeds, and the standard deviation' in text
    assert 'ShuffleNetV2_1 −\xa0ShuffleNetV2_0' in text

def test_a_model_that_came_later_was_not_compared(tmp_path):
    folder = invent_study(tmp_path/'s', depths=(0, 1), figures=False)
    invent(folder/'shufflenetv2_100_2', depth=2, skill=9., figures=False)
    names = json.loads((folder/'study.json').read_text())['runs']
    edit(folder/'study.json', runs=[*names, 'shufflenetv2_100_2'])
    text = Checked(study_report(folder).read_text()).text
    assert 'is the best' not in text and 'compare.csv is of other runs' in text

def test_only_who_is_better_than_all_is_the_best():
    rows = pd.DataFrame([compared('best', 'x', .08, .05, .1, .01), compared('y', 'best', -.02, -.03, -.01, .04),
                         compared('x', 'y', .5, .4, .6, 0)])
    assert is_best(rows, 'best') and not is_best(rows, 'x')
    assert not is_best(rows.assign(p_holm=.05), 'best')
    assert not is_best(rows.assign(p_holm=NAN), 'best')

def test_sizes(tmp_path):
    "Figures as heavy as X-ray noise makes them: a run stays below 2 MB, a study of six below 4"
    noise = np.random.default_rng(0).integers(0, 255, (1440, 1080), dtype=np.uint8)
    folder = invent_study(tmp_path/'s', depths=(0, 1, 2, 3, 4, 5), figures=False)
    Image.fromarray(noise).save(tmp_path/'noise.png', compress_level=1)
    for r in folder.glob('shuf*'):
        for f in ('curves', 'confusion', 'roc', 'errors', 'gradcam', 'calibration'):
            Image.fromarray(noise[:700]).save(r/f'{f}.png', compress_level=1)
    # noise is twice as heavy as any X-ray
    assert report(folder/'shufflenetv2_100_5').stat().st_size < 4e6 and report(folder).stat().st_size < 8e6

@pytest.mark.parametrize('changes', [
    {},
    dict(depth='all', pretrained=True, augment=True),
    dict(pretrained=False, data='a b/$x', split='split.csv', seed=3),
    dict(data="it's; rm -rf"),
    dict(groups='almost'),
])
def test_the_command_says_what_the_config_says(changes):
    "Read back by the command's own parser"
    from xray_xfer import cli
    config = dict(data='d', arch='resnet18', depth=1, pretrained='w s.pth sha256:ab', epochs=3, lr=[.003, .003],
                  bs=32, wd=.02, dropout=.1, augment=False, size=96, resize='pad', valid=.15, test=.25, split=None,
                  seed=0, split_seed=4, precision='fp32', device='cpu') | changes
    words = shlex.split(command([config], 'the name').replace('\\\n', ''))   # as a shell joins the lines
    assert words[:2] == ['xray_xfer', 'run']
    got = vars(anno_parser(cli.run, prog='x', pos=['data']).parse_args(words[2:]))
    for k in config.keys() - {'lr', 'pretrained', 'split'}: assert got[k] == config[k], k
    assert got['lr'] == config['lr'][1] and got['name'] == 'the name'
    assert (got['split'] and got['split'].name) == config['split']
    weights = config['pretrained'] if isinstance(config['pretrained'], bool) else 'w s.pth'
    assert got['pretrained'] == weights
    configs = [config, config | dict(arch='resnet34', depth=2, pretrained=False)]
    words = shlex.split(command(configs, 'out', study=True).replace('\\\n', ''))
    got = vars(anno_parser(cli.study, prog='x').parse_args(words[2:]))
    assert got['archs'] == ['resnet18', 'resnet34'] and str(got['out']) == 'out'
    weights_of_each = cli.weights_for(got['pretrained'], got['archs'])
    assert weights_of_each == dict(resnet18=weights, resnet34=False) or not config['pretrained']

@settings(max_examples=60, deadline=None)
@given(st.text(min_size=1), st.text())
def test_any_text_survives(a, b):
    text = to_xml(grid([a, 'n'], [[b, 1.5]], a), indent=False)
    page = Checked(text)
    assert ' '.join(text_of(b).split()) in ' '.join(page.text.split())
    tags = {'div', 'table', 'thead', 'tbody', 'tr', 'th', 'td', 'caption'}
    assert set(page.tags) == tags - (set() if a else {'caption'})
    assert '\n' not in escaped(a) and not re.search(r'(?<!\\)[<`]', escaped(a))

class_names = st.text(alphabet=st.characters(exclude_categories=['Cs']), min_size=1, max_size=12)   # no surrogates

@settings(max_examples=40, deadline=None)
@given(st.lists(class_names, min_size=2, max_size=4, unique=True), st.text(max_size=20))
def test_the_card_is_yaml_for_any_names(classes, data):
    config = dict(schema=1, xray_xfer='0.1.0', data=data, images=9, rejects=0, classes=classes, arch='resnet18',
                  depth=1, pretrained=True, weights='timm/x', epochs=1, lr=[.001, .003], bs=2, wd=0., dropout=.1,
                  augment=False, size=32, resize='squish', mean=[.5] * 3, std=[.5] * 3, valid=.1, test=.2, split=None,
                  seed=0, split_seed=0, precision='fp32', device='cpu')
    scores = dict(accuracy=.5, f1=.5, precision=.5, recall=.5, auc=None, n=9, missing=[classes[0]])
    text = card_text(Run(Path('p'), config, scores))
    front = yaml.safe_load(text.split('---\n')[1])
    assert front['license'] == 'unknown'
    assert front['model-index'][0]['results'][0]['metrics'][0] == dict(type='accuracy', value=.5, name='Accuracy')
    assert ModelCard(text).data.eval_results[0].metric_value == .5

no_browser = 'no Chromium or Chrome on this machine: apt-get install chromium (or set XRAY_XFER_CHROMIUM)'
needs_browser = pytest.mark.skipif(chromium() is None, reason=no_browser)

@needs_browser
def test_in_a_browser(hostile, bare):
    "No complaint, no request, no missing image, nothing wider than the screen; readable in light and dark; printable"
    pages = [report(hostile), report(hostile/'shufflenetv2_100_2'), report(bare)]
    with Browser() as b:
        for page in pages:
            for width in (390, 1280):
                b.open(page, width, dark=width == 390)
                seen = b.look()
                assert b.complaints == [] and b.requests == []
                assert seen['window'] == width and seen['page'] <= width and seen['sticking'] == []
                assert seen['broken'] == 0 and seen['mute'] == 0 and seen['links'] == 0
                assert seen['images'] == dict(zip(pages, (9, 6, 0)))[page]
                assert all(b - a <= 1 for a, b in zip(seen['headings'], seen['headings'][1:])), 'headings skip no level'
                assert 'owned' not in b.js('document.title').split() and b.js('document.scripts.length') == 0
                assert b.js(CONTRAST) >= 4.5
            b.open(page, 700, paper=True)
            assert b.look()['page'] <= 700 and b.js('getComputedStyle(document.querySelector("nav")).display') == 'none'
        # the test can fail: what it looks for is found where it is
        broken = hostile.parent/'broken.html'
        broken.write_text('<!doctype html><img src="data:image/png;base64,AAAA"><a href="#x">x</a>'
                          '<div style="width: 2000px">wide</div><script>console.error(1)</script>')
        b.open(broken, 390)
        seen = b.look()
        assert b.complaints and seen['page'] > 390 and seen['sticking']
        assert seen['broken'] == seen['mute'] == seen['links'] == 1

# The lowest contrast (WCAG 2) of any text with what is behind it
CONTRAST = '''(() => {
  const rgb = s => s.match(/[\\d.]+/g).map(Number);
  const linear = v => (v /= 255) <= .03928 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4;
  const lum = c => {
    const f = c.slice(0, 3).map(linear);
    return .2126 * f[0] + .7152 * f[1] + .0722 * f[2];
  };
  const behind = e => {
    while (e) {
      const c = rgb(getComputedStyle(e).backgroundColor);
      if (c.length < 4 || c[3]) return c;
      e = e.parentElement;
    }
    return [255, 255, 255];
  };
  const contrast = e => {
    const [a, b] = [lum(rgb(getComputedStyle(e).color)), lum(behind(e))].sort((x, y) => y - x);
    return (a + .05) / (b + .05);
  };
  const holdsText = e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim());
  const all = [...document.querySelectorAll('main *, header *, nav *, footer *')];
  return Math.min(...all.filter(holdsText).map(contrast));
})()'''

@needs_browser
@pytest.mark.parametrize('seeds', [(0, 1)])
def test_a_wide_study_in_a_browser(tmp_path, seeds):
    "Many models, long names: the tables scroll, the page does not"
    folder = invent_study(tmp_path/'s', seeds=seeds, depths=(0, 1, 2, 3, 'all'), figures=False,
                          classes=['a very long class name ' * 4, 'w' * 90, 'c', 'd', 'e', 'f'])
    with Browser() as b:
        for width in (390, 1280):
            b.open(report(folder), width)
            seen = b.look()
            assert b.complaints == [] and seen['page'] <= width and seen['sticking'] == []
