"""What the pages claim beside `xray_xfer bench`, measured.

    python benchmarks/measure.py WHAT FOLDER --pretrained WEIGHTS

  agreement  test accuracy from cached features against training on images, three depths, three seeds
  epochs     which epoch to keep: test accuracy by four rules, a split for each seed
  views      what k fixed views of each training image, or new ones in each epoch, buy and cost, three seeds
  memory     anonymous memory and seconds of each phase for 1, 4, 16, 64 and 100 thousand images (by repetition)
  layout     images/s of training with fastai's `ChannelsLast` and with `KeepChannelsLast`, an epoch of each in turn
  profile    where a training step on features goes, in each precision that the processor multiplies, and what the
             matrix products in it could cost at best; the ways back of depthwise convolutions
  trunk      the frozen part in bfloat16, depth 2: images/s against ONNX Runtime, error against PyTorch, both in float32
             (WEIGHTS: a folder with ARCH.safetensors of two; EfficientNet-B0 starts from random weights)
  parts      packing, trunk, intervals and twins against their yardsticks
  twins      near-duplicates among drawings that look alike, and among 21,165 images: those of FOLDER, altered copies
             of 500, and the rest bent out of them so that they are none
  cuts       is any sound cut refused? 15 families from random weights, three seeds, as they come and calibrated on
             drawings and on the films of FOLDER
  leak       the same models on a naive and on a grouped split of FOLDER with altered copies of a tenth
             (--also: a second folder of the same classes)

FOLDER holds a folder a class, WEIGHTS is a file for shufflenetv2_100 (`cuts` needs none). Writes benchmarks/WHAT.json
and .md, and memory.png. Run it alone: two PyTorch processes on two cores slow each other down twentyfold."""
import argparse, json, os, shutil, subprocess, sys, tempfile, threading, time
from datetime import date
from pathlib import Path

HERE, ARCH = Path(__file__).parent, 'shufflenetv2_100'

def table(rows, head):
    "Rows of texts as Markdown"
    return '\n'.join(['| ' + ' | '.join(head) + ' |', '|---' + '|---:' * (len(head) - 1) + '|',
                      *('| ' + ' | '.join(map(str, r)) + ' |' for r in rows)])

def write(what, res, text, command=None):
    "The JSON with where and when it was measured, and the Markdown"
    from xray_xfer.core.machine import environment
    e = environment()
    v = e['versions']
    where = (f"{e['device_name']}, {e['cores']} cores, {e['threads']} threads; "
             f"Python {e['python']}, torch {v['torch']}, fastai {v['fastai']}, timm {v['timm']}; {date.today()}; "
             f"`{command or f'python benchmarks/measure.py {what}'}`")
    (HERE/f'{what}.json').write_text(json.dumps(dict(res, environment=e, date=str(date.today())), indent=1) + '\n')
    (HERE/f'{what}.md').write_text(f'{text}\n\n{where}\n')
    print(f'{text}\n\n{where}')

def spread(values): return f'{sum(values) / len(values):.4f} ({min(values):.4f}–{max(values):.4f})'

def agreement(a):
    from xray_xfer.data.table import images_of
    from xray_xfer.data.packing import pack
    from xray_xfer.train import run
    p, rows, acc = pack(images_of(a.folder), a.size), [], {}
    ways = {'features, by default': {}, 'images': dict(cache=False)}
    with tempfile.TemporaryDirectory() as out:
        for depth in a.depths:
            for way, kw in ways.items():
                found = [run(p, ARCH, depth, pretrained=a.pretrained, epochs=a.epochs, seed=s, name=f'{depth}{way}{s}',
                             out=out, quiet=True, **kw) for s in a.seeds]
                acc[f'{depth} {way}'] = [r.metrics['accuracy'] for r in found]
                seconds = sum(r.timings['train'] for r in found) / len(found)
                rows.append([depth, way, spread(acc[f'{depth} {way}']), '', f'{seconds:.0f}'])
                print(rows[-1], acc[f'{depth} {way}'], file=sys.stderr, flush=True)
    for r in rows: r[3] = f"{100 * (sum(acc[f'{r[0]} {r[1]}']) - sum(acc[f'{r[0]} images'])) / len(a.seeds):+.2f}"
    tested = found[0].metrics['n']
    head = ['depth', 'trained on', 'test accuracy: mean (range)', 'less images, points', 'training, s']
    note = f'{len(p):,} images, {tested:,} in the test part, {a.size} px, {a.epochs} epochs, seeds {a.seeds}.'
    write('agreement', dict(accuracy=acc, seeds=a.seeds, epochs=a.epochs, images=len(p), test=tested),
          f'{table(rows, head)}\n\n{note}')

