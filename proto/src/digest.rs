//! Content digests: `sha256:<64 hex>` and `sha512:<128 hex>` (OCI image spec, descriptor.md, "Digests").

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256, Sha512};

/// The hash algorithms that the OCI image specification registers and that Shoal proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256, the one in use everywhere.
    Sha256,
    /// SHA-512, optional in the specification.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// How many bytes a digest of this algorithm has.
    pub const fn digest_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The multicodec code that multihashes carry (multiformats table).
    const fn multihash_code(self) -> u8 {
        match self {
            Self::Sha256 => 0x12,
            Self::Sha512 => 0x13,
        }
    }
}

/// A content digest, always valid: an algorithm and its bytes.
///
/// Its text form is lower-case hex, so two equal digests are equal byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// The first `algorithm.digest_len()` bytes count, the rest is zero.
    bytes: [u8; 64],
}

/// Why a text or byte string is not a digest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// There is no `algorithm:` in front.
    #[error("a digest has the form algorithm:hex, this has no colon")]
    NoAlgorithm,
    /// The algorithm is none that Shoal can prove.
    #[error("digest algorithm {0:?} is not supported, sha256 and sha512 are")]
    UnknownAlgorithm(String),
    /// The encoded part has the wrong length.
    #[error("a {algorithm} digest has {expected} lower-case hex characters, this has {actual}")]
    Length {
        /// The algorithm named.
        algorithm: &'static str,
        /// How many characters it asks for.
        expected: usize,
        /// How many there were.
        actual: usize,
    },
    /// A character is no lower-case hex digit.
    #[error("a digest is written in lower-case hex (0-9, a-f)")]
    NotHex,
    /// The multihash form is malformed.
    #[error("not a sha2 multihash")]
    NotMultihash,
}

impl Digest {
    /// A digest from its raw bytes.
    ///
    /// # Errors
    /// [`DigestError::Length`] unless `raw` has as many bytes as the algorithm yields.
    pub fn from_raw(algorithm: Algorithm, raw: &[u8]) -> Result<Self, DigestError> {
        if raw.len() != algorithm.digest_len() {
            return Err(DigestError::Length {
                algorithm: algorithm.as_str(),
                expected: algorithm.digest_len() * 2,
                actual: raw.len() * 2,
            });
        }
        let mut bytes = [0; 64];
        bytes[..raw.len()].copy_from_slice(raw);
        Ok(Self { algorithm, bytes })
    }

    /// The SHA-256 digest of `content`.
    pub fn sha256_of(content: &[u8]) -> Self {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        hasher.update(content);
        hasher.finish()
    }

    /// The digest of `content` under this digest's own algorithm, to compare with.
    #[must_use]
    pub fn same_algorithm_of(&self, content: &[u8]) -> Self {
        let mut hasher = Hasher::new(self.algorithm);
        hasher.update(content);
        hasher.finish()
    }

    /// Which algorithm made it.
    pub const fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The digest's own bytes, 32 or 64.
    pub fn raw(&self) -> &[u8] {
        &self.bytes[..self.algorithm.digest_len()]
    }

    /// The lower-case hex after the colon.
    pub fn hex(&self) -> String {
        hex::encode(self.raw())
    }

    /// The multihash, `code length bytes`: Shoal's key on the DHT and its form on the wire.
    ///
    /// go-libp2p keys a CID's provider records the same way.
    pub fn multihash(&self) -> Vec<u8> {
        let length = u8::try_from(self.algorithm.digest_len()).unwrap_or(u8::MAX);
        let mut key = vec![self.algorithm.multihash_code(), length];
        key.extend_from_slice(self.raw());
        key
    }

