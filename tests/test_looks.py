"""Figures of a run under names, sizes and networks that a page would not show.
Grad-CAM against an implementation with hooks."""
import io, warnings
from types import SimpleNamespace

import numpy as np, pandas as pd, pytest, torch
from sklearn.metrics import average_precision_score, confusion_matrix

from xray_xfer.data.columns import relative_paths
from xray_xfer.evaluate.predictions import predictions_table
from xray_xfer.report.figures import (calibration_figure, confusion_figure, errors_figure,
                                      gradcam_figure, roc_figure, run_figures)
from xray_xfer.runs.folder import Run
from xray_xfer.report.gradcam import grad_cam, picks
from xray_xfer.evaluate.predictions import judged
from xray_xfer.models.classifier import build

HOSTILE = ['<b>', '$x_1$', 'a"b', '日本', '\udcff', 'NA', 'x' * 200, 'line\nbreak', '', '_hidden']

def predictions(classes, n=60, seed=0, skill=2., skip=()):
    rng = np.random.default_rng(seed)
    y = np.array([i % len(classes) for i in range(n) if i % len(classes) not in skip])
    logits = rng.normal(size=(len(y), len(classes))) + skill * np.eye(len(classes))[y]
    return predictions_table([f'd/{i}.png' for i in range(len(y))], ['test'] * len(y), [''] * len(y),
                             [classes[i] for i in y], logits, classes)

def png(fig):
    "The figure as bytes, drawn with no warning but that of a glyph that the font lacks"
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        warnings.filterwarnings('ignore', message='Glyph .* missing')
        fig.savefig(buf := io.BytesIO(), dpi=40, format='png')
    return buf.getvalue()

def all_figures(p):
    ims = np.random.default_rng(0).integers(0, 255, (len(p), 64, 64), dtype=np.uint8)
    return [confusion_figure(p, 'a $title$'), roc_figure(p), errors_figure(ims, p)], ims

@pytest.mark.parametrize('classes', [HOSTILE, ['a', 'b'], [f'class {i}' for i in range(30)]],
                         ids=['hostile', 'two', 'thirty'])
def test_any_classes(classes):
    p = predictions(classes, 90)
    for fig in all_figures(p)[0]:
        assert png(fig)[:4] == b'\x89PNG'
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            inked = fig.get_tightbbox()   # nothing that is drawn is cut off
        assert inked.x0 > -.05 and inked.y0 > -.05 and inked.x1 < fig.get_figwidth() + .05
        assert inked.y1 < fig.get_figheight() + .05

def test_numbers_are_the_truth():
    classes = ['a', 'b', 'c']
    p = predictions(classes, 120)
    j, probs = judged(p), p.of('test').probs
    texts = [t.get_text() for t in confusion_figure(p).axes[0].texts]
    counts = confusion_matrix(j.true, j.called)
    assert [int(t.split('\n')[0]) for t in texts] == counts.ravel().tolist()
    assert texts[1].split('\n')[1] == f'{counts[0, 1] / counts[0].sum():.1%}'
    fig = roc_figure(p)
    shown = [t.get_text() for t in fig.axes[3].get_legend().get_texts()]
    assert shown == [f'{c}: AP {average_precision_score(j.true == i, probs[:, i]):.3f}' for i, c in enumerate(classes)]
    # the area under the steps as drawn is the average precision
    for i, line in enumerate(fig.axes[1].lines[:3]):
        x, y = line.get_data()
        assert line.get_drawstyle() == 'steps-post'
        assert -(np.diff(x) * y[:-1]).sum() == pytest.approx(average_precision_score(j.true == i, probs[:, i]))

def test_classes_without_images_are_said():
    classes = ['a', 'b', 'c']
    p = predictions(classes, 60, skip=(2,))
    labels = [t.get_text() for t in roc_figure(p).axes[2].get_legend().get_texts()]
    assert 'c: no test image' in labels
    assert 'c\n0 images' in [t.get_text() for t in confusion_figure(p).axes[0].get_yticklabels()]
    assert set(picks(p).true) == {0, 1}
    lone = predictions(classes, 60, skip=(1, 2))
    legend = roc_figure(lone).axes[2].get_legend()
    assert 'a: nothing else in the test part' in [t.get_text() for t in legend.get_texts()]
    for fig in all_figures(lone)[0]: png(fig)

