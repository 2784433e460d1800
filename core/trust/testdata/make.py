"""Makes the documents in this folder with python-tuf, so that its signatures test ours.

Needs tuf==7.0.1 and securesystemslib[crypto]==1.6.0 from PyPI. The keys are fixed test seeds.
"""

from datetime import datetime, timezone
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import (
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

HERE = Path(__file__).parent
EXPIRES = datetime(2036, 1, 1, tzinfo=timezone.utc)


def signer(seed: int) -> CryptoSigner:
    return CryptoSigner(Ed25519PrivateKey.from_private_bytes(bytes([seed] * 32)))


def point_in_hex(key: CryptoSigner) -> CryptoSigner:
    """The same key, written as the Go client of 2021 wrote it."""
    public = key.public_key
    point = key._private_key.public_key().public_bytes(
        Encoding.X962, PublicFormat.UncompressedPoint
    )
    keyval = {"public": point.hex()}
    written = SSlibKey(public.keyid, "ecdsa-sha2-nistp256", public.scheme, keyval)
    return CryptoSigner(key._private_key, written)


def root_of_all_key_kinds() -> None:
    """Its RSA and ECDSA keys are new every time."""
    root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
    signers = [
        signer(1),
        CryptoSigner.generate_rsa(),
        CryptoSigner.generate_ecdsa(),
        point_in_hex(CryptoSigner.generate_ecdsa()),
    ]
    for key in signers:
        root.add_key(key.public_key, "root")
    root.roles["root"].threshold = len(signers)
    document = Metadata(root)
    for key in signers:
        document.sign(key, append=True)
    document.to_file(str(HERE / "root_of_all_key_kinds.json"), JSONSerializer(compact=False))


def main() -> None:
    root_of_all_key_kinds()
    root_key, root_key_2, targets_key, director_key = (signer(seed) for seed in (1, 2, 3, 4))
    root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
    for key in (root_key, root_key_2):
        root.add_key(key.public_key, "root")
    root.roles["root"].threshold = 2
    root.add_key(targets_key.public_key, "targets")
    for role in ("timestamp", "snapshot"):
        root.add_key(director_key.public_key, role)
    director = {"keyids": [director_key.public_key.keyid], "threshold": 1}
    root.unrecognized_fields["director"] = director

    digest = "sha256:" + "cd" * 32
    custom = {
        "name": "shuttle",
        "version": "1.0.0",
        "chunk_index": {"digest": digest, "len_bytes": 77},
        "hardware_classes": ["aarch64", "armv7"],
        "patches": [
            {
                "source": "sha256:" + "ef" * 32,
                "index": {"digest": digest, "len_bytes": 78},
                "len_bytes": 79,
            }
        ],
        # What the canonical form has to get right: quotes, controls, other planes.
        "note": 'say "hi" \\ \n\t é \U0001f600',
    }
    target = TargetFile(1234, {"sha256": "ab" * 32}, "shuttle/1.0.0", {"custom": custom})
    targets = Targets(version=3, expires=EXPIRES, targets={"shuttle/1.0.0": target})
    snapshot = Snapshot(version=4, expires=EXPIRES, meta={"targets.json": MetaFile(3)})
    timestamp = Timestamp(version=5, expires=EXPIRES, snapshot_meta=MetaFile(4))
    hint = {"root_version": 1, "issued": "2026-11-20T17:00:00Z"}
    timestamp.unrecognized_fields.update(hint)

    for name, signed, signers in (
        ("root", root, (root_key, root_key_2)),
        ("targets", targets, (targets_key,)),
        ("snapshot", snapshot, (director_key,)),
        ("timestamp", timestamp, (director_key,)),
    ):
        document = Metadata(signed)
        for key in signers:
            document.sign(key, append=True)
        document.to_file(str(HERE / f"{name}.json"), JSONSerializer(compact=False))


if __name__ == "__main__":
    main()