def epochs(a):
    "Which epoch to keep: a seed and a split each"
    import numpy as np
    from xray_xfer import train
    from xray_xfer.evaluate.calibration import fit_temperature, nll, scaled_loss
    from xray_xfer.data.table import images_of
    from xray_xfer.training.feed import logits_of
    from xray_xfer.data.packing import pack
    seen, res, rows = [], [], []
    class Watch(train.KeepBest):
        def after_epoch(self):
            super().after_epoch()
            (v, vy), (t, ty) = (
                (logits_of(self.model, dl), np.concatenate([b[-1].numpy() for b in dl]))
                for dl in list(self.learn.dls)[1:])
            temperature = fit_temperature(v, vy)[0]
            seen.append(dict(loss=nll(vy, v).mean(), scaled=scaled_loss(v, vy), accuracy=(v.argmax(1) == vy).mean(),
                             test=(t.argmax(1) == ty).mean(), test_loss=nll(ty, t, temperature).mean()))
    train.KeepBest = Watch
    with tempfile.TemporaryDirectory() as tmp:
        p = pack(images_of(a.folder), a.size, quiet=True)
        for depth in a.depths:
            for s in a.seeds:
                seen.clear()
                train.run(p, ARCH, depth, pretrained=a.pretrained, epochs=a.epochs, seed=s, split_seed=s, groups=False,
                          name=f'{depth} {s}', out=tmp, quiet=True)
                e = {k: np.array([x[k] for x in seen]) for k in seen[0]}
                most_accurate = max(range(a.epochs), key=lambda i: (e['accuracy'][i], -e['scaled'][i]))
                keep = {'lowest validation loss': e['loss'].argmin(),
                        'lowest validation loss after scaling': e['scaled'].argmin(),
                        'highest validation accuracy': most_accurate,
                        'the last': a.epochs - 1}
                res += [dict(depth=depth, seed=s, kept=k, epoch=int(i) + 1, accuracy=float(e['test'][i]),
                             loss=float(e['test_loss'][i])) for k, i in keep.items()]
                print(res[-4:], file=sys.stderr, flush=True)
            for k in keep:
                got = [r for r in res if r['depth'] == depth and r['kept'] == k]
                rows.append([depth, k, spread([r['accuracy'] for r in got]),
                             f"{np.mean([r['loss'] for r in got]):.4f}"])
    head = ['depth', 'epoch kept', 'test accuracy: mean (range)', 'cross-entropy on the test part after scaling']
    note = (f'{len(p):,} images, {a.size} px, {a.epochs} epochs, seeds {a.seeds}, each with a split of its own. '
            'Nothing but the choice of the epoch differs.')
    write('epochs', dict(rows=res), f'{table(rows, head)}\n\n{note}')

def layout(a):
    import numpy as np
    from fastai.callback.channelslast import ChannelsLast
    from fastai.callback.schedule import fit_one_cycle   # noqa: F401 - gives Learner the method
    from fastai.learner import Learner
    from fastai.losses import CrossEntropyLossFlat
    from fastai.optimizer import Adam
    from xray_xfer.data.table import images_of
    from xray_xfer.evaluate.tables import display_name
    from xray_xfer.settings import Settings
    from xray_xfer.training.feed import feed
    from xray_xfer.training.ready import prepare
    from xray_xfer.training.optimiser import FusedAdam
    from xray_xfer.training.layout import KeepChannelsLast
    from xray_xfer.core.machine import keep_buffers
    from xray_xfer.models.classifier import build, splitter
    from xray_xfer.models.blueprint import stats
    from xray_xfer.data.packing import pack
    keep_buffers()
    rows, res = [], []
    with tempfile.TemporaryDirectory() as tmp:
        os.environ['XRAY_XFER_CACHE'] = tmp
        p, s = pack(images_of(a.folder), a.size, quiet=True), Settings(groups=False, device='cpu', quiet=True)
        prepared = prepare(p, s)
        for arch in (ARCH, 'efficientnet_b0'):
            for depth in a.depths:
                model = build(arch, depth, 4, a.pretrained if arch == ARCH else False)
                fed = feed(model, prepared, s, stats(arch))
                rates = {(ChannelsLast, Adam): [], (KeepChannelsLast, Adam): [], (KeepChannelsLast, FusedAdam): []}
                for _ in range(1 + a.epochs):   # the first of each warms up
                    for (cb, opt), found in rates.items():
                        learn = Learner(fed.dls, fed.net, CrossEntropyLossFlat(), splitter=lambda _: splitter(model),
                                        train_bn=False, opt_func=opt, wd=.01, cbs=cb())
                        with learn.no_bar(), learn.no_logging():
                            start = time.perf_counter()
                            learn.fit_one_cycle(1, slice(2e-3 / 3, 2e-3))
                        found.append(len(fed.dls.train) * fed.dls.train.bs / (time.perf_counter() - start))
                before, layout, both = (np.array(v[1:]) for v in rates.values())
                res.append(dict(arch=arch, depth=depth, fastai=list(before), layout=list(layout), both=list(both)))
                ratio = lambda x, y: f'{np.median(x / y):.2f} ({min(x / y):.2f}–{max(x / y):.2f})'
                medians = [f'{np.median(v):,.0f}' for v in (before, layout, both)]
                rows.append([f'{display_name(arch)}, depth {depth}', *medians,
                             ratio(layout, before), ratio(both, layout)])
                print(rows[-1], file=sys.stderr, flush=True)
    head = ['images/s in training', "fastai's `ChannelsLast`, `Adam`", '`KeepChannelsLast`, `Adam`',
            '`KeepChannelsLast`, `FusedAdam`', 'layout: median of pairs (range)', 'optimiser: median of pairs (range)']
    note = (f'One epoch of each in turn, {a.epochs} rounds, validation included; {len(p):,} images, {a.size} px, '
            'batch 64, from features; EfficientNet-B0 from random weights.')
    write('layout', dict(rows=res, images=len(p)), f'{table(rows, head)}\n\n{note}')

def profile(a):
    import torch
    from xray_xfer.core.machine import bfloat16_flags, keep_buffers
    from xray_xfer.evaluate.tables import display_name
    keep_buffers()
    precisions, rows, res = [torch.float32] + [torch.bfloat16] * bool(bfloat16_flags()), [], []
    for arch in (ARCH, 'efficientnet_b0'):
        for depth in a.depths:
            for precision in precisions:
                share, flop, mm_flops = one_step(arch, depth, precision, a)
                whole, bound = sum(share.values()), 1e3 * flop / mm_flops
                res.append(dict(arch=arch, depth=depth, precision=str(precision)[6:], ms=whole, shares=share, flop=flop,
                                mm_flops=mm_flops))
                rows.append([f'{display_name(arch)}, depth {depth}', str(precision)[6:], f'{whole:.0f}',
                             *(f'{v:.0f}' for v in share.values()), f'{flop / 1e9:.1f}', f'{mm_flops / 1e9:.0f}',
                             f'{bound:.0f}, {100 * bound / whole:.0f} %'])
                print(rows[-1], file=sys.stderr, flush=True)
    convolutions = [way_back(*which, precisions) for which in ((232, 7, 3, 1), (232, 14, 3, 2), (240, 28, 3, 2),
                                                              (480, 14, 5, 1), (672, 14, 5, 2), (1152, 7, 5, 1))]
    note = (f'Mean of 10 steps of 64 images, {a.size} px, forward and backward, without the optimiser and the loader, '
            "as `KeepChannelsLast` has them; `torch.profiler`. The product is of two matrices of side 2,048. "
            'Below, what autocast alone would do: milliseconds of a '
            'depthwise convolution of 64 images, there and back.')
    steps = ['training on features', 'in', 'a step, ms', *KINDS, 'all else', 'GFLOP', 'GFLOP/s of one matrix product',
             'its products at that rate, ms, and share of the step']
    head = ['depthwise convolution', *(str(p)[6:] for p in precisions)]
    depths = ' '.join(map(str, a.depths))
    write('profile', dict(rows=res, depthwise=convolutions), f'{table(rows, steps)}\n\n{note}\n\n'
          + table([[c['what'], *(f'{ms:.1f}' for ms in c['ms'])] for c in convolutions], head),
          f'python benchmarks/measure.py profile FOLDER --pretrained WEIGHTS --depths {depths}')

