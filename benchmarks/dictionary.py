"""An English dictionary as one file of text (GCIDE 0.48, GPL), for `expirespan-train-sequence --task text --data FILE`.

It comes from Debian's package dict-gcide, which apt-get downloads but does not install:

    python benchmarks/dictionary.py runs/gcide.txt
    python benchmarks/dictionary.py runs/gcide.txt --package dict-gcide_0.48.5+nmu2_all.deb   # downloaded before
"""

import argparse
import gzip
import hashlib
import subprocess
import sys
import tempfile
from pathlib import Path

PACKAGE, VERSION = "dict-gcide", "0.48.5+nmu2"
MEMBER = "usr/share/dictd/gcide.dict.dz"
SIZE = 39_952_321
SHA256 = "802beb667e1fb666203e750f1faea60d5c202ac5430c2083c4180494609f10a7"


def text_of(package: Path | None) -> bytes:
    """The dictionary's text, from a package on the disk or downloaded.

    Raises RuntimeError where a program fails, ValueError where the text is another.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if package is None:
            run("apt-get", "download", f"{PACKAGE}={VERSION}", folder=folder)
            package = next(folder.glob("*.deb"))
        run("dpkg-deb", "--extract", str(package.absolute()), ".", folder=folder)
        text = gzip.decompress((folder / MEMBER).read_bytes())
    found = hashlib.sha256(text).hexdigest()
    if found != SHA256:
        raise ValueError(f"Expect {SIZE:,} bytes of SHA-256 {SHA256}, actual: {len(text):,} bytes of {found}")
    return text


def run(*command: str, folder: Path) -> None:
    """Run a program in a folder.  Raises RuntimeError, with what it said, where it fails."""
    ended = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if ended.returncode:
        raise RuntimeError(f"{' '.join(command)}: {ended.stderr.strip()}")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="where to write the text")
    parser.add_argument("--package", type=Path, help="the package, where it was downloaded before")
    options = parser.parse_args()
    try:
        text = text_of(options.package)
        options.file.parent.mkdir(parents=True, exist_ok=True)
        options.file.write_bytes(text)
    except (OSError, RuntimeError, ValueError) as error:
        sys.exit(f"dictionary.py: {error}")
    print(f"{options.file}: {len(text):,} bytes, SHA-256 {SHA256}")


if __name__ == "__main__":
    main()
