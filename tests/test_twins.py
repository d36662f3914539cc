"""What the pages of `alike`, `neighbours` and `twins` cannot say: any groups hypothesis can think of, damaged caches,
crowds, frames, and the split that comes after."""
import io
import json
import os
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from PIL import Image

from xray_xfer.twins.alike import Layers, compare, detail
from xray_xfer.data.pixels import inside
from xray_xfer.data.table import images_of
from xray_xfer.data.demo import phantom
from xray_xfer.twins.neighbours import components, search
from xray_xfer.data.packing import pack
from xray_xfer.data.split import split_of
from xray_xfer.twins.find import Twins, describe, find_twins, grouped, twins_json

rng = np.random.default_rng(5)
people = [phantom(c, rng, 224)[0] for c in ('Normal', 'COVID') for _ in range(4)]


def packed(folder, images, size=224, resize='squish', **columns):
    folder.mkdir(exist_ok=True)
    for i, a in enumerate(images): Image.fromarray(a).save(folder/f'{i:04}.png', compress_level=1)
    table = pd.DataFrame({'path': [str(folder/f'{i:04}.png') for i in range(len(images))],
                          'label': [('a', 'b')[i % 2] for i in range(len(images))], **columns})
    return pack(images_of(table), size, resize, cache=folder.parent/'cache', quiet=True)


