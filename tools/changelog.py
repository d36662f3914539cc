"""A version's part of CHANGELOG.md: python tools/changelog.py 0.2.0
With --tag v0.2.0 the version must be that of settings.ini, too. The release workflow makes the notes of a
release from it; tests/test_metadata.py asks it for the version that is being built."""
import argparse, re, sys
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parents[1]

def part(version):
    "What CHANGELOG.md says of a version, without its heading"
    text = (root/'CHANGELOG.md').read_text(encoding='utf-8')
    parts = dict(re.findall(r'^## \[([^\]]+)\][^\n]*\n(.*?)(?=^## \[|^\[[^\]]+\]: |\Z)', text, re.M | re.S))
    if not parts.get(version, '').strip():
        raise ValueError(
            f'CHANGELOG.md says nothing of version {version}: it has {", ".join(parts)}. '
            'Rename its part Unreleased, with a date'
        )
    return parts[version].strip() + '\n'

def version():
    "The version that settings.ini states"
    ini = ConfigParser(delimiters=['='])
    ini.read(root/'settings.ini', encoding='utf-8')
    return ini['DEFAULT']['version']

def main(argv=None):
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('version', nargs='?', help='default: that of settings.ini')
    p.add_argument('--tag', help='of the release, such as v0.2.0')
    a = p.parse_args(argv)
    if a.tag and a.tag != f'v{version()}':
        sys.exit(
            f'the tag is {a.tag}, and settings.ini says version {version()}: tag v{version()}, or change settings.ini'
        )
    try: print(part(a.version or version()), end='')
    except ValueError as e: sys.exit(str(e))

if __name__ == '__main__': main()
