"Arrangements that public data sets and bug reports show: what is an image, a class, a part of the split, or none."
import shutil
import warnings
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from xray_xfer.cli import main
from xray_xfer.data.table import images_of
from xray_xfer.data.columns import relative_paths


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('XRAY_XFER_CACHE', str(tmp_path/'cache'))


drawn = iter(range(10**9))

def picture(path, size=24):
    "A small picture of its own: no two are alike"
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(next(drawn))
    Image.fromarray(rng.integers(30, 220, (size, size), dtype=np.uint8)).save(path)
    return path

def tree(root, *files):
    for f in files: picture(root/f)
    return root

def counts(table): return dict(Counter(table.label))

def said_of(source, **options):
    "The image table, and what was said"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        return images_of(source, **options), '\n'.join(str(w.message) for w in said)

def xray(capsys, *words):
    "Exit code, stdout and stderr of a command"
    code = main([str(w) for w in words])
    return (code, *capsys.readouterr())


# ---- masks

@pytest.mark.parametrize(
    'masks', ['lung masks', 'lung_masks', 'Masks', 'LungMask', 'infection masks', 'Segmentation', 'seg']
)
def test_masks_by_any_name_are_no_images(tmp_path, masks):
    root = tmp_path/'Lung Segmentation Data'/'Lung Segmentation Data'   # as COVID-QU-Ex unzips
    for part, n in (('Train', 4), ('Val', 2), ('Test', 3)):
        for c in ('COVID-19', 'Non-COVID', 'Normal'):
            tree(root, *(f'{part}/{c}/{kind}/{c}_{i}.png' for i in range(n) for kind in ('images', masks)))
    table, said = said_of(tmp_path)
    assert len(table) == 27 and set(table.split) == {'train', 'valid', 'test'}
    assert not any(masks in Path(p).parts for p in table.path)
    if masks == 'infection masks': assert 'mask' not in table    # no masks of the lungs
    else: assert [Path(m).name for m in table['mask']] == [Path(p).name for p in table.path]
    if masks == 'Masks': assert said == ''
    else: assert f'27 files in folders called {masks} are masks' in said


def test_of_several_masks_the_lungs_is_taken(tmp_path):
    tree(tmp_path, *(f'{c}/{kind}/{c}-1.png' for c in 'AB' for kind in ('images', 'infection masks', 'lung masks')))
    assert {Path(m).parent.name for m in images_of(tmp_path)['mask']} == {'lung masks'}


@pytest.mark.parametrize('name', ['ground_truth', 'labels', 'lungs'])
def test_a_folder_that_repeats_the_names_of_images_holds_none(tmp_path, name):
    tree(tmp_path/'a', *(f'{c}/{kind}/{c}-{i}.png' for c in 'AB' for kind in ('images', name) for i in range(3)))
    tree(tmp_path/'b', *(f'{kind}/{c}/{c}-{i}.png' for c in 'AB' for kind in ('images', name) for i in range(3)))
    for root in (tmp_path/'a', tmp_path/'b'):
        table, said = said_of(root)
        assert len(table) == 6
        assert {Path(p).parents[0 if root.name == 'a' else 1].name for p in table.path} == {'images'}
        assert f'6 files in folders called {name} bear the names' in said


def test_masks_beside_the_classes(tmp_path):
    tree(tmp_path/'a', 'images/A/1.png', 'images/B/2.png', 'masks/A/1.png', 'masks/B/2.png')
    tree(tmp_path/'b', 'A/1.png', 'B/2.png', 'lungmasks/1_mask.png', 'lungmasks/2_mask.png')
    for root in (tmp_path/'a', tmp_path/'b'): assert images_of(root)['mask'].notna().all() and len(images_of(root)) == 2


# ---- split folders, data sets, copies

@pytest.mark.parametrize(
    'names',
    [
        ('train_set', 'test_set'),
        ('Training Data', 'validation-data', 'Test Data'),
        ('trainset', 'valset'),
        ('chest_train', 'chest_test'),
        ('train', 'test_images'),
    ],
)
def test_folders_that_speak_of_a_split(tmp_path, names):
    tree(tmp_path, *(f'{n}/{c}/{i}.png' for n in names for c in ('NORMAL', 'PNEUMONIA') for i in range(2)))
    table = images_of(tmp_path)
    assert counts(table) == dict(NORMAL=2*len(names), PNEUMONIA=2*len(names)) and table.split.nunique() == len(names)


def test_a_split_inside_the_classes(tmp_path):
    tree(
        tmp_path,
        *(
            f'{c}/{part}/{part}{i}.png'
            for c in ('COVID', 'Normal')
            for part in ('train', 'val', 'test')
            for i in range(2)
        ),
    )
    table = images_of(tmp_path)
    assert counts(table) == dict(COVID=6, Normal=6) and Counter(table.split) == dict(train=4, valid=4, test=4)


def test_classes_that_speak_of_training_are_classes(tmp_path):
    tree(tmp_path, 'trained/1.png', 'untrained/2.png')
    assert counts(images_of(tmp_path)) == dict(trained=1, untrained=1)


