"""A signature over a report: who holds the private key vouches for it.

Ed25519 (RFC 8032) through the package ``cryptography`` (extra ``sign``), over the whole of
report.json, the block ``volatile`` included; the scores are in it by their digest. Keys are made by

    openssl genpkey -algorithm ed25519 -out audit.key
    openssl pkey -in audit.key -pubout -out audit.pub

or by ``ssh-keygen -t ed25519 -N ''``. A signature says who vouches, not that the audit was honest.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fedllm.errors import ConfigError, MissingExtraError
from fedllm.eval.audit.manifest import digest_of
from fedllm.eval.audit.untrusted import UntrustedError, read_untrusted

SIGNATURE = "report.sig"
ALGORITHM = "ed25519"
PURPOSE = b"fedllm audit report\n"
"""Begins what is signed, so that the key's signature on anything else is none on a report."""
Sign = Callable[[Mapping[str, Any]], dict[str, str]]


def signer(path: Path) -> Sign:
    """What signs a report with the private key in ``path``.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
        ConfigError: The file holds no such key that can be used.
    """
    key = _key(path, private=True)

    def sign(report: Mapping[str, Any]) -> dict[str, str]:
        return {
            "algorithm": ALGORITHM,
            "signature": b64encode(key.sign(_signed(report))).decode(),
        }

    return sign


def verifier(path: Path) -> Callable[[Mapping[str, Any], Path], list[str]]:
    """What says why a report is not signed by the holder of the public key in ``path``.

    Raises:
        MissingExtraError: ``cryptography`` is not installed.
        ConfigError: The file holds no such key.
    """
    key = _key(path, private=False)

    def faults(report: Mapping[str, Any], folder: Path) -> list[str]:
        from cryptography.exceptions import InvalidSignature

        try:
            given = read_untrusted(folder / SIGNATURE)
            if given["algorithm"] != ALGORITHM:
                raise ValueError("another algorithm")
            key.verify(b64decode(given["signature"], validate=True), _signed(report))
        except OSError as error:
            return [f"{SIGNATURE} cannot be read ({error.strerror}): the report is not signed"]
        except InvalidSignature:
            return [f"{SIGNATURE} is no signature of this report by the key in {path}"]
        except (UntrustedError, ValueError, KeyError, TypeError):
            return [f"{SIGNATURE} holds no {ALGORITHM} signature"]
        return []

    return faults


def _signed(report: Mapping[str, Any]) -> bytes:
    return PURPOSE + digest_of(report).encode()


def _key(path: Path, *, private: bool) -> Any:
    """An ed25519 key in PEM or OpenSSH form."""
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives import serialization as forms
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise MissingExtraError("signing a report and checking a signature", "sign") from None
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); {_made(private)}") from None
    wanted: Any = ed25519.Ed25519PrivateKey if private else ed25519.Ed25519PublicKey
    loaders: list[Callable[[], Any]] = [
        lambda: forms.load_pem_public_key(data),
        lambda: forms.load_ssh_public_key(data),
    ]
    if private:
        loaders = [
            lambda: forms.load_pem_private_key(data, password=None),
            lambda: forms.load_ssh_private_key(data, password=None),
        ]
    for load in loaders:
        try:
            key = load()
        except TypeError:  # it is encrypted, and nobody is there to ask
            raise ConfigError(
                f"{path}: is encrypted; give a plain copy that only you can read"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            continue
        if isinstance(key, wanted):
            return key
    raise ConfigError(
        f"{path}: holds no {'private' if private else 'public'} {ALGORITHM} key; {_made(private)}"
    )


def _made(private: bool) -> str:
    """How such a key is made."""
    if private:
        return "make one: openssl genpkey -algorithm ed25519 -out audit.key"
    return "take it from the private one: openssl pkey -in audit.key -pubout -out audit.pub"