def test_one_image_constant_logits_and_huge_logits():
    classes = ['a', 'b']
    for logits in ([[0., 0.]], [[3e38, -3e38]], [[-1e30, 1e30]]):
        p = predictions_table(['x.png'], ['test'], [''], ['a'], logits, classes)
        j = judged(p)
        assert np.isfinite(j.loss).all() and len(picks(p)) == 1
        for fig in all_figures(p)[0]: png(fig)

def test_reliability_with_one_bin_and_without_figures():
    one = dict(bins=dict(before=[dict(confidence=1., accuracy=1., n=5)], after=[]), temperature=None)
    png(calibration_figure(one))
    png(calibration_figure(dict(bins={})))
    bins = [dict(confidence=.02, accuracy=0., n=3), dict(confidence=.5, accuracy=.5, n=0)]
    png(calibration_figure(dict(bins=dict(before=bins))))

def hooked(model, x, target):
    "Grad-CAM as mostly written: a hook on the layer before the pooling, and a backward pass through the whole network"
    kept = {}
    layer = dict(resnet10t='layer4', efficientnet_b0='bn2', shufflenetv2_100='conv5', densenet121='features',
                 convnext_atto='stages')[model.arch]
    handle = dict(model.backbone.named_modules())[layer].register_forward_hook(lambda m, i, o: kept.update(a=o))
    with torch.enable_grad():
        out = model(x.clone().requires_grad_())
        grad, = torch.autograd.grad(out[range(len(x)), target].sum(), kept['a'])
    handle.remove()
    cam = torch.einsum('nk,nkij->nij', grad.mean((2, 3)), kept['a'].detach()).clamp_min(0)
    return torch.nn.functional.interpolate(cam[:, None], x.shape[2:], mode='bilinear')[:, 0].numpy()

@pytest.mark.parametrize('arch', ['resnet10t', 'efficientnet_b0', 'shufflenetv2_100', 'densenet121', 'convnext_atto'])
def test_grad_cam_equals_hooks(arch):
    torch.manual_seed(0)
    model = build(arch, 0, 4, pretrained=False, size=96).eval()
    x, target = torch.randn(3, 3, 96, 96), [1, 3, 0]
    cams, logits = grad_cam(model, x, target)
    want = hooked(model, x, target)
    top = want.max((1, 2), keepdims=True)
    assert cams == pytest.approx(np.divide(want, top, where=top > 0, out=np.zeros_like(want)), abs=2e-3)
    with torch.no_grad(): assert logits == pytest.approx(model(x).numpy(), abs=1e-4)

def test_grad_cam_leaves_the_model_as_it_was():
    model = build('resnet10t', 1, 3, pretrained=False, size=64)
    before, modes = {k: v.clone() for k, v in model.state_dict().items()}, [m.training for m in model.modules()]
    with torch.no_grad(): grad_cam(model, torch.randn(2, 3, 64, 64), [0, 1])   # whoever calls it under no_grad
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert [m.training for m in model.modules()] == modes and not any(p.grad is not None for p in model.parameters())

def test_channels_last_features():
    "Swin keeps its channels last: the map has the shape of the image all the same"
    cams, _ = grad_cam(build('swin_tiny_patch4_window7_224', 0, 2, pretrained=False), torch.randn(1, 3, 224, 224), [1])
    assert cams.shape == (1, 224, 224) and 0 <= cams.min() and cams.max() <= 1