def test_two_data_sets_are_no_classes(tmp_path):
    root = tree(
        tmp_path / 'archive',
        *(f'{s}/{c}/{s}{i}.png' for s in ('set1', 'set2') for c in ('NORMAL', 'PNEUMONIA') for i in range(2)),
    )
    with pytest.raises(
        ValueError,
        match='set1, set2 in .* hold folders of the same name .NORMAL, PNEUMONIA.*'
        '--classes NORMAL PNEUMONIA .*--classes set1 set2.*--exclude set2',
    ):
        images_of(root)
    # what it says to type works
    table = images_of(root, classes=['NORMAL', 'PNEUMONIA'])
    assert counts(table) == dict(NORMAL=4, PNEUMONIA=4) and Counter(table.source) == dict(set1=4, set2=4)
    assert counts(images_of(root, classes=['set1', 'set2'])) == dict(set1=4, set2=4)
    assert counts(images_of(root, exclude=['set2'])) == dict(NORMAL=2, PNEUMONIA=2)


def test_data_sets_that_share_one_class_are_spoken_of(tmp_path):
    tree(tmp_path, 'here/COVID/1.png', 'here/Normal/2.png', 'there/COVID/3.png', 'there/TB/4.png')
    table, said = said_of(tmp_path)
    assert counts(table) == dict(here=2, there=2)
    assert 'hold folders of the same name (COVID), and are taken as classes all the same' in said


@pytest.mark.parametrize(
    'inner', [('PA', 'AP'), ('patient1', 'patient2', 'patient3'), ('0001', '0002', '0003', '0004')]
)
def test_views_and_patients_within_classes_are_neither(tmp_path, inner):
    tree(tmp_path, *(f'{c}/{v}/1.png' for c in ('COVID', 'Normal') for v in inner))
    assert counts(images_of(tmp_path)) == dict(COVID=len(inner), Normal=len(inner))


def kermany(root):
    return tree(
        root,
        *(
            f'{s}/{c}/{c}-{s}{i}.jpeg'
            for s in ('train', 'val', 'test')
            for c in ('NORMAL', 'PNEUMONIA')
            for i in range(3)
        ),
    )

def test_a_second_copy_inside_the_first(tmp_path):
    root = kermany(tmp_path/'chest_xray')
    shutil.copytree(root, root/'chest_xray')
    tree(root, '__MACOSX/chest_xray/train/NORMAL/x.jpeg')
    table, said = said_of(tmp_path)
    assert len(table) == 18 and set(table.split) == {'train', 'valid', 'test'}
    assert not any(str(p).count('chest_xray') > 1 for p in table.path)
    assert 'chest_xray in' in said
    assert 'once more' in said


def test_a_copy_beside_the_first(tmp_path):
    root = tree(tmp_path/'set', 'A/1.png', 'B/2.png')
    shutil.copytree(root, tmp_path/'set (1)')
    table, said = said_of(tmp_path)
    assert relative_paths(table) == ['A/1.png', 'B/2.png'] and 'set (1) in' in said


def test_what_only_looks_like_a_copy_is_not_dropped(tmp_path):
    root = kermany(tmp_path/'chest_xray')
    shutil.copytree(root, root/'again')
    picture(root/'again'/'train'/'NORMAL'/'NORMAL-train0.jpeg')  # another picture of that name
    with pytest.raises(
        ValueError, match='holds split folders .* beside others .again.: to leave these out type --exclude again'
    ):
        images_of(root)
    assert len(images_of(root, exclude=['again'])) == 18
    root = tree(tmp_path/'set', 'A/1.png', 'B/2.png')
    shutil.copytree(root, root/'data')
    picture(root/'data'/'A'/'1.png')
    with pytest.raises(ValueError, match='data in .* holds folders called as its neighbours are .A, B.*--exclude data'):
        images_of(root)
    assert len(images_of(root, exclude=['data'])) == 2


def test_two_classes_of_the_same_files_are_not_a_copy(tmp_path):
    "The same image under two labels is for the search for twins to name"
    tree(tmp_path, 'A/1.png')
    shutil.copytree(tmp_path/'A', tmp_path/'B')
    assert counts(images_of(tmp_path)) == dict(A=1, B=1)


# ---- what is no data

def test_a_folder_without_images_stops_nothing(tmp_path):
    tree(tmp_path, 'NORMAL/1.png', 'PNEUMONIA/2.png')
    (tmp_path/'annotations').mkdir()
    (tmp_path/'annotations'/'a.json').write_text('{}')
    table, said = said_of(tmp_path)
    assert counts(table) == dict(NORMAL=1, PNEUMONIA=1) and 'no images in annotations' in said
    root = kermany(tmp_path/'split')
    (root/'docs').mkdir()
    (root/'docs'/'readme.pdf').write_text('x')
    table, said = said_of(root)
    assert len(table) == 18 and 'no images in docs' in said


@pytest.mark.parametrize(
    'system',
    [
        '@eaDir',
        '$RECYCLE.BIN',
        '#recycle',
        'System Volume Information', '.Trash-1000', 'Thumbs', 'lost+found', '__MACOSX', '.thumbnails',
        '@Recycle',
        '#snapshot',
    ],
)
def test_folders_of_file_systems_are_never_data(tmp_path, system):
    tree(tmp_path, 'A/1.png', 'B/2.png', f'A/{system}/1.png/thumb.png', f'{system}/x/3.png')
    table, said = said_of(tmp_path)
    assert relative_paths(table) == ['A/1.png', 'B/2.png']
    if not system.startswith(('.', '__')): assert f'2 folders of the file system called {system}' in said