KINDS = {'convolutions and matrix products': (
             'mkldnn_convolution', 'convolution_backward', 'mm', 'addmm'),
         'BatchNorm': ('native_batch_norm', 'native_batch_norm_backward'),
         'activations': ('threshold_backward', 'clamp_min', 'clamp_min_', 'silu', 'silu_', 'silu_backward',
                         'sigmoid', 'mul'),
         'copies': ('copy_', 'cat')}   # channel shuffle, joining, another precision

def one_step(arch, depth, precision, a):
    "Milliseconds by kind, the step's floating-point operations, and how many of a large product are done in a second"
    import torch
    from torch import nn
    from torch.nn import functional as F
    from xray_xfer.models.classifier import build
    from xray_xfer.training.layout import _ChannelsLastMode
    from xray_xfer.trunk.cutting import cut
    model = build(arch, depth, 4, a.pretrained if arch == ARCH else False)
    c = cut(model, a.size)
    with torch.no_grad():
        x = [f.to(memory_format=torch.channels_last) if f.ndim == 4 else f
             for f in c.trunk(torch.rand(64, 3, a.size, a.size))]
    y, net = torch.arange(64) % 4, c.tail.to(memory_format=torch.channels_last)
    model.to(memory_format=torch.channels_last)
    net.train()
    flop = 0
    def count(m, args, out):
        nonlocal flop
        # forward, the weight's gradient, and the input's but for what the features enter
        n = 2 * out.numel() * m.weight[0].numel()
        flop += n * (1 + m.weight.requires_grad + (args[0].requires_grad or args[0].grad_fn is not None))
    hooks = [m.register_forward_hook(count) for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    def step():
        with _ChannelsLastMode(), torch.autocast('cpu', torch.bfloat16, enabled=precision == torch.bfloat16):
            z = net(*x)
        F.cross_entropy(z.float(), y).backward()
        net.zero_grad()
    step()
    for h in hooks: h.remove()
    for _ in range(5): step()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as prof:
        for _ in range(10): step()
    # ms a step
    spent = {e.key.removeprefix('aten::'): e.self_cpu_time_total / 1e4 for e in prof.key_averages()}
    share = {k: sum(spent.get(n, 0.) for n in names) for k, names in KINDS.items()}
    share['all else'] = sum(spent.values()) - sum(share.values())
    b = torch.rand(2048, 2048).to(precision)
    return share, flop, best(lambda: b @ b, 2 * 2048**3, 5)

def trunk(a):
    import numpy as np, torch
    from xray_xfer.core.machine import keep_buffers
    from xray_xfer.data.packing import pack
    from xray_xfer.data.table import images_of
    from xray_xfer.models.classifier import build
    from xray_xfer.trunk.cutting import cut
    from xray_xfer.trunk.engine import Engine, relative_error
    keep_buffers()
    films = pack(images_of(a.folder), a.size).grey(slice(0, 256))
    x = torch.from_numpy(np.ascontiguousarray(films[:, None])).expand(-1, 3, -1, -1).float().div(255).sub(.45).div(.225)
    rows, res = [], []
    for arch in (ARCH, 'tf_efficientnet_lite0', 'efficientnet_b0'):
        weights = False if arch == 'efficientnet_b0' else Path(a.pretrained)/f'{arch}.safetensors'
        frozen = cut(build(arch, 2, 4, weights), a.size).trunk.eval()
        engine = Engine(frozen, (x[:4].numpy(),))
        net = frozen.to(memory_format=torch.channels_last)
        def half(z, net=net):
            with torch.no_grad(), torch.autocast('cpu', torch.bfloat16):
                return net(z.contiguous(memory_format=torch.channels_last))
        with torch.no_grad(): want = [t.numpy() for t in frozen(x[:32])]
        error = float(relative_error([t.float().numpy() for t in half(x[:32])], want).max())
        rates = dict(onnxruntime=best(lambda e=engine: list(e(x.numpy())), len(x)),
                     bfloat16=max(best(lambda b=b, h=half: [h(z) for z in x.split(b)], len(x)) for b in (16, 64)))
        res.append(dict(arch=arch, error=error, **rates))
        rows.append([arch, f"{rates['onnxruntime']:.0f}", f"{rates['bfloat16']:.0f}", f'{100 * error:.1f} %'])
        print(rows[-1], file=sys.stderr, flush=True)
    head = ['trunk at depth 2', 'ONNX Runtime, float32, images/s', 'PyTorch, bfloat16', 'largest error of an image']
    write('trunk', dict(rows=res), f'{table(rows, head)}\n\n{len(x)} films, {a.size} px, the best of three rounds; '
          'EfficientNet-B0 from random weights. On CUDA half precision may be 1 % off.')

def way_back(channels, side, kernel, stride, precisions):
    "Milliseconds of a depthwise convolution, forward and backward"
    import torch
    from torch.nn import functional as F
    ms = []
    for precision in precisions:
        x = torch.rand(64, channels, side, side, dtype=precision).to(memory_format=torch.channels_last).requires_grad_()
        w = torch.rand(channels, 1, kernel, kernel, dtype=precision, requires_grad=True)
        def once():
            out = F.conv2d(x, w, None, stride, kernel // 2, 1, channels)
            torch.autograd.grad(out, [x, w], torch.ones_like(out))
        ms.append(1e3 / best(once, 1, 10))
    return dict(what=f'{channels} channels, {side} × {side}, {kernel} × {kernel}, stride {stride}', ms=ms)

def views(a):
    from xray_xfer.data.table import images_of
    from xray_xfer.data.packing import pack
    from xray_xfer.train import run
    p, rows, res = pack(images_of(a.folder), a.size), [], {}
    with tempfile.TemporaryDirectory() as out:
        for depth in a.depths:
            for k in (1, 2, 4, 8, 'new ones each epoch'):
                how = dict(views=k) if isinstance(k, int) else dict(augment=True)
                found = [run(p, ARCH, depth, pretrained=a.pretrained, epochs=a.epochs, seed=s, name=f'{depth} {k} {s}',
                             out=out, quiet=True, **how) for s in a.seeds]
                keep = {m: [r.metrics[m] for r in found] for m in ('accuracy', 'auc', 'loss')}
                made = found[0].timings['features']   # the first seed makes them, the others find them
                res[f'{depth} {k}'] = keep | dict(features=made, train=[r.timings['train'] for r in found])
                seconds = sum(r.timings['train'] for r in found) / len(found)
                rows.append([depth, k, *map(spread, keep.values()), f'{made:.0f}', f'{seconds:.0f}'])
                print(rows[-1], file=sys.stderr, flush=True)
    tested = found[0].metrics['n']
    head = ['depth', 'views', 'test accuracy: mean (range)', 'AUC', 'cross-entropy', 'features made, s', 'training, s']
    note = (f'{len(p):,} images, {tested:,} in the test part, {a.size} px, {a.epochs} epochs, seeds {a.seeds}. '
            'The features of view 1 serve all k at the same depth, '
            'so each row made only what the rows above had not.')
    write('views', dict(rows=res, seeds=a.seeds, epochs=a.epochs, images=len(p), test=tested),
          f'{table(rows, head)}\n\n{note}')

CHILD = '''
import json, sys, threading, time
a = json.loads(sys.argv[1])
def anon(): return next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')) / 1e6
import torch
from xray_xfer.study import study
start, peak, stop = anon(), [0.], threading.Event()
def watch():
    while not stop.wait(.05): peak[0] = max(peak[0], anon())
threading.Thread(target=watch, daemon=True).start()
began = time.perf_counter()
s = study(a['folder'], a['arch'], a['depths'], pretrained=a['pretrained'], epochs=1, out=a['out'], quiet=True)
whole = time.perf_counter() - began
stop.set()
summed = 'twins', 'split', 'features', 'train', 'evaluate', 'check', 'figures'
phases = {k: sum(r.timings.get(k, 0.) for r in s.runs) for k in summed}
phases['pack'] = max(r.timings['pack'] for r in s.runs)
accuracy = [r.metrics['accuracy'] for r in s.runs]
found = dict(imports_gb=start, peak_gb=peak[0], whole=whole, phases=phases, accuracy=accuracy)
json.dump(found, open(a['result'], 'w'))
'''

def memory_written(rows, depths):
    "The figure and the table of what has been measured so far"
    from matplotlib.figure import Figure
    phases = ['pack', 'twins', 'features', 'train', 'evaluate']
    fig = Figure(figsize=(8, 3.2), layout='constrained')
    left, right = fig.subplots(1, 2)
    for name, marker in zip(phases, 'osD^v'):
        left.plot([r['n'] / 1e3 for r in rows], [r['phases'][name] for r in rows], f'-{marker}', ms=4, label=name)
    left.set(xlabel='thousand images', ylabel='seconds', title='Each phase grows with the images', ylim=(0, None))
    left.legend(frameon=False)
    left.grid(alpha=.25)
    right.plot([r['n'] / 1e3 for r in rows], [r['peak_gb'] - r['imports_gb'] for r in rows], '-o', color='#0072B2')
    right.axhline(3, color='#D55E00', ls='--', lw=1, label='bound: 3 GB')
    right.set(xlabel='thousand images', ylabel='GB', title='Anonymous memory beyond the imports', ylim=(0, 3.4))
    right.legend(frameon=False)
    right.grid(alpha=.25)
    fig.savefig(HERE/'memory.png', dpi=110)
    head = ['images', 'after imports, GB', 'peak, GB', 'beyond imports, GB', *(f'{k}, s' for k in phases), 'whole, s']
    lines = [[f"{r['n']:,}", f"{r['imports_gb']:.2f}", f"{r['peak_gb']:.2f}",
              f"{r['peak_gb'] - r['imports_gb']:.2f}", *(f"{r['phases'][k]:.1f}" for k in phases),
              f"{r['whole']:.0f}"] for r in rows]
    note = (f"A study of {ARCH} at depths {', '.join(map(str, depths))}, one epoch, 224 px, near-duplicates sought and "
            'grouped; the images are those of the folder by repetition. RssAnon of /proc/self/status, every 50 ms; '
            'before training PyTorch has allocated nothing, so its own buffers count as ours.')
    write('memory', dict(rows=rows), f'{table(lines, head)}\n\n{note}')

def memory(a):
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        files = sorted(f for f in Path(a.folder).rglob('*')
                       if f.suffix.lower() in ('.png', '.jpg', '.jpeg') and 'masks' not in f.parts)
        for n in a.counts:
            shutil.rmtree(tmp/'images', ignore_errors=True)
            for i in range(n):
                f = files[i % len(files)] if n >= len(files) else files[i * len(files) // n]
                label = next(p for p in reversed(f.parent.parts) if p != 'images')
                (tmp/'images'/label).mkdir(parents=True, exist_ok=True)
                first = tmp/'first'/label/f.name
                if not first.exists():
                    first.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(f, first)
                os.link(first, tmp/'images'/label/f'{i}{f.suffix}')
            spec = dict(folder=str(tmp/'images'), arch=ARCH, depths=a.depths, pretrained=a.pretrained,
                        out=str(tmp/f'out{n}'), result=str(tmp/'result.json'))
            env = os.environ | dict(XRAY_XFER_CACHE=str(tmp/'cache'))
            subprocess.run([sys.executable, '-W', 'ignore', '-c', CHILD, json.dumps(spec)], check=True, env=env)
            rows.append(dict(n=n) | json.loads((tmp/'result.json').read_text()))
            shutil.rmtree(tmp/'cache')
            print(rows[-1], file=sys.stderr, flush=True)
            memory_written(rows, a.depths)   # a step may take long: what is there stays

def best(f, n, rounds=3):
    "The best rate of a few rounds, n things each"
    seconds = []
    for _ in range(rounds):
        start = time.perf_counter()
        f()
        seconds.append(time.perf_counter() - start)
    return n / min(seconds)

def parts(a):
    import numpy as np, onnxruntime, torch
    from concurrent.futures import ThreadPoolExecutor
    from PIL import Image
    from xray_xfer.trunk.cutting import cut
    from xray_xfer.data.table import images_of
    from xray_xfer.core.machine import keep_buffers
    from xray_xfer.models.classifier import build
    from xray_xfer.models.blueprint import stats
    from xray_xfer.data.packing import pack
    from xray_xfer.evaluate.intervals import intervals
    from xray_xfer.trunk.engine import Engine, FromPixels, onnx_of
    from xray_xfer.twins.find import find_twins
    keep_buffers()
    rows, res, t = [], {}, images_of(a.folder)
    def say(what, ours, yardstick, unit):
        res[what] = dict(ours=ours, yardstick=yardstick, unit=unit)
        against = ['', ''] if yardstick is None else [f'{yardstick:,.4g} {unit}', f'{ours / yardstick:.2f}']
        rows.append([what, f'{ours:,.4g} {unit}', *against])
        print(rows[-1], file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        tmp, cores = Path(tmp), len(os.sched_getaffinity(0))
        png = t[::3].reset_index(drop=True)
        for i, f in enumerate(png.path):
            with Image.open(f) as im: im.convert('L').resize((299, 299), Image.Resampling.BICUBIC).save(tmp/f'{i}.png')
        png = png.assign(path=[str(tmp/f'{i}.png') for i in range(len(png))])
        def loop(paths):
            for f in paths:
                with Image.open(f) as im: np.asarray(im.convert('L').resize((224, 224), Image.Resampling.BILINEAR))
        def packing(table):
            with tempfile.TemporaryDirectory() as d: pack(table, cache=d, quiet=True)
        for name, table_ in ((f'packing, {len(png):,} PNG of 299 px as Kaggle has them', png),
                             (f'packing, {len(t):,} small files as they are', t)):
            for f in table_.path: Path(f).read_bytes()
            one = cores * best(lambda: loop(table_.path), len(table_))
            say(f'{name}, against cores × a PIL loop on one', best(lambda: packing(table_), len(table_)), one,
                'images/s')
            # what this interpreter allows: Pillow reads headers in Python, one thread at a time
            blocks = [table_.path[i:i + 16] for i in range(0, len(table_), 16)]
            with ThreadPoolExecutor(cores) as pool:
                say(f'    the PIL loop itself over these {len(table_):,}, nothing written, in a thread a core',
                    best(lambda: list(pool.map(loop, blocks)), len(table_)), one, 'images/s')
        p = pack(t, cache=tmp, quiet=True)
        for arch in (ARCH, 'efficientnet_b0'):
            model = build(arch, 2, pretrained=a.pretrained if arch == ARCH else False)
            trunk = FromPixels(cut(model, 224).trunk, *(stats(arch)[k] for k in ('mean', 'std'))).eval()
            x = np.array(p.pixels[:512])
            start = time.perf_counter()
            e = Engine(trunk, (x[:3],))
            ready = time.perf_counter() - start
            session = onnxruntime.InferenceSession(onnx_of(trunk, (torch.from_numpy(x[:2]),)),
                                                   providers=['CPUExecutionProvider'])
            whole = best(lambda: [None for _ in e(x)], len(x))
            yard = max(best(lambda: [session.run(None, {'in0': x[i:i + b]}) for i in range(0, len(x), b)], len(x), 2)
                       for b in (1, 4, 16))
            say(f'trunk of {arch} at depth 2, against ONNX Runtime as it comes at the best of batch 1, 4, 16 '
                f'(ready after {ready:.1f} s, relative error {e.error:.0e})', whole, yard, 'images/s')
        rng = np.random.default_rng(0)
        y, z = rng.integers(0, 4, 4000), rng.standard_normal((4000, 4))
        z[np.arange(4000), y] += 2
        probs = np.exp(z) / np.exp(z).sum(1, keepdims=True)
        say('intervals of all metrics, 4,000 images', 1 / best(lambda: intervals(y, probs, list('abcd')), 1), None, 's')
        shutil.rmtree(p.path.parent.parent/'twins', ignore_errors=True)
        start = time.perf_counter()
        find_twins(p, quiet=True)
        say(f'twins among {len(p):,} images, after packing', time.perf_counter() - start, None, 's')
    write('parts', dict(rows=res), table(rows, ['what', 'here', 'yardstick', 'ratio']))

def altered(im, rng):
    "A copy as the web makes them: cropped by up to 5 % at each edge, contrast and brightness shifted, a label burnt in"
    import numpy as np
    from PIL import Image, ImageDraw
    l, t, r, b = rng.uniform(0, .05 * 224, 4)
    a = np.asarray(im.resize((224, 224), Image.Resampling.BICUBIC, box=(l, t, 224 - r, 224 - b)), np.float32)
    a = (a - a.mean()) * rng.uniform(.7, 1.3) + a.mean() + rng.uniform(-30, 30)
    im = Image.fromarray(a.clip(0, 255).astype(np.uint8))
    ImageDraw.Draw(im).text((rng.choice([8, 160]), rng.choice([8, 190])), rng.choice(['L', 'R', 'AP', 'day 1']),
                            fill=255, font_size=20)
    return im

def bent(a, rng):
    "Another patient of the same build: every part moved by some 10 of 224 pixels, each its own way"
    import numpy as np
    from scipy.ndimage import gaussian_filter, map_coordinates
    shift = [gaussian_filter(rng.standard_normal((224, 224), dtype=np.float32), 18) for _ in range(2)]
    grid = np.mgrid[:224, :224].astype(np.float32)
    return map_coordinates(a, [g + 10 * d / d.std() for g, d in zip(grid, shift)], order=1, mode='nearest')

CROPS = (.02, .04, .06, .08, .10, .12, .15)   # of the side

def one_sided(t, read, rng):
    "Share of one-sided crops that are found beside their originals, by edge and depth"
    import io
    import numpy as np
    from PIL import Image
    from xray_xfer.twins.neighbours import components, search
    originals, plan, copies = [np.asarray(read(f)) for f in t.path], [], []
    edges = dict(left=[0], upper=[1], right=[2], lower=[3], corner=None)
    for name, edge in edges.items():
        for depth in CROPS:
            for i in rng.permutation(len(originals))[:40]:
                cut = np.zeros(4)
                cut[edge or [rng.choice([0, 2]), rng.choice([1, 3])]] = 224 * depth
                box = (*cut[:2], 224 - cut[2], 224 - cut[3])
                im = Image.fromarray(originals[i]).resize((224, 224), Image.Resampling.BICUBIC, box=box)
                a = np.asarray(im, np.float32)
                a = (a - a.mean()) * rng.uniform(.8, 1.2) + a.mean() + rng.uniform(-20, 20)
                file, quality = io.BytesIO(), int(rng.integers(50, 85))
                Image.fromarray(a.clip(0, 255).astype(np.uint8)).save(file, 'JPEG', quality=quality)
                copies.append(np.asarray(Image.open(file)))
                plan.append((name, depth, i))
    found = {name: {depth: [] for depth in CROPS} for name in edges}
    for start in range(0, len(copies), 280):   # few at a time, or copies find each other
        some, of = copies[start:start + 280], plan[start:start + 280]
        pixels = np.stack(originals + some)
        group = components(len(pixels), list(search(pixels, np.arange(len(pixels)), .8, quiet=True)[0]))
        for k, (name, depth, i) in enumerate(of): found[name][depth].append(group[i] == group[len(originals) + k])
    return {name: {depth: float(np.mean(v)) for depth, v in of.items()} for name, of in found.items()}

def twins(a):
    import numpy as np, pandas as pd
    from PIL import Image
    from xray_xfer.data.table import images_of
    from xray_xfer.data.demo import draw
    from xray_xfer.data.packing import pack
    from xray_xfer.twins.find import find_twins
    rng, sets, rows = np.random.default_rng(0), {}, []
    anon = lambda: next(int(l.split()[1]) for l in open('/proc/self/status') if l.startswith('RssAnon')) / 1e6
    read = lambda f: Image.open(f).convert('L').resize((224, 224))
    def copies(t, of, folder):
        "Altered copies of so many images of a table, as rows of it"
        folder.mkdir()
        for i in of: altered(read(t.path[i]), rng).save(folder/f'copy{i}.jpg', quality=int(rng.integers(40, 81)))
        return [dict(path=str(folder/f'copy{i}.jpg'), label=t.label[i]) for i in of]
    def measured(what, t, of, strangers):
        "Search among a table's images; `of` are those with a copy, `strangers` the names whose pairs are all wrong"
        p = pack(images_of(t), cache=tmp)
        before, peak, stop = anon(), [0.], threading.Event()
        def watch():
            while not stop.wait(.05): peak[0] = max(peak[0], anon())
        threading.Thread(target=watch, daemon=True).start()
        start = time.process_time()
        found = find_twins(p, quiet=True)
        seconds = time.process_time() - start
        stop.set()
        name = list(p.table.path.map(lambda f: Path(f).name))
        beside = [found.groups[i] == found.groups[name.index(f'copy{i}.jpg')] for i in of]
        recall = float(np.mean(beside)) if len(of) else None
        source = [int(n[4:-4]) if n.startswith('copy') else i for i, n in enumerate(name)]
        strange = sum(source[x] != source[y] and (name[x].startswith(strangers) or name[y].startswith(strangers))
                      for x, y in zip(found.pairs.i, found.pairs.j))
        sets[what] = dict(images=len(p), seconds=seconds, pairs=len(found.pairs), recall=recall,
                          wrong_pairs=int(strange), anonymous_gb=peak[0] - before)
        rows.append([what, f'{len(p):,}', f'{seconds:.1f}', len(found.pairs), '' if recall is None else f'{recall:.3f}',
                     strange, f'{peak[0] - before:.2f}'])
        print(rows[-1], file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        drawn = images_of(draw(tmp/'drawn', 300))[['path', 'label']]
        measured('drawings', drawn, [], ('COVID', 'Lung', 'Normal', 'Viral'))
        of = rng.permutation(300)[:100]
        both = pd.concat([drawn, pd.DataFrame(copies(drawn, of, tmp/'of drawings'))], ignore_index=True)
        measured('drawings, a third of them with an altered copy', both, of,
                 ('COVID', 'Lung', 'Normal', 'Viral', 'copy'))
        t = images_of(a.folder)[['path', 'label']]
        measured('X-rays', t, [], ('bent',))
        of = rng.permutation(len(t))[:500]
        made = copies(t, of, tmp/'of films')
        for k in range(21165 - len(t) - len(made)):
            Image.fromarray(bent(np.asarray(read(t.path[k % len(t)])), rng)).save(tmp/f'bent{k}.png', compress_level=1)
            made.append(dict(path=str(tmp/f'bent{k}.png'), label=t.label[k % len(t)]))
        measured('X-rays, 500 with an altered copy, and many bent',
                 pd.concat([t, pd.DataFrame(made)], ignore_index=True), of, ('bent',))
        cuts = one_sided(t, read, rng)
        sets['one-sided crops'] = cuts
    text = table(rows, ['set', 'images', 'CPU seconds after packing', 'pairs', 'altered copies found',
                        'pairs of strangers', 'memory beyond the pixels, GB'])
    text += (f'\n\nDrawings: those of `xray_xfer demo`, no two alike. X-rays: the {len(t):,} images of the folder, '
             'altered copies of 500 of them, the rest bent out of them so that they are none; '
             'pairs of strangers are those with a drawing of another number, or with a bent image.')
    text += ('\n\nOf 40 copies each, cropped at one edge or at two that meet, contrast and brightness shifted, '
             're-encoded, beside all images of the folder, the share that is found:\n\n')
    text += table([[k, *(f'{v:.2f}' for v in of.values())] for k, of in cuts.items()],
                  ['lost of the side', *(f'{100 * c:g} %' for c in CROPS)])
    write('twins', dict(sets=sets), text)

# a size where a convolution needs no more than these pixels, else the arch's own;
# the last two compute in float32 whatever they are given
CUT_FAMILIES = {
    'efficientnet_b0': None,
    'shufflenetv2_100': None,
    'resnet18': 128,
    'densenet121': 128,
    'mobilenetv3_small_050': None,
    'ghostnetv2_100': 128,
    'hrnet_w18_small': 128,
    'inception_v3': 128,
    'convnext_atto': 128,
    'regnety_002': 128,
    'vit_tiny_patch16_224': None,
    'swin_tiny_patch4_window7_224': None,
    'levit_128s': None,
    'xcit_nano_12_p16_224': None,
    'resnetv2_50d_evos': 128,
    'resnetv2_50d_frn': 128,
}

def cuts(a):
    import numpy as np, torch
    from xray_xfer.trunk.equal import CutError
    from xray_xfer.trunk.cutting import cut
    from xray_xfer.trunk.equal import _both, _clouds, _largest, _rounded_once_more, in_float64
    from xray_xfer.data.table import images_of
    from xray_xfer.data.demo import draw
    from xray_xfer.training.ready import image_batches
    from xray_xfer.models.classifier import build, calibrate
    from xray_xfer.models.blueprint import stats
    from xray_xfer.data.packing import pack
    def measured(model, c, x):
        "How far the parts are from the whole, in both precisions, and what a rounding of the image does"
        c.tail.eval()
        three = c.trunk, c.tail.eval_graph, model
        with torch.no_grad():
            got, want = _both(*three, x)
            response = _largest(model(_rounded_once_more(x)) - want)
            with in_float64(): got64, want64 = _both(*three, x)
        largest = _largest(want)
        return dict(largest=largest, refused_in_float32=not torch.allclose(got, want, rtol=1e-3, atol=1e-4 * largest),
                    spread=_largest(want - want.mean(0)), float32=_largest(got - want) / largest,
                    float64=_largest(got64 - want64) / _largest(want64), response=response / largest)
    rows, res = [], []
    with tempfile.TemporaryDirectory() as tmp:
        draw(Path(tmp)/'drawings', n=64, seed=0, size=224)
        tables = dict(drawings=images_of(Path(tmp)/'drawings'), films=images_of(a.folder))
        for arch, size in CUT_FAMILIES.items():
            size = size or stats(arch)['size']
            some = {k: t.iloc[np.linspace(0, len(t) - 1, 64).astype(int)].reset_index(drop=True)
                    for k, t in tables.items()}
            packs = {k: pack(t, size, cache=tmp, quiet=True) for k, t in some.items()}
            found = []
            for seed in a.seeds:
                for state in ('as they come', *packs):
                    torch.manual_seed(seed)
                    model = build(arch, 2, pretrained=False, size=size)
                    if state in packs and any(isinstance(m, torch.nn.BatchNorm2d) for m in model.modules()):
                        calibrate(model, image_batches(packs[state], range(64), stats(arch)))
                    for depth in a.depths:
                        one = dict(arch=arch, size=size, seed=seed, weights=state, depth=depth, refused='')
                        start = time.process_time()
                        try: c = cut(model, size, depth)
                        except CutError as e: one['refused'] = str(e)
                        one['seconds'] = time.process_time() - start
                        if not one['refused'] and depth == 2:
                            noise = torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(0))
                            model.eval()
                            one |= dict(clouds=measured(model, c, _clouds(3, size)), noise=measured(model, c, noise))
                        found.append(one)
            res += found
            worst = lambda image, k: max((o[image][k] for o in found if image in o), default=float('nan'))
            blow = max((o[i]['float32'] / max(o[i]['response'], 1e-30)
                        for o in found for i in ('noise', 'clouds') if i in o), default=float('nan'))
            refused = sum(bool(o['refused']) for o in found)
            refused_in_float32 = sum(o['noise']['refused_in_float32'] for o in found if 'noise' in o)
            errors = [f'{worst(image, k):.0e}' for image in ('noise', 'clouds') for k in ('float32', 'float64')]
            rows.append([arch, size, len(found), refused, refused_in_float32, f"{worst('noise', 'largest'):.2g}",
                         *errors, f'{blow:.1g}', f"{max(o['seconds'] for o in found):.1f}"])
            print(rows[-1], file=sys.stderr, flush=True)
    head = ['arch', 'px', 'cuts', 'refused', 'of those at depth 2, refused by a bound of 1e-4 in float32 on noise',
            'largest logit on noise', 'noise, float32', 'noise, float64', 'clouds, float32', 'clouds, float64',
            'float32, in roundings of the image', 'CPU seconds, longest']
    note = (f'The parts against the whole, relative to the largest logit; the largest of seeds {a.seeds} and of '
            'weights as they come, calibrated on 64 drawings and on 64 films. '
            f"Cut at depths {', '.join(map(str, a.depths))}.")
    write('cuts', dict(rows=res), f'{table(rows, head)}\n\n{note}')

def leak(a):
    import numpy as np, pandas as pd
    from PIL import Image
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold
    from xray_xfer.data.table import images_of
    from xray_xfer.data.packing import pack
    from xray_xfer.evaluate.paired import compare, p_text
    from xray_xfer.data.split import save_split
    from xray_xfer.train import run
    from xray_xfer.twins.find import find_twins
    rng, rows, res = np.random.default_rng(3), [], {}
    with tempfile.TemporaryDirectory() as tmp:
        tmp = Path(tmp)
        t = images_of(a.folder)[['path', 'label']]
        for also in a.also:
            more = [dict(path=str(f), label=d.name) for d in sorted(Path(also).iterdir()) if d.is_dir()
                    for f in sorted((d/'images').iterdir())]
            t = pd.concat([t, pd.DataFrame(more)], ignore_index=True)
        copies = []
        for i in np.sort(rng.permutation(len(t))[:len(t) // 10]):
            im = altered(Image.open(t.path[i]).convert('L').resize((224, 224)), rng)
            im.save(tmp/f'{i}.jpg', quality=int(rng.integers(40, 81)))
            copies.append(dict(path=str(tmp/f'{i}.jpg'), label=t.label[i]))
        with_copies = pd.concat([t, pd.DataFrame(copies)], ignore_index=True)
        p = pack(images_of(with_copies), a.size, cache=tmp/'cache', quiet=True)
        found = find_twins(p, quiet=True)
        twin, classes = found.sizes > 1, sorted(set(p.table.label))
        y = p.table.label.map({c: i for i, c in enumerate(classes)}).to_numpy()
        kinds = dict(naive=StratifiedKFold(5, shuffle=True, random_state=0).split(y, y),
                     grouped=StratifiedGroupKFold(5, shuffle=True, random_state=0).split(y, y, found.groups))
        folds = {k: np.empty(len(y), int) for k in kinds}
        for k, split in kinds.items():
            for f, (_, test) in enumerate(split): folds[k][test] = f
        for depth in a.depths:
            probs = {}
            for kind, fold in folds.items():
                probs[kind] = np.empty((len(y), len(classes)))
                for f in range(5):
                    to_valid = (fold == (f + 1) % 5) & (rng.random(len(y)) < .5)
                    part = np.where(fold == f, 'test', np.where(to_valid, 'valid', 'train'))
                    if kind == 'grouped':   # a group that the validation part would tear goes to it whole
                        whole = pd.Series(part == 'valid').groupby(found.groups).transform('any').to_numpy()
                        part = np.where(whole, 'valid', part)
                    save_split(p.table, part, tmp/'split.csv')
                    r = run(p, ARCH, depth, pretrained=a.pretrained, epochs=a.epochs, split=tmp/'split.csv',
                            groups=False, name=f'{depth} {kind} {f}', out=tmp/'runs', quiet=True)
                    probs[kind][np.flatnonzero(part == 'test')] = r.predictions.of('test').probs
            parts_of_it = ((f'all {len(y):,}', np.full(len(y), True)),
                           (f'the {twin.sum():,} with a twin', twin),
                           (f'the {(~twin).sum():,} without', ~twin))
            for which, at in parts_of_it:
                c = compare(y[at], probs['naive'][at], probs['grouped'][at], classes, found.groups[at])
                res[f'{depth} {which}'] = json.loads(c.to_json(orient='records'))
                for m in ('accuracy', 'f1', 'auc'):
                    x = c[c.metric == m].iloc[0]
                    rows.append([depth, which, m, f'{x.value_a:.4f}', f'{x.value_b:.4f}',
                                 f'{x.difference:+.4f} ({x.low:+.4f} to {x.high:+.4f})', p_text(x.p)])
                    print(rows[-1], file=sys.stderr, flush=True)
    head = ['depth', 'images', 'metric', 'naive split', 'grouped split', 'difference, 95 % interval', 'p']
    note = (f'{ARCH}, {a.size} px, {a.epochs} epochs, five-fold cross-validation: each image is tested once under '
            f'either kind of split; paired bootstrap over groups of twins. {found.note}.')
    write('leak', dict(rows=res, note=found.note, epochs=a.epochs), f'{table(rows, head)}\n\n{note}')

if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('what', choices=['agreement', 'epochs', 'views', 'memory', 'layout', 'profile', 'trunk',
                                         'parts', 'twins', 'cuts', 'leak'])
    parser.add_argument('folder')
    parser.add_argument('--pretrained')
    parser.add_argument('--depths', nargs='+', type=int, default=None)
    parser.add_argument('--seeds', nargs='+', type=int, default=[0, 1, 2])
    parser.add_argument('--epochs', type=int, default=10)
    parser.add_argument('--counts', nargs='+', type=int, default=[1000, 4000, 16000, 64000, 100000])
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--also', nargs='*', default=[])
    args = parser.parse_args()
    if args.what != 'cuts' and not args.pretrained: parser.error('the following arguments are required: --pretrained')
    usual_depths = dict(agreement=[0, 1, 2], epochs=[2], views=[1, 2], memory=[0, 2], layout=[0, 1, 2], profile=[2],
                        trunk=[2], parts=[2], twins=[], cuts=[0, 2], leak=[0, 2])
    measured = dict(agreement=agreement, epochs=epochs, views=views, memory=memory, layout=layout, profile=profile,
                    trunk=trunk, parts=parts, twins=twins, cuts=cuts, leak=leak)
    args.depths = args.depths or usual_depths[args.what]
    measured[args.what](args)
