"""Flower's cryptography, bound to what :mod:`lumos_core.privacy.secure_aggregation` needs.

Key agreement is ECDH on P-384 with HKDF-SHA256; secrets are split by Shamir's scheme, and shares
are sealed with Fernet. All of this uses Flower's functions. Only the byte format of keys is chosen
here. It is compact, because Flower's PEM texts would be six times as many blocks to share; and
reading it refuses a point that is not on the curve, or a key of another kind.
"""

from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Sequence

from cryptography.fernet import InvalidToken
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import (
    decrypt,
    encrypt,
    generate_shared_key,
)
from flwr.supercore.primitives.asymmetric import generate_key_pairs

from lumos_core.privacy.secure_aggregation.primitives import CryptoError, Primitives

_CURVE = ec.SECP384R1()
_PRIVATE_BYTES = 48


def _new_private_key() -> bytes:
    private, _ = generate_key_pairs()
    return private.private_numbers().private_value.to_bytes(_PRIVATE_BYTES, "big")


def _private(key: bytes) -> ec.EllipticCurvePrivateKey:
    try:
        return ec.derive_private_key(int.from_bytes(key, "big"), _CURVE)
    except ValueError:
        raise CryptoError("not a private key") from None


def _public_key(private: bytes) -> bytes:
    public = _private(private).public_key()
    return public.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)


def _agree(private: bytes, public: bytes) -> bytes:
    own = _private(private)
    try:
        other = ec.EllipticCurvePublicKey.from_encoded_point(_CURVE, public)
        return urlsafe_b64decode(generate_shared_key(own, other))
    except ValueError:
        raise CryptoError("not a public key") from None


def _seal(key: bytes, text: bytes) -> bytes:
    return encrypt(urlsafe_b64encode(key), text)


def _unseal(key: bytes, sealed: bytes) -> bytes:
    try:
        return decrypt(urlsafe_b64encode(key), sealed)
    except InvalidToken:
        raise CryptoError("a ciphertext was tampered with") from None


def _split(secret: bytes, threshold: int, number: int) -> list[bytes]:
    return create_shares(secret, threshold, number)


def _combine(shares: Sequence[bytes]) -> bytes:
    if len({len(share) for share in shares}) != 1 or len(shares[0]) % 16 != 4:
        raise CryptoError("not shares of one secret")  # an index of 4 bytes, blocks of 16
    try:
        return combine_shares(list(shares))
    except (ValueError, ZeroDivisionError):
        raise CryptoError("shares do not fit together") from None


FLOWER = Primitives(
    new_private_key=_new_private_key,
    public_key=_public_key,
    agree=_agree,
    seal=_seal,
    unseal=_unseal,
    split=_split,
    combine=_combine,
)