def test_images_without_an_ending_are_images(tmp_path):
    tree(tmp_path, 'A/1.png', 'B/2.png')
    (tmp_path/'B'/'2.png').rename(tmp_path/'B'/'IM0001')
    assert counts(images_of(tmp_path)) == dict(A=1, B=1)


def test_folders_of_patients_are_no_classes(tmp_path):
    root = tree(tmp_path/'CheXpert-v1.0-small', *(f'train/patient{i:05}/study1/view1_frontal.jpg' for i in range(12)))
    (root/'train.csv').write_text('Path,Pneumonia\n')
    with pytest.raises(
        ValueError, match='12 folders .*patient00000.* look like patients, and not like classes.*train.csv'
    ) as e:
        images_of(root)
    assert '--classes patient00000 patient00001' in str(e.value)
    assert counts(images_of(root, classes=['patient00000', 'patient00001'])) == dict(patient00000=1, patient00001=1)
    assert len(images_of(tree(tmp_path/'numbers', *(f'{c}/1.png' for c in '0123')))) == 4    # digits are classes


# ---- tables

def csv_of(tmp_path, text, ending='.PNG'):
    for i in range(12): picture(tmp_path/'img'/f'a{i}.png').rename(tmp_path/'img'/f'a{i}{ending}')
    (tmp_path/'t.csv').write_text(text)
    return tmp_path/'t.csv'

def rows(path='img/a{}.PNG', head='path,label', more=lambda i: ''):
    return '\n'.join([head, *(path.format(i) + f',{"COVID" if i % 2 else "Normal"}' + more(i) for i in range(12))])

@pytest.mark.parametrize(
    'path, hint',
    [
        ('img\\a{}.PNG', 'write / for'),
        ('img/a{}.PNG ', 'begin or end with spaces'),
        ('img/a{}.png', 'upper and lower case'),
        ('img/a{}.jpg', 'mind the ending'),
        ('data/img/a{}.PNG', 'without data/ in front'),
        ('pics/a{}.PNG', 'no folder pics'),
        ('C:\\x\\a{}.PNG', 'a Windows machine'),
    ],
)
def test_paths_that_lead_nowhere(tmp_path, capsys, path, hint):
    table = csv_of(tmp_path, rows(path))
    code, out, err = xray(capsys, 'check', table, '--size', 32, '--quiet', '--rejects', tmp_path/'rejects.csv')
    assert code == 1 and path.format(0).strip() in err and f'relative paths start at {tmp_path}' in err and hint in err
    assert (tmp_path/'rejects.csv').read_text().count('\n') == 13, 'the rejects are filed all the same'


def test_a_path_that_would_be_found_one_folder_up(tmp_path):
    from xray_xfer.data.table import why_missing
    tree(tmp_path, 'set/A/1.png')
    assert f'would be found from {tmp_path}: put the CSV there' in why_missing(
        [str(tmp_path / 'set' / 'set' / 'A' / '1.png')], str(tmp_path / 'set')
    )


@pytest.mark.parametrize('head', ['sep=,\n', '"sep=,"\n', '\ufeffsep=,\r\n'])
def test_excels_first_line(tmp_path, head):
    assert len(images_of(csv_of(tmp_path, head + rows()))) == 12
    assert len(images_of(csv_of(tmp_path, head.replace(',', ';') + rows().replace(',', ';')))) == 12


@pytest.mark.parametrize('yes, no', [('True', 'False'), ('1', '0'), ('TRUE', 'false'), ('yes', 'no')])
def test_fastais_is_valid_is_the_split(tmp_path, yes, no):
    table = images_of(
        csv_of(tmp_path, rows(head='path,label,is_valid', more=lambda i: f',{yes if i % 3 == 0 else no}'))
    )
    assert table.split.tolist() == ['valid' if i % 3 == 0 else 'train' for i in range(12)] and 'is_valid' not in table


def test_is_valid_of_a_frame_and_of_nonsense(tmp_path):
    df = pd.read_csv(csv_of(tmp_path, rows()))
    df['path'] = [str(tmp_path/p) for p in df.path]
    assert images_of(df.assign(is_valid=[True, False]*6)).split.tolist() == ['valid', 'train']*6
    with pytest.raises(ValueError, match='unknown is_valid .maybe.: use True or False'):
        images_of(df.assign(is_valid='maybe'))
    with pytest.raises(ValueError, match='is empty in 11 of 12 rows'):
        images_of(df.assign(is_valid=['True'] + [None] * 11))


def test_column_names_in_any_case(tmp_path):
    assert counts(images_of(csv_of(tmp_path, rows(head='Path, LABEL ')))) == dict(COVID=6, Normal=6)
    with pytest.raises(ValueError, match='Image Index holds file names: call it path'):
        images_of(csv_of(tmp_path, rows(head='Image Index,Finding')))