def made(n, pairs, **columns):
    "Twins as they would have been found, without images"
    labels = ['a', 'b']*(n//2) + ['a']*(n % 2)
    table = pd.DataFrame({'path': [f'/x/{i:03}.png' for i in range(n)], 'label': labels, **columns})
    frame = pd.DataFrame([(i, j, 'near', .9) for i, j in pairs], columns=['i', 'j', 'kind', 'correlation'])
    frame = frame.astype(dict(i=int, j=int, correlation=float))
    same_label = table.label.to_numpy()[frame.i] == table.label.to_numpy()[frame.j]
    return table, Twins(table, frame.assign(same_label=same_label), frame[:0], .8)


OWN_GROUPS = [None, '', ' ', np.nan, 'P1', 'P2', 3, 'twins of 000.png']

def table_of(n):
    image = st.integers(0, n - 1)
    pairs = st.lists(st.tuples(image, image), max_size=10)
    return st.tuples(st.just(n), pairs, st.lists(st.sampled_from(OWN_GROUPS), min_size=n, max_size=n), st.randoms())

tables = st.integers(1, 14).flatmap(table_of)


@settings(max_examples=150, deadline=None)
@given(tables)
def test_a_group_is_what_twins_and_patients_connect_whatever_the_order(case):
    n, pairs, own, random = case
    pairs = [(min(p), max(p)) for p in pairs if p[0] != p[1]]
    table, twins = made(n, pairs, group=pd.Series(own, dtype=object))
    got = grouped(table, twins)
    # an independent union: repeat until nothing changes
    mine = [str(g) if isinstance(g, (str, int)) and str(g).strip() else None for g in own]
    reach = [{i} | {j for j in range(n) if mine[i] is not None and mine[i] == mine[j]} for i in range(n)]
    for a, b in pairs: reach[a].add(b); reach[b].add(a)
    for _ in range(n):
        for i in range(n): reach[i] = set().union(*(reach[j] for j in reach[i]))
    for i in range(n):
        assert (got.group[i] is None) == (len(reach[i]) == 1 and mine[i] is None)
        for j in range(n):
            if i != j and got.group[i] is not None: assert (got.group[i] == got.group[j]) == (j in reach[i])
        if mine[i] is not None: assert got.group[i] in mine                      # the user's names win
    order = list(range(n))
    random.shuffle(order)
    new = {old: k for k, old in enumerate(order)}
    shuffled = table.iloc[order].reset_index(drop=True)
    again = Twins(shuffled, twins.pairs.assign(i=twins.pairs.i.map(new), j=twins.pairs.j.map(new)), twins.almost, .8)
    assert dict(zip(shuffled.path, grouped(shuffled, again).group)) == dict(zip(table.path, got.group))


def test_the_index_of_the_table_does_not_matter():
    table, twins = made(4, [(0, 2)])
    table.index = [9, 9, 3, 1]
    assert grouped(table, twins).group.tolist() == ['twins of 000.png', None, 'twins of 000.png', None]


@pytest.mark.parametrize('crowd', [30, 54])
def test_a_twin_never_crosses_the_split_even_where_a_group_is_larger_than_the_test_part(crowd):
    n = 120
    # so many of the 60 a's are one group
    table, twins = made(n, [(0, 2*i) for i in range(1, crowd)] + [(k, k + 2) for k in range(61, 117, 4)])
    assert any(f'one group holds {crowd} of the 60 images of a' in line for line in describe(twins))
    table = grouped(table, twins)
    parts = split_of(table, .2, .2)
    for _, rows in table.groupby('group'): assert parts[rows.index].nunique() == 1
    assert set(parts[table.label == 'a']) == {'train', 'valid', 'test'}


def test_a_class_that_is_all_twins_is_a_clear_error():
    table, twins = made(40, [(0, i) for i in range(2, 40, 2)])
    with pytest.raises(ValueError, match="'a' has 20 images in 1 group"): split_of(grouped(table, twins))


def test_labels_patients_and_parts_that_disagree_are_named():
    table, twins = made(6, [(0, 1), (2, 4)], group=['P1', 'P2', 'P3', None, '', None],
                        split=['train', 'test', 'train', 'train', 'train', 'test'])
    text = '\n'.join(describe(twins))
    assert '000.png (a) and 001.png (b)' in text
    assert 'under two labels (correct one of each, or leave both out): 1' in text
    assert 'in two groups of your own column (they become one): 1' in text
    assert 'across the given split (its parts are not independent): 1' in text
    out = twins_json(twins, grouped=False)
    assert json.loads(json.dumps(out, allow_nan=False)) == out and 'not used' in out['note']
    assert len(describe(made(3, [])[1])) == 1 and twins_json(made(3, [])[1])['groups'] == 0


@pytest.mark.parametrize('damage', [
    lambda t: t[:-9], lambda t: '', lambda t: '[]', lambda t: t.replace('"n": 3', '"n": 4'),
    lambda t: t.replace('"exact"', '"near"'), lambda t: '\0'*50, lambda t: '{"n": null}'])
def test_a_damaged_result_is_noticed_and_made_again(tmp_path, damage):
    p = packed(tmp_path/'x', [people[0], people[0], people[1]])
    first = find_twins(p, quiet=True)
    file, = (tmp_path/'cache'/'twins').iterdir()
    file.write_text(damage(file.read_text()))
    with pytest.warns(UserWarning, match='damaged'): again = find_twins(p, quiet=True)
    assert again.pairs.equals(first.pairs) and not again.reused and find_twins(p).reused
    assert [f.name for f in (tmp_path/'cache'/'twins').iterdir()] == [file.name]


def test_what_a_killed_search_left_half_written_goes(tmp_path):
    p = packed(tmp_path/'x', [people[0], people[0], people[1]])
    half = tmp_path/'cache'/'twins'/f'.{p.key}.json.4711-000000000000.part'
    half.parent.mkdir()
    half.write_text('{"n": 3, "pai')
    os.utime(half, (0, 0))   # of another machine, and old
    find_twins(p, quiet=True)
    assert not half.exists() and len(list(half.parent.iterdir())) == 1


def test_identical_images_cost_no_comparisons(tmp_path, monkeypatch):
    compared = []
    monkeypatch.setattr('xray_xfer.twins.neighbours.compare', lambda *a: compared.append(a) or 0.)
    flat = [np.full((224, 224), g, np.uint8) for g in (0, 0, 9, 255)]
    with pytest.warns(UserWarning, match='61 of 70 images'):
        t = find_twins(packed(tmp_path/'x', [people[0]]*61 + flat + [*people[1:5], people[6]]), quiet=True)
    assert (t.exact, len(t.pairs), t.n_groups) == (61, 61, 2) and not t.pairs.isna().any().any()
    assert len(compared) <= 15     # six people are fifteen pairs


@pytest.mark.parametrize('size', [8, 33, 96, 300])
def test_the_groups_do_not_depend_on_the_size_that_is_trained_at(tmp_path, size):
    crop = np.asarray(Image.fromarray(people[0]).resize((224, 224), box=(4, 9, 220, 221)))
    t = find_twins(packed(tmp_path/'x', people + [crop], size), quiet=True)
    assert t.pairs[['i', 'j']].values.tolist() == [[0, 8]] and len(t) == 9
    # to the last digit of the correlation: the split hangs on it
    assert t.pairs.equals(find_twins(packed(tmp_path/'y', people + [crop], 224), quiet=True).pairs)


def test_few_images(tmp_path):
    t = find_twins(packed(tmp_path/'x', people[:2]), quiet=True)
    assert (len(t.pairs), t.groups.tolist(), t.note) == (0, [0, 1], 'no two of the 2 images are twins')


def test_strangers_in_one_frame_stay_strangers_and_framed_twins_are_found(tmp_path):
    wide = [np.asarray(Image.fromarray(a).resize((300, 200))) for a in people]
    crop = np.asarray(Image.fromarray(wide[0]).resize((290, 200), box=(9, 0, 299, 197)))
    t = find_twins(packed(tmp_path/'x', wide + [crop], resize='pad'), quiet=True)     # all between black bars
    assert t.pairs[['i', 'j']].values.tolist() == [[0, 8]]
    white = np.pad(np.asarray(Image.fromarray(people[0]).resize((180, 190))), ((30, 4), (12, 20)), constant_values=255)
    t = find_twins(packed(tmp_path/'y', people + [white]), quiet=True)
    assert t.pairs[['i', 'j']].values.tolist() == [[0, 8]]


def crop(a, box): return np.asarray(Image.fromarray(a).resize((224, 224), Image.Resampling.BICUBIC, box=box))


def altered(a, kind):
    "A copy as the web makes them"
    if kind == 'brightened': return np.clip(a*.8 + 40, 0, 255).astype(np.uint8)
    if kind == 'inverted': return 255 - a
    if kind == 'cropped': return crop(a, (8, 4, 219, 221))
    if kind == 'turned': return np.asarray(Image.fromarray(a).rotate(2, Image.Resampling.BICUBIC))
    if kind == 'framed': return np.pad(np.asarray(Image.fromarray(a).resize((190, 200))), ((14, 10), (20, 14)))
    Image.fromarray(a).save(file := io.BytesIO(), 'JPEG', quality=40)
    return np.asarray(Image.open(file))


KINDS = ['brightened', 'inverted', 'cropped', 'turned', 'framed', 'encoded again']


@pytest.fixture(scope='module')
def crowd():
    "Sixty drawings, which resemble each other as films of one machine do"
    r = np.random.default_rng(11)
    return np.stack([phantom(('Normal', 'COVID')[k % 2], r, 224)[0] for k in range(60)])


def test_each_image_that_resembles_others_is_worked_out_once_and_few_at_full_resolution(crowd, monkeypatch):
    compared, worked_out = [], Counter()
    def counting(a, *args):
        if a.ndim == 2: worked_out[a.shape[-1]] += 1   # of single images; thumbnails come by the hundred
        return detail(a, *args)
    monkeypatch.setattr('xray_xfer.twins.alike.detail', counting)
    monkeypatch.setattr('xray_xfer.twins.neighbours.compare', lambda *a: compared.append(a) or compare(*a))
    twins, _ = search(crowd, np.arange(60), .8, quiet=True)
    assert not twins and len(compared) > 60                                # each was laid over several others
    assert 0 < worked_out[56] <= 60 and 0 < worked_out[112] <= 60 and worked_out[224] <= 60


@pytest.mark.parametrize('kind', KINDS)
def test_a_copy_is_found_among_drawings_that_look_alike(crowd, kind):
    copies = np.stack([altered(a, kind) for a in crowd[:6]])
    twins, _ = search(np.concatenate([crowd, copies]), np.arange(66), .8, quiet=True)
    assert set(twins) == {(k, 60 + k) for k in range(6)}


def test_a_copy_just_above_the_border_is_found_and_one_just_below_it_is_told_of(crowd):
    grain = np.random.default_rng(0).normal(0, 1, (224, 224))
    noisy = [np.clip(crowd[0] + sigma*grain, 0, 255).astype(np.uint8) for sigma in range(4, 34, 2)]
    r = np.array([compare(crowd[0], a) for a in noisy])
    assert (np.diff(r) < 0).all()                                           # more noise, less correlation
    for near in .65, .7, .8, .9:
        above, below = noisy[np.flatnonzero(r >= near)[-1]], noisy[np.flatnonzero(r < near)[0]]
        sets = (np.stack([*crowd[:9], copy]) for copy in (above, below))
        found, missed = (search(some, np.arange(10), near, quiet=True) for some in sets)
        assert set(found[0]) == {(0, 9)} and (0, 9) not in found[1]
        assert not missed[0] and (0, 9) in missed[1] and min(map(abs, missed[1].values())) >= max(.6, near - .15)


def test_comparisons_are_the_same_twice_of_kept_layers_and_in_threads(crowd):
    some = np.concatenate([crowd[:12], [altered(a, kind) for a, kind in zip(crowd, KINDS)]])
    pairs = [(i, j) for i in range(18) for j in range(i)]
    layers = [Layers(a) for a in some]
    once = [compare(some[i], some[j]) for i, j in pairs]
    assert once == [compare(layers[i], layers[j]) for i, j in pairs]
    with ThreadPoolExecutor(4) as pool:
        by_threads = list(pool.map(lambda p: compare(layers[p[0]], layers[p[1]]), pairs))
    assert once == by_threads
    assert search(some, np.arange(18), .8, quiet=True) == search(some, np.arange(18), .8, quiet=True)


@pytest.mark.parametrize('size', [56, 57, 112, 113, 224, 225, 300])
def test_a_copy_is_told_from_a_stranger_at_any_size(size):
    one, two = (np.asarray(Image.fromarray(a).resize((size, size))) for a in people[:2])
    crop = np.asarray(Image.fromarray(people[0]).resize((size, size), box=(4, 9, 220, 221)))
    assert compare(one, one) == 1 and compare(one, crop) > .85 > compare(one, two)
    assert compare(one, two, stop=.9) < .9


def noisy(a, sigma, r): return np.clip(a + r.normal(0, sigma, a.shape), 0, 255).astype(np.uint8)


def cut_at_random(a, r): return crop(a, (*r.uniform(0, 9, 2), *(224 - r.uniform(0, 9, 2))))
def three_of(a): return [a, altered(a, KINDS[-1]), altered(a, KINDS[2])]


MANY = {   # from sixty drawings and dice: images, and how many groups they are
    'crops of one film': lambda a, r: ([cut_at_random(a[0], r) for _ in range(40)], 1),
    'one film with noise': lambda a, r: ([noisy(a[0], 4, r) for _ in range(40)], 1),
    'each three times': lambda a, r: ([b for k in a[:12] for b in three_of(k)], 12),
    'black': lambda a, r: ([np.zeros((224, 224), np.uint8)]*40, 40),
    'nearly black': lambda a, r: ([noisy(np.zeros((224, 224)), 3, r) for _ in range(40)], 40)}


@pytest.mark.parametrize('kind', MANY)
def test_sets_of_many_copies_hang_together_and_cost_few_comparisons(crowd, kind, monkeypatch):
    compared = []
    monkeypatch.setattr('xray_xfer.twins.neighbours.compare', lambda *a: compared.append(a) or compare(*a))
    images, groups = MANY[kind](crowd, np.random.default_rng(2))
    twins, _ = search(np.stack(images), np.arange(len(images)), .8, quiet=True)
    assert len(set(components(len(images), list(twins)))) == groups
    assert len(compared) <= 4*len(images)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([8, 56, 113, 224]),
       st.sampled_from(['noise', 'flat', 'one pixel', 'half', 'rim']))
