"""A certificate authority for tests, made with the openssl program."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


@dataclass(frozen=True)
class Authority:
    """Signs certificates; all files lie in its folder."""

    folder: Path
    name: str

    @classmethod
    def make(cls, folder: Path, name: str) -> Authority:
        authority = cls(folder, name)
        authority._run("req", "-x509", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", f"/CN={name}")
        return authority

    @property
    def cert(self) -> Path:
        return self.folder / f"{self.name}.pem"

    def sign(self, name: str, *names: str) -> tuple[Path, Path]:
        """A certificate with this common name and these alternative names, and its key."""
        self._run("req", *KEY, "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", f"/CN={name}")
        command = ["x509", "-req", "-in", f"{name}.csr", "-CA", f"{self.name}.pem", "-CAkey", f"{self.name}.key"]
        if names:
            text = "subjectAltName=" + ",".join(f"DNS:{alternative}" for alternative in names)
            (self.folder / f"{name}.ext").write_text(text)
            command += ["-extfile", f"{name}.ext"]
        self._run(*command, "-CAcreateserial", "-out", f"{name}.pem")
        return self.folder / f"{name}.pem", self.folder / f"{name}.key"

    def _run(self, *arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=self.folder, check=True, capture_output=True)
