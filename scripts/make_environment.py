"""Make a virtual environment with tinyconv in it: make_environment.py FOLDER EXTRA.

Runs on a bare Python 3.11 or later.  FOLDER/ready is written last, so that a half-made
environment is made again.
"""

import shutil
import subprocess
import sys
import venv
from pathlib import Path


def main(folder: Path, extra: str) -> None:
    if sys.version_info < (3, 11):
        found = ".".join(map(str, sys.version_info[:3]))
        sys.exit(
            f"tinyconv needs Python 3.11 or later, this is {found}; "
            "say which one to use: make train PYTHON=python3.12"
        )
    if folder.exists() and not (folder / "ready").exists():
        shutil.rmtree(folder)
    print(f"making {folder} (this takes a minute the first time)", flush=True)
    try:
        venv.create(folder, with_pip=True)
    except subprocess.CalledProcessError:
        sys.exit(
            "this Python cannot make virtual environments; on Debian: apt-get install python3-venv"
        )
    pip = [
        folder / "bin" / "python",
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
    ]
    subprocess.run([*pip, "--editable", f".[{extra}]"], check=True)
    (folder / "ready").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
