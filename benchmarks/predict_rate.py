"""How near `predict` comes to what decoding and network allow, into predict_rate.md and .json; on a quiet machine.

    python benchmarks/predict_rate.py FOLDER --weights WEIGHTS [--archs A B] [--turns 5] [--side 1024]

A run is trained on every other film of FOLDER (depth 0, two epochs) and asked for the rest, which are strangers to
it, and for its own. The bound is 1 / (1 / network + 1 / (cores x decoding)): images per second of ONNX Runtime alone,
on all cores and on pixels that lie in memory, and of decoding alone, on one. Each turn measures all of them, one after
another; WEIGHTS has a file ARCH.safetensors for each network. The bound knows decoding and network alone; looking for
an image among the run's own comes on top, 0.15 ms of a core. With --side 500 of the films are saved
again as JPEG of so many pixels, as hospitals have them, and the rows are those of predict_rate_SIDE."""
import argparse, sys, tempfile, time
from pathlib import Path

import numpy as np
from fastcore.basics import num_cpus
from PIL import Image
from threadpoolctl import threadpool_limits

from measure import table, write
from xray_xfer.data.decode import decode
from xray_xfer.data.table import images_of
from xray_xfer.inference.ensemble import load_ensemble
from xray_xfer.inference.stream import CHUNK, answers
from xray_xfer.train import run

def per_second(n, work):
    "Of n images"
    start = time.perf_counter()
    work()
    return n / (time.perf_counter() - start)

def enlarged(films, side, folder):
    "A table of 500 of the films, saved again with so many pixels a side"
    few = films.iloc[::max(1, len(films) // 500)].reset_index(drop=True)
    for i, path in enumerate(few.path):
        to = Path(folder)/f'{i}.jpg'
        Image.open(path).convert('L').resize((side, side), Image.Resampling.BICUBIC).save(to, quality=95)
        few.loc[i, 'path'] = str(to)
    return few

def one_turn(ensemble, strangers, own, most=512):
    "Images per second of each"
    some = min(most, len(strangers))
    [(frame, read_as)] = ensemble.frames.items()
    def read(path): return decode(path, frame.size, frame.resize, frame.colour, read_as)
    pixels = []
    rates = dict(decoding=per_second(some, lambda: pixels.extend(read(p) for p in strangers[:some])))
    chunks = [{frame: np.stack(pixels[i:i + CHUNK])} for i in range(0, some, CHUNK)]
    with threadpool_limits(1, 'blas'):
        rates['network'] = per_second(some, lambda: [ensemble(c) for c in chunks])
    for name, paths, seen in (('strangers', strangers, True), ('own', own, True), ('not looked for', strangers, False)):
        rates[name] = per_second(len(paths), lambda p=paths, s=seen: list(answers(ensemble, p, s, quiet=True)))
    bound = 1 / (1 / rates['network'] + 1 / (num_cpus() * rates['decoding']))
    return rates | dict(bound=bound)

def main():
    ap = argparse.ArgumentParser()
    ap.add_argument('folder')
    ap.add_argument('--weights', required=True)
    ap.add_argument('--archs', nargs='+', default=['shufflenetv2_100', 'tf_efficientnet_lite0'])
    ap.add_argument('--turns', type=int, default=5)
    ap.add_argument('--side', type=int)
    a = ap.parse_args()
    films, res, rows, larger = images_of(a.folder), {}, [], tempfile.TemporaryDirectory()
    if a.side: films = enlarged(films, a.side, larger.name)
    mine, others = films.iloc[::2].reset_index(drop=True), films.path.iloc[1::2].tolist()
    with tempfile.TemporaryDirectory() as out:
        for arch in a.archs:
            made = run(mine, arch, 0, pretrained=Path(a.weights)/f'{arch}.safetensors', epochs=2, out=out, quiet=True)
            ensemble = load_ensemble(made.path, 'cpu')
            one_turn(ensemble, others[:512], mine.path.tolist()[:512])   # files in the page cache, engine warm
            turns = res[arch] = [one_turn(ensemble, others, mine.path.tolist()) for _ in range(a.turns)]
            def middle(name, of=turns): return float(np.median([t[name] for t in of]))
            def share(name, of=turns):
                found = [t[name] / t['bound'] for t in of]
                return f'{np.median(found):.2f} ({min(found):.2f}–{max(found):.2f})'
            rows.append([arch, *(f'{middle(n):.0f}' for n in ('decoding', 'network', 'bound', 'strangers')),
                         *(share(n) for n in ('strangers', 'own', 'not looked for'))])
            print(rows[-1], file=sys.stderr, flush=True)
    head = ['network', 'decoding, images/s of a core', 'ONNX Runtime, images/s', 'bound', 'predict',
            'share of the bound: strangers', "the run's own films", '--no-seen']
    write(f'predict_rate_{a.side}' if a.side else 'predict_rate', dict(turns=res, images=len(others)),
          f'{table(rows, head)}\n\n{len(others):,} films a way, {a.turns} turns, medians (lowest to highest).',
          f'python benchmarks/predict_rate.py FOLDER --weights WEIGHTS{f" --side {a.side}" if a.side else ""}')

if __name__ == '__main__': main()
