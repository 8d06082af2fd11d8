"""Certificates and kubeconfigs of a cluster that lives for one test run."""

from pathlib import Path

import trustme
import yaml


class Pki:
    """A certificate authority and what it has signed, as files in one folder."""

    def __init__(self, folder: Path) -> None:
        """Make the authority."""
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._authority = trustme.CA()
        self.ca = folder / "ca.crt"
        self._authority.cert_pem.write_to_path(self.ca)

    def issue(self, name: str, common_name: str, group: str | None = None, *hosts: str) -> tuple[Path, Path]:
        """Sign a certificate for client and server use, and return it and its key.

        Args:
            name: Of the files.
            common_name: To Kubernetes, the user.
            group: To Kubernetes, the user's group.
            hosts: Addresses and names of a server.
        """
        # Go refuses a certificate whose list of names is empty, as trustme marks it critical.
        names = hosts or ("client.invalid",)
        leaf = self._authority.issue_cert(*names, common_name=common_name, organization_name=group)
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        certificate.write_bytes(leaf.cert_chain_pems[0].bytes())
        leaf.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        return certificate, key

    def kubeconfig(self, path: Path, server: str, user: str, group: str | None = None) -> None:
        """Write a kubeconfig for a new certificate of `user` at `server` to `path`."""
        certificate, key = self.issue(f"{path.parent.name}-{path.stem}", user, group)
        body = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "user"}}],
            "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority": str(self.ca)}}],
            "users": [{"name": "user", "user": {"client-certificate": str(certificate), "client-key": str(key)}}],
        }
        path.write_text(yaml.safe_dump(body))