@pytest.mark.parametrize('arch', ['vit_tiny_patch16_224', 'deit_tiny_distilled_patch16_224', 'beit_base_patch16_224'])
def test_tokens_lie_on_the_image(arch):
    "Without prefix tokens, row by row: as a hook and a backward pass through the whole network have it"
    torch.manual_seed(0)
    model, kept = build(arch, 0, 3, pretrained=False, size=64).eval(), {}
    x, prefix = torch.randn(2, 3, 64, 64), model.backbone.num_prefix_tokens
    cams, logits = grad_cam(model, x, [2, 0])
    handle = model.backbone.blocks[-1].norm1.register_forward_hook(lambda m, i, o: kept.update(a=o))
    out = model(x.clone().requires_grad_())
    grad, = torch.autograd.grad(out[[0, 1], [2, 0]].sum(), kept['a'])
    handle.remove()
    tokens, grad = kept['a'].detach()[:, prefix:], grad[:, prefix:]
    cam = (tokens * grad.mean(1, keepdim=True)).sum(2).clamp_min(0).reshape(2, 1, 4, 4)
    want = torch.nn.functional.interpolate(cam, (64, 64), mode='bilinear')[:, 0]
    assert cams == pytest.approx((want / want.amax((1, 2), keepdim=True).clamp_min(1e-30)).numpy(), abs=2e-3)
    assert logits == pytest.approx(out.detach().numpy(), abs=1e-4)
    assert not any(m._forward_hooks for m in model.modules())

def test_tokens_that_do_not_come_out_even_are_an_error():
    "CaiT has its class token in the last blocks only; and what fails leaves no hook behind"
    model = build('cait_xxs24_224', 0, 3, pretrained=False, size=64)
    modes = [m.training for m in model.modules()]
    with pytest.raises(ValueError, match=r'not defined for cait_xxs24_224: .* are not 1 \+ 4 × 4 tokens'):
        grad_cam(model, torch.zeros(1, 3, 64, 64), [0])
    assert not any(m._forward_hooks for m in model.modules()) and [m.training for m in model.modules()] == modes

def test_a_transformer_gets_its_maps():
    classes = ['a', 'b']
    model = build('vit_tiny_patch16_224', 0, 2, pretrained=False, size=64).eval()
    p = predictions(classes, 12)
    ims = np.zeros((12, 64, 64), np.uint8)
    with torch.no_grad(): logits = model(torch.full((1, 3, 64, 64), -1.)).numpy()
    for k, c in enumerate(classes): p[f'logit_{c}'] = logits[0, k]
    fig = gradcam_figure(model, ims, p, [.5] * 3, [.5] * 3)
    assert 'not defined' not in fig.get_suptitle() and 'Grad-CAM' in fig.get_suptitle()
    png(fig)

def test_run_figures_finds_images_by_path(tmp_path):
    "The pack may hold the images in any order; the figures show those of the predictions"
    classes, rng = ['a', 'b'], np.random.default_rng(0)
    pixels = rng.integers(0, 255, (8, 64, 64), dtype=np.uint8)
    table = pd.DataFrame(dict(path=[f'/r/{"ab"[i % 2]}/{i}.png' for i in range(8)],
                              label=[classes[i % 2] for i in range(8)]))
    model = build('resnet10t', 0, 2, pretrained=False, size=64).eval()
    x = (torch.from_numpy(pixels)[:, None].expand(-1, 3, -1, -1).float() / 255 - .5) / .5
    with torch.no_grad(): logits = model(x).numpy()
    order = [5, 0, 3, 6]
    p = predictions_table(np.array(relative_paths(table))[order], ['test'] * 4, [''] * 4, table.label[order],
                          logits[order], classes)
    config = dict(arch='resnet10t', depth=0, data='d', classes=classes, mean=[.5] * 3, std=[.5] * 3)
    run = Run(None, config, {}, predictions=p)
    # raises if the probabilities are other images'
    figures = run_figures(run, model, SimpleNamespace(pixels=pixels, table=table))
    j = judged(p)
    worst = order[j.loss.to_numpy().argmax()]
    assert (figures['errors.png'].axes[0].images[0].get_array() == pixels[worst]).all()
    assert 'calibration.png' not in figures