@pytest.mark.parametrize(
    'a, b',
    [
        ('COVID', 'Covid'),
        ('COVID', 'covid '),
        ('Viral Pneumonia', 'viral_pneumonia'),
        ('Viral Pneumonia', 'Viral  Pneumonia'),
        ('1', '1.0'),
        ('0', '00'),
        ('TB', 'TB\u200b'),
        ('COVID-19', 'COVID 19'),
        ('Ａ', 'A'),
    ],
)
def test_labels_that_differ_only_in_spelling(tmp_path, a, b):
    df = pd.DataFrame(dict(path=[f'/{i}.png' for i in range(6)], label=[a, a, a, b, b, 'other']))
    with pytest.raises(ValueError, match='differ only in spelling') as e: images_of(df)
    assert f'--classes {a!r}'.replace("'", '"' if ' ' in a else '') in str(e.value)
    assert counts(images_of(df, classes=[a, 'other'])) == {a: 5, 'other': 1}
    assert counts(images_of(df, classes=[a, b.strip(), 'other']))[a] >= 3


def test_one_unicode_form_is_read(tmp_path):
    assert counts(images_of(pd.DataFrame(dict(path=['/1', '/2', '/3'], label=['é', 'e\u0301', 'x'])))) == {
        'é': 2,
        'x': 1,
    }


def test_split_folders_that_spell_classes_otherwise(tmp_path, capsys):
    tree(
        tmp_path,
        *(f'train/{c}/{i}.png' for c in ('NORMAL', 'PNEUMONIA') for i in range(8)),
        *(f'test/{c}/t{i}.png' for c in ('Normal', 'Pneumonia') for i in range(3)),
    )
    code, out, err = xray(capsys, 'check', tmp_path, '--size', 32, '--quiet', '--no-twins')
    assert code == 1 and 'differ only in spelling' in err and '--classes NORMAL PNEUMONIA' in err
    code, out, err = xray(
        capsys, 'check', tmp_path, '--size', 32, '--quiet', '--no-twins', '--classes', 'NORMAL', 'PNEUMONIA'
    )
    assert code == 0 and '22 files in 2 classes' in out and '3 images labelled ' in err


@pytest.mark.parametrize(
    'labels, said',
    [
        (['1.0', '0.0', '-1.0'], 'uncertain or not known (-1.0)'),
        ([1, 0, -1], 'uncertain or not known (-1)'),
        (['COVID', 'Normal', 'uncertain'], 'uncertain or not known (uncertain)'),
        (['Mass', 'Effusion', 'Effusion|Mass'], 'several findings at once (Effusion|Mass)'),
        (['Mass', 'Effusion', 'Effusion;Mass'], 'several findings at once (Effusion;Mass)'),
        (['A', 'B', 'unknown'], 'not known (unknown)'),
    ],
)
def test_uncertain_and_several_labels_are_spoken_of(labels, said):
    table, words = said_of(pd.DataFrame(dict(path=[f'/{i}' for i in range(9)], label=labels*3)))
    assert table.label.nunique() == 3
    assert said in words
    assert f'--classes {" ".join(sorted(map(str, labels[:2])))}' in words
    assert said_of(table, classes=[str(l) for l in labels[:2]])[0].label.nunique() == 2    # what it says to type works


@pytest.mark.parametrize(
    'labels', [['-1', '0', 'x'], ['COVID, severe', 'COVID, mild', 'Normal'], ['A/B', 'C', 'D'], ['-2', '-1', '0']]
)
def test_labels_that_are_what_they_seem(labels):
    assert said_of(pd.DataFrame(dict(path=list('abc'), label=labels)))[1] == ''


def test_groups_that_name_nobody(tmp_path, capsys):
    groups = ['p1', 'p1', 'p2', 'unknown', '', '-', 'nan', 'p3', 'p4', 'p5']
    csv_of(tmp_path, '')
    for i in range(20): picture(tmp_path/'i'/f'{i}.png')
    (tmp_path / 'g.csv').write_text(
        '\n'.join(['path,label,group', *(f'i/{i}.png,{"AB"[i // 10]},{groups[i % 10]}' for i in range(20))])
    )
    table, said = said_of(tmp_path/'g.csv')
    assert table.group.notna().sum() == 12 and '8 rows of' in said and 'unknown (2)' in said and '- (2)' in said
    code, out, err = xray(capsys, 'check', tmp_path/'g.csv', '--size', 32, '--quiet', '--no-twins')
    assert 'group: known for 12 images' in out
    from xray_xfer.data.split import split_of
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        assert '12 of them in 5 groups, 8 without a group' in split_of(table).attrs['note']


@pytest.mark.parametrize('gap', ['-', '--', '?', 'N/A', 'n.a.', 'UNKNOWN', 'none', '#N/A', 'missing', '—'])
def test_gaps_of_every_kind(gap):
    assert 'group' not in images_of(pd.DataFrame(dict(path=list('abcd'), label=list('xxyy'), group=gap)))


# ---- classes and exclude

