"""What the page of `unlike` cannot say: any cloud hypothesis can think of, damaged and foreign files, wide networks,
and that reading is light."""
import subprocess, sys

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from xray_xfer.inference.arrays import read_arrays, write_arrays
from xray_xfer.inference.unlike import Unlike

rng = np.random.default_rng(0)

def made(n=60, d=20, m=30, classes='abc', seed=0):
    dice = np.random.default_rng(seed)
    labels = np.array([classes[i % len(classes)] for i in range(n)])
    return Unlike.of(dice.normal(size=(n, d)) + (labels == 'a')[:, None]*3, labels, dice.normal(size=(m, d)))

@settings(max_examples=60, deadline=None)
@given(st.integers(1, 40), st.integers(1, 60), st.integers(1, 20), st.integers(1, 4), st.integers(0, 99),
       st.sampled_from([0., 1e-6, 1., 1e6]))
def test_distances_are_finite_and_order_is_kept_whatever_the_numbers(n, d, m, k, seed, scale):
    dice = np.random.default_rng(seed)
    x, valid, new = (dice.normal(size=(r, d))*scale for r in (n, m, 50))
    u = Unlike.of(x, dice.integers(0, k, n), valid)
    distance, further = u.distance(new), u.further(new)
    assert np.isfinite(distance).all() and (distance >= 0).all() and ((0 <= further) & (further <= 1)).all()
    assert (np.diff(further[np.argsort(distance, kind='stable')]) >= 0).all()
    for rate in (.01, .1, .5):
        # no more of the validation images than the rate, however few there are
        assert u.flag(valid, rate).mean() <= rate + 1e-9
    assert (u.flag(new, .01) <= u.flag(new, .2)).all()

@pytest.mark.parametrize('scale', [1e-4, 1e4])
def test_the_unit_of_the_features_does_not_matter(scale):
    x, valid, new, y = rng.normal(size=(90, 30)), rng.normal(size=(40, 30)), rng.normal(size=(20, 30)), ['a', 'b']*45
    one, other = Unlike.of(x, y, valid), Unlike.of(x*scale, y, valid*scale)
    np.testing.assert_allclose(one.distance(new), other.distance(new*scale), rtol=1e-2)

def test_the_same_images_give_the_same_file(tmp_path):
    for name in ('a', 'b'): made(d=300).save(tmp_path/f'{name}.safetensors')
    assert (tmp_path/'a.safetensors').read_bytes() == (tmp_path/'b.safetensors').read_bytes()

def test_a_threshold_holds_its_rate_on_images_like_those_trained_on():
    rates = []
    for seed in range(60):
        u = made(n=300, d=40, m=99, classes='b', seed=seed)
        rates.append(u.flag(np.random.default_rng(seed + 1000).normal(size=(500, 40)), .05).mean())
    assert abs(np.mean(rates) - .05) < .01

def test_a_wide_network_costs_little(tmp_path):
    u = made(n=80, d=2048)
    u.save(tmp_path/'u.safetensors')
    assert u.axes.shape == (2048, 256) and (tmp_path/'u.safetensors').stat().st_size < 1.2e6
    far = np.zeros((1, 2048))
    far[0, 0] = 1e30
    assert np.isfinite(u.distance(far)).all() and u.flag(far).all()

@pytest.mark.parametrize('damage', [lambda b: b[:-1], lambda b: b'', lambda b: b[:8] + b'\0'*40 + b[48:],
                                    lambda b: b[:-9] + b'\1'*9, lambda b: b'PK' + b])
def test_a_damaged_file_is_named(tmp_path, damage):
    file = tmp_path/'unlike.safetensors'
    made().save(file)
    file.write_bytes(damage(file.read_bytes()))
    with pytest.raises(ValueError, match='unlike.safetensors.*damaged'): Unlike.load(file)

def test_another_file_is_refused_and_an_older_run_has_none(tmp_path):
    write_arrays(tmp_path/'known.safetensors', dict(a=np.zeros(3)), 'known 1', {})
    with pytest.raises(ValueError, match="holds 'known 1', and this version reads 'unlike 1'"):
        Unlike.load(tmp_path/'known.safetensors')
    from safetensors.numpy import save_file
    save_file(dict(weight=np.zeros(3)), tmp_path/'model.safetensors')
    with pytest.raises(ValueError, match='no file of this kind'): Unlike.load(tmp_path/'model.safetensors')
    assert Unlike.load(tmp_path/'none'/'unlike.safetensors') is None
    assert read_arrays(tmp_path/'none.safetensors', 'unlike 1') is None
    with pytest.raises(ValueError, match='damaged'): Unlike.load(tmp_path)

def test_half_precision_and_lists_are_features_too():
    u = made()
    x = rng.normal(size=(5, 20)).astype(np.float16)
    assert np.array_equal(u.distance(x), u.distance(x.tolist()))
    with pytest.raises(ValueError, match='this run has 20 per image'): u.distance(x[0])
    assert u.distance(np.zeros((0, 20))).shape == (0,)

def test_reading_is_light(tmp_path):
    made().save(tmp_path/'u.safetensors')
    code = ('import sys, numpy as np; from xray_xfer.inference.unlike import Unlike; '
            f'print(Unlike.load({str(tmp_path/"u.safetensors")!r}).flag(np.zeros((1, 20))), '
            '*sorted({"torch", "sklearn", "scipy", "timm", "fastai"} & set(sys.modules)))')
    assert subprocess.run([sys.executable, '-c', code], capture_output=True, text=True).stdout.split() == ['[False]']
