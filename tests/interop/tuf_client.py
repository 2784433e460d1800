"""Follows a TUF repository with python-tuf's client, and says what came out as one JSON object.

For each target path: the SHA-256 of the target that was downloaded, or null where the repository has no
such target. Exits with 1 and a reason where the repository is not believed.
"""

import argparse
import hashlib
import json
import sys
from pathlib import Path

from tuf.api.exceptions import DownloadError, RepositoryError
from tuf.ngclient import Updater


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--desk", type=Path, required=True, help="what the client keeps")
    parser.add_argument("--root", type=Path, required=True, help="the root that it begins with")
    parser.add_argument("--url", required=True, help="where metadata/ and targets/ are served")
    parser.add_argument("paths", nargs="*")
    args = parser.parse_args()
    folders = [args.desk / "metadata", args.desk / "targets"]
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
    try:
        updater = Updater(
            metadata_dir=str(folders[0]),
            metadata_base_url=f"{args.url}/metadata/",
            target_dir=str(folders[1]),
            target_base_url=f"{args.url}/targets/",
            bootstrap=args.root.read_bytes(),
        )
        updater.refresh()
        print(json.dumps({path: download(updater, path) for path in args.paths}))
    except (RepositoryError, DownloadError) as error:
        sys.exit(f"refused: {type(error).__name__}: {error}")


def download(updater: Updater, path: str) -> str | None:
    target = updater.get_targetinfo(path)
    if target is None:
        return None
    return hashlib.sha256(Path(updater.download_target(target)).read_bytes()).hexdigest()


if __name__ == "__main__":
    main()