def test_classes_and_exclude_say_what_is_wrong(tmp_path):
    tree(tmp_path, 'COVID/1.png', 'Normal/2.png', 'TB/3.png')
    with pytest.raises(ValueError, match='has no class Covd .classes=, --classes.: there are COVID'):
        images_of(tmp_path, classes=['Covd', 'Normal'])
    with pytest.raises(ValueError, match='name at least two'): images_of(tmp_path, classes=['COVID'])
    with pytest.raises(ValueError, match='name at least two'): images_of(tmp_path, classes='COVID')
    with pytest.raises(
        ValueError, match='nothing in .* is called Tb2 .exclude=, --exclude.: it holds COVID, Normal, TB'
    ):
        images_of(tmp_path, exclude=['Tb2'])
    with pytest.raises(ValueError, match='one class, TB'): images_of(tmp_path, exclude=['COVID', 'Normal'])
    table, said = said_of(tmp_path, classes=['covid', 'TB'])
    assert counts(table) == dict(covid=1, TB=1)
    assert '1 image of other classes left out (Normal)' in said
    assert "1 image labelled 'COVID' read as covid" in said


def test_exclude_of_a_table(tmp_path):
    df = pd.DataFrame(dict(path=['a/1.png', 'a/2.png', 'b/3.png', 'b/4.png'], label=['x', 'y', 'x', 'z']))
    assert len(images_of(df, exclude=['b'])) == 2
    assert len(images_of(df, exclude=['b/3.png', 'b/4*'])) == 2
    assert counts(images_of(df, exclude=['z'])) == dict(x=2, y=1)
    with pytest.raises(ValueError, match='no folder, file or label of the table is called c'):
        images_of(df, exclude=['c'])
    assert images_of(df, exclude=[]).equals(images_of(df))
    assert images_of(df, classes=None, exclude=None).equals(images_of(df))


# ---- zips

def zip_of(path, *files):
    with zipfile.ZipFile(path, 'w') as z:
        for name, body in files: z.writestr(name, body)
    return path

def png_bytes(tmp_path): return picture(tmp_path/'one.png').read_bytes()

def test_a_zip_with_backslashes(tmp_path):
    files = [(f'ds\\{c}\\{i}.png', png_bytes(tmp_path)) for c in ('NORMAL', 'PNEUMONIA') for i in range(2)]
    assert counts(images_of(zip_of(tmp_path/'a.zip', ('ds\\NORMAL\\', b''), *files))) == dict(NORMAL=2, PNEUMONIA=2)
    for name in ('..\\evil.png', 'ds\\..\\..\\evil.png', '\\\\server\\evil.png', 'C:\\evil.png'):
        with pytest.raises(ValueError, match='leads out of the folder'):
            images_of(zip_of(tmp_path / 'b.zip', *files, (name, b'')))


def test_what_else_lies_in_a_zip_is_named(tmp_path):
    one = png_bytes(tmp_path)
    with pytest.raises(ValueError, match='labels.csv.*unpack the archive'):
        images_of(zip_of(tmp_path / 'a.zip', ('images/1.png', one), ('labels.csv', 'path,label\n')))
    inner = zip_of(tmp_path/'inner.zip', ('A/1.png', one), ('B/1.png', one))
    with pytest.raises(ValueError, match='There is archive.zip: unpack'):
        images_of(zip_of(tmp_path / 'b.zip', ('archive.zip', inner.read_bytes())))
    (tmp_path/'c').mkdir()
    shutil.copy(inner, tmp_path/'c'/'archive.zip')
    with pytest.raises(ValueError, match='c/archive.zip: unpack it'): images_of(tmp_path/'c')


# ---- what check says, run refuses

def drawings(root, n=20, **classes):
    for c, k in classes.items():
        for i in range(k): picture(root/c/f'{c}-{i}.png')
    return root

def test_a_class_of_two(tmp_path, capsys):
    root = drawings(tmp_path/'data', NORMAL=20, PNEUMONIA=2)
    code, out, err = xray(capsys, 'check', root, '--size', 32, '--quiet')
    assert code == 1 and '22 files in 2 classes' in out
    said = "'PNEUMONIA' has 2 images; train, valid, test need at least one image each, so 3: add images"
    assert 'a run would refuse these images' in err and said in err and 'test=0' not in err
    code, out, err = xray(
        capsys, 'run', root, '--arch', 'resnet10t', '--pretrained', 'false', '--size', 32, '--quiet',
        '--out', tmp_path / 'runs',
    )
    assert code == 1 and said in err
    # with a third class there is something to type, and it works
    drawings(root, COVID=20)
    code, out, err = xray(capsys, 'check', root, '--size', 32, '--quiet')
    assert code == 1 and 'leave out what is too small: --exclude PNEUMONIA' in err
    assert xray(capsys, 'check', root, '--size', 32, '--quiet', '--exclude', 'PNEUMONIA')[0] == 0


@pytest.mark.parametrize(
    'words, why',
    [
        (['--split', 'nowhere.csv'], 'nowhere.csv'),
        (['--valid', 0.5, '--test', 0.6], 'leave nothing to train on'),
        (['--test', 0], 'needs both parts'),
        (['--valid', 0], 'needs both parts'),
    ],
)
def test_check_refuses_what_run_refuses(tmp_path, capsys, words, why):
    root = drawings(tmp_path/'data', A=12, B=12)
    code, out, err = xray(capsys, 'check', root, '--size', 32, '--quiet', *words)
    assert code == 1 and why in err
    assert (
        xray(
            capsys, 'run', root, '--arch', 'resnet10t', '--pretrained', 'false', '--size', 32, '--quiet',
            '--out', tmp_path / 'runs', *words,
        )[0]
        == 1
    )


