"""Are the numbers still those of an earlier commit?

    python tools/same_numbers.py REVISION [--images FOLDER --weights FILE]

Trains `xray_xfer demo` and, where images are given, a study of three depths (ShuffleNetV2, 2 epochs, 112 px)
with the code of REVISION and with the code as it is here, and compares metrics.json of each run and table.csv of each
study byte for byte. Ends with 1 where they differ."""
import argparse, os, subprocess, sys, tempfile
from pathlib import Path

root = Path(__file__).resolve().parents[1]

def trained(code, home, images, weights):
    "Relative path -> content of the files that must not change"
    env = os.environ | dict(PYTHONPATH=str(code), XRAY_XFER_CACHE=str(home/'cache'))
    command = [sys.executable, '-c', 'import sys; from xray_xfer.cli import main; sys.exit(main())']
    jobs = {'demo': ['demo', '--quiet']}
    if images:
        jobs['images'] = [
            'study', images, '--archs', 'shufflenetv2_100', '--depths', '0', '1', '2', '--epochs', '2',
            '--size', '112', '--quiet',
        ]
        if weights: jobs['images'] += ['--pretrained', weights]
    for name, words in jobs.items():
        out = home/name
        subprocess.run([*command, *words, '--out', out], env=env, cwd=home, check=True, stdout=subprocess.DEVNULL)
    files = [p for name in jobs for p in sorted((home/name).rglob('*')) if p.name in ('metrics.json', 'table.csv')]
    return {p.relative_to(home).as_posix(): p.read_bytes() for p in files}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('revision')
    p.add_argument('--images', type=lambda f: str(Path(f).resolve()), help='folder of images')
    p.add_argument('--weights', type=lambda f: str(Path(f).resolve()), help='weights of ShuffleNetV2')
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        old = d/'code'
        subprocess.run(['git', 'worktree', 'add', '--quiet', '--detach', old, a.revision], cwd=root, check=True)
        try:
            found = []
            for name, code in (('then', old), ('now', root)):
                (d/name).mkdir()
                found.append(trained(code, d/name, a.images, a.weights))
        finally: subprocess.run(['git', 'worktree', 'remove', '--force', old], cwd=root, check=True)
    then, now = found
    differ = [f for f in {**then, **now} if then.get(f) != now.get(f)]
    for f in {**then, **now}: print('DIFFERS' if f in differ else 'same   ', f)
    print(
        f'{len(then)} files at {a.revision}, {len(now)} now: '
        + (f'{len(differ)} differ' if differ else 'the same, byte for byte')
    )
    return bool(differ) or not then

if __name__ == '__main__': sys.exit(main())
