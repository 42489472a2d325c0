"""The cryptographic functions that the protocol needs, passed to it as arguments.

LUMOS implements none itself: ``lumos_core.flower.cryptography`` takes Flower's key agreement (ECDH
on P-384, HKDF), share encryption (Fernet: AES-CBC with HMAC) and Shamir sharing.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass


class CryptoError(Exception):
    """A key is not on the curve, a ciphertext was tampered with, shares do not fit together."""


@dataclass(frozen=True)
class Primitives:
    """The functions. Each raises :class:`CryptoError` for invalid input, and no other exception.

    Attributes:
        new_private_key: a fresh private key.
        public_key: private key → its public key.
        agree: own private key, another's public key → 32 bytes that only these two can compute.
        seal: 32-byte key, text → authenticated ciphertext.
        unseal: 32-byte key, ciphertext → text.
        split: secret, threshold t, number n → n shares, any t of which give the secret, and any
            t − 1 of which reveal nothing about it.
        combine: t shares → the secret.
    """

    new_private_key: Callable[[], bytes]
    public_key: Callable[[bytes], bytes]
    agree: Callable[[bytes, bytes], bytes]
    seal: Callable[[bytes, bytes], bytes]
    unseal: Callable[[bytes, bytes], bytes]
    split: Callable[[bytes, int, int], list[bytes]]
    combine: Callable[[Sequence[bytes]], bytes]