def test_check_names_blank_and_inverted_images(tmp_path, capsys):
    from xray_xfer.data.demo import draw
    draw(tmp_path/'x', n=60, size=64)
    shutil.rmtree(tmp_path/'x'/'COVID'/'masks')
    files = sorted((tmp_path/'x'/'Normal'/'images').glob('*.png'))
    Image.fromarray(255 - np.asarray(Image.open(files[0]))).save(files[0])
    Image.new('L', (64, 64)).save(files[1])
    Image.new('L', (64, 64), 255).save(files[2])
    Image.new('RGBA', (64, 64), (90, 90, 90, 0)).save(files[3])
    for f in (tmp_path/'x'/'COVID'/'images').glob('*.png'): Image.fromarray(255 - np.asarray(Image.open(f))).save(f)
    code, out, err = xray(capsys, 'check', tmp_path/'x', '--size', 64, '--quiet', '--no-twins')
    lines = [l for l in out.splitlines() if 'black' in l or 'white' in l or 'transparent' in l or 'inverted' in l]
    for i, what in ((0, 'inverted'), (1, 'black'), (2, 'white'), (3, 'transparent')):
        assert any(files[i].name in l and what in l for l in lines), (what, out)
    assert any('COVID' in l and 'inverted' in l for l in lines), out


# ---- the choice is filed, and told

@pytest.mark.usefixtures('plain_figures')
def test_classes_and_exclude_are_filed_and_typed_again(tmp_path, capsys):
    from xray_xfer.runs.folder import load_run
    from xray_xfer.core.files import read_json
    from xray_xfer.runs.command import command
    root = drawings(tmp_path/'data', A=16, b=8, B=8, C=8, D=8)
    words = [
        '--pretrained', 'false', '--size', 32, '--epochs', 1, '--quiet', '--classes', 'A', 'B', 'D',
        '--exclude', 'D', 'A-1?.png',
    ]
    code, out, err = xray(capsys, 'run', root, '--arch', 'resnet10t', '--out', tmp_path/'runs', *words)
    assert code == 1 and 'no class D' in err    # it was just left out
    words = words[:8] + ['A', 'B', '--exclude', 'D', 'A-1?.png']
    code, out, err = xray(capsys, 'run', root, '--arch', 'resnet10t', '--out', tmp_path/'runs', *words)
    assert code == 0, err
    c = read_json(tmp_path/'runs'/'resnet10t_0'/'config.json')
    assert (c['classes'], c['classes_given'], c['exclude'], c['images']) == (
        ['A', 'B'],
        ['A', 'B'],
        ['D', 'A-1?.png'],
        26,
    )
    assert "--classes A B" in command([c], 'resnet10t_0') and "--exclude D 'A-1?.png'" in command([c], 'resnet10t_0')
    code, out, err = xray(capsys, 'controls', tmp_path/'runs'/'resnet10t_0', root, '--quiet', '--no-shuffled')
    assert code == 0, err  # it reads the same images again
    code, out, err = xray(
        capsys, 'study', root, '--archs', 'resnet10t', '--depths', 0, '--out', tmp_path / 'study', *words
    )
    assert code == 0 and load_run(tmp_path/'study'/'resnet10t_0').config['classes_given'] == ['A', 'B']


def test_a_pack_has_chosen_already(tmp_path):
    from xray_xfer.training.loaders import dataloaders
    from xray_xfer.training.ready import Frame, packed
    root = drawings(tmp_path/'data', A=12, B=12, C=12)
    p = packed(root, Frame(32, 'squish', False), True, ['A', 'B'])
    assert len(p) == 24 and (p.classes, p.exclude) == (['A', 'B'], None)
    assert packed(p, Frame(32, 'squish', False), True, ['A', 'B']) is p
    with pytest.raises(ValueError, match='for a pack, whose images are chosen already'):
        packed(p, Frame(32, 'squish', False), True, ['A', 'C'])
    assert list(dataloaders(root, 'resnet10t', size=32, exclude='C', quiet=True).vocab) == ['A', 'B']


# ---- what a reader of all this tried, and got a nonsense model or advice that does not work

def sets(*names): return [f'{n}/{c}/{c}-{i}.png' for n in names for c in ('N', 'P') for i in range(2)]

@pytest.mark.parametrize(
    'outer',
    [
        ('set1/train', 'set1/test', 'set2/train', 'set2/test'),
        ('set1/set1', 'set2/set2'),
        ('fold1/train', 'fold1/test', 'fold2/train', 'fold2/test'),
        ('set1', 'set2', 'set3/train', 'set3/test'),
    ],
)
def test_data_sets_that_hold_a_split_or_a_wrapper(tmp_path, outer):
    tree(tmp_path, *sets(*outer))
    with pytest.raises(ValueError, match='hold folders of the same name .N, P.*--classes N P'): images_of(tmp_path)
    table, said = said_of(tmp_path, classes=['N', 'P'])
    assert counts(table) == dict(N=2 * len(outer), P=2 * len(outer))
    assert set(table.source) == {o.split('/')[0] for o in outer}
    splits = {o.split('/')[1] for o in outer if '/t' in o}
    if not splits:
        assert 'split' not in table
    elif len(outer) == 4 and 'set3/train' in outer:
        assert 'split' not in table and '8 images of' in said and 'drawn anew' in said
    else: assert set(table.split) == splits


