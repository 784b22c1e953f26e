//! For which registry's sake a blob is asked for.
//!
//! A digest is no ticket. That a registry says it has a digest is that registry's word alone: whoever runs one can make it
//! say so. So nodes give each other only what they know to be in the registry that the client asked, by its bytes, or
//! what everyone can read somewhere. Swarms of two registries have nothing to do with each other until the blob is held.

use crate::name::Registry;

/// A registry, as peers name it to each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin([u8; Self::LEN]);

impl Origin {
    /// The length in bytes: enough that no two names meet.
    pub const LEN: usize = 16;

    /// The first bytes of the BLAKE3 of the registry's name.
    pub fn of(registry: &Registry) -> Self {
        let mut bytes = [0; Self::LEN];
        bytes.copy_from_slice(&blake3::hash(registry.as_str().as_bytes()).as_bytes()[..Self::LEN]);
        Self(bytes)
    }

    /// As it stands in a message.
    pub const fn from_bytes(bytes: [u8; Self::LEN]) -> Self {
        Self(bytes)
    }

    /// As it goes into a message.
    pub const fn as_bytes(&self) -> &[u8; Self::LEN] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_are_told_apart() {
        let of = |name: &str| Origin::of(&name.parse().unwrap());
        assert_eq!(of("ghcr.io"), of("ghcr.io"));
        assert_ne!(of("ghcr.io"), of("ghcr.io:443"));
        assert_eq!(Origin::from_bytes(*of("ghcr.io").as_bytes()), of("ghcr.io"));
    }
}
