"""Makes a TUF repository with python-tuf, in stages: DIR/1, DIR/2 and so on, each as it would be served.

DIR/expected.json says what a client must find at each stage: per target path the SHA-256 of the target, or
null where there is none. A stage that no client may believe has null in place of that.
"""

import copy
import hashlib
import json
import sys
from datetime import datetime, timezone
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

EXPIRES = datetime(2096, 1, 1, tzinfo=timezone.utc)
NOTHING = "shuttle/0.0.0"


class Repository:
    """What is served, and who signs it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stage = 0
        self.expected: list[dict[str, str | None] | None] = []
        self.contents: dict[str, bytes] = {}
        self.files: dict[str, bytes] = {}
        # Whose metadata was served: the next is another version.
        self.served: set[str] = set()
        # Every kind of key, and thresholds.
        self.signers = {
            "root": [CryptoSigner.generate_ed25519(), CryptoSigner.generate_rsa()],
            "targets": [CryptoSigner.generate_ecdsa(), CryptoSigner.generate_ed25519()],
            "snapshot": [CryptoSigner.generate_ed25519()],
            "timestamp": [CryptoSigner.generate_ecdsa()],
        }
        self.root = Root(version=1, expires=EXPIRES, consistent_snapshot=True)
        self.snapshot = Snapshot(version=1, expires=EXPIRES)
        self.timestamp = Timestamp(version=1, expires=EXPIRES)
        self.targets = {"targets": Targets(version=1, expires=EXPIRES)}
        for role, signers in self.signers.items():
            self.name_keys(role, signers)

    def name_keys(self, role: str, signers: list[CryptoSigner]) -> None:
        """The root says that these hold the role, all of them together."""
        for keyid in list(self.root.roles[role].keyids):
            self.root.revoke_key(keyid, role)
        for signer in signers:
            self.root.add_key(signer.public_key, role)
        self.root.roles[role].threshold = len(signers)

    def delegate(self, source: str, name: str, paths: list[str], terminating: bool) -> None:
        signers = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()]
        self.signers[name] = signers
        delegations = self.targets[source].delegations or Delegations({}, {})
        ids = [signer.public_key.keyid for signer in signers]
        role = DelegatedRole(name, ids, len(ids), terminating, paths=paths)
        delegations.roles[name] = role
        delegations.keys.update({signer.public_key.keyid: signer.public_key for signer in signers})
        self.targets[source].delegations = delegations
        self.targets.setdefault(name, Targets(version=1, expires=EXPIRES))

    def delegate_to_bins(self, source: str) -> list[str]:
        """Two roles, each for half of all hashes of paths."""
        signer = CryptoSigner.generate_ed25519()
        keys = {signer.public_key.keyid: signer.public_key}
        halves = {"bin-low": list("01234567"), "bin-high": list("89abcdef")}
        roles = {
            name: DelegatedRole(name, list(keys), 1, False, path_hash_prefixes=prefixes)
            for name, prefixes in halves.items()
        }
        self.targets[source].delegations = Delegations(keys, roles)
        for name in roles:
            self.signers[name] = [signer]
            self.targets[name] = Targets(version=1, expires=EXPIRES)
        return list(roles)

    def add(self, role: str, path: str, content: bytes) -> None:
        target = TargetFile.from_data(path, content, ["sha256"])
        self.targets[role].targets[path] = target
        self.contents[path] = content
        for name in target.get_prefixed_paths():
            self.files[f"targets/{name}"] = content

    def publish_root(self, former_signers: list[CryptoSigner]) -> None:
        signers = {signer.public_key.keyid: signer for signer in former_signers + self.signers["root"]}
        self.serve("root", self.root, list(signers.values()))

    def publish(self, *roles: str) -> None:
        """Serves new versions of targets metadata, and of what names them."""
        for role in roles:
            bytes_ = self.serve(role, self.targets[role], self.signers[role])
            meta = MetaFile.from_data(self.targets[role].version, bytes_, ["sha256"])
            self.snapshot.meta[f"{role}.json"] = meta
        bytes_ = self.serve("snapshot", self.snapshot, self.signers["snapshot"])
        meta = MetaFile.from_data(self.snapshot.version, bytes_, ["sha256"])
        self.timestamp.snapshot_meta = meta
        self.serve("timestamp", self.timestamp, self.signers["timestamp"])

    def serve(self, role: str, signed: object, signers: list[CryptoSigner]) -> bytes:
        if role in self.served:
            signed.version += 1
        self.served.add(role)
        document = Metadata(copy.deepcopy(signed))
        for signer in signers:
            document.sign(signer, append=True)
        bytes_ = document.to_bytes(JSONSerializer(compact=False))
        version = "" if role == "timestamp" else f"{signed.version}."
        self.files[f"metadata/{version}{role}.json"] = bytes_
        return bytes_

    def write_stage(self, found: list[str] | None, lost: tuple[str, ...] = ()) -> None:
        """Writes what is served. A client finds the targets `found`, but not those `lost`."""
        self.stage += 1
        for name, content in self.files.items():
            path = self.folder / str(self.stage) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        digests = {path: hashlib.sha256(self.contents[path]).hexdigest() for path in found or []}
        nothing = dict.fromkeys((*lost, NOTHING))
        self.expected.append(None if found is None else {**digests, **nothing})


def main(folder: Path) -> None:
    repository = Repository(folder)

    # A publisher with a threshold of two, one target.
    repository.add("targets", "shuttle/1.0.0", b"the first")
    repository.publish_root([])
    repository.publish("targets")
    repository.write_stage(["shuttle/1.0.0"])

    # Delegations: a team that delegates further, and what lies behind a terminating role.
    repository.delegate("targets", "team", ["meter/*", "shuttle/2.?.*"], terminating=True)
    repository.delegate("targets", "rest", ["*/*"], terminating=False)
    repository.delegate("team", "team-inner", ["meter/*"], terminating=False)
    repository.add("team", "meter/1.0.0", b"the team's")
    repository.add("team-inner", "meter/2.0.0", b"of who the team delegates to")
    repository.add("team", "other/1.0.0", b"not for the team to speak of")
    repository.add("rest", "meter/3.0.0", b"behind a terminating role")
    repository.add("rest", "rest/1.0.0", b"the rest")
    repository.publish("team-inner", "team", "rest", "targets")
    found = ["shuttle/1.0.0", "meter/1.0.0", "meter/2.0.0", "rest/1.0.0"]
    lost = ("other/1.0.0", "meter/3.0.0")
    repository.write_stage(found, lost)

    # Every key of the root, of the timestamp's and of the snapshot's is replaced; versions begin anew.
    former = repository.signers["root"]
    for role in ("root", "timestamp", "snapshot"):
        signers = [CryptoSigner.generate_ed25519(), CryptoSigner.generate_ecdsa()]
        repository.signers[role] = signers
        repository.name_keys(role, signers)
    repository.publish_root(former)
    repository.timestamp.version = repository.snapshot.version = 1
    repository.served -= {"timestamp", "snapshot"}
    repository.publish()
    repository.write_stage(found, lost)

    # A root that changes nothing, targets in bins by the hash of their path, a target that is revoked.
    repository.publish_root([])
    bins = repository.delegate_to_bins("rest")
    for path in ("rest/2.0.0", "rest/3.0.0", "rest/4.0.0"):
        first_digit = int(hashlib.sha256(path.encode()).hexdigest()[0], 16)
        repository.add(bins[first_digit >= 8], path, path.encode())
    del repository.targets["targets"].targets["shuttle/1.0.0"]
    repository.publish(*bins, "rest", "targets")
    found = ["meter/1.0.0", "meter/2.0.0", *(f"rest/{i}.0.0" for i in range(1, 5))]
    repository.write_stage(found, ("shuttle/1.0.0", *lost))

    # A team whose threshold is not met.
    sound = dict(repository.files)
    repository.signers["team"] = repository.signers["team"][:1]
    repository.publish("team")
    repository.write_stage(None)

    # A root that the former keys did not sign.
    repository.files = sound
    repository.signers["root"] = [CryptoSigner.generate_ed25519()]
    repository.name_keys("root", repository.signers["root"])
    repository.publish_root([])
    repository.write_stage(None)

    (folder / "expected.json").write_text(json.dumps(repository.expected))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