def test_covid_qu_ex_both_parts(tmp_path):
    for part in ('Lung Segmentation Data', 'Infection Segmentation Data'):
        tree(
            tmp_path / part / part,
            *(
                f'{s}/{c}/{k}/{c}-{s}.png'
                for s in ('Train', 'Val', 'Test')
                for c in ('COVID-19', 'Normal')
                for k in ('images', 'lung masks')
            ),
        )
    with pytest.raises(ValueError, match='look like data sets.*--classes COVID-19 Normal'): images_of(tmp_path)
    table = images_of(tmp_path, classes=['COVID-19', 'Normal'])
    assert len(table) == 12
    assert table.source.nunique() == 2
    assert set(table.split) == {'train', 'valid', 'test'}
    assert table['mask'].notna().all()


def test_a_set_without_the_classes_is_left_out_aloud(tmp_path):
    tree(tmp_path, *sets('here', 'there'), 'flat/1.png')
    table, said = said_of(tmp_path, classes=['N', 'P'])
    assert len(table) == 8 and 'flat in' in said and 'holds none of these classes: left out' in said


@pytest.mark.parametrize(
    'names',
    [
        ('images_001/images', 'images_012/images'),
        ('stage_2_train_images', 'stage_2_test_images'),
        ('CheXpert-v1.0 batch 2 (train)', 'CheXpert-v1.0 batch 3 (train)'),
        ('fold1', 'fold2'),
        ('p10/p10000032', 'p11/p11000011'),
        ('sub-S03047', 'sub-S03048', 'sub-S03049'),
    ],
)
def test_pieces_of_one_set_are_no_classes(tmp_path, names):
    tree(tmp_path, *(f'{n}/{i}{n[:6].replace("/", "")}.png' for n in names for i in range(2)))
    (tmp_path/'Data_Entry_2017.csv').write_text('Image Index,Finding Labels\n')
    with pytest.raises(ValueError, match='look like .*Data_Entry_2017.csv'): images_of(tmp_path)


def test_exclude_meets_the_folder_that_is_meant(tmp_path):
    root = kermany(tmp_path/'chest_xray')
    shutil.copytree(root, root/'chest_xray')
    picture(root/'chest_xray'/'train'/'NORMAL'/'NORMAL-train0.jpeg')
    with pytest.raises(ValueError, match='--exclude chest_xray/chest_xray$'): images_of(tmp_path)
    assert len(images_of(tmp_path, exclude=['chest_xray/chest_xray'])) == 18
    root = tree(tmp_path/'other'/'data', 'A/1.png', 'B/2.png')
    shutil.copytree(root, root/'data')
    picture(root/'data'/'A'/'1.png')
    with pytest.raises(ValueError, match='--exclude data/data,'): images_of(tmp_path/'other')
    assert len(images_of(tmp_path/'other', exclude=['data/data'])) == 2


def test_exclude_of_names_with_brackets(tmp_path):
    tree(tmp_path, *sets('set [1]', 'set [2]'))
    with pytest.raises(ValueError, match=r'--exclude "set \[2\]"'): images_of(tmp_path)
    assert len(images_of(tmp_path, exclude=['set [2]'])) == 4


def test_a_link_that_leads_nowhere_is_a_reject(tmp_path):
    root = tree(tmp_path, *(f'{c}/{v}/{c}{v}.png' for c in ('COVID', 'Normal') for v in ('PA', 'AP')))
    (root/'COVID'/'PA'/'zz.png').symlink_to('nowhere')
    assert counts(images_of(root)) == dict(COVID=3, Normal=2)


def test_a_mask_of_no_image_is_nobodys(tmp_path):
    tree(
        tmp_path,
        *(f'COVID/images/{i}.png' for i in range(2)),
        *(f'COVID/masks/{i}.png' for i in range(4)),
        *(f'Normal/images/{i}.png' for i in (2, 3, 4)),
    )
    table = images_of(tmp_path)
    assert table['mask'].notna().tolist() == [True, True, False, False, False]


@pytest.mark.parametrize('name', ['{}_masks', '{} masks', 'masks_{}', '{}-lung-masks'])
def test_mask_folders_that_name_a_class(tmp_path, name):
    tree(
        tmp_path,
        *(f'{c}/{i}.png' for c in ('COVID', 'Normal') for i in range(2)),
        *(f'{name.format(c)}/{i}.png' for c in ('COVID', 'Normal') for i in range(2)),
    )
    table = images_of(tmp_path)
    assert counts(table) == dict(COVID=2, Normal=2)
    assert [Path(m).parent.name for m in table['mask']] == [name.format(c) for c in table.label]


def test_a_class_whose_images_are_still_packed_is_missed_aloud(tmp_path):
    tree(tmp_path, 'COVID/mild/1.png', 'COVID/severe/2.png')
    (tmp_path/'Normal').mkdir()
    (tmp_path/'Normal'/'Normal.zip').write_bytes(b'PK')
    assert f'no images in Normal in {tmp_path}: left out' in said_of(tmp_path)[1]