def test_a_comparison_is_a_number_whatever_the_pixels(seed, size, kind):
    r = np.random.default_rng(seed)
    def image():
        a = np.full((size, size), r.integers(256), np.uint8)
        if kind == 'noise': return r.integers(0, 256, (size, size), dtype=np.uint8)
        if kind == 'one pixel': a[tuple(r.integers(size, size=2))] = 255
        if kind == 'half': a[:, :size//2] = r.integers(256)
        if kind == 'rim': a[0] = a[:, -1] = r.integers(256)
        return a
    a, b = image(), image()
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        c = compare(a, b)
    top, bottom, left, right = inside(a)
    assert -1 <= c <= 1 and -1 <= top < bottom <= 1 and -1 <= left < right <= 1


def test_components_against_a_plain_search():
    r = np.random.default_rng(0)
    for _ in range(20):
        pairs = r.integers(0, 30, (r.integers(0, 25), 2))
        got, label = components(30, pairs), np.arange(30)
        for _ in range(30):
            for a, b in pairs: label[a] = label[b] = min(label[a], label[b])
        assert ((got[:, None] == got) == (label[:, None] == label)).all()


@pytest.mark.shared
def test_every_pair_of_the_sheet_is_found_and_nothing_else(shared, tmp_path):
    sheet = pd.read_csv(shared/'near_duplicates'/'groups.csv', dtype=str, keep_default_na=False)
    paths = [str(shared/'near_duplicates'/'COVID'/'images'/f) for f in sheet.file]
    labels = ['a', 'b']*(len(sheet)//2) + ['a']*(len(sheet) % 2)
    table = images_of(pd.DataFrame(dict(path=paths, label=labels)))
    t = find_twins(pack(table, cache=tmp_path, quiet=True), quiet=True)
    truth = sheet.group.where(sheet.group != '', sheet.file).to_numpy()
    assert ((t.groups[:, None] == t.groups) == (truth[:, None] == truth)).all()
    assert t.pairs.correlation.min() > .9


@pytest.mark.parametrize('edges', [[0], [1], [2], [3], [0, 1], [2, 3]],
                         ids=['left', 'upper', 'right', 'lower', 'left and upper', 'right and lower'])
def test_a_copy_that_lost_a_tenth_at_one_edge_is_found(edges):
    "From 6 % on they were lost"
    for depth in (.06, .08, .10):
        cut = np.zeros(4)
        cut[edges] = 224*depth
        box = (*cut[:2], 224 - cut[2], 224 - cut[3])
        crops = [np.asarray(Image.fromarray(a).resize((224, 224), Image.Resampling.BICUBIC, box=box)) for a in people]
        pixels = np.stack([*people, *crops])
        twins, _ = search(pixels, np.arange(len(pixels)), .8, quiet=True)
        assert {(i, len(people) + i) for i in range(len(people))} == set(twins), (depth, twins)


def nearly(n, pairs, almost, **columns):
    table, twins = made(n, pairs, **columns)
    label = table.label.to_numpy()
    frame = pd.DataFrame([(i, j, .7) for i, j in almost], columns=['i', 'j', 'correlation'])
    frame = frame.astype(dict(i=int, j=int, correlation=float))
    return table, Twins(table, twins.pairs, frame.assign(same_label=label[frame.i] == label[frame.j]), .8)


def test_what_is_nearly_alike_is_counted_and_joined_where_it_is_asked_for():
    table, twins = nearly(8, [(0, 2), (2, 4)], [(0, 4), (4, 6), (1, 3)])
    assert twins.nearly[['i', 'j']].values.tolist() == [[4, 6], [1, 3]]          # 0 and 4 are twins by way of 2
    assert grouped(table, twins).group.notna().tolist() == [True, False, True, False, True, False, False, False]
    joined = grouped(table, twins, almost=True).group
    assert joined.notna().sum() == 6 and joined[0] == joined[6]
    assert joined[1] == joined[3] != joined[0] and joined.iloc[[5, 7]].isna().all()
    said = '\n'.join(describe(twins))
    assert 'nearly alike, and no twins: 2 pairs of 4 images' in said and '--groups almost' in said
    assert 'nearly alike' in '\n'.join(describe(nearly(4, [], [(0, 2)])[1]))
    assert 'nearly alike' not in '\n'.join(describe(made(4, [(0, 2)])[1]))
    assert twins_json(twins, almost=True)['almost'] == 2 and 'almost' not in twins_json(twins)


def test_all_pairs_that_are_nearly_alike_are_kept(tmp_path, monkeypatch):
    p = packed(tmp_path/'x', people)
    every_pair = {(j, i): .7 for i in range(8) for j in range(i)}
    monkeypatch.setattr('xray_xfer.twins.find.search', lambda pixels, rows, near, quiet: ({}, every_pair))
    assert len(find_twins(p, quiet=True).almost) == len(find_twins(p, quiet=True).almost) == 28