    /// Reads the form that [`Digest::multihash`] writes.
    ///
    /// # Errors
    /// [`DigestError::NotMultihash`] for anything but a whole sha2-256 or sha2-512 multihash.
    pub fn from_multihash(multihash: &[u8]) -> Result<Self, DigestError> {
        let [code, length, raw @ ..] = multihash else {
            return Err(DigestError::NotMultihash);
        };
        let algorithm = match code {
            0x12 => Algorithm::Sha256,
            0x13 => Algorithm::Sha512,
            _ => return Err(DigestError::NotMultihash),
        };
        if usize::from(*length) != algorithm.digest_len() {
            return Err(DigestError::NotMultihash);
        }
        Self::from_raw(algorithm, raw).map_err(|_| DigestError::NotMultihash)
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let (name, encoded) = text.split_once(':').ok_or(DigestError::NoAlgorithm)?;
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            // The name may be as long as the client liked: keep what a person needs to see.
            other => return Err(DigestError::UnknownAlgorithm(other.chars().take(32).collect())),
        };
        let expected = algorithm.digest_len() * 2;
        if encoded.len() != expected {
            return Err(DigestError::Length {
                algorithm: algorithm.as_str(),
                expected,
                actual: encoded.len(),
            });
        }
        if !encoded.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')) {
            return Err(DigestError::NotHex);
        }
        let raw = hex::decode(encoded).map_err(|_| DigestError::NotHex)?;
        Self::from_raw(algorithm, &raw)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a blob piece by piece, in order.
#[derive(Debug, Clone)]
pub enum Hasher {
    /// On the way to a SHA-256 digest.
    Sha256(Sha256),
    /// On the way to a SHA-512 digest.
    Sha512(Sha512),
}

impl Hasher {
    /// A hasher that has seen nothing yet.
    pub fn new(algorithm: Algorithm) -> Self {
        match algorithm {
            Algorithm::Sha256 => Self::Sha256(Sha256::new()),
            Algorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(hasher) => hasher.update(bytes),
            Self::Sha512(hasher) => hasher.update(bytes),
        }
    }

    /// The digest of everything taken.
    pub fn finish(self) -> Digest {
        let (algorithm, mut bytes) = match &self {
            Self::Sha256(_) => (Algorithm::Sha256, [0; 64]),
            Self::Sha512(_) => (Algorithm::Sha512, [0; 64]),
        };
        match self {
            Self::Sha256(hasher) => bytes[..32].copy_from_slice(&hasher.finalize()),
            Self::Sha512(hasher) => bytes.copy_from_slice(&hasher.finalize()),
        }
        Digest { algorithm, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn known_vectors() {
        assert_eq!(Digest::sha256_of(b"").to_string(), EMPTY);
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"a");
        hasher.update(b"bc");
        // FIPS 180-4 example "abc".
        assert_eq!(
            hasher.finish().to_string(),
            "sha512:ddaf35a193617abacc417349ae20413112e6fa4e89a97ea20a9eeee64b55d39a\
             2192992a274fc1a836ba3c23a3feebbd454d4423643ce80e2a9ac94fa54ca49f"
        );
    }

    #[test]
    fn text_and_multihash_round_trip() {
        let digest: Digest = EMPTY.parse().unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(Digest::from_multihash(&digest.multihash()).unwrap(), digest);
        assert_eq!(digest.multihash()[..2], [0x12, 0x20]);
    }

    #[test]
    fn malformed_text_is_named() {
        for (text, error) in [
            ("e3b0", DigestError::NoAlgorithm),
            ("md5:00", DigestError::UnknownAlgorithm("md5".into())),
            ("sha256:00", DigestError::Length { algorithm: "sha256", expected: 64, actual: 2 }),
            (&EMPTY.to_uppercase().replace("SHA256", "sha256"), DigestError::NotHex),
        ] {
            assert_eq!(text.parse::<Digest>().unwrap_err(), error, "{text}");
        }
    }

    #[test]
    fn malformed_multihash_is_refused() {
        for bytes in [&[][..], &[0x12], &[0x12, 0x20], &[0x12, 0x21, 0], &[0x11, 0x14]] {
            assert_eq!(Digest::from_multihash(bytes), Err(DigestError::NotMultihash));
        }
    }
}