@pytest.mark.parametrize('way', ['{c}/{s}_set', '{c}/images/{s}', '{c}/{s}'])
def test_a_split_inside_the_classes_in_other_words(tmp_path, way):
    tree(
        tmp_path,
        *(
            f'{way.format(c=c, s=s)}/{s}{i}.png'
            for c in ('COVID', 'Normal')
            for s in ('train', 'test')
            for i in range(2)
        ),
    )
    assert Counter(images_of(tmp_path).split) == dict(train=4, test=4)


def test_a_split_inside_one_class_alone_is_none(tmp_path):
    tree(
        tmp_path,
        *(f'COVID/{s}/{i}.png' for s in ('train', 'test') for i in range(4)),
        *(f'Normal/{i}.png' for i in range(4)),
    )
    table, said = said_of(tmp_path)
    assert 'split' not in table and '4 images of' in said and 'the split is drawn anew' in said


def test_classes_that_are_not_in_every_part(tmp_path):
    tree(
        tmp_path,
        *(
            f'{s}/{c}/{v}/{s}.png'
            for s, cs in (('train', 'ABC'), ('test', 'AB'))
            for c in cs
            for v in ('siteA', 'siteB')
        ),
    )
    assert counts(images_of(tmp_path, classes=['A', 'B', 'C'])) == dict(A=4, B=4, C=2)


def test_advice_is_not_given_where_it_cannot_work(tmp_path):
    tree(tmp_path/'a', 'COVID/1.png', 'Covid/2.png')
    with pytest.raises(ValueError, match='one class, spelled in several ways'): images_of(tmp_path/'a')
    tree(tmp_path/'b', 'China/CXR_png/1.png', 'Mont/CXR_png/2.png')
    assert '--classes CXR_png' not in said_of(tmp_path/'b')[1]
    tree(tmp_path/'c', *(f'{c}/patient{i}/1.png' for c in ('COVID', 'Normal') for i in (1, 2)))
    assert said_of(tmp_path/'c')[1] == ''
    df = pd.DataFrame(dict(path=[f'/{i}' for i in range(16)], label=[*'ABCDEFGHIJKLMNO', 'A|B']))
    assert said_of(df)[1].endswith('--classes A B C D E F G H I J K L M N O')


def test_numbered_image_folders_are_not_copies(tmp_path):
    tree(tmp_path, *(f'{c}/{k}/{i}.png' for c in 'AB' for k in ('images', 'images2') for i in range(3)))
    assert counts(images_of(tmp_path)) == dict(A=6, B=6)


@pytest.mark.parametrize('labels', [['COVID+', 'COVID-', 'COVID'], ['+', '-', 'x'], ['None', 'Mass', 'TB']])
def test_signs_and_none_are_labels(tmp_path, labels):
    tree(tmp_path, *(f'{l}/1.png' for l in labels))
    table, said = said_of(tmp_path)
    assert set(table.label) == set(labels) and (said == '' or labels[0] == '+')


def test_a_mended_set_beside_the_old_one_is_not_its_copy(tmp_path):
    tree(tmp_path, *(f's1/{c}/{i}.png' for c in 'AB' for i in range(40)))
    for f in (tmp_path/'s1').rglob('*.png'):
        Image.fromarray(np.zeros((8, 8), np.uint8) + 40).save(f.with_suffix('.bmp'))
        f.unlink()
    shutil.copytree(tmp_path/'s1', tmp_path/'s1_fixed')
    Image.fromarray(np.zeros((8, 8), np.uint8) + 90).save(tmp_path/'s1_fixed'/'A'/'17.bmp')     # of the same size
    with pytest.raises(ValueError, match='look like data sets'): images_of(tmp_path)


def test_what_cannot_be_looked_into_is_named(tmp_path, monkeypatch):
    import os
    root, listdir = tree(tmp_path, 'A/1.png', 'B/2.png', 'locked/3.png'), os.listdir
    def refuse(path):
        if str(path).endswith('locked'): raise PermissionError(13, 'Permission denied')
        return listdir(path)
    monkeypatch.setattr(os, 'listdir', refuse)
    with pytest.raises(PermissionError, match='locked cannot be looked into.*--exclude locked'): images_of(root)
    assert len(images_of(root, exclude=['locked'])) == 2


def test_a_broken_sheet_can_be_left_out(tmp_path):
    tree(tmp_path, 'A/1.png', 'B/2.png')
    (tmp_path/'A.metadata.xlsx').write_bytes(b'no sheet')
    with pytest.raises(ValueError, match='--exclude A.metadata.xlsx'): images_of(tmp_path)
    assert len(images_of(tmp_path, exclude=['A.metadata.xlsx'])) == 2


def test_loose_images_are_said_to_lie_where_they_lie(tmp_path):
    tree(tmp_path, *(f'train/{c}/{i}.png' for c in 'NP' for i in range(2)), 'test/1.png', 'test/2.png')
    assert f'2 images lie beside the class folders in {tmp_path/"test"}, in no class' in said_of(tmp_path)[1]


def test_rejects_go_into_a_folder_that_is_made(tmp_path, capsys):
    root = tree(tmp_path/'x', *(f'{c}/{i}.png' for c in 'AB' for i in range(4)))
    assert xray(capsys, 'check', root, '--size', 32, '--quiet', '--rejects', tmp_path / 'new' / 'r.csv')[0] == 0
    assert (tmp_path / 'new' / 'r.csv').is_file()
